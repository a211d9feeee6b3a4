/*
 * runtime_renew(): Kubernetes replaces no pod of a shard with several instances by itself (kube_objects.h),
 * so whoever knows which is the primary has it done, one after the other.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_pod.h"
#include "runtime/kubernetes_impl.h"

/* One request after the other: the StatefulSet, the pod, its deletion. */
struct renewal {
    struct kube_op op; /* first */
    bool looks;
    char *revision; /* that pods are to have */
    runtime_renew_cb cb;
    void *data;
};

static void over(struct renewal *r, const struct err *err, enum runtime_renewal found)
{
    r->cb(err, found, r->data);
    kube_op_end(&r->op);
    free(r->revision);
    free(r);
}

static void on_deleted(struct kube_op *op, const struct k8s_answer *a)
{
    struct renewal *r = (struct renewal *)op;
    if (a->err != NULL && !kube_answer_missing(a))
        over(r, a->err, RUNTIME_AWAY);
    else
        over(r, NULL, RUNTIME_OUTDATED);
}

/* That pod and no other; it ends in order. */
static void pod_delete(struct renewal *r, yyjson_val *pod)
{
    struct err err = {0};
    char *path = kube_path(r->op.k, "/api/v1", "pods", r->op.name);
    char *body =
        mem_printf("{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"preconditions\":{\"uid\":\"%s\"}}",
                   kube_uid(pod));
    const struct kube_request request = {.method = "DELETE", .path = path, .body = body};
    if (kube_op_call(&r->op, &request, on_deleted, &err) != 0)
        over(r, &err, RUNTIME_AWAY);
    free(path);
    free(body);
}

static void on_pod(struct kube_op *op, const struct k8s_answer *a)
{
    struct renewal *r = (struct renewal *)op;
    struct kube_pod pod = {0};
    if (a->err != NULL) {
        over(r, kube_answer_missing(a) ? NULL : a->err, RUNTIME_AWAY);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    kube_pod_read(yyjson_doc_get_root(doc), &pod);
    bool outdated = strcmp(pod.revision, r->revision) != 0;
    if (pod.deleting)
        over(r, NULL, RUNTIME_AWAY);
    else if (outdated && !r->looks)
        pod_delete(r, yyjson_doc_get_root(doc));
    else
        over(r, NULL, outdated ? RUNTIME_OUTDATED : pod.ready ? RUNTIME_CURRENT : RUNTIME_AWAY);
    yyjson_doc_free(doc);
}

static void on_set(struct kube_op *op, const struct k8s_answer *a)
{
    struct renewal *r = (struct renewal *)op;
    struct err err = {0};
    if (a->err != NULL) {
        over(r, a->err, RUNTIME_AWAY);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const char *revision = yyjson_get_str(yyjson_ptr_get(root, "/status/updateRevision"));
    bool seen = yyjson_get_sint(yyjson_ptr_get(root, "/status/observedGeneration")) >=
                yyjson_get_sint(yyjson_ptr_get(root, "/metadata/generation"));
    r->revision = mem_strdup(revision);
    yyjson_doc_free(doc);
    if (!seen || r->revision == NULL)
        over(r, NULL, RUNTIME_AWAY); /* its controller has not looked at it yet */
    else if (kube_op_get(op, kube_path(op->k, "/api/v1", "pods", op->name), false, on_pod, &err) != 0)
        over(r, &err, RUNTIME_AWAY);
}

static void renewal_begin(struct kube_op *op)
{
    struct renewal *r = (struct renewal *)op;
    struct err err = {0};
    char *set = kube_set_name(op->name);
    int rc = op->canceled  ? err_set(&err, ERRC_CANCELED, "canceled")
             : set == NULL ? err_set(&err, ERRC_NOT_FOUND, "%s is no instance of this runtime", op->name)
                           : kube_op_get(op, KUBE_SETS(op->k, set), false, on_set, &err);
    free(set);
    if (rc != 0)
        over(r, &err, RUNTIME_AWAY);
}

int kube_renew(struct runtime *rt, const char *name, bool looks, runtime_renew_cb cb, void *data,
               struct err *err)
{
    struct renewal *r = mem_zalloc(sizeof *r);
    (void)err;
    r->looks = looks;
    r->cb = cb;
    r->data = data;
    kube_op_add((struct kubernetes *)rt, &r->op, name, renewal_begin, NULL);
    return 0;
}
