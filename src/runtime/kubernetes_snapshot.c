/*
 * The snapshots of a removal whose policy is "snapshot": one VolumeSnapshot (snapshot.storage.k8s.io/v1) of
 * each volume, made when no pod writes to it any more; the volumes are deleted only when all of them are
 * ready to use. Their names follow from claim and UID, so that a manager that takes over finds those that
 * were made.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kube_meta.h"
#include "runtime/kubernetes_remove.h"

#define GROUP   "/apis/snapshot.storage.k8s.io/v1"
#define LOOK_NS ENV_NS_PER_S

void removal_snapshot_add(struct removal *m, const char *claim, const char *uid)
{
    m->taken = mem_resize(m->taken, (size_t)m->taken_count + 1, sizeof *m->taken);
    m->taken[m->taken_count++] = (struct snapshot){mem_strdup(claim), mem_printf("%s-%.8s", claim, uid)};
}

void removal_snapshots_free(struct removal *m)
{
    for (int i = 0; i < m->taken_count; i++) {
        free(m->taken[i].claim);
        free(m->taken[i].name);
    }
    free(m->taken);
}

static char *snapshot_body(const struct removal *m, const struct snapshot *s)
{
    const char *class = kube_spec_text(&m->spec, "storage", "snapshotClass");
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "snapshot.storage.k8s.io/v1");
    yyjson_mut_obj_add_str(doc, root, "kind", "VolumeSnapshot");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, metadata, "name", s->name);
    yyjson_mut_val *labels = yyjson_mut_obj_add_obj(doc, metadata, "labels");
    yyjson_mut_obj_add_str(doc, labels, "app.kubernetes.io/managed-by", "shardherd");
    yyjson_mut_obj_add_str(doc, labels, "shardherd.io/database", m->database);
    yyjson_mut_obj_add_str(doc, labels, "shardherd.io/shard", m->shard);
    yyjson_mut_val *spec = yyjson_mut_obj_add_obj(doc, root, "spec");
    if (class != NULL)
        yyjson_mut_obj_add_str(doc, spec, "volumeSnapshotClassName", class);
    yyjson_mut_val *source = yyjson_mut_obj_add_obj(doc, spec, "source");
    yyjson_mut_obj_add_str(doc, source, "persistentVolumeClaimName", s->claim);
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

/* Ready, or not yet, or an error. */
static bool is_ready(struct removal *m, yyjson_val *snapshot, struct err *err)
{
    const struct snapshot *s = &m->taken[m->taking];
    const char *said = yyjson_get_str(yyjson_ptr_get(snapshot, "/status/error/message"));
    if (!yyjson_equals_str(yyjson_ptr_get(snapshot, "/spec/source/persistentVolumeClaimName"), s->claim)) {
        (void)err_set(err, ERRC_CONFLICT, "VolumeSnapshot %s is there and not of claim %s: delete it",
                      s->name, s->claim);
        return false;
    }
    if (yyjson_get_bool(yyjson_ptr_get(snapshot, "/status/readyToUse")))
        return true;
    const struct runtime_kubernetes_options *o = &m->op.k->options;
    struct err waiting = {0};
    (void)err_set(&waiting, ERRC_TIMEOUT, "VolumeSnapshot %s of claim %s is not ready to use%s%.200s",
                  s->name, s->claim, said != NULL ? ": " : ": is a snapshot controller running?",
                  said != NULL ? said : "");
    if (loop_now(m->op.k->loop) >= m->deadline_ns)
        *err = waiting;
    else if (o->progress != NULL)
        o->progress(o->data, m->op.name, waiting.message);
    return false;
}

static void on_looked(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    struct err err = {0};
    if (a->err != NULL) {
        removal_over(m, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    bool ready = is_ready(m, yyjson_doc_get_root(doc), &err);
    yyjson_doc_free(doc);
    if (err.code != ERRC_NONE) {
        removal_over(m, &err);
    } else if (ready) {
        m->taking++;
        removal_snapshot_next(m);
    } else {
        sm_move(&m->sm, REMOVAL_PAUSE);
        loop_timer_start(&m->timer, LOOK_NS);
    }
}

void removal_snapshot_look(struct removal *m)
{
    struct err err = {0};
    char *path = kube_path(m->op.k, GROUP, "volumesnapshots", m->taken[m->taking].name);
    sm_move(&m->sm, REMOVAL_SNAPSHOT);
    if (kube_op_get(&m->op, path, false, on_looked, &err) != 0)
        removal_over(m, &err);
}

static void on_made(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    struct err err = {0};
    if (kube_answer_missing(a)) {
        (void)err_set(&err, ERRC_UNSUPPORTED,
                      "deletionPolicy is snapshot, and this cluster has no VolumeSnapshots "
                      "(snapshot.storage.k8s.io/v1): install a snapshot controller, or set it to retain");
        removal_over(m, &err);
    } else if (a->err != NULL && a->http_status != 409) { /* 409: it is there already */
        removal_over(m, a->err);
    } else {
        removal_snapshot_look(m);
    }
}

void removal_snapshot_next(struct removal *m)
{
    struct err err = {0};
    if (m->taking == m->taken_count) {
        removal_deletions_begin(m);
        return;
    }
    char *path = kube_path(m->op.k, GROUP, "volumesnapshots", NULL);
    char *body = snapshot_body(m, &m->taken[m->taking]);
    const struct kube_request r = {
        .method = "POST", .path = path, .content_type = "application/json", .body = body};
    sm_move(&m->sm, REMOVAL_SNAPSHOT);
    if (kube_op_call(&m->op, &r, on_made, &err) != 0)
        removal_over(m, &err);
    free(path);
    free(body);
}
