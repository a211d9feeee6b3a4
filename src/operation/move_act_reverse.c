/*
 * The way back. Before the fence T gets a publication and a slot for R in the other direction. After the
 * opening S follows T: its subscription begins at X, the position of the opening, which is read from T and
 * from nowhere else; what lies before it came from S. It is enabled only once the forward subscription is
 * proved absent on T and its slot on S, or both would send each other's changes round and round (A10).
 *
 * The origin's position is not durable by itself (B7): it is set in the transaction that enables the
 * subscription, whose commit flushes both. A resume finds a subscription that is enabled, and leaves its
 * position alone, or one that is not, and sets it: never backward.
 *
 * While it bakes, what S has of R is compared with what T has, as T's rows were with S's before the fence. A
 * difference there is one of the reverse copy or, since nobody else has looked at T's rows since, of T's own.
 *
 * "S" and "T" are those of the move as it was asked for. op->source is S, but for act_reverse_check(), which
 * runs also when they have changed places.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

#define SLOT_TRY_NS       (60 * ENV_NS_PER_S)  /* it waits for the transactions that are open on T */
#define REVERSE_PIECE     (256ull << 20)       /* bytes: nobody waits for the result, so others go first */
#define REVERSE_MARKER_NS (600 * ENV_NS_PER_S) /* as for catching up */

/* system identifier and timeline: another one means that something was lost on the way (A7) */
#define IDENTITY                                                                                             \
    "(pg_control_system()).system_identifier, "                                                              \
    "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"
#define THIS_DATABASE "(SELECT oid FROM pg_database WHERE datname = current_database())"

static uint64_t number_at(const PGresult *result, int column)
{
    uint64_t value = 0;
    if (PQntuples(result) == 1 && !PQgetisnull(result, 0, column))
        text_to_uint64(PQgetvalue(result, 0, column), &value);
    return value;
}

/* Of the subscription on S. */
static void reverse_name(const struct move_op *op, char out[MOVE_NAME_SIZE])
{
    const struct move_record *r = &op->core.record;
    if (r->back)
        move_record_name(r, out);
    else
        move_record_other_name(r, out);
}

/* ---- slot, before the fence ---- */

static void source_identified(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    op_record(op)->source_timeline = number_at(reply->results[0], 1);
    act_done(op, action, NULL);
}

static void target_identified(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_record *r = op_record(op);
    r->target_system = number_at(reply->results[0], 0);
    r->target_timeline = number_at(reply->results[0], 1);
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, source_identified, "SELECT " IDENTITY);
}

static void slot_made(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)reply;
    act_sql(op, &op->target, action, SQL_TIMEOUT_NS, target_identified, "SELECT " IDENTITY);
}

/* A statement of its own: a slot cannot be made by a transaction that has locked a row. */
static void make_slot(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    reverse_name(op, name);
    act_sql(op, &op->target, action, SLOT_TRY_NS, slot_made,
            "SET LOCAL statement_timeout = '50s'; SELECT pg_create_logical_replication_slot(%L, 'pgoutput')",
            name);
}

/* One that was not finished, or that T has given up, holds nothing that is needed: nobody writes R on T yet.
 */
static void slot_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    reverse_name(op, name);
    if (pg_rows(reply) == 0)
        make_slot(op, action, reply);
    else if (pg_value_bool(reply, 0, 0))
        slot_made(op, action, reply);
    else
        act_sql(op, &op->target, action, SQL_TIMEOUT_NS, make_slot,
                "SELECT shardherd.check_term(%d); SELECT pg_drop_replication_slot(slot_name) FROM "
                "pg_replication_slots WHERE slot_name = %L",
                op_term(op), name);
}

static void published(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    uint64_t oid = number_at(reply->results[reply->count - 1], 0);
    if (oid == 0) {
        act_fail(op, action, ERRC_PROTOCOL, "the reverse publication has no oid");
        return;
    }
    op_record(op)->reverse_publication = oid;
    reverse_name(op, name);
    act_sql(op, &op->target, action, SQL_TIMEOUT_NS, slot_seen,
            "SELECT confirmed_flush_lsn IS NOT NULL AND coalesce(wal_status, 'lost') <> 'lost' "
            "FROM pg_replication_slots WHERE slot_name = %L",
            name);
}

void act_reverse_slot(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    char name[MOVE_NAME_SIZE];
    reverse_name(op, name);
    act_sql(op, &op->target, ACT_REVERSE_SLOT, SQL_TIMEOUT_NS, published,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.publish_range(%d, %L, %L, %d, %d)", op_term(op),
            r->id, name, r->range.lo, r->range.hi);
}

/* ---- S follows T ---- */

static void created(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE], forward[MOVE_NAME_SIZE];
    (void)reply;
    reverse_name(op, name);
    move_record_name(op_record(op), forward);
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, NULL,
            "SELECT shardherd.follow_from(%d, %L, %L::pg_lsn); SELECT shardherd.refuse_replication(%L); "
            "ALTER SUBSCRIPTION %I ENABLE",
            op_term(op), name, op->opened_at, forward, name);
}

static void create_subscription(struct move_op *op, enum move_action action, bool from_16)
{
    char name[MOVE_NAME_SIZE];
    char *conninfo = move_conninfo(&op->target.access, &op->source.access);
    reverse_name(op, name);
    /* in the session that logs no statements, or not at all: the statement holds a password */
    act_sql_in(
        op, &op->source, op->quiet_session, action, 120 * ENV_NS_PER_S, created,
        "SELECT shardherd.check_term(%d); "
        "CREATE SUBSCRIPTION %I CONNECTION %L PUBLICATION %I WITH (enabled = false, copy_data = false, "
        "create_slot = false, slot_name = %L, synchronous_commit = 'off'%s)", /* see marker_came() */
        op_term(op), name, conninfo, name, name, from_16 ? ", origin = none, run_as_owner = true" : "");
    explicit_bzero(conninfo, strlen(conninfo));
    free(conninfo);
}

static void follower_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const PGresult *seen = reply->results[reply->count - 1];
    op->quiet_session = link_session(&op->source);
    if (PQgetvalue(seen, 0, 0)[0] == 't')
        created(op, action, reply);
    else
        create_subscription(op, action, PQgetvalue(seen, 0, 1)[0] == 't');
}

/* What T says of the opening, the slot and the publication. */
static const char *not_to_follow(const struct move_record *r, const PGresult *seen)
{
    if (PQgetisnull(seen, 0, 0))
        return "the target does not know any more where the range was opened";
    if (PQgetisnull(seen, 0, 1))
        return "the reverse slot is gone or lost";
    if (number_at(seen, 2) != r->reverse_publication)
        return "the reverse publication was made anew";
    if (number_at(seen, 3) != r->target_system || number_at(seen, 4) != r->target_timeline)
        return "the target is another server, or on another timeline, than at the fence";
    return NULL;
}

static void opening_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const PGresult *seen = reply->results[reply->count - 1];
    const char *why = not_to_follow(op_record(op), seen);
    char name[MOVE_NAME_SIZE];
    if (why != NULL) {
        act_fail(op, action, ERRC_REFUSED, "%s", why);
        return;
    }
    snprintf(op->opened_at, sizeof op->opened_at, "%s", PQgetvalue(seen, 0, 0));
    reverse_name(op, name);
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, follower_seen,
            "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = "
            "'panic'; SET log_min_duration_sample = -1; SET track_activities = off; "
            "SELECT shardherd.await_markers(%d, %L, %L); "
            "SELECT EXISTS (SELECT FROM pg_subscription WHERE subname = %L AND subdbid = " THIS_DATABASE "), "
            "current_setting('server_version_num')::int >= 160000",
            op_term(op), op_record(op)->id, name, name);
}

void act_reverse_follow(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    char name[MOVE_NAME_SIZE], forward[MOVE_NAME_SIZE];
    reverse_name(op, name);
    move_record_name(r, forward);
    act_sql(op, &op->target, ACT_REVERSE_FOLLOW, SQL_TIMEOUT_NS, opening_read,
            "SELECT shardherd.check_term(%d); SELECT shardherd.refuse_replication(%L); "
            "SELECT (SELECT lsn FROM shardherd.opening WHERE move = %L), "
            "(SELECT 1 FROM pg_replication_slots WHERE slot_name = %L AND coalesce(wal_status, 'lost') <> "
            "'lost'), (SELECT oid FROM pg_publication WHERE pubname = %L), " IDENTITY,
            op_term(op), forward, r->id, name, name);
}

/* ---- before S is compared with T, and before R goes back ---- */

/* Who has R, and who follows; as the record has them. */
struct follow {
    struct link *giver, *follower;
    const char *giver_name, *follower_name;
    uint64_t giver_system, giver_timeline, follower_system, follower_timeline;
};

static struct follow follow_of(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    struct follow f = {&op->source,      &op->target,        r->source,        r->target,
                       r->source_system, r->source_timeline, r->target_system, r->target_timeline};
    if (!r->back)
        f = (struct follow){&op->target,      &op->source,        r->target,        r->source,
                            r->target_system, r->target_timeline, r->source_system, r->source_timeline};
    return f;
}

static void follower_checked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct follow f = follow_of(op);
    const PGresult *seen = reply->results[0];
    if (number_at(seen, 0) != f.follower_system || number_at(seen, 1) != f.follower_timeline)
        act_fail(
            op, action, ERRC_REFUSED,
            "shard %s is another server, or on another timeline, than when it gave the range away: it may "
            "lack what shard %s has acknowledged since",
            f.follower_name, f.giver_name);
    else if (PQgetvalue(seen, 0, 2)[0] != 't')
        act_fail(op, action, ERRC_REFUSED,
                 "shard %s does not follow shard %s any more: the reverse subscription is gone or disabled",
                 f.follower_name, f.giver_name);
    else
        act_done(op, action, NULL);
}

static void giver_checked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_record *r = op_record(op);
    const struct follow f = follow_of(op);
    const PGresult *seen = reply->results[0];
    char name[MOVE_NAME_SIZE];
    reverse_name(op, name);
    if (number_at(seen, 0) != f.giver_system || number_at(seen, 1) != f.giver_timeline)
        act_fail(
            op, action, ERRC_REFUSED,
            "shard %s is another server, or on another timeline, than when it got the range: shard %s may "
            "not have all that it acknowledged",
            f.giver_name, f.follower_name);
    else if (PQgetvalue(seen, 0, 2)[0] != 't')
        act_fail(op, action, ERRC_REFUSED, "the reverse slot on shard %s is gone or lost", f.giver_name);
    else if (number_at(seen, 3) != r->reverse_publication)
        act_fail(op, action, ERRC_REFUSED, "the reverse publication on shard %s was made anew", f.giver_name);
    else {
        if (r->back)
            r->source_epoch = number_at(seen, 4);
        act_sql(op, f.follower, action, SQL_TIMEOUT_NS, follower_checked,
                "SELECT " IDENTITY ", EXISTS (SELECT FROM pg_subscription WHERE subname = %L AND subenabled "
                "AND subdbid = " THIS_DATABASE ")",
                name);
    }
}

void act_reverse_check(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    reverse_name(op, name);
    act_sql(op, follow_of(op).giver, ACT_REVERSE_CHECK, SQL_TIMEOUT_NS, giver_checked,
            "SELECT " IDENTITY ", EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %L AND "
            "coalesce(wal_status, 'lost') <> 'lost'), (SELECT oid FROM pg_publication WHERE pubname = %L), "
            "(SELECT epoch FROM shardherd.shard)",
            name, name);
}

/* ---- S's copy against T's rows ---- */

void act_reverse_verify(struct move_op *op)
{
    struct move_record *r = op_record(op);
    const struct verify_plan plan = {.action = ACT_REVERSE_VERIFY,
                                     .owner = &op->target,
                                     .copy = &op->source,
                                     .owner_name = r->target,
                                     .copy_name = r->source,
                                     .progress = &r->reverse_verified,
                                     .piece_most = REVERSE_PIECE,
                                     .marker_bound_ns = REVERSE_MARKER_NS,
                                     .gentle = true,
                                     .marker = marker_round_trip_back};
    verify_start(op, &plan);
}

/* ---- the end of it: subscription, slot, publication (A13) ---- */

static void drop_on_target(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    reverse_name(op, name);
    act_sql(
        op, &op->target, action, SQL_TIMEOUT_NS, NULL,
        "SELECT shardherd.check_term(%d); SELECT set_config('shardherd.operation', %L, true); "
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %L AND "
        "active_pid IS NOT NULL; "
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %L; "
        "DROP PUBLICATION IF EXISTS %I; DROP TABLE IF EXISTS shardherd.%I",
        op_term(op), op_record(op)->id, name, name, name, name);
}

static void subscription_dropped(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    reverse_name(op, name);
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, drop_on_target,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.check_term(%d); "
            "SELECT set_config('shardherd.operation', %L, true); DROP TABLE IF EXISTS shardherd.%I",
            op_term(op), op_record(op)->id, name);
}

static void subscription_detached(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    reverse_name(op, name);
    act_sql(op, &op->source, action, 60 * ENV_NS_PER_S, subscription_dropped,
            "DROP SUBSCRIPTION IF EXISTS %I", name);
}

static void subscription_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    reverse_name(op, name);
    if (pg_rows(reply) == 0)
        subscription_dropped(op, action, reply);
    else /* without its slot, so that dropping it does not depend on T */
        act_sql(op, &op->source, action, 60 * ENV_NS_PER_S, subscription_detached,
                "SELECT shardherd.check_term(%d); ALTER SUBSCRIPTION %I DISABLE; "
                "ALTER SUBSCRIPTION %I SET (slot_name = NONE)",
                op_term(op), name, name);
}

void act_reverse_drop(struct move_op *op)
{
    struct pg_reply nothing = {0};
    char name[MOVE_NAME_SIZE];
    reverse_name(op, name);
    if (!op->target_known)
        act_fail(op, ACT_REVERSE_DROP, ERRC_UNAVAILABLE, "the primary of shard %s is not known",
                 op_record(op)->target);
    else if (!op->source_known) /* retired before a crash, with its subscription */
        drop_on_target(op, ACT_REVERSE_DROP, &nothing);
    else
        act_sql(op, &op->source, ACT_REVERSE_DROP, SQL_TIMEOUT_NS, subscription_seen,
                "SELECT 1 FROM pg_subscription WHERE subname = %L AND subdbid = " THIS_DATABASE, name);
}
