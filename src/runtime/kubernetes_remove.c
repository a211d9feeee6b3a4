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
#include "runtime/kube_known.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"
#include "runtime/kubernetes_remove.h"

/*
 *   BEGIN --> ANCHOR --> CLAIMS --> LOOK --> DELETE --> PAUSE --> GONE
 *               |                  ^  |                  ^        |  |
 *               |                  |  +--nothing there-->+        |  |
 *               |                  +------- next target ----------+--+
 *               +--(nothing is left)--> OVER <-- after the last target; any failure, cancel
 *
 * ANCHOR waits for the StatefulSet, then the ConfigMap, then the credentials: the first that is there.
 * RELEASE comes after ANCHOR for a shard that was adopted: it waits for the StatefulSet, then for our marks
 * to go from it. No claim of his is looked at. CLAIMS waits for the list of the shard's volume claims; when
 * they are to stay, before that for the StatefulSet to take the retention policy, and then until none of them
 * belongs to it any more. SNAPSHOT comes between CLAIMS and LOOK when the policy says so: see
 * kubernetes_snapshot.c. Before CLAIMS the pod goes then, as in a stop. LOOK   waits for the metadata of a
 * target, DELETE for its deletion; PAUSE waits for its timer and GONE for the look whether it is gone. OTHERS
 * waits for the database's StatefulSets: with the last shard go the Secrets of the database. FILES waits for
 * the worker that deletes its files then.
 */
#define N(state) SM_NEXT(state)
static const struct sm_state states[REMOVAL_STATES] = {
    [REMOVAL_BEGIN] = {"begin", N(REMOVAL_ANCHOR) | N(REMOVAL_OVER), false},
    [REMOVAL_ANCHOR] = {"anchor",
                        N(REMOVAL_ANCHOR) | N(REMOVAL_RELEASE) | N(REMOVAL_CLAIMS) | N(REMOVAL_LOOK) |
                            N(REMOVAL_DELETE) | N(REMOVAL_OVER),
                        false},
    [REMOVAL_RELEASE] = {"release", N(REMOVAL_LOOK) | N(REMOVAL_OVER), false},
    [REMOVAL_CLAIMS] = {"claims",
                        N(REMOVAL_CLAIMS) | N(REMOVAL_PAUSE) | N(REMOVAL_SNAPSHOT) | N(REMOVAL_LOOK) |
                            N(REMOVAL_OVER),
                        false},
    [REMOVAL_SNAPSHOT] = {"snapshot",
                          N(REMOVAL_SNAPSHOT) | N(REMOVAL_PAUSE) | N(REMOVAL_LOOK) | N(REMOVAL_OVER), false},
    [REMOVAL_LOOK] = {"look",
                      N(REMOVAL_LOOK) | N(REMOVAL_DELETE) | N(REMOVAL_OTHERS) | N(REMOVAL_FILES) |
                          N(REMOVAL_OVER),
                      false},
    [REMOVAL_DELETE] = {"delete",
                        N(REMOVAL_GONE) | N(REMOVAL_LOOK) | N(REMOVAL_OTHERS) | N(REMOVAL_FILES) |
                            N(REMOVAL_OVER),
                        false},
    [REMOVAL_PAUSE] = {"pause", N(REMOVAL_GONE) | N(REMOVAL_CLAIMS) | N(REMOVAL_SNAPSHOT) | N(REMOVAL_OVER),
                       false},
    [REMOVAL_GONE] = {"gone",
                      N(REMOVAL_PAUSE) | N(REMOVAL_CLAIMS) | N(REMOVAL_LOOK) | N(REMOVAL_OTHERS) |
                          N(REMOVAL_FILES) | N(REMOVAL_OVER),
                      false},
    [REMOVAL_OTHERS] = {"others", N(REMOVAL_LOOK) | N(REMOVAL_OVER), false},
    [REMOVAL_FILES] = {"files", N(REMOVAL_OVER), false},
    [REMOVAL_OVER] = {"over", 0, true},
};
#undef N

static void target_next(struct removal *m);

/* ---- the end ---- */

static void targets_clear(struct removal *m)
{
    for (int i = 0; i < m->count; i++)
        free(m->targets[i].path);
    free(m->targets);
    m->targets = NULL;
    m->count = m->at = 0;
}

void removal_over(struct removal *m, const struct err *err)
{
    struct err wrapped = {0};
    sm_move(&m->sm, REMOVAL_OVER);
    kube_known_forget(m->op.k, m->op.name);
    loop_timer_stop(&m->timer);
    if (err != NULL) {
        wrapped = *err;
        if (err->code != ERRC_CANCELED)
            (void)err_wrap(&wrapped, "cannot %s instance %s", m->stopping ? "stop" : "remove", m->op.name);
    }
    m->cb(err != NULL ? &wrapped : NULL, m->data);
    kube_op_end(&m->op);
    targets_clear(m);
    removal_snapshots_free(m);
    kube_spec_clear(&m->spec);
    free(m->set);
    free(m->database);
    free(m->shard);
    free(m->adopted);
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
static void claims_ask(struct removal *m);

/* Volumes that nobody writes to any more can be copied. */
static void went_down(struct removal *m)
{
    m->down = true;
    targets_clear(m);
    target_add(m, KUBE_SETS(m->op.k, m->set), OF_SHARD, false);
    claims_ask(m);
}

static void on_gone(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    struct err err = {0};
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    bool other = doc != NULL && m->uid[0] != '\0' && strcmp(kube_uid(yyjson_doc_get_root(doc)), m->uid) != 0;
    bool gone = other || kube_answer_missing(a);
    yyjson_doc_free(doc);
    if (gone && m->snapshots && !m->down) {
        went_down(m);
    } else if (gone) {
        target_done(m);
    } else if (a->err != NULL) {
        removal_over(m, a->err);
    } else if (loop_now(op->k->loop) >= m->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT,
                      "%s is being deleted and still there: see its metadata.finalizers, and its pods",
                      m->targets[m->at].path);
        removal_over(m, &err);
    } else {
        sm_move(&m->sm, REMOVAL_PAUSE);
        loop_timer_start(&m->timer, REMOVAL_POLL_NS);
    }
}

static void gone_ask(struct removal *m)
{
    struct err err = {0};
    sm_move(&m->sm, REMOVAL_GONE);
    if (kube_op_get(&m->op, mem_strdup(m->targets[m->at].path), true, on_gone, &err) != 0)
        removal_over(m, &err);
}

static void hibernation_ask(struct removal *m);

static void on_timer(struct loop_timer *timer, void *data)
{
    struct removal *m = data;
    (void)timer;
    if (m->hibernating)
        hibernation_ask(m);
    else if (m->taking < m->taken_count)
        removal_snapshot_look(m);
    else if (m->uid == NULL) /* nothing was deleted yet */
        claims_ask(m);
    else
        gone_ask(m);
}

static void on_deleted(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (kube_answer_missing(a))
        target_done(m);
    else if (a->err != NULL)
        removal_over(m, a->err);
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
    sm_move(&m->sm, REMOVAL_DELETE);
    if (kube_op_call(&m->op, &r, on_deleted, &err) != 0)
        removal_over(m, &err);
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
        removal_over(m, a->err);
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
    sm_move(&m->sm, REMOVAL_LOOK);
    if (kube_op_get(&m->op, mem_strdup(m->targets[m->at].path), true, on_looked, &err) != 0)
        removal_over(m, &err);
}

/* ---- has the database other shards? ---- */

static void on_others(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (a->err != NULL) {
        removal_over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    bool others = yyjson_arr_size(yyjson_obj_get(yyjson_doc_get_root(doc), "items")) > 0;
    yyjson_doc_free(doc);
    while (others && m->at < m->count && m->targets[m->at].others)
        m->at++;
    m->last = !others;
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
    sm_move(&m->sm, REMOVAL_OTHERS);
    if (kube_op_call(&m->op, &r, on_others, &err) != 0)
        removal_over(m, &err);
    free(path);
    free(query);
}

/* ---- our files of a database that is gone ---- */

static void files_run(struct work *work)
{
    struct removal *m = work->data;
    (void)kube_files_delete(m->op.k, m->database, m->set, m->last, &m->work_err);
}

static void files_done(struct work *work, int code)
{
    struct removal *m = work->data;
    (void)code;
    removal_over(m, m->work_err.code != ERRC_NONE ? &m->work_err : NULL);
}

static void enter_files(struct removal *m)
{
    sm_move(&m->sm, REMOVAL_FILES);
    (void)work_start(m->op.k->loop, &m->work, files_run, files_done, m);
}

static void target_next(struct removal *m)
{
    if (m->at == m->count && !m->stopping)
        enter_files(m);
    else if (m->at == m->count)
        removal_over(m, NULL);
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
    char *client = mem_printf("%s-client", m->database), *manager = mem_printf("%s-manager", m->database);
    target_add(m, KUBE_SECRETS(m->op.k, client), OF_DATABASE, true);
    target_add(m, KUBE_SECRETS(m->op.k, manager), OF_DATABASE, true);
    free(client);
    free(manager);
    if (!m->deletes || m->snapshots)
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

/* Goes on when no claim belongs to the StatefulSet any more. */
static void claims_keep(struct removal *m, yyjson_val *items)
{
    yyjson_val *claim;
    size_t at, n;
    const char *bound = NULL;
    struct err err = {0};
    yyjson_arr_foreach(items, at, n, claim)
    {
        if (yyjson_arr_size(yyjson_ptr_get(claim, "/metadata/ownerReferences")) > 0)
            bound = yyjson_get_str(yyjson_ptr_get(claim, "/metadata/name"));
    }
    if (bound == NULL) {
        targets_add_rest(m);
        target_next(m);
    } else if (loop_now(m->op.k->loop) >= m->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT,
                      "claim %s is to stay (deletionPolicy) and still goes with StatefulSet %s: its "
                      "controller has not taken the retention policy",
                      bound, m->set);
        removal_over(m, &err);
    } else {
        sm_move(&m->sm, REMOVAL_PAUSE);
        loop_timer_start(&m->timer, REMOVAL_POLL_NS);
    }
}

static void on_claims(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    yyjson_val *claim;
    size_t at, n;
    if (a->err != NULL) {
        removal_over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *items = yyjson_obj_get(yyjson_doc_get_root(doc), "items");
    if (!m->deletes) {
        claims_keep(m, items);
        yyjson_doc_free(doc);
        return;
    }
    yyjson_arr_foreach(items, at, n, claim)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(claim, "metadata"), "name"));
        char *data = mem_printf("data-%s-", m->set), *wal = mem_printf("wal-%s-", m->set);
        if (name != NULL && (text_starts_with(name, data) || text_starts_with(name, wal))) {
            target_add(m, kube_path(m->op.k, "/api/v1", "persistentvolumeclaims", name), CLAIM, false);
            if (m->snapshots && claim_is_ours(m, claim))
                removal_snapshot_add(m, name, kube_uid(claim));
        }
        free(data);
        free(wal);
    }
    yyjson_doc_free(doc);
    removal_snapshot_next(m);
}

void removal_deletions_begin(struct removal *m)
{
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
    sm_move(&m->sm, REMOVAL_CLAIMS);
    if (kube_op_call(&m->op, &r, on_claims, &err) != 0)
        removal_over(m, &err);
    free(path);
    free(query);
}

/* ---- volumes that are to stay ---- */

/*
 * The policy may be a new one: as long as a claim belongs to the StatefulSet, it goes with it. The
 * StatefulSet's controller lets the claims go when its retention policy says so; that is waited for.
 */
static void on_retained(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (a->err != NULL && !kube_answer_missing(a))
        removal_over(m, a->err);
    else
        claims_ask(m);
}

static void retain(struct removal *m, const char *uid)
{
    struct err err = {0};
    char *path = KUBE_SETS(m->op.k, m->set);
    char *body =
        mem_printf("{\"metadata\":{\"uid\":\"%s\"},\"spec\":{\"persistentVolumeClaimRetentionPolicy\":"
                   "{\"whenDeleted\":\"Retain\"}}}",
                   uid);
    const struct kube_request r = {.method = "PATCH",
                                   .path = path,
                                   .query = "fieldManager=" KUBE_MANAGER,
                                   .content_type = "application/merge-patch+json",
                                   .body = body};
    sm_move(&m->sm, REMOVAL_CLAIMS);
    if (kube_op_call(&m->op, &r, on_retained, &err) != 0)
        removal_over(m, &err);
    free(path);
    free(body);
}

/* ---- stopping ---- */

static void on_scaled(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (kube_answer_missing(a)) {
        removal_over(m, NULL);
    } else if (a->err != NULL) {
        removal_over(m, a->err);
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
    sm_move(&m->sm, REMOVAL_DELETE);
    if (kube_op_call(&m->op, &r, on_scaled, &err) != 0)
        removal_over(m, &err);
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
        removal_over(m, a->err);
        return;
    }
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    bool done = doc == NULL || hibernates(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    if (done) {
        removal_over(m, NULL);
    } else if (loop_now(op->k->loop) >= m->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT,
                      "CloudNativePG does not hibernate cluster %s: is its operator running?", m->set);
        removal_over(m, &err);
    } else {
        sm_move(&m->sm, REMOVAL_PAUSE);
        loop_timer_start(&m->timer, REMOVAL_POLL_NS);
    }
}

static void hibernation_ask(struct removal *m)
{
    struct err err = {0};
    sm_move(&m->sm, REMOVAL_GONE);
    if (kube_op_get(&m->op, KUBE_SETS(m->op.k, m->set), false, on_hibernated, &err) != 0)
        removal_over(m, &err);
}

static void on_asleep(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (kube_answer_missing(a))
        removal_over(m, NULL);
    else if (a->err != NULL)
        removal_over(m, a->err);
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
    sm_move(&m->sm, REMOVAL_DELETE);
    if (kube_op_call(&m->op, &r, on_asleep, &err) != 0)
        removal_over(m, &err);
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
    m->snapshots = !m->stopping && m->spec.doc != NULL && kube_spec_snapshots(&m->spec);
    m->deletes = m->snapshots || (m->spec.doc != NULL && kube_spec_deletes(&m->spec));
    if (m->snapshots && m->op.k->options.cnpg)
        return err_set(
            err, ERRC_UNSUPPORTED,
            "deletionPolicy is snapshot, which CloudNativePG's Clusters have no part in: make backups "
            "with its own means, then set it to retain or delete");
    char *expected = mem_printf("%s-%s", m->database, m->shard);
    const struct kube_owner owner = {m->database, m->shard, m->spec.uid};
    const char *adopted = kube_annotation(root, KUBE_ADOPTED_ANNOTATION);
    free(m->adopted);
    m->adopted = adopted[0] != '\0' ? mem_strdup(adopted) : NULL;
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
        if (++m->anchor == 3 || (m->stopping && m->anchor == 2)) /* an adopted one has only the ConfigMap */
            removal_over(m, NULL);
        else
            anchor_ask(m);
        return;
    }
    if (a->err != NULL) {
        removal_over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (anchor_take(m, root, &err) != 0) {
        /* somebody's Secret of that name is all that there is */
        bool gone = err.code == ERRC_CONFLICT && m->anchor == 2;
        removal_over(m, gone ? NULL : &err);
    } else if (m->adopted != NULL) {
        removal_release(m);
    } else if (m->anchor == 0 && kube_set_number(op->name) > 0 &&
               kube_annotation(root, KUBE_INSTANCES_ANNOTATION)[0] == '\0') {
        removal_over(m, NULL); /* a shard of one instance has no such pod */
    } else if (m->stopping && m->anchor > 0) {
        removal_over(m, NULL); /* its StatefulSet is gone already */
    } else if (op->k->options.cnpg && (m->stopping || !m->deletes)) {
        if (m->anchor == 0)
            hibernate(m, kube_uid(root));
        else
            removal_over(m, NULL); /* there are passwords left, and they stay */
    } else if (m->stopping || (m->snapshots && m->anchor == 0)) {
        scale(m, kube_uid(root));
    } else if (m->snapshots) {
        went_down(m); /* after a crash: its StatefulSet is gone already */
    } else {
        target_add(m, KUBE_SETS(op->k, m->set), OF_SHARD, false);
        if (op->k->options.cnpg) {
            targets_add_rest(m);
            target_next(m);
        } else if (m->deletes || m->anchor > 0) {
            claims_ask(m);
        } else {
            retain(m, kube_uid(root));
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
    sm_move(&m->sm, REMOVAL_ANCHOR);
    if (kube_op_get(&m->op, path, true, on_anchor, &err) != 0)
        removal_over(m, &err);
    free(credentials);
}

static void removal_begin(struct kube_op *op)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct removal *m = (struct removal *)op;
    m->deadline_ns = loop_now(op->k->loop) + op->k->options.timeout_ns;
    if (op->canceled)
        removal_over(m, &canceled);
    else if (m->set == NULL) /* cannot be one of ours */
        removal_over(m, NULL);
    else
        anchor_ask(m);
}

static void removal_cancel(struct kube_op *op)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct removal *m = (struct removal *)op;
    if (sm_now(&m->sm) == REMOVAL_PAUSE)
        removal_over(m, &canceled);
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
    sm_init(&m->sm, states, REMOVAL_STATES, REMOVAL_BEGIN, NULL, NULL);
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
