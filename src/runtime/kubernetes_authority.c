/*
 * The steps of an authority that gives way to a new one (kube_authority.h), within the pass of a shard:
 * before two of them the certificates of all shards and clients are looked at.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kubernetes_ensure.h"

static void scan_next(struct kube_ensure *e);

static void scan_over(struct kube_ensure *e, bool ready)
{
    for (int i = 0; i < e->scan_count; i++)
        free(e->scan_names[i]);
    free(e->scan_names);
    e->scan_names = NULL;
    e->scan_count = 0;
    e->scan_then(e, ready);
}

static void scan_add(struct kube_ensure *e, char *name)
{
    e->scan_names = mem_resize(e->scan_names, (size_t)e->scan_count + 1, sizeof *e->scan_names);
    e->scan_names[e->scan_count++] = name;
}

/* What shardherd shows to the servers, when the user issued it by the authority. */
static const char *their_client(const struct kube_ensure *e)
{
    return kube_spec_text(&e->spec, "tls", "clientSecret");
}

/* The first two are the clients'. */
static bool is_of_shard(const struct kube_ensure *e)
{
    return e->at >= 2;
}

static bool is_theirs(const struct kube_ensure *e)
{
    const char *theirs = their_client(e);
    return theirs != NULL && strcmp(e->scan_names[e->at], theirs) == 0;
}

/* Nobody but its owner can issue it anew: he is told, and the old authority stays until he has. */
static bool theirs_ready(struct kube_ensure *e, yyjson_val *secret)
{
    char message[300], *certificate = kube_secret_value(secret, "tls.crt");
    bool ready = e->scan_step == KUBE_AUTHORITY_SWITCH ||
                 kube_certificate_judge(e->op.k->loop->env, certificate, e->authority.now.certificate,
                                        NULL) != KUBE_CERTIFICATE_UNUSABLE;
    free(certificate);
    if (ready)
        return true;
    (void)snprintf(message, sizeof message,
                   "Secret %.120s (spec.tls.clientSecret) is of the previous authority: issue it by that of "
                   "Secret %.60s-ca",
                   e->scan_names[e->at], e->database);
    kube_ensure_progress(e, message);
    return false;
}

static bool is_ready(struct kube_ensure *e, yyjson_val *secret)
{
    const char *shard = is_of_shard(e) ? kube_label(secret, "shardherd.io/shard") : NULL;
    const struct kube_owner owner = {e->database, shard, e->spec.uid};
    if (is_theirs(e))
        return theirs_ready(e, secret);
    if (secret == NULL) /* clients: nobody has it; a shard: it is being made */
        return !is_of_shard(e);
    return !kube_is_ours(secret, &owner) /* of another authority */ ||
           kube_authority_ready(&e->authority, e->scan_step, secret, e->op.k->loop->env);
}

static void on_secret(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    bool missing = kube_answer_missing(a);
    if (a->err != NULL && !missing) {
        kube_ensure_over(e, a->err);
        return;
    }
    yyjson_doc *doc = missing ? NULL : yyjson_read(a->body, a->body_length, 0);
    bool ready = is_ready(e, yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    e->at++;
    if (ready)
        scan_next(e);
    else
        scan_over(e, false);
}

static void scan_next(struct kube_ensure *e)
{
    struct err err = {0};
    if (e->at == e->scan_count)
        scan_over(e, true);
    else if (kube_op_get(&e->op, KUBE_SECRETS(e->op.k, e->scan_names[e->at]), false, on_secret, &err) != 0)
        kube_ensure_over(e, &err);
}

static void on_sets(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    yyjson_val *set;
    size_t at, n;
    if (a->err != NULL) {
        kube_ensure_over(e, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    scan_add(e, mem_printf("%s-client", e->database));
    scan_add(e, mem_printf("%s-manager", e->database));
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "items"), at, n, set)
    {
        const struct kube_owner owner = {e->database, kube_label(set, "shardherd.io/shard"), e->spec.uid};
        const char *name = yyjson_get_str(yyjson_ptr_get(set, "/metadata/name"));
        if (name != NULL && kube_is_ours(set, &owner))
            scan_add(e, mem_printf("%s-tls", name));
    }
    yyjson_doc_free(doc);
    if (their_client(e) != NULL)
        scan_add(e, mem_strdup(their_client(e)));
    e->at = 0;
    scan_next(e);
}

void kube_authority_scan(struct kube_ensure *e, enum kube_authority_step step,
                         void (*then)(struct kube_ensure *e, bool ready))
{
    struct err err = {0};
    char *path = KUBE_SETS(e->op.k, NULL);
    char *query = mem_printf("labelSelector=shardherd.io%%2Fdatabase%%3D%s", e->database);
    const struct kube_request r = {.method = "GET",
                                   .path = path,
                                   .query = query,
                                   .accept =
                                       "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"};
    e->scan_step = step;
    e->scan_then = then;
    if (kube_op_call(&e->op, &r, on_sets, &err) != 0)
        kube_ensure_over(e, &err);
    free(path);
    free(query);
}
