/* All ranges of a shard, one after the other. Happy path and states: drain.h. */
#include "operation/drain.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "operation/document.h"
#include "operation/drain_plan.h"
#include "operation/findings.h"
#include "operation/move_op.h"
#include "operation/transient.h"

#define LOOK_NS (300 * ENV_NS_PER_MS)

enum drain_state { DRAIN_MOVING, DRAIN_DONE, DRAIN_UNDONE, DRAIN_FAILED, DRAIN_STATE_COUNT };

struct drain {
    struct operation op; /* first; op.shard gives all it has */
    struct sm sm;
    char *target; /* NULL = the neighbours */
    bool allow_ddl;
    uint64_t bake_ns;
    int64_t ranges;          /* that it had when it began */
    struct drain_step *plan; /* of a dry run; NULL = it moves */
    size_t plan_count, plan_next;
    struct buf findings; /* of all dry runs of moves */
    bool canceled;
    bool journaling; /* the present state is being written: nothing of it has begun */
    bool stopped;
    struct loop_timer timer;
};

static const struct sm_state states[DRAIN_STATE_COUNT] = {
    [DRAIN_MOVING] = {"moving", SM_NEXT(DRAIN_DONE) | SM_NEXT(DRAIN_UNDONE) | SM_NEXT(DRAIN_FAILED), false},
    [DRAIN_DONE] = {"done", 0, true},
    [DRAIN_UNDONE] = {"undone", 0, true},
    [DRAIN_FAILED] = {"failed", 0, true},
};

static const struct operation_kind drain_kind;

bool drain_is(const struct operation *op)
{
    return op->kind == &drain_kind;
}

const struct operation *drain_of(const struct operations *ops, const char *database, const char *shard)
{
    list_each(node, &ops->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && drain_is(op) && ((const struct drain *)op)->plan == NULL &&
            strcmp(op->database, database) == 0 && strcmp(op->shard, shard) == 0)
            return op;
    }
    return NULL;
}

static enum drain_state now(const struct drain *d)
{
    return (enum drain_state)sm_now(&d->sm);
}

/* Of one that has ended. */
static enum operation_status status_of(enum drain_state state)
{
    return state == DRAIN_DONE ? OPERATION_DONE : state == DRAIN_UNDONE ? OPERATION_UNDONE : OPERATION_FAILED;
}

const char *drain_state_name(const struct operation *op)
{
    const struct drain *d = (const struct drain *)op;
    if (now(d) == DRAIN_FAILED && d->plan != NULL && op->error.code == ERRC_REFUSED)
        return "refused";
    return now(d) == DRAIN_MOVING && op->error.code != ERRC_NONE ? "waits" : sm_name(&d->sm);
}

static const struct routing *routing_of(const struct drain *d)
{
    const struct fleet_database *db = fleet_find_database(d->op.owner->services.fleet, d->op.database);
    return db != NULL ? db->routing : NULL;
}

double drain_progress(const struct operation *op)
{
    const struct drain *d = (const struct drain *)op;
    const struct routing *routing = routing_of(d);
    const struct routing_shard *shard = routing != NULL ? routing_find_shard(routing, op->shard) : NULL;
    double left = shard != NULL ? (double)shard->ranges.count : 0;
    if (d->plan != NULL)
        left = (double)(d->plan_count - d->plan_next);
    return d->ranges > 0 && left < (double)d->ranges ? 1 - left / (double)d->ranges : 0;
}

/* ---- life ---- */

static void stop_drain(struct operation *base)
{
    struct drain *d = (struct drain *)base;
    d->stopped = true;
    loop_timer_stop(&d->timer);
    operation_stopped(base);
}

static void free_drain(struct operation *base)
{
    struct drain *d = (struct drain *)base;
    loop_timer_stop(&d->timer);
    drain_plan_free(d->plan, d->plan_count);
    buf_free(&d->findings);
    free(d->target);
    free(d);
}

/* ---- the journal ---- */

static void journaled(struct operation *base, const struct err *err, void *data)
{
    struct drain *d = (struct drain *)base;
    (void)data;
    if (d->stopped)
        return;
    if (err != NULL && err->code == ERRC_CONFLICT) {
        log_event(LOG_ERROR, "drain is left to another leader", "op", base->id, "err", err->message, NULL);
        err_copy(&base->error, err);
        d->stopped = true;
        operation_end(base, OPERATION_FAILED);
        return;
    }
    d->journaling = err != NULL;
    if (err == NULL && d->sm.table[now(d)].final) {
        d->stopped = true;
        log_event(now(d) == DRAIN_DONE ? LOG_INFO : LOG_WARN, "drain ended", "op", base->id, "db",
                  base->database, "shard", base->shard, "state", sm_name(&d->sm), "err",
                  base->error.code != ERRC_NONE ? base->error.message : NULL, NULL);
        operation_end(base, status_of(now(d)));
        return;
    }
    loop_timer_start(&d->timer, err == NULL ? 0 : LOOK_NS);
}

static void journal(struct drain *d)
{
    struct err err = {0};
    d->journaling = true;
    if (d->sm.table[now(d)].final)
        d->op.ended_us = loop_wall(d->op.owner->services.loop);
    if (operation_journal(&d->op, journaled, NULL, &err) != 0)
        loop_timer_start(&d->timer, LOOK_NS);
}

static void end(struct drain *d, enum drain_state state, const struct err *why)
{
    err_clear(&d->op.error);
    if (why != NULL)
        d->op.error = *why;
    sm_move(&d->sm, (int)state);
    journal(d);
}

/* ---- moving ---- */

static void reason_of(const struct drain *d, char out[64])
{
    snprintf(out, 64, "drain %s:", d->op.id);
}

static struct operation *newest_move(const struct drain *d)
{
    struct operation *newest = NULL;
    char prefix[64];
    reason_of(d, prefix);
    list_each(node, &d->op.owner->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        if (move_op_is(op) && text_starts_with(move_op_record(op)->reason, prefix) &&
            (newest == NULL || op->created_us >= newest->created_us))
            newest = op;
    }
    return newest;
}

/* What it waits for, for people; NULL = nothing. Said once. */
static void waits(struct drain *d, const struct err *why)
{
    bool same = why == NULL ? d->op.error.code == ERRC_NONE : strcmp(d->op.error.message, why->message) == 0;
    if (!same) {
        err_clear(&d->op.error);
        if (why != NULL)
            d->op.error = *why;
        if (why != NULL)
            log_event(LOG_INFO, "drain waits", "op", d->op.id, "db", d->op.database, "shard", d->op.shard,
                      "why", why->message, NULL);
        operation_changed(&d->op);
    }
    loop_timer_start(&d->timer, LOOK_NS);
}

static void move_canceled(struct operation *op, const struct err *err, void *data)
{
    (void)data;
    if (err != NULL)
        log_event(LOG_WARN, "a move was canceled, which could not be written down", "op", op->id, "err",
                  err->message, NULL);
}

static void follow(struct drain *d, struct operation *move)
{
    const struct move_record *r = move_op_record(move);
    struct err why = {0};
    if (d->canceled && !r->canceled && r->state < MOVE_FENCE)
        (void)move->kind->cancel(move, move_canceled, NULL, &why);
    err_clear(&why);
    if (r->state == MOVE_HELD)
        err_set(&why, ERRC_CONFLICT, "operation %s of it is held: %s", move->id, move->error.message);
    waits(d, r->state == MOVE_HELD ? &why : NULL);
}

static void begin_move(struct drain *d, const struct routing *routing, const struct routing_shard *shard)
{
    const struct range *range = &shard->ranges.items[0];
    const struct routing_shard *taker = drain_taker(d->op.owner, routing, shard->name, range);
    const char *target = d->target != NULL ? d->target : taker != NULL ? taker->name : NULL;
    struct err err = {0};
    char reason[160];
    reason_of(d, reason);
    snprintf(reason + strlen(reason), sizeof reason - strlen(reason),
             " shard %.63s gives all it has, %zu left", shard->name, shard->ranges.count);
    const struct move_request request = {.kind = MOVE_KIND_MOVE,
                                         .database = d->op.database,
                                         .source = shard->name,
                                         .target = target,
                                         .range = *range,
                                         .allow_ddl = d->allow_ddl,
                                         .bake_ns = d->bake_ns,
                                         .reason = reason};
    if (target == NULL)
        err_set(&err, ERRC_CONFLICT, "every other shard is being drained as well");
    else if (move_op_start(d->op.owner, &request, NULL, &err) == 0) {
        waits(d, NULL);
        return;
    }
    if (err_is_transient(&err))
        waits(d, &err);
    else
        end(d, DRAIN_FAILED, &err);
}

/* ---- a dry run: that of each move, one after the other ---- */

static void add_finding(struct drain *d, const struct drain_step *step, const char *what)
{
    char subject[128];
    snprintf(subject, sizeof subject, "%" PRId64 "..%" PRId64, step->range.lo, step->range.hi);
    const struct finding one = {FINDING_ERROR, subject, what, "see that it can begin, and ask again"};
    findings_add(&d->findings, &one);
}

static void begin_dry(struct drain *d, struct drain_step *step)
{
    struct operation *move = NULL;
    struct err err = {0};
    char reason[64];
    reason_of(d, reason);
    const struct move_request request = {.kind = MOVE_KIND_MOVE,
                                         .database = d->op.database,
                                         .source = d->op.shard,
                                         .target = step->target,
                                         .range = step->range,
                                         .dry_run = true,
                                         .allow_ddl = d->allow_ddl,
                                         .bake_ns = d->bake_ns,
                                         .reason = reason};
    if (step->target == NULL)
        err_set(&err, ERRC_CONFLICT, "every other shard is being drained as well");
    else if (move_op_start(d->op.owner, &request, &move, &err) == 0) {
        snprintf(step->operation, sizeof step->operation, "%s", move->id);
        waits(d, NULL);
        return;
    }
    add_finding(d, step, err.message);
    step->errors = 1;
    d->plan_next++;
    waits(d, NULL);
}

/* All that it found, each once: what is wrong with the shard is wrong for each of its ranges. */
static void take_findings(struct drain *d, struct drain_step *step, const struct operation *move)
{
    const struct buf *list = &move_op_record(move)->findings;
    findings_join(&d->findings, list);
    step->errors = findings_errors(list, NULL, 0);
    if (move->status != OPERATION_DONE && step->errors == 0) {
        add_finding(d, step, move->error.message);
        step->errors = 1;
    }
}

static void look_dry(struct drain *d)
{
    struct drain_step *step = d->plan_next < d->plan_count ? &d->plan[d->plan_next] : NULL;
    bool begun = step != NULL && step->operation[0] != '\0';
    struct operation *move = begun ? operations_find(d->op.owner, step->operation) : NULL;
    struct err err = {0};
    char first[300];
    if (move != NULL && move->status == OPERATION_RUNNING) {
        follow(d, move);
        return;
    }
    if (begun) {
        if (move != NULL)
            take_findings(d, step, move);
        d->plan_next++;
        waits(d, NULL);
        return;
    }
    unsigned errors = findings_errors(&d->findings, first, sizeof first);
    if (d->canceled)
        end(d, DRAIN_UNDONE, NULL);
    else if (step != NULL)
        begin_dry(d, step);
    else if (errors > 0) {
        err_set(&err, ERRC_REFUSED, "%u finding(s) forbid the drain, the first: %s", errors, first);
        end(d, DRAIN_FAILED, &err);
    } else
        end(d, DRAIN_DONE, NULL);
}

static void look(struct loop_timer *timer, void *data)
{
    struct drain *d = data;
    const struct routing *routing = routing_of(d);
    const struct routing_shard *shard = routing != NULL ? routing_find_shard(routing, d->op.shard) : NULL;
    struct operation *move = newest_move(d);
    struct err err = {0};
    (void)timer;
    if (d->journaling)
        journal(d);
    else if (d->plan != NULL)
        look_dry(d);
    else if (move != NULL && move->status == OPERATION_RUNNING)
        follow(d, move);
    else if (d->canceled)
        end(d, DRAIN_UNDONE, NULL);
    else if (move != NULL && move->status != OPERATION_DONE) {
        err_set(&err, ERRC_REFUSED, "operation %s of it ended as %s%s%s", move->id,
                move_state_name(move_op_record(move)->state), move->error.code != ERRC_NONE ? ": " : "",
                move->error.message);
        end(d, DRAIN_FAILED, &err);
    } else if (shard == NULL) {
        err_set(&err, ERRC_NOT_FOUND, "database %s has no shard %s any more", d->op.database, d->op.shard);
        end(d, DRAIN_FAILED, &err);
    } else if (shard->ranges.count == 0)
        end(d, DRAIN_DONE, NULL);
    else
        begin_move(d, routing, shard);
}

/* Moves of it that have not come to their fence go back, others end; those that ended stay. */
static int cancel_drain(struct operation *base, operation_done_cb done, void *data, struct err *err)
{
    struct drain *d = (struct drain *)base;
    if (now(d) != DRAIN_MOVING)
        return err_set(err, ERRC_CONFLICT, "operation %s has ended", base->id);
    d->canceled = true;
    int rc = operation_journal(base, done, data, err);
    operation_changed(base);
    return rc;
}

/* ---- the document ---- */

static void print_plan(const struct drain *d, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    yyjson_mut_val *plan = yyjson_mut_obj_add_arr(doc, root, "plan");
    yyjson_mut_obj_add_bool(doc, root, "dry_run", true);
    for (size_t i = 0; i < d->plan_count; i++) {
        const struct drain_step *step = &d->plan[i];
        yyjson_mut_val *one = yyjson_mut_arr_add_obj(doc, plan);
        document_add_number(doc, one, "lo", step->range.lo);
        document_add_number(doc, one, "hi", step->range.hi);
        yyjson_mut_obj_add_strcpy(doc, one, "target", step->target != NULL ? step->target : "");
        yyjson_mut_obj_add_strcpy(doc, one, "operation", step->operation);
        yyjson_mut_obj_add_uint(doc, one, "errors", step->errors);
    }
    if (d->findings.length > 0)
        yyjson_mut_obj_add_val(doc, root, "findings", yyjson_mut_raw(doc, buf_text(&d->findings)));
}

static void print_drain(const struct operation *op, struct buf *json)
{
    const struct drain *d = (const struct drain *)op;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "id", op->id);
    yyjson_mut_obj_add_str(doc, root, "kind", "drain");
    yyjson_mut_obj_add_str(doc, root, "database", op->database);
    yyjson_mut_obj_add_str(doc, root, "source", op->shard);
    if (d->target != NULL)
        yyjson_mut_obj_add_str(doc, root, "target", d->target);
    yyjson_mut_obj_add_str(doc, root, "state", sm_name(&d->sm));
    yyjson_mut_obj_add_bool(doc, root, "allow_ddl", d->allow_ddl);
    yyjson_mut_obj_add_bool(doc, root, "canceled", d->canceled);
    document_add_number(doc, root, "bake_us", (int64_t)(d->bake_ns / 1000));
    document_add_number(doc, root, "ranges", d->ranges);
    if (d->plan != NULL)
        print_plan(d, doc, root);
    document_add_number(doc, root, "created_us", op->created_us);
    document_add_number(doc, root, "ended_us", op->ended_us);
    yyjson_mut_obj_add_str(doc, root, "error", op->error.message);
    document_end(doc, json);
}

static const struct operation_kind drain_kind = {.name = "drain",
                                                 .print = print_drain,
                                                 .cancel = cancel_drain,
                                                 .aside = true, /* its moves are what runs on shards */
                                                 .stop = stop_drain,
                                                 .free = free_drain};

static struct drain *drain_new(struct operations *ops, const char *database, const char *shard,
                               const char *target, const char *id)
{
    struct drain *d = mem_zalloc(sizeof *d);
    sm_init(&d->sm, states, DRAIN_STATE_COUNT, DRAIN_MOVING, NULL, NULL);
    operation_register(ops, &d->op, &drain_kind, "drain", id);
    d->op.database = mem_strdup(database);
    d->op.shard = mem_strdup(shard);
    d->target = target != NULL ? mem_strdup(target) : NULL;
    loop_timer_init(ops->services.loop, &d->timer, look, d);
    return d;
}

/* ---- starting ---- */

static int check_request(const struct operations *ops, const struct drain_request *q, struct err *err)
{
    const struct fleet_database *db = fleet_find_database(ops->services.fleet, q->database);
    const struct routing *routing = db != NULL ? db->routing : NULL;
    const struct routing_shard *shard = routing != NULL ? routing_find_shard(routing, q->shard) : NULL;
    const struct operation *same = drain_of(ops, q->database, q->shard);
    if (ops->services.term == 0)
        return err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    if (shard == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s", q->database, q->shard);
    if (q->target != NULL && routing_find_shard(routing, q->target) == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s to move to", q->database, q->target);
    if (q->target != NULL && strcmp(q->target, q->shard) == 0)
        return err_set(err, ERRC_INVALID, "source and target are the same shard");
    if (same == NULL && q->target != NULL)
        same = drain_of(ops, q->database, q->target);
    if (same != NULL)
        return err_set(err, ERRC_CONFLICT, "operation %s drains shard %s: wait for it or cancel it", same->id,
                       same->shard);
    if (shard->ranges.count == 0)
        return err_set(err, ERRC_REFUSED, "shard %s has no ranges: there is nothing to drain", q->shard);
    if (routing->shard_count < 2)
        return err_set(err, ERRC_REFUSED, "shard %s is the only one: nobody could take what it has",
                       q->shard);
    return 0;
}

int drain_start(struct operations *ops, const struct drain_request *q, struct operation **ret,
                struct err *err)
{
    if (check_request(ops, q, err) != 0)
        return (int)err->code;
    const struct routing *routing = fleet_find_database(ops->services.fleet, q->database)->routing;
    struct drain *d = drain_new(ops, q->database, q->shard, q->target, NULL);
    d->allow_ddl = q->allow_ddl;
    d->bake_ns = q->bake_ns;
    d->ranges = (int64_t)routing_find_shard(routing, q->shard)->ranges.count;
    if (q->dry_run)
        d->plan = drain_plan_make(ops, routing, q->shard, q->target, &d->plan_count);
    log_event(LOG_INFO, "drain begins", "op", d->op.id, "db", d->op.database, "shard", d->op.shard, NULL);
    journal(d);
    *ret = &d->op;
    return 0;
}

/* What a dry run found: for who asks, nothing goes on from it. */
static void parse_plan(struct drain *d, yyjson_val *root)
{
    yyjson_val *plan = yyjson_obj_get(root, "plan"), *one;
    size_t i, max, length = 0;
    if (!yyjson_is_arr(plan))
        return;
    d->plan = mem_array(yyjson_arr_size(plan) + 1, sizeof *d->plan);
    yyjson_arr_foreach(plan, i, max, one)
    {
        struct drain_step *step = &d->plan[d->plan_count++];
        const char *target = yyjson_get_str(yyjson_obj_get(one, "target"));
        const char *operation = yyjson_get_str(yyjson_obj_get(one, "operation"));
        if (!document_number(one, "lo", &step->range.lo) || !document_number(one, "hi", &step->range.hi))
            step->range = (struct range){0};
        step->target = target != NULL && target[0] != '\0' ? mem_strdup(target) : NULL;
        snprintf(step->operation, sizeof step->operation, "%s", operation != NULL ? operation : "");
        step->errors = (unsigned)yyjson_get_uint(yyjson_obj_get(one, "errors"));
    }
    char *findings = yyjson_val_write(yyjson_obj_get(root, "findings"), 0, &length);
    if (findings != NULL)
        buf_add(&d->findings, findings, length);
    free(findings);
}

static int parse(struct operations *ops, yyjson_val *root, struct drain **ret, struct err *err)
{
    const char *id = yyjson_get_str(yyjson_obj_get(root, "id"));
    const char *database = yyjson_get_str(yyjson_obj_get(root, "database"));
    const char *shard = yyjson_get_str(yyjson_obj_get(root, "source"));
    const char *name = yyjson_get_str(yyjson_obj_get(root, "state"));
    const char *error = yyjson_get_str(yyjson_obj_get(root, "error"));
    int state = name != NULL ? sm_find(states, DRAIN_STATE_COUNT, name) : -1;
    int64_t bake_us, ranges, created, ended;
    if (id == NULL || strlen(id) >= OPERATION_ID_SIZE || database == NULL || shard == NULL || state < 0 ||
        !document_number(root, "bake_us", &bake_us) || !document_number(root, "ranges", &ranges) ||
        !document_number(root, "created_us", &created) || !document_number(root, "ended_us", &ended))
        return err_set(err, ERRC_CORRUPT, "a member is missing");
    struct drain *d = drain_new(ops, database, shard, yyjson_get_str(yyjson_obj_get(root, "target")), id);
    d->allow_ddl = yyjson_get_bool(yyjson_obj_get(root, "allow_ddl"));
    d->canceled = yyjson_get_bool(yyjson_obj_get(root, "canceled"));
    d->bake_ns = (uint64_t)bake_us * 1000;
    d->ranges = ranges;
    d->op.created_us = created;
    d->op.ended_us = ended;
    d->sm.now = state;
    parse_plan(d, root);
    if (d->sm.table[state].final && error != NULL && error[0] != '\0')
        err_set(&d->op.error, ERRC_REFUSED, "%s", error);
    *ret = d;
    return 0;
}

int drain_resume(struct operations *ops, const char *json, int64_t revision, struct err *err)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    struct drain *d = NULL;
    int rc = parse(ops, yyjson_doc_get_root(doc), &d, err);
    yyjson_doc_free(doc);
    if (rc != 0)
        return rc;
    d->op.revision = revision;
    if (d->sm.table[now(d)].final) {
        d->stopped = true;
        d->op.status = status_of(now(d));
        return 0;
    }
    if (d->plan != NULL) {
        struct err over = {0};
        err_set(&over, ERRC_CANCELED, "the manager that looked ended: ask again");
        end(d, DRAIN_FAILED, &over);
        return 0;
    }
    log_event(LOG_INFO, "drain is resumed", "op", d->op.id, "db", d->op.database, "shard", d->op.shard, NULL);
    loop_timer_start(&d->timer, 0); /* when all journals were read, those of its moves among them */
    return 0;
}
