/* Replication beside the copy (move_act_data.c): publication, subscription, markers, catching up, rehearsal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

#define MARKER_EAGER_NS   (20 * ENV_NS_PER_MS)
#define MARKER_LOOK_NS    (1 * ENV_NS_PER_MS)
#define MARKER_PAUSE_NS   (50 * ENV_NS_PER_MS)
#define CATCH_UP_LIMIT_NS (600 * ENV_NS_PER_S)
#define CATCH_UP_PAUSE_NS (20 * ENV_NS_PER_MS)
#define FAST_MARKERS      3
#define SLOW_MARKER_NS    (10 * ENV_NS_PER_S)

/* ---- publication and subscription ---- */

static void published(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_record *r = op_record(op);
    uint64_t oid = 0;
    const char *text = pg_value(reply, 0, 0);
    if (text == NULL || !text_to_uint64(text, &oid))
        act_fail(op, action, ERRC_PROTOCOL, "publication has no oid");
    else if (r->publication != 0 && r->publication != oid)
        act_fail(op, action, ERRC_CORRUPT,
                 "the publication was made anew under a living copy (was %llu, is %llu)",
                 (unsigned long long)r->publication, (unsigned long long)oid);
    else {
        r->publication = oid;
        act_done(op, action, NULL);
    }
}

void act_publish(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    char name[MOVE_NAME_SIZE];
    move_record_name(r, name);
    act_sql(op, &op->source, ACT_PUBLISH, SQL_TIMEOUT_NS, published,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.publish_range(%d, %L, %L, %d, %d)", op_term(op),
            r->id, name, r->range.lo, r->range.hi);
}

static void add_conninfo_value(struct buf *out, const char *key, const char *value)
{
    if (value == NULL)
        return;
    buf_printf(out, "%s%s='", out->length > 0 ? " " : "", key);
    for (const char *p = value; *p != '\0'; p++)
        buf_printf(out, "%s%c", *p == '\'' || *p == '\\' ? "\\" : "", *p);
    buf_addc(out, '\'');
}

char *move_conninfo(const struct instance_access *a, const struct instance_access *by)
{
    struct buf out = {0};
    bool plain = by->sslmode != NULL && strcmp(by->sslmode, "disable") == 0;
    buf_printf(&out, "port=%d", a->port);
    add_conninfo_value(&out, "host", a->host);
    add_conninfo_value(&out, "dbname", a->dbname);
    add_conninfo_value(&out, "user", a->user);
    add_conninfo_value(&out, "password", a->password);
    if (a->peer_sslrootcert != NULL && (a->peer_sslrootcert[0] == '\0' || plain)) {
        add_conninfo_value(&out, "sslmode", "require");
        return buf_take(&out);
    }
    add_conninfo_value(&out, "sslmode", a->sslmode);
    add_conninfo_value(&out, "sslrootcert",
                       a->peer_sslrootcert != NULL ? a->peer_sslrootcert : a->sslrootcert);
    add_conninfo_value(&out, "sslcert", a->peer_sslcert != NULL ? a->peer_sslcert : a->sslcert);
    add_conninfo_value(&out, "sslkey", a->peer_sslkey != NULL ? a->peer_sslkey : a->sslkey);
    return buf_take(&out);
}

static void create_subscription(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    char *conninfo = move_conninfo(&op->source.access, &op->target.access);
    move_record_name(op_record(op), name);
    /* from 16 on apply works as the owner of each table, whom row-level security may stop (B14) */
    bool as_owner = op->target.conn != NULL && pg_conn_server_version(op->target.conn) >= 160000;
    /* in the session that logs no statements, or not at all: the statement holds a password */
    act_sql_in(
        op, &op->target, op->quiet_session, ACT_SUBSCRIBE, 120 * ENV_NS_PER_S, NULL,
        "CREATE SUBSCRIPTION %I CONNECTION %L PUBLICATION %I WITH (copy_data = false, create_slot = false, "
        "synchronous_commit = 'off'%s)", /* markers are flushed, and all before them: marker_came() */
        name, conninfo, name, as_owner ? ", run_as_owner = true" : "");
    explicit_bzero(conninfo, strlen(conninfo));
    free(conninfo);
}

static void marker_table_made(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    op->quiet_session = link_session(&op->target);
    if (pg_rows(reply) > 0)
        act_done(op, action, NULL);
    else
        create_subscription(op);
}

void act_subscribe(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    /* the statement that makes the subscription holds a password: it must not reach the server's log */
    act_sql(op, &op->target, ACT_SUBSCRIBE, SQL_TIMEOUT_NS, marker_table_made,
            "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = "
            "'panic'; "
            "SET log_min_duration_sample = -1; SET track_activities = off; "
            "SELECT shardherd.await_markers(%d, %L, %L); "
            "SELECT 1 FROM pg_subscription WHERE subname = %L AND subdbid = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())",
            op_term(op), op_record(op)->id, name, name);
}

/* ---- markers: a row through the subscription is the only exact measure of lag ---- */

static void marker_end(struct move_op *op, const struct err *err)
{
    void (*done)(struct move_op *, const struct err *) = op->marker_done;
    op->marker_done = NULL;
    if (err == NULL)
        op_record(op)->marker_us = (op_now(op) - op->marker_started_ns) / 1000;
    done(op, err);
}

static void look_for_marker(struct move_op *op);

/* A server that does not answer may not hold the fence beyond its bound either (B3). */
static uint64_t marker_timeout(const struct move_op *op)
{
    uint64_t now = op_now(op);
    uint64_t left = op->marker_deadline_ns > now ? op->marker_deadline_ns - now : 0;
    return left > MARKER_FAST_NS ? left : MARKER_FAST_NS;
}

static void look_again(struct loop_timer *timer, void *data)
{
    (void)timer;
    look_for_marker(data);
}

/*
 * T tells when the marker is there. If it does not: walsender and apply worker need the processors for
 * bringing the marker, not for being asked for it, so once in a millisecond, and after a tenth of the wait
 * when the target is far behind.
 */
static void look_for_marker_later(struct move_op *op)
{
    uint64_t waited = op_now(op) - op->marker_started_ns;
    uint64_t pause = waited < MARKER_EAGER_NS ? MARKER_LOOK_NS : waited / 10;
    op->poll_timer.fire = look_again;
    loop_timer_start(&op->poll_timer, pause < MARKER_PAUSE_NS ? pause : MARKER_PAUSE_NS);
}

static void marker_looked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct err err = {0};
    (void)action;
    op->marker_looking = false;
    if (reply->err != NULL)
        marker_end(op, reply->err);
    else if (pg_rows(reply) > 0 || op->marker_seen >= op->marker_number)
        marker_end(op, NULL);
    else if (op_now(op) >= op->marker_deadline_ns) {
        err_set(&err, ERRC_TIMEOUT, "marker %lld did not arrive in time: the target is behind",
                (long long)op->marker_number);
        marker_end(op, &err);
    } else
        look_for_marker_later(op);
}

static void look_for_marker(struct move_op *op)
{
    op->marker_looking = true;
    act_sql_any(op, op->marker_to, ACT_MARKER, marker_timeout(op), marker_looked,
                "SELECT shardherd.refuse_promoted(%L); SELECT 1 FROM shardherd.%I WHERE n >= %d LIMIT 1",
                op->marker_name, op->marker_name, op->marker_number);
}

static void marker_written(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (reply->err != NULL) {
        marker_end(op, reply->err);
        return;
    }
    pg_value_int64(reply, 0, 0, &op->marker_number);
    if (op->marker_seen >= op->marker_number)
        marker_end(op, NULL);
    else
        look_for_marker_later(op);
}

/* T's apply worker has committed this marker: see shardherd.marker_came(). */
static void marker_notified(const char *channel, const char *payload, void *data)
{
    struct move_op *op = data;
    int64_t number = 0;
    if (op->stopped || !text_to_int64(payload, &number) || number <= op->marker_seen ||
        strcmp(channel, op->marker_name) != 0)
        return;
    op->marker_seen = number;
    if (op->marker_done == NULL || op->marker_looking || op->marker_number == 0 || number < op->marker_number)
        return; /* who waits for an answer will look at marker_seen when it comes */
    loop_timer_stop(&op->poll_timer);
    marker_end(op, NULL);
}

static void begin_marker(struct move_op *op, struct link *from, struct link *to, const char *name,
                         uint64_t bound_ns, void (*done)(struct move_op *op, const struct err *err))
{
    if (strcmp(op->marker_name, name) != 0) { /* each direction counts its own */
        snprintf(op->marker_name, sizeof op->marker_name, "%s", name);
        op->marker_seen = 0;
    }
    op->marker_from = from;
    op->marker_to = to;
    op->marker_done = done;
    op->marker_number = 0;
    op->marker_started_ns = op_now(op);
    op->marker_deadline_ns = op->marker_started_ns + bound_ns;
    act_sql_any(op, from, ACT_MARKER, marker_timeout(op), marker_written,
                "INSERT INTO shardherd.%I SELECT coalesce(max(n), 0) + 1 FROM shardherd.%I RETURNING n", name,
                name);
}

void marker_round_trip(struct move_op *op, uint64_t bound_ns,
                       void (*done)(struct move_op *op, const struct err *err))
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    begin_marker(op, &op->source_marker, &op->target_poll, name, bound_ns, done);
}

void marker_round_trip_back(struct move_op *op, uint64_t bound_ns,
                            void (*done)(struct move_op *op, const struct err *err))
{
    char name[MOVE_NAME_SIZE];
    move_record_other_name(op_record(op), name);
    begin_marker(op, &op->target_poll, &op->source_marker, name, bound_ns, done);
}

void marker_hurry(struct move_op *op)
{
    if (op->marker_done != NULL)
        op->marker_deadline_ns = op_now(op);
}

static void fence_marker_done(struct move_op *op, const struct err *err)
{
    act_done(op, ACT_MARKER, err);
}

void act_marker(struct move_op *op)
{
    marker_round_trip(op, FENCE_BOUND_NS - LOCK_TIMEOUT_MS * ENV_NS_PER_MS, fence_marker_done);
}

/* ---- what may have happened on S and T meanwhile ---- */

/* Up to PostgreSQL 17 no marker comes any more while the publication is gone; from 18 on changes are skipped.
 */
static bool is_our_publication(const struct move_op *op, const PGresult *found)
{
    const struct move_record *r = &op->core.record;
    uint64_t expected = r->back ? r->reverse_publication : r->publication, oid = 0;
    if (PQntuples(found) == 1)
        text_to_uint64(PQgetvalue(found, 0, 0), &oid);
    return expected == 0 || oid == expected;
}

static bool ddl_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply,
                     const char *shard)
{
    const PGresult *found = reply->results[reply->count - 1];
    if (PQntuples(found) == 0)
        return false;
    act_fail(op, action, ERRC_REFUSED, "%s was done on shard %s meanwhile, and this move gives way to DDL",
             PQgetvalue(found, 0, 0), shard);
    return true;
}

static void target_looked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (!ddl_seen(op, action, reply, op_record(op)->target))
        op->look_then(op, action);
}

/* On one side, behind `before`; the last result is for ddl_seen(). */
static void look_at_ddl(struct move_op *op, enum move_action action, struct link *shard, const char *before,
                        act_reply_cb looked)
{
    struct buf insist = {0};
    const char *id = op_record(op)->id;
    if (op_record(op)->state == MOVE_REHEARSE)
        sqlf(&insist, "SELECT shardherd.insist(%d, %L); ", op_term(op), id);
    act_sql(op, shard, action, SQL_TIMEOUT_NS, looked,
            "SET LOCAL lock_timeout = '3s'; %s%s"
            "SELECT ddl FROM shardherd.freeze WHERE move = %L AND ddl IS NOT NULL",
            before, buf_text(&insist), id);
    buf_free(&insist);
}

static void source_looked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct move_record *r = op_record(op);
    if (!is_our_publication(op, reply->results[1]))
        act_fail(op, action, ERRC_CORRUPT, "the publication was dropped or made anew while rows were moved");
    else if (ddl_seen(op, action, reply, r->source))
        return;
    else if (r->allow_ddl && !r->back)
        look_at_ddl(op, action, &op->target, "", target_looked);
    else
        op->look_then(op, action);
}

void look_around(struct move_op *op, enum move_action action,
                 void (*then)(struct move_op *op, enum move_action action))
{
    char name[MOVE_NAME_SIZE];
    struct buf sql = {0};
    move_record_name(op_record(op), name);
    op->look_then = then;
    sqlf(&sql, "SELECT oid FROM pg_publication WHERE pubname = %L; ", name);
    look_at_ddl(op, action, &op->source, buf_text(&sql), source_looked);
    buf_free(&sql);
}

/* ---- catching up ---- */

static void next_marker(struct loop_timer *timer, void *data);

static void caught_up_once(struct move_op *op, const struct err *err)
{
    struct move_record *r = op_record(op);
    bool late = op_now(op) > op->catch_up_until_ns;
    if (err != NULL && err->code != ERRC_TIMEOUT) {
        act_done(op, ACT_CATCH_UP, err);
        return;
    }
    bool fast = err == NULL && r->marker_us * 1000 < MARKER_FAST_NS;
    op->fast_markers = fast ? op->fast_markers + 1 : 0;
    if (op->fast_markers >= FAST_MARKERS)
        act_done(op, ACT_CATCH_UP, NULL);
    else if (late || op->core.undo_wanted)
        act_fail(op, ACT_CATCH_UP, ERRC_REFUSED, "the target does not catch up: a marker takes %llu ms",
                 (unsigned long long)(r->marker_us / 1000));
    else {
        operation_changed(&op->op);
        op->poll_timer.fire = next_marker;
        loop_timer_start(&op->poll_timer, CATCH_UP_PAUSE_NS);
    }
}

static void write_marker(struct move_op *op, enum move_action action)
{
    (void)action;
    marker_round_trip(op, SLOW_MARKER_NS, caught_up_once);
}

static void next_marker(struct loop_timer *timer, void *data)
{
    (void)timer;
    look_around(data, ACT_CATCH_UP, write_marker);
}

void act_catch_up(struct move_op *op)
{
    op->fast_markers = 0;
    op_record(op)->verified.action[0] = '\0'; /* of another copy, if it was copied again */
    op->catch_up_until_ns = op_now(op) + CATCH_UP_LIMIT_NS;
    look_around(op, ACT_CATCH_UP, write_marker);
}

/* ---- rehearsal: everything the fence will do but the lock ---- */

static void rehearsed_once(struct move_op *op, const struct err *err)
{
    if (err != NULL) {
        act_done(op, ACT_REHEARSE, err);
        return;
    }
    uint64_t trip_ns = op_record(op)->marker_us * 1000;
    switch (calm_add(&op->calm, trip_ns, op_now(op))) {
    case CALM_AGAIN:
        if (op->core.undo_wanted) {
            act_fail(op, ACT_REHEARSE, ERRC_CANCELED, "taken back");
            break;
        }
        marker_round_trip(op, SLOW_MARKER_NS, rehearsed_once);
        break;
    case CALM_GO:
        act_done(op, ACT_REHEARSE, NULL);
        break;
    case CALM_BUSY:
        act_fail(op, ACT_REHEARSE, ERRC_TIMEOUT, "a marker took %llu ms, the fence allows 50",
                 (unsigned long long)(trip_ns / ENV_NS_PER_MS));
        break;
    }
}

static void prepare_guards(struct move_op *op);

static void guards_prepared(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (!pg_value_bool(reply, 0, 0)) {
        prepare_guards(op);
        return;
    }
    calm_begin(&op->calm, op_now(op));
    marker_round_trip(op, SLOW_MARKER_NS, rehearsed_once);
}

/* Should the table be published meanwhile, for another move, then the fence makes its guards itself. */
static void prepare_guards(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    const struct fleet_database *db = op_database(op);
    if (db == NULL)
        act_fail(op, ACT_REHEARSE, ERRC_NOT_FOUND, "the database was deleted");
    else
        act_sql(op, &op->source, ACT_REHEARSE, SQL_TIMEOUT_NS, guards_prepared,
                "SELECT shardherd.prepare_fence(%d, %L, %d, %d, %d, %d)", op_term(op), r->id, r->range.lo,
                r->range.hi, (int64_t)(db->routing->epoch + 1), (int64_t)GUARDED_AT_ONCE);
}

static void blockers_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const char *who = pg_value(reply, 0, 0);
    if (who != NULL)
        act_fail(op, action, ERRC_TIMEOUT, "%s", who);
    else
        prepare_guards(op);
}

static void look_for_blockers(struct move_op *op, enum move_action action)
{
    /* a transaction that wrote and stays open would make the LOCK of the fence time out again and again */
    act_sql(
        op, &op->source, action, SQL_TIMEOUT_NS, blockers_seen,
        "SELECT format('backend %%s (%%s) has held %%s for %%s s: waiting for it', a.pid, "
        "a.application_name, "
        "l.relation::regclass, extract(epoch FROM clock_timestamp() - a.xact_start)::int) "
        "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND l.relation IN (SELECT relation FROM shardherd.distributed_relations()) AND l.granted "
        "AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', "
        "'ShareRowExclusiveLock', "
        "'ExclusiveLock', 'AccessExclusiveLock') AND a.backend_type = 'client backend' "
        "AND a.xact_start < clock_timestamp() - interval '1 second' AND a.pid <> pg_backend_pid() LIMIT 1");
}

/* Without the notification markers are found by asking. */
static void listening(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)reply;
    look_around(op, action, look_for_blockers);
}

static void opener_warm(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    move_record_name(op_record(op), name);
    op->target_poll.notified = marker_notified;
    act_sql_any(op, &op->target_poll, action, SQL_TIMEOUT_NS, listening, "LISTEN %I", name);
}

static void reader_warm(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct move_record *r = op_record(op);
    (void)action;
    (void)reply;
    act_sql(op, &op->opener, ACT_REHEARSE, SQL_TIMEOUT_NS, opener_warm,
            "SELECT shardherd.warm_up_opening(%d, %d, %d)", op_term(op), r->range.lo, r->range.hi);
}

static void holders_warm(struct move_op *op)
{
    act_sql(op, &op->source_reader, ACT_REHEARSE, SQL_TIMEOUT_NS, reader_warm,
            "SELECT count(*) FROM shardherd.sequences(0)");
}

static void source_warm(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    (void)reply;
    hold_warm_up(op, holders_warm);
}

void act_rehearse(struct move_op *op)
{
    act_sql(op, &op->source, ACT_REHEARSE, SQL_TIMEOUT_NS, source_warm, "SELECT shardherd.warm_up_fence()");
}
