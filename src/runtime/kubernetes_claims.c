/*
 * Volumes that grow. A StatefulSet's claim templates cannot be changed, so: each claim is made larger, then
 * the StatefulSet is deleted without its pods, and the apply that follows makes it again with the new
 * templates; it takes its pods back. The same for what else of it cannot be changed. Where there is no
 * StatefulSet (somebody died just then, or volumes were retained) the claims that are there grow as well:
 * nobody would compare them with its templates later.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/kube_objects.h"
#include "runtime/kubernetes_ensure.h"

#define POLL_NS (100 * ENV_NS_PER_MS)

static void claim_next(struct kube_ensure *e);

static yyjson_val *path(yyjson_val *from, const char *pointer)
{
    return yyjson_ptr_get(from, pointer);
}

static uint64_t size_of(yyjson_val *claim)
{
    yyjson_val *size = path(claim, "/spec/resources/requests/storage");
    uint64_t bytes = 0;
    if (yyjson_is_uint(size))
        return yyjson_get_uint(size);
    return yyjson_is_str(size) && kube_quantity(yyjson_get_str(size), &bytes) ? bytes : 0;
}

/* The template of a name in a StatefulSet, or NULL. */
static yyjson_val *template_of(yyjson_val *set, const char *name, size_t length)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(path(set, "/spec/volumeClaimTemplates"), at, n, one)
    {
        const char *found = yyjson_get_str(path(one, "/metadata/name"));
        if (found != NULL && strlen(found) == length && memcmp(found, name, length) == 0)
            return one;
    }
    return NULL;
}

/* What a claim of the shard is to be, or NULL: "data-shop-s1-0" follows the template "data". */
static yyjson_val *wanted_of(const struct kube_ensure *e, const char *claim)
{
    char *middle = mem_printf("-%s-", e->set);
    const char *found = strstr(claim, middle);
    free(middle);
    return found != NULL ? template_of(yyjson_doc_get_root(e->wanted), claim, (size_t)(found - claim)) : NULL;
}

/* ---- the StatefulSet is made again ---- */

static void orphan_look(struct kube_ensure *e);

static void claims_over(struct kube_ensure *e)
{
    loop_timer_stop(&e->timer);
    yyjson_doc_free(e->found);
    yyjson_doc_free(e->claims);
    e->found = e->claims = NULL;
    e->claims_then(e);
}

static void on_orphan_looked(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (kube_answer_missing(a))
        claims_over(e);
    else if (a->err != NULL)
        kube_ensure_over(e, a->err);
    else
        loop_timer_start(&e->timer, POLL_NS);
}

static void orphan_look(struct kube_ensure *e)
{
    struct err err = {0};
    if (kube_op_get(&e->op, KUBE_SETS(e->op.k, e->set), true, on_orphan_looked, &err) != 0)
        kube_ensure_over(e, &err);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    orphan_look(data);
}

static void on_orphaned(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL && !kube_answer_missing(a))
        kube_ensure_over(e, a->err);
    else
        orphan_look(e);
}

static void orphan(struct kube_ensure *e)
{
    struct err err = {0};
    char *name = KUBE_SETS(e->op.k, e->set);
    char *body =
        mem_printf("{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"propagationPolicy\":\"Orphan\","
                   "\"preconditions\":{\"uid\":\"%s\"}}",
                   kube_uid(yyjson_doc_get_root(e->found)));
    const struct kube_request r = {.method = "DELETE", .path = name, .body = body};
    loop_timer_init(e->op.k->loop, &e->timer, on_timer, e);
    if (kube_op_call(&e->op, &r, on_orphaned, &err) != 0)
        kube_ensure_over(e, &err);
    free(name);
    free(body);
}

/* ---- the claims ---- */

static void on_grown(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    if (a->err == NULL) {
        e->at++;
        claim_next(e);
        return;
    }
    err = *a->err;
    if (a->status != NULL && (a->status->code == 403 || a->status->code == 422)) {
        err.code = ERRC_UNSUPPORTED;
        (void)err_wrap(&err,
                       "a volume cannot grow: its StorageClass needs allowVolumeExpansion: true, else take "
                       "spec.storage back and move the shard's ranges to new shards of another database");
    }
    kube_ensure_over(e, &err);
}

static void claim_grow(struct kube_ensure *e, yyjson_val *claim, yyjson_val *wanted)
{
    struct err err = {0};
    char *size = yyjson_val_write(path(wanted, "/spec/resources/requests/storage"), 0, NULL);
    char *name = kube_path(e->op.k, "/api/v1", "persistentvolumeclaims",
                           yyjson_get_str(path(claim, "/metadata/name")));
    char *body =
        mem_printf("{\"metadata\":{\"uid\":\"%s\"},\"spec\":{\"resources\":{\"requests\":{\"storage\":%s}}}}",
                   kube_uid(claim), size);
    const struct kube_request r = {.method = "PATCH",
                                   .path = name,
                                   .query = "fieldManager=" KUBE_MANAGER,
                                   .content_type = "application/merge-patch+json",
                                   .body = body};
    if (kube_op_call(&e->op, &r, on_grown, &err) != 0)
        kube_ensure_over(e, &err);
    free(size);
    free(name);
    free(body);
}

static void claim_next(struct kube_ensure *e)
{
    yyjson_val *items = path(yyjson_doc_get_root(e->claims), "/items");
    for (; (size_t)e->at < yyjson_arr_size(items); e->at++) {
        yyjson_val *claim = yyjson_arr_get(items, (size_t)e->at);
        const char *name = yyjson_get_str(path(claim, "/metadata/name"));
        yyjson_val *wanted = name != NULL ? wanted_of(e, name) : NULL;
        if (wanted != NULL && size_of(wanted) > size_of(claim)) {
            claim_grow(e, claim, wanted);
            return;
        }
    }
    if (e->found != NULL)
        orphan(e);
    else
        claims_over(e);
}

static void on_claims(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL) {
        kube_ensure_over(e, a->err);
        return;
    }
    e->claims = yyjson_read(a->body, a->body_length, 0);
    e->at = 0;
    e->claims_next(e);
}

void kube_claims_read(struct kube_ensure *e, void (*next)(struct kube_ensure *e))
{
    struct err err = {0};
    char *all = kube_path(e->op.k, "/api/v1", "persistentvolumeclaims", NULL);
    char *selector = kube_shard_selector(e->database, e->shard);
    const struct kube_request r = {.method = "GET", .path = all, .query = selector};
    e->claims_next = next;
    if (kube_op_call(&e->op, &r, on_claims, &err) != 0)
        kube_ensure_over(e, &err);
    free(all);
    free(selector);
}

static bool grows(const struct kube_ensure *e)
{
    yyjson_val *one, *set = yyjson_doc_get_root(e->found);
    size_t at, n;
    yyjson_arr_foreach(path(yyjson_doc_get_root(e->wanted), "/spec/volumeClaimTemplates"), at, n, one)
    {
        const char *name = yyjson_get_str(path(one, "/metadata/name"));
        yyjson_val *there = template_of(set, name, strlen(name));
        if (there != NULL && (size_of(one) > size_of(there) || e->adopting || e->converts))
            return true; /* an adopted one's templates do not name the owner yet; an update strategy that was
                            defaulted goes with no other */
    }
    return false;
}

void kube_claims_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    e->claims_then = then;
    if (e->op.k->options.cnpg || (e->found != NULL && !grows(e))) /* the operator does it by itself */
        claims_over(e);
    else
        kube_claims_read(e, claim_next);
}
