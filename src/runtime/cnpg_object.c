#include "runtime/cnpg_object.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_version.h"

typedef yyjson_mut_val *mut;

struct render {
    const struct kube_shard *shard;
    yyjson_mut_doc *doc;
    char *name;
};

static mut add_object(struct render *r, mut to, const char *name)
{
    return yyjson_mut_obj_add_obj(r->doc, to, name);
}

/* Copies: the texts may be temporary. Names are literals. */
static void add_text(struct render *r, mut to, const char *name, const char *text)
{
    (void)yyjson_mut_obj_add_strcpy(r->doc, to, name, text);
}

static void add_copy(struct render *r, mut to, const char *name, yyjson_val *value)
{
    if (value != NULL && !yyjson_is_null(value))
        (void)yyjson_mut_obj_add_val(r->doc, to, name, yyjson_val_mut_copy(r->doc, value));
}

static yyjson_val *field(const struct render *r, const char *section, const char *name)
{
    return yyjson_obj_get(yyjson_obj_get(r->shard->spec, section), name);
}

/* ---- metadata ---- */

static void own_labels(struct render *r, mut labels)
{
    yyjson_val *key, *value;
    size_t at, n;
    yyjson_obj_foreach(yyjson_obj_get(r->shard->spec, "labels"), at, n, key, value)
    {
        (void)yyjson_mut_obj_add(labels, yyjson_val_mut_copy(r->doc, key),
                                 yyjson_val_mut_copy(r->doc, value));
    }
    add_text(r, labels, "shardherd.io/database", r->shard->database);
    add_text(r, labels, "shardherd.io/shard", r->shard->shard);
}

/* The garbage collector would delete the Cluster with the ShardedDatabase, and the operator the volumes with
 * the Cluster: it is an owner only where that is wanted. */
static void metadata(struct render *r, mut root)
{
    mut meta = add_object(r, root, "metadata");
    add_text(r, meta, "name", r->name);
    add_text(r, meta, "namespace", r->shard->name_space);
    mut labels = add_object(r, meta, "labels");
    add_text(r, labels, "app.kubernetes.io/managed-by", "shardherd");
    own_labels(r, labels);
    mut annotations = add_object(r, meta, "annotations");
    add_text(r, annotations, CNPG_HIBERNATION, "off");
    add_copy(r, annotations, KUBE_VERSION_ANNOTATION, field(r, "postgresql", "version"));
    if (r->shard->owner_uid == NULL)
        return;
    add_text(r, annotations, KUBE_OWNER_ANNOTATION, r->shard->owner_uid);
    if (!r->shard->owns_data)
        return;
    mut owner = yyjson_mut_arr_add_obj(r->doc, yyjson_mut_obj_add_arr(r->doc, meta, "ownerReferences"));
    add_text(r, owner, "apiVersion", "shardherd.io/v1alpha1");
    add_text(r, owner, "kind", "ShardedDatabase");
    add_text(r, owner, "name", r->shard->database);
    add_text(r, owner, "uid", r->shard->owner_uid);
    (void)yyjson_mut_obj_add_bool(r->doc, owner, "controller", true);
    (void)yyjson_mut_obj_add_bool(r->doc, owner, "blockOwnerDeletion", true);
}

/* ---- spec ---- */

static void image(struct render *r, mut spec)
{
    const char *given = yyjson_get_str(field(r, "postgresql", "image")),
               *version = yyjson_get_str(field(r, "postgresql", "version"));
    char *name = given != NULL
                     ? mem_strdup(given)
                     : mem_printf("ghcr.io/cloudnative-pg/postgresql:%s", version != NULL ? version : "16");
    add_text(r, spec, "imageName", name);
    add_copy(r, spec, "imagePullPolicy", field(r, "postgresql", "imagePullPolicy"));
    add_copy(r, spec, "imagePullSecrets", field(r, "postgresql", "imagePullSecrets"));
    free(name);
}

static void bootstrap(struct render *r, mut spec, const char *owner)
{
    char *superuser = mem_printf("%s-credentials", r->name),
         *role = mem_printf("%s-owner", r->shard->database);
    const char *theirs = yyjson_get_str(field(r, "credentials", "secret"));
    (void)yyjson_mut_obj_add_bool(r->doc, spec, "enableSuperuserAccess", true);
    add_text(r, add_object(r, spec, "superuserSecret"), "name", superuser);
    mut initdb = add_object(r, add_object(r, spec, "bootstrap"), "initdb");
    add_text(r, initdb, "database", r->shard->database);
    add_text(r, initdb, "owner", owner);
    add_text(r, add_object(r, initdb, "secret"), "name", theirs != NULL ? theirs : role);
    add_text(r, initdb, "encoding", "UTF8");
    (void)yyjson_mut_obj_add_bool(r->doc, initdb, "dataChecksums", true);
    free(superuser);
    free(role);
}

/* The operator takes texts only. */
static void storage(struct render *r, mut spec, const char *name, yyjson_val *size, yyjson_val *class)
{
    mut s = add_object(r, spec, name);
    char number[32];
    if (yyjson_is_uint(size)) {
        (void)snprintf(number, sizeof number, "%llu", (unsigned long long)yyjson_get_uint(size));
        add_text(r, s, "size", number);
    } else {
        add_text(r, s, "size", yyjson_is_str(size) ? yyjson_get_str(size) : "10Gi");
    }
    add_copy(r, s, "storageClass", class);
}

static int scheduling(struct render *r, mut spec, struct err *err)
{
    if (field(r, "scheduling", "affinity") != NULL)
        return err_set(err, ERRC_INVALID,
                       "spec.scheduling.affinity is not for CloudNativePG: use nodeSelector, tolerations and "
                       "topologySpreadConstraints");
    mut affinity = add_object(r, spec, "affinity");
    add_copy(r, affinity, "nodeSelector", field(r, "scheduling", "nodeSelector"));
    add_copy(r, affinity, "tolerations", field(r, "scheduling", "tolerations"));
    add_copy(r, spec, "topologySpreadConstraints", field(r, "scheduling", "topologySpreadConstraints"));
    add_copy(r, spec, "priorityClassName", field(r, "scheduling", "priorityClassName"));
    return 0;
}

static void inherited(struct render *r, mut spec)
{
    mut all = add_object(r, spec, "inheritedMetadata");
    own_labels(r, add_object(r, all, "labels"));
    add_copy(r, all, "annotations", yyjson_obj_get(r->shard->spec, "annotations"));
}

static void certificates(struct render *r, mut spec)
{
    const char *theirs = yyjson_get_str(field(r, "tls", "secret"));
    if (theirs == NULL)
        return; /* the operator's own */
    mut certificates = add_object(r, spec, "certificates");
    add_text(r, certificates, "serverTLSSecret", theirs);
    add_text(r, certificates, "serverCASecret", theirs);
}

int cnpg_object_make(const struct kube_shard *shard, const char *owner, kube_object_cb cb, void *data,
                     struct err *err)
{
    struct render r = {.shard = shard, .doc = yyjson_mut_doc_new(NULL), .name = kube_shard_name(shard)};
    mut root = yyjson_mut_obj(r.doc);
    yyjson_val *instances = yyjson_obj_get(shard->spec, "instances"), *wal = field(&r, "storage", "wal");
    add_text(&r, root, "apiVersion", "postgresql.cnpg.io/v1");
    add_text(&r, root, "kind", "Cluster");
    metadata(&r, root);
    mut spec = add_object(&r, root, "spec");
    (void)yyjson_mut_obj_add_sint(r.doc, spec, "instances",
                                  yyjson_is_int(instances) ? yyjson_get_sint(instances) : 1);
    image(&r, spec);
    bootstrap(&r, spec, owner);
    storage(&r, spec, "storage", field(&r, "storage", "size"), field(&r, "storage", "class"));
    if (wal != NULL)
        storage(&r, spec, "walStorage", yyjson_obj_get(wal, "size"), yyjson_obj_get(wal, "class"));
    add_copy(&r, spec, "resources", yyjson_obj_get(shard->spec, "resources"));
    inherited(&r, spec);
    certificates(&r, spec);
    add_copy(&r, add_object(&r, spec, "postgresql"), "parameters", field(&r, "postgresql", "parameters"));
    int rc = scheduling(&r, spec, err);
    if (rc == 0) {
        char *collection =
            mem_printf("/apis/postgresql.cnpg.io/v1/namespaces/%s/clusters", shard->name_space);
        const struct kube_object object = {collection, r.name, r.doc, root};
        rc = cb(&object, data, err);
        free(collection);
    }
    yyjson_mut_doc_free(r.doc);
    free(r.name);
    return rc;
}

/* ---- status ---- */

bool cnpg_is_healthy(yyjson_val *cluster, char *reason, unsigned long size)
{
    yyjson_val *status = yyjson_obj_get(cluster, "status");
    const char *name = yyjson_get_str(yyjson_ptr_get(cluster, "/metadata/name"));
    const char *phase = yyjson_get_str(yyjson_obj_get(status, "phase")),
               *why = yyjson_get_str(yyjson_obj_get(status, "phaseReason"));
    if (name == NULL)
        name = "?";
    if (phase == NULL) {
        (void)snprintf(reason, size,
                       "CloudNativePG has not looked at cluster %s yet: is its operator running and watching "
                       "this namespace?",
                       name);
        return false;
    }
    (void)snprintf(reason, size, "cluster %s: %s%s%s", name, phase, why != NULL && why[0] != '\0' ? ": " : "",
                   why != NULL ? why : "");
    return strcmp(phase, "Cluster in healthy state") == 0 &&
           yyjson_get_sint(yyjson_obj_get(status, "readyInstances")) > 0;
}
