/* Leadership and truth: the term on every shard, and who owns R. */
#include <stdlib.h>
#include <string.h>

#include "operation/move_op_internal.h"

static bool truth(const PGresult *result, int column)
{
    return PQntuples(result) == 1 && PQgetvalue(result, 0, column)[0] == 't';
}

/* ---- term: T first, then S; each with our functions, which another version may have begun without ---- */

static void source_is_ours(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    act_done(op, action, reply->err);
}

static void raised_on_source(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)reply;
    act_bring_up_to_date(op, &op->source, action, false, source_is_ours);
}

static void raise_on_source(struct move_op *op)
{
    if (!op->source_known) { /* see act_take_term() */
        act_done(op, ACT_TAKE_TERM, NULL);
        return;
    }
    act_sql(op, &op->source, ACT_TAKE_TERM, SQL_TIMEOUT_NS, raised_on_source,
            END_OLD_BACKENDS "SELECT shardherd.raise_term(%d)", op_term(op));
}

static void target_is_ours(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (reply->err != NULL && (err_is_sql(reply->err, "SHR03") || !op_target_optional(op)))
        act_done(op, action, reply->err);
    else
        raise_on_source(op);
}

static void raised_on_target(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    /* a target that is not finished, or not there, cannot have been opened by anybody */
    if (reply->err != NULL)
        target_is_ours(op, action, reply);
    else
        act_bring_up_to_date(op, &op->target, action, false, target_is_ours);
}

void act_take_term(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    op_find_servers(op);
    if (!op->source_known && !op_source_gone(op))
        act_fail(op, ACT_TAKE_TERM, ERRC_UNAVAILABLE, "the primary of shard %s is not known", r->source);
    else if (!op->target_known && !op_target_optional(op))
        act_fail(op, ACT_TAKE_TERM, ERRC_UNAVAILABLE, "the primary of shard %s is not known", r->target);
    else if (!op->target_known)
        raise_on_source(op);
    else
        act_sql_any(op, &op->target, ACT_TAKE_TERM, SQL_TIMEOUT_NS, raised_on_target,
                    END_OLD_BACKENDS "SELECT shardherd.raise_term(%d)", op_term(op));
}

/* ---- who owns R ---- */

/* A newer leader has gone further than our journal says: what it left is no contradiction. */
#define CHECK_TERM "SELECT shardherd.check_term(%d); "

static const PGresult *last(const struct pg_reply *reply)
{
    return reply->results[reply->count - 1];
}

static void target_inspected(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_outcome outcome = {.source_owns = true}; /* else we would not have asked T */
    if (reply->err != NULL && (err_is_sql(reply->err, "SHR03") || !op_target_optional(op))) {
        act_done(op, action, reply->err);
        return;
    }
    if (reply->err == NULL) {
        outcome.target_known = true;
        outcome.target_owns = truth(last(reply), 0);
        outcome.gate_open = truth(last(reply), 1);
    }
    act_outcome(op, action, &outcome);
}

static void source_inspected(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_outcome outcome = {.source_owns = truth(last(reply), 0)};
    if (!op->target_known || !outcome.source_owns) {
        act_outcome(op, action, &outcome);
        return;
    }
    act_sql_any(op, &op->target, action, SQL_TIMEOUT_NS, target_inspected,
                CHECK_TERM
                "SELECT shardherd.owns(%d, %d), EXISTS (SELECT FROM shardherd.gate WHERE move = %L AND open)",
                op_term(op), op->core.record.range.lo, op->core.record.range.hi, op->core.record.id);
}

void act_inspect(struct move_op *op)
{
    struct move_outcome gone = {.source_owns = false};
    if (!op->source_known) {
        act_outcome(op, ACT_INSPECT, &gone);
        return;
    }
    act_sql(op, &op->source, ACT_INSPECT, SQL_TIMEOUT_NS, source_inspected,
            CHECK_TERM "SELECT shardherd.owns(%d, %d)", op_term(op), op->core.record.range.lo,
            op->core.record.range.hi);
}

static void resolved(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_outcome outcome = {.source_owns = truth(last(reply), 0)};
    act_outcome(op, action, &outcome);
}

void act_resolve(struct move_op *op)
{
    hold_release(op);
    opening_forget(op);
    link_drop(&op->source); /* whatever became of the COMMIT, that connection will not tell */
    act_sql(op, &op->source, ACT_RESOLVE, SQL_TIMEOUT_NS, resolved,
            END_OLD_BACKENDS "SELECT shardherd.raise_term(%d); SELECT shardherd.owns(%d, %d)", op_term(op),
            op->core.record.range.lo, op->core.record.range.hi);
}
