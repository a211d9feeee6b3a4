/*
 * The end of the freeze on S, then on T, and with it light guards: unfrozen, looked through for rows that are
 * not owned, lightened (shard.sql). All of it can be repeated, and whatever is left out leaves guards that
 * cost more.
 */
#include "base/log.h"
#include "operation/move_op_internal.h"

#define PROVE_TIMEOUT_NS (3600 * ENV_NS_PER_S) /* a table is read once, by one process */

static void unfreeze(struct move_op *op, struct link *shard);

static void unfreeze_target(struct move_op *op)
{
    bool target_gone = op_record(op)->state == MOVE_UNDO && move_record_made_target(op_record(op));
    if (!op->target_known || target_gone)
        act_done(op, ACT_UNFREEZE, NULL);
    else
        unfreeze(op, &op->target);
}

static void lighten(struct move_op *op);

static void lightened(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (!pg_value_bool(reply, 0, 0))
        lighten(op);
    else if (op->unfreezing == &op->source)
        unfreeze_target(op);
    else
        act_done(op, action, NULL);
}

static void lighten(struct move_op *op)
{
    act_sql(op, op->unfreezing, ACT_UNFREEZE, SQL_TIMEOUT_NS, lightened,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.lighten(%d, %d)", op_term(op),
            (int64_t)GUARDED_AT_ONCE);
}

static void prove(struct move_op *op, const char *after);

static void proved(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const char *table = reply->err == NULL ? pg_value(reply, 0, 0) : NULL;
    bool too_large = reply->err != NULL && reply->err->code == ERRC_TIMEOUT;
    if (too_large)
        log_event(LOG_WARN, "a table is too large to be looked through: guards stay whole", "op",
                  op_record(op)->id, "db", op_record(op)->database, "err", reply->err->message, NULL);
    if (reply->err != NULL && !too_large)
        act_done(op, action, reply->err);
    else if (table != NULL)
        prove(op, table);
    else
        lighten(op);
}

static void prove(struct move_op *op, const char *after)
{
    act_sql_any(op, op->unfreezing, ACT_UNFREEZE, PROVE_TIMEOUT_NS, proved,
                "SELECT shardherd.prove_pure(%d, %L)", op_term(op), after);
}

static void unfrozen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (pg_value_bool(reply, 0, 0))
        prove(op, "");
    else
        unfreeze(op, op->unfreezing);
}

static void unfreeze(struct move_op *op, struct link *shard)
{
    op->unfreezing = shard;
    act_sql(op, shard, ACT_UNFREEZE, SQL_TIMEOUT_NS, unfrozen,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.unfreeze(%d, %L, %d)", op_term(op),
            op_record(op)->id, (int64_t)GUARDED_AT_ONCE);
}

void act_unfreeze(struct move_op *op)
{
    if (op->source_known)
        unfreeze(op, &op->source);
    else
        unfreeze_target(op);
}
