/*
 * The heartbeat: one row in the database postgres that the primary's agent counts up, so that a standby, and
 * whoever reads from it, can tell how late it is.
 *
 * A primary writes it after each look at its server, but only if somebody else wrote something since (a
 * transaction, or more log than a checkpoint and the row's own page make): an idle server stays idle, and its
 * standbys have all of it when they have that row. It is not written when the order is not confirmed, while
 * nobody is to be let in, while a volume is full, nor while standbys that commits wait for are missing: what
 * an old primary adds would only make its histories part. Its commit waits for no disk and no standby.
 *
 * Failure modes: what cannot be written or read leaves the count unknown (0), and is tried again at the next
 * look.
 */
#include <stdio.h>

#include "agent/member_impl.h"
#include "base/log.h"

/* More than what a checkpoint and the copy of the row's page after it take. */
#define IDLE_BYTES "16384"

static void failed(struct member *m, const struct err *err)
{
    if (!m->heartbeat_failed)
        log_event(LOG_WARN, "the heartbeat was not written or read; its lag is not known", "err",
                  err->message, NULL);
    m->heartbeat_failed = true;
    m->heartbeat = 0;
}

static void made(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct member *m = data;
    if (conn == m->conn && reply->err != NULL)
        failed(m, reply->err);
}

static void make(struct member *m)
{
    static const struct pg_request request = {
        .sql = "SET LOCAL synchronous_commit = off; "
               "CREATE SCHEMA IF NOT EXISTS shardherd; GRANT USAGE ON SCHEMA shardherd TO PUBLIC; "
               /* it has no index, so that each update stays in its page and makes room there by itself */
               "CREATE TABLE IF NOT EXISTS shardherd.heartbeat (n bigint NOT NULL, at timestamptz NOT NULL, "
               "term bigint NOT NULL, lsn pg_lsn, xid xid8) WITH (autovacuum_vacuum_threshold = 1000, "
               "autovacuum_analyze_threshold = 1000000); "
               "GRANT SELECT ON shardherd.heartbeat TO PUBLIC; "
               "INSERT INTO shardherd.heartbeat SELECT 1, clock_timestamp(), 0 WHERE NOT EXISTS (SELECT FROM "
               "shardherd.heartbeat)",
        .constant = true,
        .timeout_ns = 5 * ENV_NS_PER_S,
    };
    (void)pg_send(m->conn, &request, made, m, NULL);
}

static void answered(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct member *m = data;
    int64_t beat = 0;
    if (conn != m->conn)
        return;
    if (reply->err != NULL) {
        failed(m, reply->err);
        return;
    }
    m->heartbeat_failed = false;
    m->heartbeat = pg_value_int64(reply, 0, 0, &beat) ? (uint64_t)beat : 0;
}

/* The row is compared with the server as it is now; a statement that changes nothing writes nothing. */
static void count_up(struct member *m)
{
    char term[24];
    (void)snprintf(term, sizeof term, "%llu", (unsigned long long)m->order.term);
    const char *const params[] = {term};
    const struct pg_request request = {
        .sql =
            "WITH b AS (UPDATE shardherd.heartbeat SET n = n + 1, at = clock_timestamp(), term = $1, "
            "lsn = pg_current_wal_insert_lsn(), xid = pg_current_xact_id() WHERE xid IS NULL OR lsn IS NULL "
            "OR pg_snapshot_xmax(pg_current_snapshot())::text::bigint > xid::text::bigint + 1 "
            "OR abs(pg_current_wal_insert_lsn() - lsn) > " IDLE_BYTES " RETURNING n) "
            "SELECT coalesce((SELECT max(n) FROM b), (SELECT max(n) FROM shardherd.heartbeat)), "
            "set_config('synchronous_commit', 'off', true)",
        .extended = true,
        .prepared = "beat",
        .constant = true,
        .param_count = 1,
        .params = params,
        .timeout_ns = 5 * ENV_NS_PER_S,
    };
    (void)pg_send(m->conn, &request, answered, m, NULL);
}

static void read_row(struct member *m)
{
    static const struct pg_request request = {
        .sql = "SELECT max(n) FROM shardherd.heartbeat",
        .extended = true,
        .prepared = "beat read",
        .constant = true,
        .timeout_ns = 5 * ENV_NS_PER_S,
    };
    (void)pg_send(m->conn, &request, answered, m, NULL);
}

/* Whether what it writes is of a primary that others count on now. */
static bool may_write(const struct member *m)
{
    bool full = m->disk_state == DISK_FULL || m->wal_state == DISK_FULL;
    return sm_now(&m->sm) == MEMBER_PRIMARY && m->order.role == ORDER_PRIMARY && m->confirmed &&
           !m->order.held && !m->ending && !full && m->guard_short == 0 && member_lease_held(m);
}

void member_beat(struct member *m, bool there)
{
    bool reads = m->facts.recovery, writes = !reads && may_write(m);
    if (!reads && !writes)
        m->heartbeat = 0;
    else if (writes && !there)
        make(m);
    else if (writes)
        count_up(m);
    else if (there)
        read_row(m);
}
