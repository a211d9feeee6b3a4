#include "manager/kube_operation.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "manager/kube_status.h"
#include "operation/failover_op.h"
#include "operation/move_op.h"

#define FINDINGS_SHOWN 64

static const char *text_of(yyjson_val *object, const char *name)
{
    return yyjson_get_str(yyjson_obj_get(object, name));
}

/* ---- what is kept ---- */

static void copy(yyjson_mut_doc *doc, yyjson_mut_val *to, yyjson_val *from, const char *name)
{
    yyjson_val *value = yyjson_obj_get(from, name);
    if (value != NULL)
        yyjson_mut_obj_add_val(doc, to, name, yyjson_val_mut_copy(doc, value));
}

static char *body_of(yyjson_val *spec)
{
    static const char *const members[] = {"kind", "shard", "target", "at",
                                          "key",  "table", "dryRun", "allowDdl"};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_val *bake = yyjson_obj_get(spec, "bakeSeconds");
    char text[32];
    yyjson_mut_doc_set_root(doc, root);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        copy(doc, root, spec, members[i]);
    copy(doc, root, yyjson_obj_get(spec, "range"), "lo");
    copy(doc, root, yyjson_obj_get(spec, "range"), "hi");
    if (bake != NULL) {
        snprintf(text, sizeof text, "%" PRId64 "s", yyjson_get_sint(bake));
        yyjson_mut_obj_add_strcpy(doc, root, "bake", text);
    }
    char *out = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    return out;
}

struct kube_operation_kept *kube_operation_kept_new(struct yyjson_val *object)
{
    yyjson_val *metadata = yyjson_obj_get(object, "metadata"), *spec = yyjson_obj_get(object, "spec");
    yyjson_val *status = yyjson_obj_get(object, "status");
    const char *name = text_of(metadata, "name"), *uid = text_of(metadata, "uid");
    const char *database = text_of(spec, "database"), *kind = text_of(spec, "kind");
    if (name == NULL || uid == NULL || database == NULL || kind == NULL)
        return NULL;
    struct kube_operation_kept *kept = mem_zalloc(sizeof *kept);
    kept->name = mem_strdup(name);
    kept->uid = mem_strdup(uid);
    kept->database = mem_strdup(database);
    kept->kind = mem_strdup(kind);
    kept->shard = mem_strdup(text_of(spec, "shard"));
    kept->instance = mem_strdup(text_of(spec, "instance"));
    kept->body = body_of(spec);
    kept->operation = mem_strdup(text_of(status, "operation"));
    kept->generation = yyjson_get_sint(yyjson_obj_get(metadata, "generation"));
    kept->cancel = yyjson_get_bool(yyjson_obj_get(spec, "cancel"));
    kept->ended = yyjson_obj_get(status, "completionTime") != NULL;
    return kept;
}

void kube_operation_kept_free(struct kube_operation_kept *kept)
{
    if (kept == NULL)
        return;
    free(kept->name);
    free(kept->uid);
    free(kept->database);
    free(kept->kind);
    free(kept->shard);
    free(kept->instance);
    free(kept->body);
    free(kept->operation);
    free(kept);
}

/* ---- the phase ---- */

enum kube_operation_phase kube_operation_phase_of(const struct operation *op, bool cancel)
{
    if (op->status == OPERATION_DONE)
        return KUBE_OPERATION_DONE;
    if (failover_op_is(op)) /* it cannot be canceled */
        return op->status == OPERATION_RUNNING ? KUBE_OPERATION_RUNNING : KUBE_OPERATION_FAILED;
    const struct move_record *r = move_op_record(op);
    if (op->status == OPERATION_RUNNING)
        return cancel && r->canceled ? KUBE_OPERATION_CANCELING : KUBE_OPERATION_RUNNING;
    if (r->state == MOVE_REFUSED)
        return KUBE_OPERATION_REFUSED;
    return r->canceled ? KUBE_OPERATION_CANCELED : KUBE_OPERATION_FAILED;
}

bool kube_operation_has_ended(enum kube_operation_phase phase)
{
    return phase >= KUBE_OPERATION_DONE;
}

/* ---- the status ---- */

static void add_time(yyjson_mut_doc *doc, yyjson_mut_val *to, const char *name, int64_t at_us)
{
    char time[ENV_TIME_SIZE];
    env_format_time(at_us, time);
    snprintf(time + strlen("2026-11-21T07:15:00"), 2, "Z");
    yyjson_mut_obj_add_strcpy(doc, to, name, time);
}

static void add_number(yyjson_mut_doc *doc, yyjson_mut_val *to, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    yyjson_mut_obj_add_strcpy(doc, to, name, text);
}

static void add_findings(yyjson_mut_doc *doc, yyjson_mut_val *status, const struct move_record *r)
{
    static const char *const members[] = {"severity", "subject", "finding", "remedy"};
    yyjson_doc *all =
        r->findings.length > 0 ? yyjson_read(buf_text(&r->findings), r->findings.length, 0) : NULL;
    yyjson_val *item;
    size_t i, max;
    if (yyjson_arr_size(yyjson_doc_get_root(all)) > 0) {
        yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, status, "findings");
        yyjson_arr_foreach(yyjson_doc_get_root(all), i, max, item)
        {
            if (i == FINDINGS_SHOWN)
                break;
            yyjson_mut_val *to = yyjson_mut_arr_add_obj(doc, list);
            for (size_t m = 0; m < sizeof members / sizeof members[0]; m++)
                copy(doc, to, item, members[m]);
        }
    }
    yyjson_doc_free(all);
}

static void add_move(yyjson_mut_doc *doc, yyjson_mut_val *status, const struct operation *op)
{
    const struct move_record *r = move_op_record(op);
    double eta = -1;
    double progress = op->status == OPERATION_DONE ? 1 : move_op_progress(op, &eta);
    char lo[24], hi[24];
    snprintf(lo, sizeof lo, "%" PRId64, r->range.lo);
    snprintf(hi, sizeof hi, "%" PRId64, r->range.hi);
    yyjson_mut_obj_add_str(doc, status, "operation", op->id);
    yyjson_mut_obj_add_str(doc, status, "step", move_state_name(r->state));
    if (r->target[0] != '\0')
        yyjson_mut_obj_add_str(doc, status, "target", move_record_to(r));
    yyjson_mut_val *range = yyjson_mut_obj_add_obj(doc, status, "range");
    yyjson_mut_obj_add_strcpy(doc, range, "lo", lo);
    yyjson_mut_obj_add_strcpy(doc, range, "hi", hi);
    yyjson_mut_obj_add_int(doc, status, "progress", (int64_t)(100 * progress));
    add_number(doc, status, "rows", r->copy_rows);
    add_number(doc, status, "totalRows", r->total_rows);
    add_number(doc, status, "bytes", r->copy_bytes);
    add_number(doc, status, "totalBytes", r->total_bytes);
    if (isfinite(eta) && eta >= 0 && op->status == OPERATION_RUNNING)
        yyjson_mut_obj_add_int(doc, status, "etaSeconds", (int64_t)eta);
    if (r->write_block_us > 0)
        yyjson_mut_obj_add_uint(doc, status, "writeBlockMicroseconds", r->write_block_us);
    add_time(doc, status, "startTime", op->created_us);
    if (op->status != OPERATION_RUNNING)
        add_time(doc, status, "completionTime", op->ended_us);
    add_findings(doc, status, r);
}

static void add_switchover(yyjson_mut_doc *doc, yyjson_mut_val *status, const struct operation *op)
{
    struct failover_op_facts facts;
    failover_op_facts(op, &facts);
    yyjson_mut_obj_add_str(doc, status, "operation", op->id);
    yyjson_mut_obj_add_str(doc, status, "step", facts.state);
    if (facts.to != NULL)
        yyjson_mut_obj_add_strcpy(doc, status, "target", facts.to);
    if (facts.blocked_us > 0 && !facts.blocks)
        yyjson_mut_obj_add_uint(doc, status, "writeBlockMicroseconds", facts.blocked_us);
    add_time(doc, status, "startTime", op->created_us);
    if (op->status != OPERATION_RUNNING)
        add_time(doc, status, "completionTime", op->ended_us);
}

static const char *switchover_message(const struct operation *op, char *room, size_t size)
{
    struct failover_op_facts facts;
    failover_op_facts(op, &facts);
    const char *colon = op->error.code != ERRC_NONE ? ": " : "";
    const char *error = op->error.code != ERRC_NONE ? op->error.message : "";
    if (op->status == OPERATION_DONE)
        snprintf(room, size, "done: %s is the primary of shard %s",
                 facts.to != NULL ? facts.to : "another one", op->shard);
    else if (op->status == OPERATION_RUNNING)
        snprintf(room, size, "step %s%s%s", facts.state, colon, error);
    else
        snprintf(room, size, "it was given up%s%s", colon, error);
    return room;
}

static const char *message_of(const struct kube_operation_status *s, char *room, size_t size)
{
    if (s->op == NULL)
        return s->message;
    if (failover_op_is(s->op))
        return switchover_message(s->op, room, size);
    const struct move_record *r = move_op_record(s->op);
    const char *colon = s->op->error.code != ERRC_NONE ? ": " : "";
    const char *error = s->op->error.code != ERRC_NONE ? s->op->error.message : "";
    if (s->phase == KUBE_OPERATION_DONE)
        snprintf(room, size, "done: %" PRIu64 " rows are on shard %s", r->copy_rows, r->target);
    else if (s->phase == KUBE_OPERATION_REFUSED)
        snprintf(room, size, "the checks found something%s%s", colon, error);
    else if (kube_operation_has_ended(s->phase))
        snprintf(room, size, "it went back, and the keys are where they were%s%s", colon, error);
    else if (error[0] == '\0' && r->throttle[0] != '\0')
        snprintf(room, size, "step %s: %s", move_state_name(r->state), r->throttle);
    else
        snprintf(room, size, "step %s%s%s%s", move_state_name(r->state),
                 s->phase == KUBE_OPERATION_CANCELING ? ", going back" : "", colon, error);
    return room;
}

static void judge(const struct kube_operation_status *s, const char *message)
{
    static const char *const reasons[] = {"Pending",  "Running", "Canceling", "Done",
                                          "Canceled", "Refused", "Failed"};
    struct kube_operation_conditions *c = s->conditions;
    bool held = s->op != NULL && s->op->status == OPERATION_RUNNING && move_op_is(s->op) &&
                move_op_record(s->op)->state == MOVE_HELD; /* a person is needed */
    const char *reason = held ? "Held" : reasons[s->phase];
    bool ended = kube_operation_has_ended(s->phase), done = s->phase == KUBE_OPERATION_DONE;
    kube_condition_set(&c->complete, s->now_us,
                       !ended ? KUBE_UNKNOWN
                       : done ? KUBE_TRUE
                              : KUBE_FALSE,
                       reason, message);
    kube_condition_set(&c->ready, s->now_us, done ? KUBE_TRUE : KUBE_FALSE, reason, message);
    kube_condition_set(&c->reconciling, s->now_us, ended || held ? KUBE_ABSENT : KUBE_TRUE, reason, message);
    kube_condition_set(&c->stalled, s->now_us, held || (ended && !done) ? KUBE_TRUE : KUBE_ABSENT, reason,
                       message);
}

struct yyjson_mut_doc *kube_operation_print(const struct kube_operation_status *s)
{
    char room[600];
    const char *message = message_of(s, room, sizeof room);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    judge(s, message);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, root, "kind", "ShardOperation");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_strcpy(doc, metadata, "name", s->kept->name);
    yyjson_mut_obj_add_strcpy(doc, metadata, "uid", s->kept->uid);
    yyjson_mut_val *status = yyjson_mut_obj_add_obj(doc, root, "status");
    yyjson_mut_obj_add_sint(doc, status, "observedGeneration", s->kept->generation);
    yyjson_mut_obj_add_strcpy(doc, status, "message", message);
    if (s->op != NULL && failover_op_is(s->op))
        add_switchover(doc, status, s->op);
    else if (s->op != NULL)
        add_move(doc, status, s->op);
    else if (kube_operation_has_ended(s->phase))
        add_time(doc, status, "completionTime", s->now_us);
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, status, "conditions");
    kube_condition_print(doc, list, "Complete", &s->conditions->complete, s->kept->generation);
    kube_condition_print(doc, list, "Ready", &s->conditions->ready, s->kept->generation);
    kube_condition_print(doc, list, "Reconciling", &s->conditions->reconciling, s->kept->generation);
    kube_condition_print(doc, list, "Stalled", &s->conditions->stalled, s->kept->generation);
    return doc;
}
