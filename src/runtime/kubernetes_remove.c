/*
 * runtime_remove() and runtime_stop().
 *
 * What is deleted is found by name, looked at, and deleted only when it carries our labels and our owner,
 * with its UID as a precondition. The ConfigMap and then the credentials go last: as long as something else
 * is left, one of them says to which database and shard the instance belongs.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "runtime/cnpg_object.h"
#include "runtime/kube_meta.h"
#include "runtime/kubernetes_impl.h"

#define POLL_NS (200 * ENV_NS_PER_MS)

/*
 *   BEGIN --> ANCHOR --> CLAIMS --> LOOK --> DELETE --> PAUSE --> GONE
 *               |                  ^  |                  ^        |  |
 *               |                  |  +--nothing there-->+        |  |
 *               |                  +------- next target ----------+--+
 *               +--(nothing is left)--> OVER <-- after the last target; any failure, cancel
 *
 * ANCHOR waits for the StatefulSet, then the ConfigMap, then the credentials: the first that is there.
 * CLAIMS waits for the list of the shard's volume claims (deletionPolicy delete only).
 * LOOK   waits for the metadata of a target, DELETE for its deletion; PAUSE waits for its timer and GONE for
 *        the look whether it is gone.
 * OTHERS waits for the database's StatefulSets: with the last shard go the Secrets of the database.
 */
enum { BEGIN, ANCHOR, CLAIMS, LOOK, DELETE, PAUSE, GONE, OTHERS, OVER, STATES };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [BEGIN] = {"begin", N(ANCHOR) | N(OVER), false},
    [ANCHOR] = {"anchor", N(ANCHOR) | N(CLAIMS) | N(LOOK) | N(DELETE) | N(OVER), false},
    [CLAIMS] = {"claims", N(LOOK) | N(OVER), false},
    [LOOK] = {"look", N(LOOK) | N(DELETE) | N(OTHERS) | N(OVER), false},
    [DELETE] = {"delete", N(GONE) | N(LOOK) | N(OTHERS) | N(OVER), false},
    [PAUSE] = {"pause", N(GONE) | N(OVER), false},
    [GONE] = {"gone", N(PAUSE) | N(LOOK) | N(OTHERS) | N(OVER), false},
    [OTHERS] = {"others", N(LOOK) | N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

enum owning { OF_SHARD, OF_DATABASE, CLAIM };

struct target {
    char *path; /* of the object */
    enum owning owning;
    bool others; /* first ask whether the database has other shards; if so, it stays */
};

struct removal {
    struct kube_op op; /* first */
    struct sm sm;
    struct loop_timer timer;
    uint64_t deadline_ns;
    bool stopping;    /* runtime_stop(): scale to zero and wait for the pod */
    bool hibernating; /* a Cluster whose volumes are to stay */
    char *set, *database, *shard;
    struct kube_spec spec; /* doc NULL: the database is gone */
    bool deletes;
    int anchor;
    struct target *targets;
    int count, at;
    char *uid; /* of what is being deleted */
    runtime_done_cb cb;
    void *data;
};

static void target_next(struct removal *m);

/* ---- the end ---- */

static void over(struct removal *m, const struct err *err)
{
    struct err wrapped = {0};
    sm_move(&m->sm, OVER);
    loop_timer_stop(&m->timer);
    if (err != NULL) {
        wrapped = *err;
        if (err->code != ERRC_CANCELED)
            (void)err_wrap(&wrapped, "cannot %s instance %s", m->stopping ? "stop" : "remove", m->op.name);
    }
    m->cb(err != NULL ? &wrapped : NULL, m->data);
    kube_op_end(&m->op);
    for (int i = 0; i < m->count; i++)
        free(m->targets[i].path);
    free(m->targets);
    kube_spec_clear(&m->spec);
    free(m->set);
    free(m->database);
    free(m->shard);
    free(m->uid);
    free(m);
}

static void target_add(struct removal *m, char *path, enum owning owning, bool others)
{
    m->targets = mem_resize(m->targets, (size_t)m->count + 1, sizeof *m->targets);
    m->targets[m->count++] = (struct target){path, owning, others};
}

/* ---- one target ---- */

static void target_done(struct removal *m)
{
    m->at++;
    target_next(m);
}

static void gone_ask(struct removal *m);

static void on_gone(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    struct err err = {0};
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    bool other = doc != NULL && m->uid[0] != '\0' && strcmp(kube_uid(yyjson_doc_get_root(doc)), m->uid) != 0;
    bool gone = other || kube_answer_missing(a);
    yyjson_doc_free(doc);
    if (gone) {
        target_done(m);
    } else if (a->err != NULL) {
        over(m, a->err);
    } else if (loop_now(op->k->loop) >= m->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT,
                      "%s is being deleted and still there: see its metadata.finalizers, and its pods",
                      m->targets[m->at].path);
        over(m, &err);
    } else {
        sm_move(&m->sm, PAUSE);
        loop_timer_start(&m->timer, POLL_NS);
    }
}

static void gone_ask(struct removal *m)
{
    struct err err = {0};
    sm_move(&m->sm, GONE);
    if (kube_op_get(&m->op, mem_strdup(m->targets[m->at].path), true, on_gone, &err) != 0)
        over(m, &err);
}

static void hibernation_ask(struct removal *m);

static void on_timer(struct loop_timer *timer, void *data)
{
    struct removal *m = data;
    (void)timer;
    if (m->hibernating)
        hibernation_ask(m);
    else
        gone_ask(m);
}

static void on_deleted(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (kube_answer_missing(a))
        target_done(m);
    else if (a->err != NULL)
        over(m, a->err);
    else
        gone_ask(m);
}

static void enter_delete(struct removal *m)
{
    struct err err = {0};
    /* the first is what owns pods, which are to be gone before it */
    char *body = mem_printf("{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"propagationPolicy\":\"%s\","
                            "\"preconditions\":{\"uid\":\"%s\"}}",
                            m->at == 0 ? "Foreground" : "Background", m->uid);
    const struct kube_request r = {.method = "DELETE", .path = m->targets[m->at].path, .body = body};
    sm_move(&m->sm, DELETE);
    if (kube_op_call(&m->op, &r, on_deleted, &err) != 0)
        over(m, &err);
    free(body);
}

/* A claim is the StatefulSet's, or was marked as ours. */
static bool claim_is_ours(const struct removal *m, yyjson_val *claim)
{
    yyjson_val *reference, *metadata = yyjson_obj_get(claim, "metadata");
    size_t at, n;
    const char *annotated = kube_annotation(claim, KUBE_OWNER_ANNOTATION);
    if (strcmp(kube_label(claim, "shardherd.io/database"), m->database) != 0 ||
        strcmp(kube_label(claim, "shardherd.io/shard"), m->shard) != 0)
        return false;
    yyjson_arr_foreach(yyjson_obj_get(metadata, "ownerReferences"), at, n, reference)
    {
        if (yyjson_equals_str(yyjson_obj_get(reference, "kind"), "StatefulSet") &&
            yyjson_equals_str(yyjson_obj_get(reference, "name"), m->set))
            return true;
    }
    return m->spec.uid != NULL && strcmp(annotated, m->spec.uid) == 0;
}

static void on_looked(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    const struct target *t = &m->targets[m->at];
    const struct kube_owner owner = {m->database, t->owning == OF_DATABASE ? NULL : m->shard, m->spec.uid};
    if (a->err != NULL && !kube_answer_missing(a)) {
        over(m, a->err);
        return;
    }
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc);
    bool ours = doc != NULL && (t->owning == CLAIM ? claim_is_ours(m, root) : kube_is_ours(root, &owner));
    if (ours) {
        free(m->uid);
        m->uid = mem_strdup(kube_uid(root));
        enter_delete(m);
    } else {
        target_done(m); /* somebody else's: it stays */
    }
    yyjson_doc_free(doc);
}

static void target_look(struct removal *m)
{
    struct err err = {0};
    sm_move(&m->sm, LOOK);
    if (kube_op_get(&m->op, mem_strdup(m->targets[m->at].path), true, on_looked, &err) != 0)
        over(m, &err);
}

/* ---- has the database other shards? ---- */

static void on_others(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (a->err != NULL) {
        over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    bool others = yyjson_arr_size(yyjson_obj_get(yyjson_doc_get_root(doc), "items")) > 0;
    yyjson_doc_free(doc);
    while (others && m->at < m->count && m->targets[m->at].others)
        m->at++;
    for (int i = m->at; i < m->count; i++)
        m->targets[i].others = false;
    target_next(m);
}

static void others_ask(struct removal *m)
{
    struct err err = {0};
    char *path = KUBE_SETS(m->op.k, NULL);
    char *query = mem_printf("labelSelector=shardherd.io%%2Fdatabase%%3D%s&limit=1", m->database);
    const struct kube_request r = {.method = "GET",
                                   .path = path,
                                   .query = query,
                                   .accept =
                                       "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"};
    sm_move(&m->sm, OTHERS);
    if (kube_op_call(&m->op, &r, on_others, &err) != 0)
        over(m, &err);
    free(path);
    free(query);
}

static void target_next(struct removal *m)
{
    if (m->at == m->count)
        over(m, NULL);
    else if (m->targets[m->at].others)
        others_ask(m);
    else
        target_look(m);
}

/* ---- what there is to delete ---- */

static void targets_add_rest(struct removal *m)
{
    static const struct {
        const char *group, *plural, *suffix;
    } all[] = {
        {"/apis/policy/v1", "poddisruptionbudgets", ""},
        {"/apis/networking.k8s.io/v1", "networkpolicies", ""},
        {"/api/v1", "services", ""},
        {"/api/v1", "services", "-ro"},
        {"/api/v1", "services", "-pods"},
        {"/apis/rbac.authorization.k8s.io/v1", "rolebindings", ""},
        {"/apis/rbac.authorization.k8s.io/v1", "roles", ""},
        {"/api/v1", "serviceaccounts", ""},
        {"/api/v1", "secrets", "-tls"},
        {"/api/v1", "configmaps", ""},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0] && !m->op.k->options.cnpg; i++) {
        char *name = mem_printf("%s%s", m->set, all[i].suffix);
        target_add(m, kube_path(m->op.k, all[i].group, all[i].plural, name), OF_SHARD, false);
        free(name);
    }
    if (!m->deletes)
        return;
    char *owner = mem_printf("%s-owner", m->database), *ca = mem_printf("%s-ca", m->database),
         *credentials = mem_printf("%s-credentials", m->set);
    target_add(m, KUBE_SECRETS(m->op.k, owner), OF_DATABASE, true);
    target_add(m, KUBE_SECRETS(m->op.k, ca), OF_DATABASE, true);
    target_add(m, KUBE_SECRETS(m->op.k, credentials), OF_SHARD, false);
    free(owner);
    free(ca);
    free(credentials);
}

static void on_claims(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    yyjson_val *claim;
    size_t at, n;
    if (a->err != NULL) {
        over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "items"), at, n, claim)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(claim, "metadata"), "name"));
        char *data = mem_printf("data-%s-", m->set), *wal = mem_printf("wal-%s-", m->set);
        if (name != NULL && (text_starts_with(name, data) || text_starts_with(name, wal)))
            target_add(m, kube_path(m->op.k, "/api/v1", "persistentvolumeclaims", name), CLAIM, false);
        free(data);
        free(wal);
    }
    yyjson_doc_free(doc);
    targets_add_rest(m);
    target_next(m);
}

static void claims_ask(struct removal *m)
{
    struct err err = {0};
    char *path = kube_path(m->op.k, "/api/v1", "persistentvolumeclaims", NULL);
    char *query = kube_shard_selector(m->database, m->shard);
    const struct kube_request r = {.method = "GET",
                                   .path = path,
                                   .query = query,
                                   .accept =
                                       "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"};
    sm_move(&m->sm, CLAIMS);
    if (kube_op_call(&m->op, &r, on_claims, &err) != 0)
        over(m, &err);
    free(path);
    free(query);
}

/* ---- stopping ---- */

static void on_scaled(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (kube_answer_missing(a)) {
        over(m, NULL);
    } else if (a->err != NULL) {
        over(m, a->err);
    } else {
        free(m->uid);
        m->uid = mem_strdup(""); /* until there is no pod of that name at all */
        target_add(m, kube_path(op->k, "/api/v1", "pods", op->name), CLAIM, false);
        gone_ask(m);
    }
}

static void scale(struct removal *m, const char *uid)
{
    struct err err = {0};
    char *path = KUBE_SETS(m->op.k, m->set);
    char *body = mem_printf("{\"metadata\":{\"uid\":\"%s\"},\"spec\":{\"replicas\":0}}", uid);
    const struct kube_request r = {.method = "PATCH",
                                   .path = path,
                                   .query = "fieldManager=" KUBE_MANAGER,
                                   .content_type = "application/merge-patch+json",
                                   .body = body};
    sm_move(&m->sm, DELETE);
    if (kube_op_call(&m->op, &r, on_scaled, &err) != 0)
        over(m, &err);
    free(path);
    free(body);
}

/* ---- CloudNativePG's way to stop: no pods, the volumes stay ---- */

static bool hibernates(yyjson_val *cluster)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(yyjson_ptr_get(cluster, "/status/conditions"), at, n, one)
    {
        if (yyjson_equals_str(yyjson_obj_get(one, "type"), CNPG_HIBERNATION))
            return yyjson_equals_str(yyjson_obj_get(one, "status"), "True");
    }
    return false;
}

static void on_hibernated(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    struct err err = {0};
    if (a->err != NULL && !kube_answer_missing(a)) {
        over(m, a->err);
        return;
    }
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    bool done = doc == NULL || hibernates(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    if (done) {
        over(m, NULL);
    } else if (loop_now(op->k->loop) >= m->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT,
                      "CloudNativePG does not hibernate cluster %s: is its operator running?", m->set);
        over(m, &err);
    } else {
        sm_move(&m->sm, PAUSE);
        loop_timer_start(&m->timer, POLL_NS);
    }
}

static void hibernation_ask(struct removal *m)
{
    struct err err = {0};
    sm_move(&m->sm, GONE);
    if (kube_op_get(&m->op, KUBE_SETS(m->op.k, m->set), false, on_hibernated, &err) != 0)
        over(m, &err);
}

static void on_asleep(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (kube_answer_missing(a))
        over(m, NULL);
    else if (a->err != NULL)
        over(m, a->err);
    else
        hibernation_ask(m);
}

static void hibernate(struct removal *m, const char *uid)
{
    struct err err = {0};
    char *path = KUBE_SETS(m->op.k, m->set);
    char *body =
        mem_printf("{\"metadata\":{\"uid\":\"%s\",\"annotations\":{\"" CNPG_HIBERNATION "\":\"on\"}}}", uid);
    const struct kube_request r = {.method = "PATCH",
                                   .path = path,
                                   .query = "fieldManager=" KUBE_MANAGER,
                                   .content_type = "application/merge-patch+json",
                                   .body = body};
    m->hibernating = true;
    sm_move(&m->sm, DELETE);
    if (kube_op_call(&m->op, &r, on_asleep, &err) != 0)
        over(m, &err);
    free(path);
    free(body);
}

/* ---- whose is it ---- */

static void anchor_ask(struct removal *m);

static int anchor_take(struct removal *m, yyjson_val *root, struct err *err)
{
    m->database = mem_strdup(kube_label(root, "shardherd.io/database"));
    m->shard = mem_strdup(kube_label(root, "shardherd.io/shard"));
    int rc = m->database[0] != '\0' ? kube_spec_read(m->op.k, m->database, &m->spec, err) : 0;
    if (rc != 0 && rc != ERRC_NOT_FOUND)
        return rc;
    err_clear(err);
    m->deletes = m->spec.doc != NULL && kube_spec_deletes(&m->spec);
    char *expected = mem_printf("%s-%s", m->database, m->shard);
    const struct kube_owner owner = {m->database, m->shard, m->spec.uid};
    rc = strcmp(expected, m->set) == 0 && kube_is_ours(root, &owner)
             ? 0
             : err_set(err, ERRC_CONFLICT,
                       "what is called %s in namespace %s does not belong to a ShardedDatabase of ours: "
                       "it is left alone",
                       m->set, m->op.k->options.name_space);
    free(expected);
    return rc;
}

static void on_anchor(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    struct err err = {0};
    if (kube_answer_missing(a)) {
        if (++m->anchor == 3 || m->stopping)
            over(m, NULL);
        else
            anchor_ask(m);
        return;
    }
    if (a->err != NULL) {
        over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (anchor_take(m, root, &err) != 0) {
        over(m, &err);
    } else if (op->k->options.cnpg && (m->stopping || !m->deletes)) {
        if (m->anchor == 0)
            hibernate(m, kube_uid(root));
        else
            over(m, NULL); /* there are passwords left, and they stay */
    } else if (m->stopping) {
        scale(m, kube_uid(root));
    } else {
        target_add(m, KUBE_SETS(op->k, m->set), OF_SHARD, false);
        if (m->deletes && !op->k->options.cnpg) {
            claims_ask(m);
        } else {
            targets_add_rest(m);
            target_next(m);
        }
    }
    yyjson_doc_free(doc);
}

static void anchor_ask(struct removal *m)
{
    struct err err = {0};
    char *credentials = mem_printf("%s-credentials", m->set), *path;
    if (m->anchor == 0)
        path = KUBE_SETS(m->op.k, m->set);
    else if (m->anchor == 1)
        path = kube_path(m->op.k, "/api/v1", "configmaps", m->set);
    else
        path = KUBE_SECRETS(m->op.k, credentials);
    sm_move(&m->sm, ANCHOR);
    if (kube_op_get(&m->op, path, true, on_anchor, &err) != 0)
        over(m, &err);
    free(credentials);
}

static void removal_begin(struct kube_op *op)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct removal *m = (struct removal *)op;
    m->deadline_ns = loop_now(op->k->loop) + op->k->options.timeout_ns;
    if (op->canceled)
        over(m, &canceled);
    else if (m->set == NULL) /* cannot be one of ours */
        over(m, NULL);
    else
        anchor_ask(m);
}

static void removal_cancel(struct kube_op *op)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct removal *m = (struct removal *)op;
    if (sm_now(&m->sm) == PAUSE)
        over(m, &canceled);
}

static int removal_start(struct runtime *rt, const char *name, bool stopping, runtime_done_cb cb, void *data)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    struct removal *m = mem_zalloc(sizeof *m);
    m->stopping = stopping;
    m->set = kube_set_name(name);
    m->cb = cb;
    m->data = data;
    loop_timer_init(k->loop, &m->timer, on_timer, m);
    sm_init(&m->sm, states, STATES, BEGIN, NULL, NULL);
    kube_op_add(k, &m->op, name, removal_begin, removal_cancel);
    return 0;
}

int kube_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    (void)err;
    return removal_start(rt, name, true, cb, data);
}

int kube_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    (void)err;
    return removal_start(rt, name, false, cb, data);
}
