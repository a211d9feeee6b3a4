#include "runtime/kube_adopt.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"

/* ---- what he says ---- */

void kube_adoption_clear(struct kube_adoption *a)
{
    free(a->set);
    free(a->uid);
    free(a->secret);
    free(a->user);
    free(a->user_key);
    free(a->password_key);
    free(a->sslmode);
    memset(a, 0, sizeof *a);
}

static char *said(yyjson_val *set, const char *annotation, const char *otherwise)
{
    const char *text = kube_annotation(set, annotation);
    return mem_strdup(text[0] != '\0' ? text : otherwise);
}

void kube_adoption_read(yyjson_val *set, struct kube_adoption *ret)
{
    const char *port = kube_annotation(set, "shardherd.io/port");
    int64_t number = 5432;
    if (port[0] != '\0' && !text_to_int64(port, &number))
        number = 0;
    *ret = (struct kube_adoption){
        .set = mem_strdup(yyjson_get_str(yyjson_ptr_get(set, "/metadata/name"))),
        .uid = mem_strdup(kube_uid(set)),
        .secret = said(set, "shardherd.io/secret", NULL),
        .user = said(set, "shardherd.io/user", NULL),
        .user_key = said(set, "shardherd.io/secret-user-key", "username"),
        .password_key = said(set, "shardherd.io/secret-password-key", "password"),
        .sslmode = said(set, "shardherd.io/sslmode", "prefer"),
        .port = number > 0 && number < 65536 ? (int)number : 0,
    };
}

bool kube_adoption_verifies(const struct kube_adoption *a)
{
    return text_starts_with(a->sslmode, "verify-");
}

bool kube_adopted(yyjson_val *set, const struct kube_owner *owner)
{
    const char *uid = kube_annotation(set, KUBE_OWNER_ANNOTATION);
    return strcmp(kube_label(set, "app.kubernetes.io/managed-by"), "shardherd") != 0 &&
           strcmp(kube_label(set, "shardherd.io/database"), owner->database) == 0 &&
           strcmp(kube_label(set, "shardherd.io/shard"), owner->shard) == 0 && uid[0] != '\0' &&
           (owner->uid == NULL || strcmp(uid, owner->uid) == 0);
}

/* ---- whether it can be ---- */

static yyjson_val *controller_of(yyjson_val *set)
{
    yyjson_val *reference;
    size_t at, n;
    yyjson_arr_foreach(yyjson_ptr_get(set, "/metadata/ownerReferences"), at, n, reference)
    {
        if (yyjson_get_bool(yyjson_obj_get(reference, "controller")))
            return reference;
    }
    return NULL;
}

static bool known_sslmode(const char *mode)
{
    static const char *const modes[] = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(mode, modes[i]) == 0)
            return true;
    return false;
}

static int check_said(const struct kube_adoption *a, struct err *err)
{
    if (a->secret == NULL)
        return err_set(
            err, ERRC_INVALID,
            "it does not say where the password of a superuser is: kubectl annotate statefulset %s "
            "shardherd.io/secret=SECRET",
            a->set);
    if (a->port == 0)
        return err_set(err, ERRC_INVALID,
                       "its annotation shardherd.io/port is no port: set it to 1 to 65535");
    if (!known_sslmode(a->sslmode))
        return err_set(err, ERRC_INVALID,
                       "its annotation shardherd.io/sslmode is %s: set it to disable, prefer, require, "
                       "verify-ca or verify-full",
                       a->sslmode);
    return 0;
}

int kube_adoption_check(yyjson_val *set, const struct kube_adoption *a, const struct kube_owner *owner,
                        struct err *err)
{
    yyjson_val *controller = controller_of(set), *replicas = yyjson_ptr_get(set, "/spec/replicas");
    const char *other = kube_label(set, "shardherd.io/database");
    const char *kind = yyjson_get_str(yyjson_obj_get(controller, "kind"));
    const char *name = yyjson_get_str(yyjson_obj_get(controller, "name"));
    if (controller != NULL)
        return err_set(
            err, ERRC_CONFLICT,
            "it belongs to %s %s, which would change it behind shardherd's back: take it away from "
            "that, or use the server as a static one",
            kind != NULL ? kind : "", name != NULL ? name : "");
    if (yyjson_ptr_get(set, "/metadata/deletionTimestamp") != NULL)
        return err_set(err, ERRC_CONFLICT, "it is being deleted");
    if (other[0] != '\0' && !kube_adopted(set, owner))
        return err_set(err, ERRC_CONFLICT,
                       "it is labelled as shard %s of database %s: take the labels shardherd.io/database and "
                       "shardherd.io/shard off if that is over",
                       kube_label(set, "shardherd.io/shard"), other);
    if (yyjson_is_int(replicas) && yyjson_get_sint(replicas) != 1)
        return err_set(err, ERRC_CONFLICT, "it has %d pods and a shard is one: scale it to 1",
                       (int)yyjson_get_sint(replicas));
    return check_said(a, err);
}

/* ---- the objects ---- */

struct making {
    const struct kube_shard *shard;
    const struct kube_adoption *adoption;
    yyjson_mut_doc *doc;
    char *name;
    kube_object_cb cb;
    void *data;
    struct err *err;
};

static void put(struct making *m, yyjson_mut_val *to, const char *name, const char *text)
{
    (void)yyjson_mut_obj_add_strcpy(m->doc, to, name, text);
}

static yyjson_mut_val *add_labels(struct making *m, yyjson_mut_val *metadata)
{
    yyjson_mut_val *labels = yyjson_mut_obj_add_obj(m->doc, metadata, "labels");
    put(m, labels, "shardherd.io/database", m->shard->database);
    put(m, labels, "shardherd.io/shard", m->shard->shard);
    return labels;
}

/* metadata of an object of our own, which goes with the ShardedDatabase */
static yyjson_mut_val *begin(struct making *m, const char *kind)
{
    yyjson_mut_val *root = yyjson_mut_obj(m->doc);
    put(m, root, "apiVersion", "v1");
    put(m, root, "kind", kind);
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(m->doc, root, "metadata");
    put(m, metadata, "name", m->name);
    put(m, metadata, "namespace", m->shard->name_space);
    yyjson_mut_val *labels = add_labels(m, metadata);
    put(m, labels, "app.kubernetes.io/name", "postgresql");
    put(m, labels, "app.kubernetes.io/instance", m->name);
    put(m, labels, "app.kubernetes.io/managed-by", "shardherd");
    yyjson_mut_val *owner =
        yyjson_mut_arr_add_obj(m->doc, yyjson_mut_obj_add_arr(m->doc, metadata, "ownerReferences"));
    put(m, owner, "apiVersion", "shardherd.io/v1alpha1");
    put(m, owner, "kind", "ShardedDatabase");
    put(m, owner, "name", m->shard->database);
    put(m, owner, "uid", m->shard->owner_uid);
    (void)yyjson_mut_obj_add_bool(m->doc, owner, "controller", true);
    (void)yyjson_mut_obj_add_bool(m->doc, owner, "blockOwnerDeletion", true);
    return root;
}

static int give(struct making *m, yyjson_mut_val *root, const char *group, const char *plural,
                const char *name)
{
    char *collection = mem_printf("%s/namespaces/%s/%s", group, m->shard->name_space, plural);
    const struct kube_object object = {collection, name, m->doc, root};
    int rc = m->cb(&object, m->data, m->err);
    free(collection);
    return rc;
}

/* For the first pod, by the label that every StatefulSet's pods have: his own labels do not matter. */
static int service(struct making *m)
{
    yyjson_mut_val *root = begin(m, "Service"), *spec = yyjson_mut_obj_add_obj(m->doc, root, "spec");
    char *pod = mem_printf("%s-0", m->adoption->set);
    put(m, spec, "type", "ClusterIP");
    put(m, yyjson_mut_obj_add_obj(m->doc, spec, "selector"), "statefulset.kubernetes.io/pod-name", pod);
    yyjson_mut_val *port = yyjson_mut_arr_add_obj(m->doc, yyjson_mut_obj_add_arr(m->doc, spec, "ports"));
    put(m, port, "name", "postgresql");
    (void)yyjson_mut_obj_add_int(m->doc, port, "port", 5432);
    (void)yyjson_mut_obj_add_int(m->doc, port, "targetPort", m->adoption->port);
    put(m, port, "protocol", "TCP");
    free(pod);
    return give(m, root, "/api/v1", "services", m->name);
}

static int config_map(struct making *m)
{
    yyjson_mut_val *root = begin(m, "ConfigMap");
    yyjson_mut_val *metadata = yyjson_mut_obj_get(root, "metadata");
    put(m, yyjson_mut_obj_add_obj(m->doc, metadata, "annotations"), KUBE_ADOPTED_ANNOTATION,
        m->adoption->set);
    return give(m, root, "/api/v1", "configmaps", m->name);
}

static int marks(struct making *m)
{
    yyjson_mut_val *root = yyjson_mut_obj(m->doc);
    put(m, root, "apiVersion", "apps/v1");
    put(m, root, "kind", "StatefulSet");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(m->doc, root, "metadata");
    put(m, metadata, "name", m->adoption->set);
    put(m, metadata, "uid", m->adoption->uid);
    (void)add_labels(m, metadata);
    put(m, yyjson_mut_obj_add_obj(m->doc, metadata, "annotations"), KUBE_OWNER_ANNOTATION,
        m->shard->owner_uid);
    return give(m, root, "/apis/apps/v1", "statefulsets", m->adoption->set);
}

int kube_adoption_each(const struct kube_shard *shard, const struct kube_adoption *adoption,
                       kube_object_cb cb, void *data, struct err *err)
{
    struct making m = {.shard = shard, .adoption = adoption, .cb = cb, .data = data, .err = err};
    m.doc = yyjson_mut_doc_new(NULL);
    m.name = kube_shard_name(shard);
    int rc = service(&m);
    if (rc == 0)
        rc = config_map(&m);
    if (rc == 0)
        rc = marks(&m);
    free(m.name);
    yyjson_mut_doc_free(m.doc);
    return rc;
}
