/* Beginning a move: what is asked for is looked at before anything is written. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "operation/drain.h"
#include "operation/move_op_internal.h"

/* ---- how many at a time ---- */

static bool works(const struct operation *op)
{
    if (op->status != OPERATION_RUNNING || !move_op_is(op))
        return false;
    const struct move_record *r = move_op_record(op);
    return !r->dry_run && r->state != MOVE_HELD && r->state != MOVE_WATCH;
}

unsigned move_op_working(const struct operations *ops)
{
    unsigned working = 0;
    list_each(node, &ops->list)
    {
        working += works(list_item(node, struct operation, node));
    }
    return working;
}

static int check_limit(const struct operations *ops, struct err *err)
{
    unsigned working = move_op_working(ops), most = ops->services.max_moves;
    if (most == 0 || working < most)
        return 0;
    struct buf names = {0};
    list_each(node, &ops->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (works(op))
            buf_printf(&names, "%s%s on shard %s", names.length > 0 ? ", " : "", op->id, op->shard);
    }
    err_set(err, ERRC_CONFLICT,
            "%u move%s in the whole fleet (%s), and balance.max_moves is %u: wait until one bakes or has "
            "ended, or raise the limit",
            working, working == 1 ? " runs" : "s run", buf_text(&names), most);
    buf_free(&names);
    return (int)err->code;
}

/* ---- the request ---- */

/* Nor is it one that another move is about to make, or whose server is about to go. */
static void name_new_shard(const struct operations *ops, const struct fleet_database *db,
                           char out[MOVE_NAME_SIZE])
{
    for (unsigned n = 1;; n++) {
        snprintf(out, MOVE_NAME_SIZE, "s%u", n);
        if (routing_find_shard(db->routing, out) == NULL && operations_running_on(ops, db->name, out) == NULL)
            return;
    }
}

static int check_request(struct operations *ops, const struct move_request *q,
                         const struct fleet_database *db, struct err *err)
{
    if (ops->services.term == 0)
        return err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    if (db == NULL || db->routing == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s is not known or not provisioned yet", q->database);
    const struct routing_shard *source = routing_find_shard(db->routing, q->source);
    if (source == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s", q->database, q->source);
    if (!range_set_contains_range(&source->ranges, &q->range))
        return err_set(err, ERRC_REFUSED, "shard %s does not own all of that range", q->source);
    if (q->target != NULL && routing_find_shard(db->routing, q->target) == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s to move to", q->database, q->target);
    if (q->target != NULL && strcmp(q->source, q->target) == 0)
        return err_set(err, ERRC_INVALID, "source and target are the same shard");
    if (q->target == NULL && ops->services.runtime == NULL)
        return err_set(err, ERRC_UNSUPPORTED, "no runtime is configured that could make a new shard");
    if (q->retire_source && (source->ranges.count != 1 || source->ranges.items[0].lo != q->range.lo ||
                             source->ranges.items[0].hi != q->range.hi))
        return err_set(err, ERRC_REFUSED, "only a shard whose one range is moved can be retired with it");
    const struct operation *drain = q->target != NULL ? drain_of(ops, q->database, q->target) : NULL;
    if (drain != NULL)
        return err_set(err, ERRC_CONFLICT, "operation %s drains shard %s: it is to get nothing", drain->id,
                       q->target);
    const struct operation *busy = operations_running_on(ops, q->database, q->source);
    if (busy == NULL && q->target != NULL)
        busy = operations_running_on(ops, q->database, q->target);
    if (busy != NULL)
        return err_set(err, ERRC_CONFLICT, "operation %s runs on shard %s: wait for it or cancel it",
                       busy->id, busy->shard != NULL ? busy->shard : "(all)");
    if (!q->dry_run && check_limit(ops, err) != 0)
        return (int)err->code;
    if (move_check_primary(ops, q->database, q->source, err) != 0)
        return (int)err->code;
    return q->target != NULL ? move_check_primary(ops, q->database, q->target, err) : 0;
}

static void fill_record(struct operations *ops, const struct move_request *q, const struct fleet_database *db,
                        struct move_record *r)
{
    move_record_init(r);
    r->kind = q->kind;
    snprintf(r->database, sizeof r->database, "%s", q->database);
    snprintf(r->source, sizeof r->source, "%s", q->source);
    if (q->target != NULL)
        snprintf(r->target, sizeof r->target, "%s", q->target);
    else
        name_new_shard(ops, db, r->target);
    r->range = q->range;
    r->new_target = q->target == NULL;
    r->retire_source = q->retire_source;
    r->dry_run = q->dry_run;
    r->allow_ddl = q->allow_ddl;
    r->bake_ns = q->bake_ns;
    r->rule = q->rule;
    r->decided_us = q->decided_us;
    snprintf(r->reason, sizeof r->reason, "%s", q->reason != NULL ? q->reason : "");
    r->created_us = loop_wall(ops->services.loop);
}

int move_op_start(struct operations *ops, const struct move_request *request, struct operation **ret,
                  struct err *err)
{
    struct fleet_database *db = fleet_find_database(ops->services.fleet, request->database);
    struct move_record record;
    if (check_request(ops, request, db, err) != 0)
        return (int)err->code;
    fill_record(ops, request, db, &record);
    struct move_op *op = op_new(ops, &record, NULL);
    op_find_servers(op);
    log_event(LOG_INFO, "move begins", "op", op->op.id, "db", record.database, "shard", record.source,
              "target", record.target, "kind", move_kind_name(record.kind), "why", record.reason, NULL);
    move_start(&op->core, false);
    if (ret != NULL)
        *ret = &op->op;
    return 0;
}
