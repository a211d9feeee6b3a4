#include "runtime/kubernetes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/apply.h"
#include "runtime/kube_certificate.h"
#include "runtime/kube_known.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_pods.h"
#include "runtime/kube_roles.h"
#include "runtime/kubernetes_impl.h"

#define TIMEOUT_NS (600 * ENV_NS_PER_S)
#define METADATA   "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

/* ---- the queue of operations ---- */

/* Of two instances: members of one shard are pods of one StatefulSet. */
static bool same_set(const char *a, const char *b)
{
    const char *end_a = strrchr(a, '-'), *end_b = strrchr(b, '-');
    size_t length = end_a != NULL ? (size_t)(end_a - a) : strlen(a);
    return length == (end_b != NULL ? (size_t)(end_b - b) : strlen(b)) && memcmp(a, b, length) == 0;
}

static bool name_is_busy(const struct kubernetes *k, const struct kube_op *op)
{
    list_each(node, &k->ops)
    {
        const struct kube_op *other = list_item(node, struct kube_op, node);
        if (other == op)
            return false;
        if (same_set(other->name, op->name))
            return true;
    }
    return false;
}

static void op_run(struct loop_task *task, void *data)
{
    struct kube_op *op = data;
    (void)task;
    op->started = true;
    op->start(op);
}

void kube_op_add(struct kubernetes *k, struct kube_op *op, const char *name, void (*start)(struct kube_op *),
                 void (*cancel)(struct kube_op *))
{
    op->k = k;
    op->name = mem_strdup(name);
    op->start = start;
    op->cancel = cancel;
    op->task = (struct loop_task){.run = op_run, .data = op};
    op->canceled = k->closing;
    list_append(&k->ops, &op->node);
    if (name[0] == '\0' || !name_is_busy(k, op))
        loop_defer(k->loop, &op->task);
}

void kube_op_end(struct kube_op *op)
{
    struct kubernetes *k = op->k;
    list_remove(&op->node);
    list_each(node, &k->ops)
    {
        struct kube_op *next = list_item(node, struct kube_op, node);
        if (next->started || !same_set(next->name, op->name))
            continue;
        loop_defer(k->loop, &next->task); /* nothing if it is queued already */
        break;
    }
    free(op->name);
    if (k->closing && list_empty(&k->ops))
        loop_defer(k->loop, &k->settle);
}

static void op_answered(const struct k8s_answer *answer, void *data)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    const struct k8s_answer instead = {.err = &canceled};
    struct kube_op *op = data;
    op->call = NULL;
    op->answered(op, op->canceled ? &instead : answer);
}

int kube_op_call(struct kube_op *op, const struct kube_request *r, kube_answer_cb cb, struct err *err)
{
    const struct k8s_request request = {
        .method = r->method,
        .path = r->path,
        .query = r->query,
        .accept = r->accept,
        .content_type = r->content_type,
        .body = r->body,
        .body_length = r->body != NULL ? strlen(r->body) : 0,
    };
    if (op->canceled)
        return err_set(err, ERRC_CANCELED, "canceled");
    op->answered = cb;
    return k8s_call_start(op->k->options.client, &request, op_answered, op, &op->call, err);
}

int kube_op_get(struct kube_op *op, char *path, bool metadata, kube_answer_cb cb, struct err *err)
{
    const struct kube_request r = {.method = "GET", .path = path, .accept = metadata ? METADATA : NULL};
    int rc = kube_op_call(op, &r, cb, err);
    free(path);
    return rc;
}

int kube_op_apply(struct kube_op *op, const struct k8s_apply *apply, kube_answer_cb cb, struct err *err)
{
    if (op->canceled)
        return err_set(err, ERRC_CANCELED, "canceled");
    op->answered = cb;
    return k8s_apply_start(op->k->options.client, apply, op_answered, op, &op->call, err);
}

bool kube_answer_missing(const struct k8s_answer *answer)
{
    return answer->status != NULL && answer->status->fault == K8S_FAULT_NOT_FOUND;
}

/* ---- the database's object ---- */

int kube_spec_read(struct kubernetes *k, const char *database, struct kube_spec *ret, struct err *err)
{
    struct kube_database object = {0};
    int rc = k->options.database(k->options.data, database, &object, err);
    if (rc != 0)
        return rc;
    yyjson_doc *doc = yyjson_read(object.json, object.length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *spec = yyjson_obj_get(root, "spec");
    if (!yyjson_is_obj(spec) || kube_uid(root)[0] == '\0') {
        yyjson_doc_free(doc);
        return err_set(err, ERRC_INVALID, "the ShardedDatabase %s has no spec or no metadata.uid", database);
    }
    *ret = (struct kube_spec){doc, spec, kube_uid(root)};
    return 0;
}

void kube_spec_clear(struct kube_spec *spec)
{
    yyjson_doc_free(spec->doc);
    memset(spec, 0, sizeof *spec);
}

const char *kube_spec_text(const struct kube_spec *spec, const char *section, const char *name)
{
    return yyjson_get_str(yyjson_obj_get(yyjson_obj_get(spec->spec, section), name));
}

const char *kube_spec_tls(const struct kube_spec *spec)
{
    const char *mode = kube_spec_text(spec, "tls", "mode");
    return mode != NULL ? mode : "on";
}

bool kube_spec_plain(const struct kube_spec *spec)
{
    return strcmp(kube_spec_tls(spec), "off") == 0;
}

bool kube_spec_mutual(const struct kube_spec *spec)
{
    return strcmp(kube_spec_tls(spec), "mutual") == 0;
}

int kube_spec_instances(const struct kube_spec *spec)
{
    yyjson_val *count = yyjson_obj_get(spec->spec, "instances");
    return yyjson_is_int(count) && yyjson_get_int(count) > 1 ? yyjson_get_int(count) : 1;
}

bool kube_spec_deletes(const struct kube_spec *spec)
{
    return yyjson_equals_str(yyjson_obj_get(spec->spec, "deletionPolicy"), "delete");
}

bool kube_spec_snapshots(const struct kube_spec *spec)
{
    return yyjson_equals_str(yyjson_obj_get(spec->spec, "deletionPolicy"), "snapshot") &&
           yyjson_ptr_get(yyjson_doc_get_root(spec->doc), "/metadata/deletionTimestamp") != NULL;
}

/* ---- names and files ---- */

char *kube_set_name(const char *instance)
{
    size_t length = strlen(instance);
    bool fits = length > 2 && instance[length - 2] == '-' && instance[length - 1] >= '0' &&
                instance[length - 1] <= '9';
    return fits ? mem_strndup(instance, length - 2) : NULL;
}

int kube_set_number(const char *instance)
{
    return instance[strlen(instance) - 1] - '0';
}

char *kube_path(const struct kubernetes *k, const char *group, const char *plural, const char *name)
{
    return mem_printf("%s/namespaces/%s/%s%s%s", group, k->options.name_space, plural,
                      name != NULL ? "/" : "", name != NULL ? name : "");
}

bool kube_spec_unverified(const struct kube_spec *spec)
{
    return spec->doc != NULL && yyjson_obj_size(yyjson_obj_get(spec->spec, "adopt")) > 0 &&
           kube_spec_text(spec, "tls", "secret") == NULL;
}

char *kube_ca_file(const struct kubernetes *k, const char *set)
{
    return mem_printf("%s/%s.crt", k->options.directory, set);
}

char *kube_client_file(const struct kubernetes *k, const char *database)
{
    return mem_printf("%s/%s.client.pem", k->options.directory, database);
}

static int file_write(const char *path, const char *pem, struct err *err)
{
    char *draft = mem_printf("%s.XXXXXX", path);
    int fd = mkostemp(draft, O_CLOEXEC); /* 0600 */
    size_t length = strlen(pem);
    int rc = fd < 0 ? err_set_errno(err, errno, "cannot write %s", draft) : 0;
    if (rc == 0 && write(fd, pem, length) != (ssize_t)length)
        rc = err_set_errno(err, errno, "cannot write %s", draft);
    if (rc == 0 && rename(draft, path) != 0)
        rc = err_set_errno(err, errno, "cannot put %s in its place", path);
    if (fd >= 0)
        (void)close(fd);
    if (rc != 0 && fd >= 0)
        (void)unlink(draft);
    free(draft);
    return rc;
}

/* One file for both: a connection that is made meanwhile sees a certificate and its key, never two halves. */
static int client_write(const char *path, const struct kube_pair *client, struct err *err)
{
    char *both = mem_printf("%s\n%s\n", client->certificate, client->key);
    int rc = file_write(path, both, err);
    mem_wipe_free(both);
    return rc;
}

static int file_delete(const char *path, struct err *err)
{
    return unlink(path) == 0 || errno == ENOENT ? 0 : err_set_errno(err, errno, "cannot delete %s", path);
}

int kube_files_delete(const struct kubernetes *k, const char *database, const char *set, bool last,
                      struct err *err)
{
    char *authority = kube_ca_file(k, set), *own = kube_client_file(k, database);
    int rc = last ? file_delete(own, err) : 0;
    if (rc == 0)
        rc = file_delete(authority, err);
    free(authority);
    free(own);
    return rc;
}

int kube_files_write(const struct kubernetes *k, const char *database, const char *set, const char *ca,
                     const struct kube_pair *client, struct err *err)
{
    char *authority = kube_ca_file(k, set), *own = kube_client_file(k, database);
    int rc = file_write(authority, ca, err);
    if (rc == 0 && client != NULL && client->certificate != NULL)
        rc = client_write(own, client, err);
    free(authority);
    free(own);
    return rc;
}

void kube_access(const struct kubernetes *k, const char *database, const char *set, const char *password,
                 bool tls, struct instance_access *ret)
{
    *ret = (struct instance_access){
        .host = mem_printf("%s%s.%s.svc", set, k->flavour->service, k->options.name_space),
        .port = 5432,
        .user = mem_strdup(k->flavour->user),
        .password = mem_strdup(password),
        .dbname = mem_strdup(database),
        .sslmode = mem_strdup(tls ? "verify-full" : "disable"),
        .sslrootcert = tls ? kube_ca_file(k, set) : NULL,
        .peer_sslrootcert = tls ? mem_strdup(k->flavour->peer_authority) : NULL,
    };
}

void kube_access_member(const struct kubernetes *k, const char *instance, const char *token,
                        struct instance_access *access)
{
    char *set = kube_set_name(instance);
    free(access->host);
    access->host = mem_printf("%s.%s-pods.%s.svc", instance, set, k->options.name_space);
    if (access->sslrootcert == NULL) /* the server has no TLS; its agent has, by the same authority */
        access->sslrootcert = kube_ca_file(k, set);
    free(set);
    if (token == NULL)
        return; /* it cannot be spoken to yet */
    access->agent_host = mem_strdup(access->host);
    access->agent_port = KUBE_AGENT_PORT;
    access->agent_token = mem_strdup(token);
}

void kube_access_unverified(struct instance_access *access)
{
    if (access->peer_sslrootcert == NULL)
        return;
    free(access->peer_sslrootcert);
    access->peer_sslrootcert = mem_strdup("");
}

void kube_access_lent(const struct kubernetes *k, const char *database, const char *set,
                      const struct kube_adoption *adoption, const char *user, const char *password,
                      struct instance_access *ret)
{
    bool verifies = kube_adoption_verifies(adoption);
    *ret = (struct instance_access){
        .host = mem_printf("%s.%s.svc", set, k->options.name_space),
        .port = 5432,
        .user = mem_strdup(user),
        .password = mem_strdup(password),
        .dbname = mem_strdup(database),
        .sslmode = mem_strdup(adoption->sslmode),
        .sslrootcert = verifies ? kube_ca_file(k, set) : NULL,
        .peer_sslrootcert = verifies ? mem_strdup("") : NULL,
        .lent = true,
    };
}

void kube_access_client(const struct kubernetes *k, const char *database, struct instance_access *access)
{
    access->sslcert = kube_client_file(k, database);
    access->sslkey = mem_strdup(access->sslcert);
    access->peer_sslcert = mem_strdup(k->flavour->peer_certificate);
    access->peer_sslkey = mem_strdup(k->flavour->peer_key);
}

/* ---- open and close ---- */

static void kubernetes_free(struct kubernetes *k)
{
    free(k->name_space);
    free(k->image);
    free(k->directory);
    free(k);
}

static void on_http_closed(void *data)
{
    struct kubernetes *k = data;
    void (*closed)(void *) = k->closed;
    void *closed_data = k->closed_data;
    kubernetes_free(k);
    if (closed != NULL)
        closed(closed_data);
}

static void on_pods_closed(void *data)
{
    struct kubernetes *k = data;
    http_client_close(k->http, on_http_closed, k);
}

static void on_roles_closed(void *data)
{
    struct kubernetes *k = data;
    kube_pods_close(k->pods, on_pods_closed, k);
}

static void on_watch_closed(void *data)
{
    struct kubernetes *k = data;
    kube_roles_close(k->roles, on_roles_closed, k);
}

static void on_settled(struct loop_task *task, void *data)
{
    (void)task;
    kube_known_close(data, on_watch_closed, data);
}

static void op_cancel(struct kube_op *op)
{
    op->canceled = true;
    if (!op->started)
        loop_defer(op->k->loop, &op->task); /* answers at once */
    else if (op->call != NULL)
        k8s_call_cancel(op->call);
    else if (op->cancel != NULL)
        op->cancel(op);
}

static void kubernetes_close(struct runtime *rt, void (*closed)(void *), void *data)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    if (k->closing)
        return;
    k->closing = true;
    k->closed = closed;
    k->closed_data = data;
    list_each(node, &k->ops) op_cancel(list_item(node, struct kube_op, node));
    if (list_empty(&k->ops))
        loop_defer(k->loop, &k->settle);
}

static const struct runtime_backend backend = {
    .kind = "kubernetes",
    .ensure = kube_ensure,
    .stop = kube_stop,
    .remove = kube_remove,
    .list = kube_list,
    .mark = kube_mark,
    .place = kube_place,
    .renew = kube_renew,
    .close = kubernetes_close,
    .members = true,
    .resizes = true,
    .passwords = true,
};

static const struct runtime_backend backend_cnpg = {
    .kind = "cnpg",
    .ensure = kube_ensure,
    .stop = kube_stop,
    .remove = kube_remove,
    .list = kube_list,
    .close = kubernetes_close,
};

static const struct kube_flavour flavour_own = {
    .object = "StatefulSet",
    .group = "/apis/apps/v1",
    .plural = "statefulsets",
    .user = "shardherd",
    .service = "",
    .authority = "-tls",
    .peer_authority = "/etc/shardherd/tls/ca.crt",
    .peer_certificate = KUBE_DATA "/shardherd.crt", /* where the agent puts them */
    .peer_key = KUBE_DATA "/shardherd.key",
    .password_type = "Opaque",
};

static const struct kube_flavour flavour_cnpg = {
    .object = "Cluster",
    .group = "/apis/postgresql.cnpg.io/v1",
    .plural = "clusters",
    .user = "postgres",
    .service = "-rw",
    .authority = "-ca",
    .peer_authority = "", /* each Cluster has an authority of its own */
    .password_type = "kubernetes.io/basic-auth",
    .secret_label = "cnpg.io/reload", /* a changed password reaches the server */
};

int runtime_kubernetes_open(struct loop *loop, const struct runtime_kubernetes_options *o,
                            struct runtime **ret, struct err *err)
{
    if (mkdir(o->directory, 0700) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "cannot create %s", o->directory);
    struct kubernetes *k = mem_zalloc(sizeof *k);
    const struct k8s_access *access = k8s_client_access(o->client);
    k->base.backend = o->cnpg ? &backend_cnpg : &backend;
    k->flavour = o->cnpg ? &flavour_cnpg : &flavour_own;
    k->loop = loop;
    k->options = *o;
    k->options.name_space = k->name_space =
        mem_strdup(o->name_space != NULL ? o->name_space : access->name_space);
    k->options.image = k->image = mem_strdup(o->image);
    k->options.directory = k->directory = mem_strdup(o->directory);
    if (k->options.timeout_ns == 0)
        k->options.timeout_ns = TIMEOUT_NS;
    k->http = http_client_new(loop, NULL);
    k->pods = kube_pods_new(o->client, k->name_space);
    k->settle = (struct loop_task){.run = on_settled, .data = k};
    list_init(&k->ops);
    list_init(&k->askers);
    *ret = &k->base;
    return 0;
}
