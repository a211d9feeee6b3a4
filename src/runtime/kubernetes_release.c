/*
 * The removal of a shard that was adopted (kube_adopt.h): our marks go from its StatefulSet, then our own
 * objects. It goes on running, whatever deletionPolicy says: nothing of it is ours.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/apply.h"
#include "runtime/kube_meta.h"
#include "runtime/kubernetes_remove.h"

static void on_released(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    if (a->err != NULL && !kube_answer_missing(a)) {
        removal_over(m, a->err);
        return;
    }
    removal_deletions_begin(m);
}

/* This field manager wants nothing of it any more. */
static void release(struct removal *m, yyjson_val *set)
{
    struct err err = {0};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    char *sets = KUBE_SETS(m->op.k, NULL);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "apps/v1");
    yyjson_mut_obj_add_str(doc, root, "kind", "StatefulSet");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, metadata, "name", m->adopted);
    yyjson_mut_obj_add_strcpy(doc, metadata, "uid", kube_uid(set));
    const struct k8s_apply apply = {
        .collection = sets, .name = m->adopted, .manager = KUBE_ADOPT_MANAGER, .object = root};
    if (kube_op_apply(&m->op, &apply, on_released, &err) != 0)
        removal_over(m, &err);
    yyjson_mut_doc_free(doc);
    free(sets);
}

static void on_adopted(struct kube_op *op, const struct k8s_answer *a)
{
    struct removal *m = (struct removal *)op;
    const struct kube_owner owner = {m->database, m->shard, m->spec.uid};
    if (a->err != NULL) { /* gone already, or not to be had now */
        on_released(op, a);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    if (kube_adopted(yyjson_doc_get_root(doc), &owner)) {
        release(m, yyjson_doc_get_root(doc));
    } else {
        removal_deletions_begin(m);
    }
    yyjson_doc_free(doc);
}

void removal_release(struct removal *m)
{
    struct err err = {0};
    m->snapshots = false;
    if (m->stopping) {
        (void)err_set(&err, ERRC_UNSUPPORTED,
                      "its StatefulSet %s was adopted and is not shardherd's: scale it yourself, or set "
                      "spec.suspended to false",
                      m->adopted);
        removal_over(m, &err);
        return;
    }
    sm_move(&m->sm, REMOVAL_RELEASE);
    if (kube_op_get(&m->op, KUBE_SETS(m->op.k, m->adopted), true, on_adopted, &err) != 0)
        removal_over(m, &err);
}
