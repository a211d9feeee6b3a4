/*
 * Holding S's writers until T is open.
 *
 * The COMMIT of the fence wakes every writer that waited for its lock, all at once, only to be refused, to
 * read the routing table, and to be refused by T, which is not open yet: work for the processors that the
 * COMMIT's answer and the opening need. So, as soon as the fence has its lock, other sessions on S line up
 * behind it, one for each table, for a lock that writers have to wait for as well, and let go when T is open.
 * For the same reason nobody is told of the new routing table until then.
 *
 * It is courtesy and no part of the protocol's safety: the guards decide. A holder that comes too late,
 * fails, or loses its session holds nothing, and one that is left alone gives up by itself within 250 ms.
 * Each waits for one lock only and keeps it from nobody who holds another: there is no circle to be caught
 * in.
 */
#include "operation/move_op_internal.h"

/* Longer than the fence may take from its lock to its COMMIT (B3). */
#define HOLD_LIMITS                                                                                          \
    "SET LOCAL statement_timeout = '160ms'; SET LOCAL deadlock_timeout = '5ms'; "                            \
    "SET LOCAL idle_in_transaction_session_timeout = '250ms'; "

static size_t held_tables(const struct move_op *op)
{
    const struct fleet_database *db = op_database(op);
    size_t count = db != NULL && db->routing != NULL ? db->routing->table_count : 0;
    return count < HOLDERS_MOST ? count : HOLDERS_MOST;
}

static void answered(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)op;
    (void)action;
    (void)reply;
}

static void warm(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    (void)reply; /* a server without free connections: then nobody is held */
    if (--op->warming == 0)
        op->warmed(op);
}

void hold_warm_up(struct move_op *op, void (*done)(struct move_op *op))
{
    size_t count = held_tables(op);
    op->warming = (unsigned)count;
    op->warmed = done;
    for (size_t i = 0; i < count; i++)
        act_sql_any(op, &op->holders[i], ACT_REHEARSE, SQL_TIMEOUT_NS, warm,
                    "BEGIN; " HOLD_LIMITS "LOCK TABLE ONLY %s IN ACCESS SHARE MODE; ROLLBACK",
                    op_database(op)->routing->tables[i].table);
    if (count == 0)
        done(op);
}

void hold_writers(struct move_op *op)
{
    size_t count = held_tables(op);
    op->holding = true;
    for (size_t i = 0; i < count; i++)
        if (link_is_up(&op->holders[i]))
            act_sql_any(op, &op->holders[i], ACT_LOCK, FENCE_BOUND_NS, answered,
                        "BEGIN; " HOLD_LIMITS "LOCK TABLE ONLY %s IN SHARE MODE",
                        op_database(op)->routing->tables[i].table);
}

void hold_release(struct move_op *op)
{
    if (!op->holding)
        return;
    op->holding = false;
    for (int i = 0; i < HOLDERS_MOST; i++)
        if (link_is_up(&op->holders[i]))
            act_sql_any(op, &op->holders[i], ACT_OPEN, SQL_TIMEOUT_NS, answered, "ROLLBACK");
}

void hold_end(struct move_op *op)
{
    struct fleet_database *db = op_database(op);
    if (op->untold && db != NULL)
        operation_announce(op->op.owner, db); /* first: who is let go will want it */
    op->untold = false;
    hold_release(op);
}

void hold_drop(struct move_op *op)
{
    for (int i = 0; op->source_known && i < HOLDERS_MOST; i++)
        link_drop(&op->holders[i]);
}

void hold_fini(struct move_op *op)
{
    for (int i = 0; i < HOLDERS_MOST; i++)
        link_fini(&op->holders[i]);
}
