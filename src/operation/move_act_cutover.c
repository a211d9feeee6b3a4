/* The cutover: gate, fence, routing table, opening, settling. Every microsecond in LOCK .. OPEN is a write
 * that waits. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

/* ---- gate ---- */

static void gate_closed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (pg_value_bool(reply, 0, 0))
        act_done(op, action, NULL);
    else
        act_close_gate(op);
}

void act_close_gate(struct move_op *op)
{
    struct move_record *r = op_record(op);
    const struct fleet_database *db = op_database(op);
    const struct routing_shard *target = db != NULL ? routing_find_shard(db->routing, r->target) : NULL;
    r->target_epoch = target != NULL ? target->epoch : 0; /* journaled with the fence */
    act_sql(op, &op->target, ACT_CLOSE_GATE, SQL_TIMEOUT_NS, gate_closed,
            "SET LOCAL lock_timeout = '2s'; SELECT shardherd.close_gate(%d, %L, %d, %d, %d)", op_term(op),
            r->id, r->range.lo, r->range.hi, (int64_t)GUARDED_AT_ONCE);
}

void act_burn_gate(struct move_op *op)
{
    if (!op->target_known) /* only targets that were there before get here: without it there is no way back */
        act_fail(op, ACT_BURN_GATE, ERRC_UNAVAILABLE, "the primary of shard %s is not known",
                 op_record(op)->target);
    else
        act_sql(op, &op->target, ACT_BURN_GATE, SQL_TIMEOUT_NS, NULL,
                END_OLD_BACKENDS "SET LOCAL lock_timeout = '2s'; SELECT shardherd.burn_gate(%d, %L)",
                op_term(op), op_record(op)->id);
}

/* ---- fence ---- */

/* FENCE and COMMIT belong to the transaction of this session: see link_exec_in(). */
static void locked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct move_outcome outcome = {.lock_ns = op->fence_started_ns};
    (void)reply;
    act_outcome(op, action, &outcome);
}

/* statement_timeout bounds the LOCK of all tables together (B4) */
static void fence_begun(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct fleet_database *db = op_database(op);
    (void)reply;
    struct buf tables = {0};
    for (size_t i = 0; db != NULL && i < db->routing->table_count; i++)
        buf_printf(&tables, "%s%s", i > 0 ? ", " : "", db->routing->tables[i].table);
    if (tables.length == 0) {
        act_fail(op, action, ERRC_NOT_FOUND, "the database has no tables any more");
        return;
    }
    op->fence_session = link_session(&op->source);
    op->fence_started_ns = op_now(op);
    act_sql_in(op, &op->source, op->fence_session, action, FENCE_BOUND_NS, locked,
               "LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE; SET LOCAL statement_timeout = '200ms'",
               buf_text(&tables));
    buf_free(&tables);
}

/* The transaction comes first, so that nothing but the lock is between its request and its grant.
 * deadlock_timeout makes autovacuum give way (B1), idle_in_transaction_session_timeout ends the fence of a
 * manager that fell silent (B2). */
void act_lock(struct move_op *op)
{
    act_sql(op, &op->source, ACT_LOCK, FENCE_BOUND_NS, fence_begun,
            "BEGIN; SET LOCAL statement_timeout = '%s'; SET LOCAL deadlock_timeout = '5ms'; "
            "SET LOCAL idle_in_transaction_session_timeout = '1s'; SELECT shardherd.check_term(%d)",
            "100ms", op_term(op));
}

void sequences_free(struct move_op *op)
{
    for (int i = 0; i < op->sequence_count; i++)
        free(op->sequences[i].name);
    free(op->sequences);
    op->sequences = NULL;
    op->sequence_count = 0;
    op->sequences_known = false;
}

static void keep_sequences(struct move_op *op, const PGresult *result)
{
    sequences_free(op);
    int count = PQntuples(result);
    op->sequences = mem_array((size_t)count, sizeof *op->sequences);
    for (int i = 0; i < count; i++) {
        op->sequences[i].name = mem_strdup(PQgetvalue(result, i, 0));
        op->sequences[i].value = strtoll(PQgetvalue(result, i, 1), NULL, 10);
    }
    op->sequence_count = count;
    op->sequences_known = true;
}

void act_fence(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    const struct fleet_database *db = op_database(op);
    if (db == NULL) {
        act_fail(op, ACT_FENCE, ERRC_NOT_FOUND, "the database was deleted");
        return;
    }
    act_sql_in(op, &op->source, op->fence_session, ACT_FENCE, FENCE_BOUND_NS, NULL,
               "SELECT shardherd.fence(%L, %d, %d, %d, %d)", r->id, r->range.lo, r->range.hi,
               (int64_t)r->source_epoch, (int64_t)(db->routing->epoch + 1));
    hold_writers(op);
}

static void read_sequences(struct move_op *op, struct link *source, enum move_action action,
                           uint64_t timeout_ns, act_reply_cb handler)
{
    act_sql(op, source, action, timeout_ns, handler, "SELECT name, value FROM shardherd.sequences(%d)",
            (int64_t)SEQUENCE_GAP);
}

/* COMMIT of a transaction that failed is answered with ROLLBACK, and no error. */
static bool was_committed(const struct pg_reply *reply)
{
    return reply->err == NULL && reply->count > 0 &&
           strcmp(PQcmdStatus(reply->results[reply->count - 1]), "COMMIT") == 0;
}

static void committed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (was_committed(reply))
        act_done(op, action, NULL);
    else
        act_fail(op, action, ERRC_CONFLICT, "the fence's transaction was not there to be committed");
}

void act_commit(struct move_op *op)
{
    act_sql_in(op, &op->source, op->fence_session, ACT_COMMIT, SQL_TIMEOUT_NS, committed, "COMMIT");
}

static void rolled_back(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)reply;
    act_done(op, action, NULL);
}

static void backends_ended(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    act_done(op, action, reply->err);
}

/*
 * A dropped connection rolls back by itself; but a try that follows must not overtake it, so ask. On the way
 * back whatever had no answer is ended before what it may yet do is taken away: on S here, on T with the
 * gate, since a T that hangs must not keep S's slot from going.
 */
void act_rollback(struct move_op *op)
{
    op->untold = false; /* what is told next is that S owns R after all */
    hold_release(op);
    opening_forget(op);
    if (op_record(op)->state == MOVE_UNDO) {
        op_drop_links(op);
        act_sql_any(op, &op->source, ACT_ROLLBACK, SQL_TIMEOUT_NS, backends_ended, END_OLD_BACKENDS);
    } else
        act_sql_any(op, &op->source, ACT_ROLLBACK, SQL_TIMEOUT_NS, rolled_back, "ROLLBACK");
}

/* ---- routing ---- */

static void routed(const struct err *err, void *data)
{
    struct move_op *op = data;
    op->untold = err == NULL;
    act_done(data, ACT_ROUTE, err);
}

static void unrouted(const struct err *err, void *data)
{
    act_done(data, ACT_UNROUTE, err);
}

void act_route(struct move_op *op)
{
    struct fleet_database *db = op_database(op);
    const struct move_record *r = op_record(op);
    struct err err = {0};
    if (db == NULL) {
        act_fail(op, ACT_ROUTE, ERRC_NOT_FOUND, "the database was deleted");
        return;
    }
    struct routing *next = routing_clone(db->routing);
    if (routing_move(next, r->source, r->target, &r->range, &err) != 0) {
        routing_free(next);
        routed(&err, op);
    } else if (operation_publish_untold(op->op.owner, db, next, routed, op, &err) != 0)
        routed(&err, op);
}

/*
 * S owns R: say so again, with a newer epoch, if the table says otherwise. The epochs of S and T are again
 * what their servers say, or strict clients would be refused by both for ever. A table that is doubted is
 * written as it is.
 */
void act_unroute(struct move_op *op)
{
    struct fleet_database *db = op_database(op);
    const struct move_record *r = op_record(op);
    struct err err = {0};
    const struct routing_shard *target = db != NULL ? routing_find_shard(db->routing, r->target) : NULL;
    bool wrong = target != NULL && range_set_contains_range(&target->ranges, &r->range);
    if (db == NULL || (!wrong && !op->core.table_doubted)) {
        act_done(op, ACT_UNROUTE, NULL);
        return;
    }
    struct routing *back = routing_clone(db->routing);
    if (wrong && routing_move(back, r->target, r->source, &r->range, &err) != 0) {
        routing_free(back);
        unrouted(&err, op);
        return;
    }
    if (wrong) {
        routing_find_shard(back, r->source)->epoch = r->source_epoch;
        if (r->target_epoch != 0)
            routing_find_shard(back, r->target)->epoch = r->target_epoch;
    } else
        back->epoch++;
    if (operation_publish(op->op.owner, db, back, unrouted, op, &err) != 0)
        unrouted(&err, op);
}

/* ---- opening ---- */

static void gate_opened(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (pg_value(reply, 0, 0) == NULL)
        act_fail(op, action, ERRC_PROTOCOL, "the gate has no opening position");
    else
        act_done(op, action, NULL);
}

static void add_sequences(const struct move_op *op, struct buf *sql)
{
    struct buf names = {0};
    struct buf values = {0};
    for (int i = 0; i < op->sequence_count; i++) {
        buf_add_text(&names, i > 0 ? ", " : "");
        pg_quote_literal(&names, op->sequences[i].name);
        buf_add_text(&values, i > 0 ? ", " : "");
        sqlf(&values, "%d", op->sequences[i].value);
    }
    buf_printf(sql, "ARRAY[%s]::text[], ARRAY[%s]::bigint[]", buf_text(&names), buf_text(&values));
    buf_free(&names);
    buf_free(&values);
}

static void sequences_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct buf raise = {0};
    keep_sequences(op, reply->results[reply->count - 1]);
    if (op->sequence_count == 0) {
        act_done(op, action, NULL);
        return;
    }
    add_sequences(op, &raise);
    act_sql_in(op, &op->opener, op->opener_session, action, FENCE_BOUND_NS, NULL,
               "SELECT shardherd.raise_sequences(%s)", buf_text(&raise));
    buf_free(&raise);
}

/* S's writers wait by now: what they were given of the sequences is known. */
void act_sequences(struct move_op *op)
{
    sequences_free(op);
    read_sequences(op, &op->source_reader, ACT_SEQUENCES, FENCE_BOUND_NS, sequences_seen);
}

void opening_forget(struct move_op *op)
{
    op->opener_session = 0;
    if (op->target_known)
        link_drop(&op->opener);
}

static void opening_prepared(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    op->opener_session = link_session(&op->opener);
    gate_opened(op, action, reply);
}

/*
 * What the opening writes is not to be seen before its COMMIT, which is sent after S's was answered, or
 * never. Until then it holds T's control row, so that a newer manager ends it or waits for it before it reads
 * anything (A5). It is begun before S's lock is asked for: nobody waits for it. Sequences follow when S's
 * writers wait, X with the COMMIT: T has all of S's changes only since the marker.
 */
void act_prepare_open(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    act_sql(op, &op->opener, ACT_PREPARE_OPEN, SQL_TIMEOUT_NS, opening_prepared,
            "BEGIN; SET LOCAL lock_timeout = '50ms'; SET LOCAL idle_in_transaction_session_timeout = '1s'; "
            "SELECT shardherd.open_gate(%d, %L, %d, %d, '{}', '{}')",
            op_term(op), r->id, r->range.lo, r->range.hi);
}

static void open_gate(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    struct buf sequences = {0};
    add_sequences(op, &sequences);
    act_sql(op, &op->target, ACT_OPEN, SQL_TIMEOUT_NS, gate_opened,
            "SELECT shardherd.open_gate(%d, %L, %d, %d, %s)", op_term(op), r->id, r->range.lo, r->range.hi,
            buf_text(&sequences));
    buf_free(&sequences);
}

static void sequences_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    keep_sequences(op, reply->results[reply->count - 1]);
    open_gate(op);
}

static void open_anew(struct move_op *op)
{
    hold_end(op);
    opening_forget(op);
    if (op->sequences_known)
        open_gate(op);
    else /* after a crash inside the fence: S is asked again, it hands out none of them for R any more */
        read_sequences(op, &op->source, ACT_OPEN, SQL_TIMEOUT_NS, sequences_read);
}

/* Whatever became of a COMMIT without a good answer: opening again finds the gate open, or opens it. */
static void opening_committed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (!was_committed(reply)) {
        open_anew(op);
        return;
    }
    act_done(op, action, NULL);
    hold_end(op); /* after its time was taken: what follows shares the processors with the writers */
}

void act_open(struct move_op *op)
{
    bool prepared = op->opener_session != 0 && link_session(&op->opener) == op->opener_session;
    op->opener_session = 0;
    if (prepared)
        act_sql_any(op, &op->opener, ACT_OPEN, SQL_TIMEOUT_NS, opening_committed,
                    "SELECT shardherd.opened(%L); COMMIT", op_record(op)->id);
    else /* after a crash or a lost answer */
        open_anew(op);
}

/* ---- settling ---- */

static void settle_source(struct move_op *op);

static void source_settled(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (pg_value_bool(reply, 0, 0))
        act_done(op, action, NULL);
    else
        settle_source(op);
}

static void settle_source(struct move_op *op)
{
    act_sql(op, &op->source, ACT_SETTLE, SQL_TIMEOUT_NS, source_settled,
            "SET LOCAL lock_timeout = '2s'; SELECT shardherd.settle_fence(%d, %L, %d)", op_term(op),
            op_record(op)->id, (int64_t)GUARDED_AT_ONCE);
}

static void settle_target(struct move_op *op);

static void target_settled(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (pg_value_bool(reply, 0, 0))
        settle_source(op);
    else
        settle_target(op);
}

static void settle_target(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    const struct fleet_database *db = op_database(op);
    const struct routing_shard *target = db != NULL ? routing_find_shard(db->routing, r->target) : NULL;
    act_sql(op, &op->target, ACT_SETTLE, SQL_TIMEOUT_NS, target_settled,
            "SET LOCAL lock_timeout = '2s'; SELECT shardherd.settle(%d, %L, %d, %d, %d, %d)", op_term(op),
            r->id, r->range.lo, r->range.hi, (int64_t)(target != NULL ? target->epoch : 0),
            (int64_t)GUARDED_AT_ONCE);
}

void act_settle(struct move_op *op)
{
    opening_forget(op); /* the sessions of the fence are not needed any more */
    hold_drop(op);
    link_drop(&op->source_reader);
    settle_target(op);
}

static void announce_on(struct move_op *op, struct link *link, act_reply_cb next)
{
    struct buf json = {0};
    const struct routing *routing = op_database(op)->routing;
    routing_print(routing, &json);
    act_sql(op, link, ACT_ANNOUNCE, SQL_TIMEOUT_NS, next, "SELECT shardherd.announce(%d, %L::jsonb)",
            (int64_t)routing->epoch, buf_text(&json));
    buf_free(&json);
}

static void source_announced(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    (void)reply;
    announce_on(op, &op->target, NULL);
}

static void announced_route(const struct err *err, void *data)
{
    struct move_op *op = data;
    if (err != NULL)
        act_done(op, ACT_ANNOUNCE, err);
    else if (!op->stopped)
        announce_on(op, &op->source, source_announced);
}

/* A crash between the fence's commit and the table's publication is mended here. */
void act_announce(struct move_op *op)
{
    struct fleet_database *db = op_database(op);
    const struct move_record *r = op_record(op);
    struct err err = {0};
    if (db == NULL) {
        act_fail(op, ACT_ANNOUNCE, ERRC_NOT_FOUND, "the database was deleted");
        return;
    }
    const struct routing_shard *target = routing_find_shard(db->routing, r->target);
    if (target != NULL && range_set_contains_range(&target->ranges, &r->range)) {
        announced_route(NULL, op);
        return;
    }
    struct routing *next = routing_clone(db->routing);
    if (routing_move(next, r->source, r->target, &r->range, &err) != 0) {
        routing_free(next);
        announced_route(&err, op);
    } else if (operation_publish(op->op.owner, db, next, announced_route, op, &err) != 0)
        announced_route(&err, op);
}
