/*
 * A shard whose StatefulSet somebody else made: it is looked at, its server is asked whether it can be a
 * shard, and only then the objects of kube_adopt.h are applied. Nothing else of his is written, here or
 * later: no pod template, no volume, no Secret, no role or database in the server.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kubernetes_ensure.h"

#define SETTLE_NS (60 * ENV_NS_PER_S) /* until a new Service leads to the pod */

bool kube_adopt_is_foreign(const struct kube_ensure *e)
{
    const char *adopt = kube_spec_text(&e->spec, "adopt", e->shard);
    return adopt != NULL && strcmp(adopt, e->set) != 0;
}

/* "StatefulSet legacy (spec.adopt.s1): ..." */
void kube_adopt_over(struct kube_ensure *e, const struct err *err)
{
    struct err wrapped = *err;
    if (err->code != ERRC_CANCELED)
        (void)err_wrap(&wrapped, "StatefulSet %s (spec.adopt.%s)",
                       kube_spec_text(&e->spec, "adopt", e->shard), e->shard);
    kube_ensure_over(e, &wrapped);
}

int kube_adopt_spec_check(const struct kube_ensure *e, struct err *err)
{
    if (e->op.k->options.cnpg)
        return err_set(
            err, ERRC_UNSUPPORTED,
            "spec.adopt.%s: the operator of CloudNativePG takes over no StatefulSets: take it out, "
            "or use the runtime kubernetes",
            e->shard);
    if (kube_spec_mutual(&e->spec))
        return err_set(err, ERRC_UNSUPPORTED,
                       "spec.adopt.%s and spec.tls.mode mutual: a server that shardherd did not make has no "
                       "certificate to show to the others: set the mode to on",
                       e->shard);
    if (kube_spec_text(&e->spec, "credentials", "secret") == NULL)
        return err_set(err, ERRC_INVALID,
                       "spec.adopt.%s: the password that the role %s has in that server is to be the one of "
                       "every shard: name its Secret in spec.credentials.secret",
                       e->shard, e->owner);
    return 0;
}

/* ---- looking at the StatefulSet ---- */

static int look(struct kube_ensure *e, const struct k8s_answer *a, kube_object_cb item, struct err *err)
{
    const struct kube_owner owner = kube_ensure_owner(e, true);
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const struct kube_shard shard = {.database = e->database,
                                     .name_space = e->op.k->options.name_space,
                                     .shard = e->shard,
                                     .spec = e->spec.spec,
                                     .owner_uid = e->spec.uid};
    kube_adoption_clear(&e->adoption);
    kube_adoption_read(root, &e->adoption);
    e->adopted = kube_adopted(root, &owner);
    int rc = kube_adoption_check(root, &e->adoption, &owner, err);
    if (rc == 0)
        rc = kube_adoption_each(&shard, &e->adoption, item, e, err);
    yyjson_doc_free(doc);
    return rc;
}

int kube_adopt_looked(struct kube_ensure *e, const struct k8s_answer *a, kube_object_cb item, struct err *err)
{
    if (kube_answer_missing(a))
        return err_set(err, ERRC_NOT_FOUND, "it does not exist in namespace %s", e->op.k->options.name_space);
    if (a->err != NULL) {
        *err = *a->err;
        return (int)err->code;
    }
    e->lent = true;
    return look(e, a, item, err);
}

int kube_adopt_same(const struct kube_ensure *e, yyjson_val *config_map, struct err *err)
{
    const char *before = kube_annotation(config_map, KUBE_ADOPTED_ANNOTATION);
    if (strcmp(before, e->adoption.set) == 0)
        return 0;
    return err_set(err, ERRC_CONFLICT,
                   "shard %s is served by %s already: take it out of spec.adopt, or name that one", e->shard,
                   before[0] != '\0' ? before : "a StatefulSet of shardherd's own");
}

/* ---- asking the server ---- */

static void on_probed(struct kube_probe *probe, const struct err *err, void *data)
{
    struct kube_ensure *e = data;
    (void)probe;
    e->probing = false;
    instance_access_clear(&e->access);
    free(e->pod_address);
    e->pod_address = NULL;
    if (err != NULL)
        kube_adopt_over(e, err);
    else
        e->probed_then(e);
}

static void probe_progress(const char *message, void *data)
{
    kube_ensure_progress(data, message);
}

static void probe_start(struct kube_ensure *e, bool whole, void (*then)(struct kube_ensure *e))
{
    uint64_t settle_ns = loop_now(e->op.k->loop) + SETTLE_NS;
    e->probed_then = then;
    kube_ensure_access(e, &e->access);
    /* by its address, which is in no certificate */
    bool by_name = e->pod_address == NULL || strcmp(e->access.sslmode, "verify-full") != 0;
    e->probe = (struct kube_probe){
        .loop = e->op.k->loop,
        .target = {.host = e->pod_address != NULL ? e->pod_address : e->access.host,
                   .port = e->pod_address != NULL ? e->adoption.port : e->access.port,
                   .dbname = e->database,
                   .user = e->access.user,
                   .password = e->access.password,
                   .sslmode = by_name ? e->access.sslmode : "verify-ca",
                   .sslrootcert = e->access.sslrootcert,
                   .application_name = "shardherd runtime",
                   .connect_timeout_ns = 5 * ENV_NS_PER_S},
        .owner = e->owner,
        .owner_password = e->owner_password,
        .whole = whole && !e->must_exist, /* a shard already: our schema is in it */
        .deadline_ns = whole                        ? 0
                       : settle_ns < e->deadline_ns ? settle_ns
                                                    : e->deadline_ns,
        .progress = probe_progress,
        .done = on_probed,
        .data = e,
    };
    e->probing = true;
    kube_probe_start(&e->probe);
}

void kube_adopt_probe(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    probe_start(e, false, then);
}

static void on_pod(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    if (a->err != NULL && !kube_answer_missing(a)) {
        kube_adopt_over(e, a->err);
        return;
    }
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    const char *address = yyjson_get_str(yyjson_ptr_get(yyjson_doc_get_root(doc), "/status/podIP"));
    free(e->pod_address);
    e->pod_address = mem_strdup(address);
    yyjson_doc_free(doc);
    if (e->pod_address == NULL) {
        (void)err_set(&err, ERRC_UNAVAILABLE, "its pod %s-0 has no address: it does not run",
                      e->adoption.set);
        kube_adopt_over(e, &err);
        return;
    }
    probe_start(e, true, e->probed_then);
}

void kube_adopt_inspect(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    struct err err = {0};
    char *pod = mem_printf("%s-0", e->adoption.set);
    e->probed_then = then;
    if (kube_op_get(&e->op, kube_path(e->op.k, "/api/v1", "pods", pod), false, on_pod, &err) != 0)
        kube_adopt_over(e, &err);
    free(pod);
}
