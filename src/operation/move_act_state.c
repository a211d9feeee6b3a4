/* Leadership and truth: the term on every shard, who owns R, and the checks before anything is changed. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "operation/move_op_internal.h"

static bool truth(const PGresult *result, int column)
{
    return PQntuples(result) == 1 && PQgetvalue(result, 0, column)[0] == 't';
}

/* ---- term: T first, then S ---- */

static void raise_on_source(struct move_op *op)
{
    if (!op->source_known) { /* see act_take_term() */
        act_done(op, ACT_TAKE_TERM, NULL);
        return;
    }
    act_sql(op, &op->source, ACT_TAKE_TERM, SQL_TIMEOUT_NS, NULL,
            END_OLD_BACKENDS "SELECT shardherd.raise_term(%d)", op_term(op));
}

static void raised_on_target(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    /* a target that is not finished, or not there, cannot have been opened by anybody */
    if (reply->err != NULL && (err_is_sql(reply->err, "SHR03") || !op_target_optional(op))) {
        act_done(op, action, reply->err);
        return;
    }
    raise_on_source(op);
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

static void target_inspected(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_outcome outcome = {.source_owns = true}; /* else we would not have asked T */
    if (reply->err != NULL && !op_target_optional(op)) {
        act_done(op, action, reply->err);
        return;
    }
    if (reply->err == NULL) {
        outcome.target_known = true;
        outcome.target_owns = truth(reply->results[0], 0);
        outcome.gate_open = truth(reply->results[0], 1);
    }
    act_outcome(op, action, &outcome);
}

static void source_inspected(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_outcome outcome = {.source_owns = truth(reply->results[0], 0)};
    if (!op->target_known || !outcome.source_owns) {
        act_outcome(op, action, &outcome);
        return;
    }
    act_sql_any(op, &op->target, action, SQL_TIMEOUT_NS, target_inspected,
                "SELECT shardherd.owns(%d, %d), EXISTS (SELECT FROM shardherd.gate WHERE move = %L AND open)",
                op->core.record.range.lo, op->core.record.range.hi, op->core.record.id);
}

void act_inspect(struct move_op *op)
{
    struct move_outcome gone = {.source_owns = false};
    if (!op->source_known) {
        act_outcome(op, ACT_INSPECT, &gone);
        return;
    }
    act_sql(op, &op->source, ACT_INSPECT, SQL_TIMEOUT_NS, source_inspected, "SELECT shardherd.owns(%d, %d)",
            op->core.record.range.lo, op->core.record.range.hi);
}

static void resolved(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_outcome outcome = {.source_owns = truth(reply->results[reply->count - 1], 0)};
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

/* ---- checks ---- */

static void checked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_record *r = op_record(op);
    const PGresult *state = reply->results[1];
    const PGresult *findings = reply->results[2];
    uint64_t count = 0;
    text_to_uint64(PQgetvalue(state, 0, 1), &r->source_epoch);
    text_to_uint64(PQgetvalue(state, 0, 2), &r->source_system);
    text_to_uint64(PQgetvalue(state, 0, 3), &r->total_bytes);
    text_to_uint64(PQgetvalue(state, 0, 4), &r->total_rows);
    buf_reset(&r->findings);
    if (!buf_add_text(&r->findings, PQgetvalue(findings, 0, 0)))
        buf_add_text(&r->findings, "[]"); /* more than fits: the first is in the error below */
    text_to_uint64(PQgetvalue(findings, 0, 1), &count);
    if (!truth(state, 0))
        act_fail(op, action, ERRC_REFUSED, "shard %s does not own the range", r->source);
    else if (count > 0)
        act_fail(op, action, ERRC_REFUSED, "%llu finding(s) forbid the move, the first: %s",
                 (unsigned long long)count, PQgetvalue(findings, 0, 2));
    else
        act_done(op, action, NULL);
}

void act_check(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    act_sql(
        op, &op->source, ACT_CHECK, SQL_TIMEOUT_NS, checked,
        "SELECT shardherd.raise_term(%d); "
        "SELECT shardherd.owns(%d, %d), s.epoch, (pg_control_system()).system_identifier, e.bytes, e.rows "
        "FROM shardherd.shard s, "
        /* estimates by the share of the owned space that moves */
        "LATERAL (SELECT (%d::numeric - %d::numeric + 1) / sum(r.hi::numeric - r.lo::numeric + 1) AS share "
        "FROM unnest(s.los, s.his) AS r(lo, hi)) w, "
        "LATERAL (SELECT coalesce(sum(pg_table_size(c.oid)) * w.share, 0)::bigint AS bytes, "
        "coalesce(sum(greatest(c.reltuples, 0)) * w.share, 0)::bigint AS rows FROM shardherd.tables t "
        /* the tree of a table without partitions is empty */
        "LEFT JOIN LATERAL pg_partition_tree(to_regclass(t.name)) l ON l.isleaf "
        "JOIN pg_class c ON c.oid = coalesce(l.relid, to_regclass(t.name))) e; "
        "SELECT coalesce(json_agg(f), '[]'), count(*), "
        "coalesce(min(format('%%s: %%s (remedy: %%s)', f.subject, f.finding, f.remedy)), '') "
        "FROM shardherd.check_move() f",
        op_term(op), r->range.lo, r->range.hi, r->range.hi, r->range.lo);
}
