/*
 * What differs when CloudNativePG runs the servers: waiting for its Cluster, and taking its authority's
 * certificate.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/cnpg_object.h"
#include "runtime/kubernetes_ensure.h"

#define POLL_NS ENV_NS_PER_S

static void cluster_ask(struct kube_ensure *e);

/* ---- the authority ---- */

static void on_authority(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    if (a->err != NULL) {
        kube_ensure_over(e, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    e->ca.certificate = kube_secret_value(yyjson_doc_get_root(doc), "ca.crt");
    yyjson_doc_free(doc);
    if (e->ca.certificate != NULL) {
        kube_files_keep(e, e->cnpg_then);
        return;
    }
    (void)err_set(&err, ERRC_INVALID, "the Secret with the authority of cluster %s has no key ca.crt",
                  e->set);
    kube_ensure_over(e, &err);
}

static void authority_ask(struct kube_ensure *e)
{
    struct err err = {0};
    const char *theirs = kube_spec_text(&e->spec, "tls", "secret");
    char *name = theirs != NULL ? mem_strdup(theirs) : mem_printf("%s-ca", e->set);
    if (kube_op_get(&e->op, KUBE_SECRETS(e->op.k, name), false, on_authority, &err) != 0)
        kube_ensure_over(e, &err);
    free(name);
}

/* ---- the Cluster ---- */

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    cluster_ask(data);
}

static void on_cluster(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    char reason[sizeof e->reason];
    if (a->err != NULL) {
        kube_ensure_over(e, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    bool healthy = cnpg_is_healthy(yyjson_doc_get_root(doc), reason, sizeof reason);
    yyjson_doc_free(doc);
    if (healthy) {
        authority_ask(e);
    } else if (loop_now(op->k->loop) >= e->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT, "not ready in time: %s", reason);
        kube_ensure_over(e, &err);
    } else {
        kube_ensure_progress(e, reason);
        loop_timer_start(&e->timer, POLL_NS);
    }
}

static void cluster_ask(struct kube_ensure *e)
{
    struct err err = {0};
    if (kube_op_get(&e->op, KUBE_SETS(e->op.k, e->set), false, on_cluster, &err) != 0)
        kube_ensure_over(e, &err);
}

void kube_cnpg_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    e->cnpg_then = then;
    loop_timer_init(e->op.k->loop, &e->timer, on_timer, e);
    cluster_ask(e);
}
