/* What the server says of itself: over one connection to its socket, each second, and often while something
 * is expected of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/member_impl.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

#define FACTS_NS (1 * ENV_NS_PER_S)
#define SOON_NS  (20 * ENV_NS_PER_MS)  /* while it starts or is promoted, or an order is carried out */
#define HELD_NS  (100 * ENV_NS_PER_MS) /* while nobody is to be in it */

static void connect_server(struct member *m);

static void soon(struct member *m)
{
    loop_timer_start(&m->facts_timer, SOON_NS);
}

/* ---- slots ---- */

static void slots_made(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct member *m = data;
    int64_t in_use = 0;
    if (conn != m->conn)
        return;
    if (reply->err != NULL)
        log_event(LOG_ERROR, "slots of standbys could not be made or dropped", "err", reply->err->message,
                  NULL);
    else
        (void)pg_value_int64(reply, 0, 2, &in_use);
    if (reply->err != NULL || in_use > 0) /* its standby is just ending */
        m->slots_for = 0;                 /* again */
}

/* Makes the order's, and drops those of ours that it no longer names, as they would hold the log for ever. A
 * standby keeps those of who follows it: others would hold what its former standbys have got elsewhere. */
static void slots_settle(struct member *m)
{
    static const char sql[] =
        "WITH o AS MATERIALIZED (SELECT slot_name, active FROM pg_replication_slots WHERE slot_type = "
        "'physical' AND slot_name LIKE 'shardherd\\_%' AND slot_name <> ALL ($1::text[])) "
        "SELECT (SELECT count(pg_drop_replication_slot(slot_name)) FROM o WHERE NOT active), "
        "(SELECT count(pg_create_physical_replication_slot(n, true)) FROM unnest($1::text[]) n WHERE NOT "
        "EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = n)), "
        "(SELECT count(*) FROM o WHERE active)";
    struct buf names = {0};
    if (m->slots_for == m->orders || m->order.role == ORDER_NONE)
        return;
    (void)buf_addc(&names, '{');
    for (int i = 0; i < m->order.slot_count; i++)
        (void)buf_printf(&names, "%s%s", i == 0 ? "" : ",", m->order.slots[i]);
    (void)buf_addc(&names, '}');
    const char *const params[] = {buf_text(&names)};
    const struct pg_request request = {.sql = sql, .extended = true, .param_count = 1, .params = params};
    if (pg_send(m->conn, &request, slots_made, m, NULL) == 0)
        m->slots_for = m->orders;
    buf_free(&names);
}

/* ---- facts ---- */

static void copy(char *out, size_t size, const char *text)
{
    (void)snprintf(out, size, "%s", text != NULL ? text : "");
}

static void facts_take(struct member *m, const struct pg_reply *reply)
{
    struct member_facts *f = &m->facts;
    const char *standbys = pg_value(reply, 0, 10);
    f->known = true;
    f->recovery = pg_value_bool(reply, 0, 0);
    f->timeline = 0;
    (void)pg_value_int64(reply, 0, 1, &f->timeline);
    copy(f->written, sizeof f->written, pg_value(reply, 0, 2));
    copy(f->flushed, sizeof f->flushed, pg_value(reply, 0, 3));
    copy(f->replayed, sizeof f->replayed, pg_value(reply, 0, 4));
    copy(f->receiver, sizeof f->receiver, pg_value(reply, 0, 5));
    copy(f->upstream, sizeof f->upstream, pg_value(reply, 0, 6));
    f->receivers = 0;
    (void)pg_value_int64(reply, 0, 7, &f->receivers);
    f->nobody = pg_value_bool(reply, 0, 8);
    f->pending_restart = pg_value_bool(reply, 0, 9);
    f->complete = pg_value_bool(reply, 0, 11);
    f->silent_ms = -1;
    (void)pg_value_int64(reply, 0, 12, &f->silent_ms);
    copy(f->wal_from, sizeof f->wal_from, pg_value(reply, 0, 15));
    copy(f->mark, sizeof f->mark, pg_value(reply, 0, 13));
    f->strangers = 0;
    (void)pg_value_int64(reply, 0, 14, &f->strangers);
    free(f->standbys);
    f->standbys = mem_strdup(standbys != NULL ? standbys : "[]");
    f->at_ns = loop_now(&m->loop);
    f->applied = m->asked_applied;
}

static void facts_answered(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct member *m = data;
    if (conn != m->conn)
        return;
    m->asking = false;
    if (reply->err != NULL) { /* a lost connection is told by the connection */
        soon(m);
        return;
    }
    bool settled = member_settled(m), ready = member_ready(m);
    bool received = m->facts.known && strcmp(m->facts.receiver, "streaming") == 0;
    facts_take(m, reply);
    if (received != (strcmp(m->facts.receiver, "streaming") == 0))
        member_changed(m);
    member_server_up(m);
    if (m->conn == NULL)
        return; /* what came made us stop it */
    slots_settle(m);
    member_beat(m, pg_value_bool(reply, 0, 16));
    if (settled != member_settled(m) || ready != member_ready(m))
        member_changed(m);
    if (!member_settled(m))
        soon(m);
    if (m->order.held && sm_now(&m->sm) == MEMBER_STANDBY)
        member_step(m); /* perhaps it may be promoted now */
}

static void facts_ask(struct member *m)
{
    static const struct pg_request request = {
        .sql =
            /* without a receiver it is that of the last segment: the last checkpoint may be of the one before
             */
        "SELECT r, CASE WHEN r THEN greatest(w.received_tli, (pg_control_checkpoint()).timeline_id, "
        "CASE WHEN w.received_tli IS NULL THEN (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) "
        "FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$') END) "
        "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, "
        "CASE WHEN r THEN coalesce(w.written_lsn, pg_last_wal_receive_lsn()) ELSE pg_current_wal_lsn() "
        "END, "
        /* a receiver begins anew at its segment's start, and one that never ran has received nothing */
        "CASE WHEN r THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE "
        "pg_current_wal_flush_lsn() END, "
        "CASE WHEN r THEN pg_last_wal_replay_lsn() END, "
        "w.status, w.sender_host || ':' || w.sender_port, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'), "
        "current_setting('primary_conninfo') = '', "
        "EXISTS (SELECT FROM pg_settings WHERE pending_restart), "
        "(SELECT json_agg(json_build_object('name', application_name, 'state', state, 'sync', "
        "sync_state, "
        "'flushed', flush_lsn, 'replayed', replay_lsn)) FROM (SELECT * FROM pg_stat_replication ORDER BY "
        "application_name LIMIT 32) p), "
        "NOT r OR pg_last_wal_receive_lsn() IS NOT NULL OR EXISTS (SELECT FROM pg_stat_activity WHERE "
        "backend_type = 'startup' AND wait_event IN ('RecoveryRetrieveRetryInterval', "
        "'RecoveryWalStream')), "
        "(extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time) * 1000)::bigint, "
        "current_setting('shardherd.settings', true), "
        /* our own setting says that the postmaster lets nobody else in any more: it loads before it tells us
         */
        "CASE WHEN current_setting('shardherd.held', true) = 'on' THEN (SELECT count(pg_terminate_backend("
        "pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename IS DISTINCT FROM "
        "'" AGENT_SUPERUSER "') END, "
        /* of whatever timeline: segments are numbered through */
        "(SELECT '0/0'::pg_lsn + (('x' || substr(n, 1, 8))::bit(32)::bigint * 4294967296 + "
        "('x' || substr(n, 9, 8))::bit(32)::bigint * (SELECT setting::bigint FROM pg_settings WHERE name = "
        "'wal_segment_size')) FROM (SELECT min(substr(name, 9)) n FROM pg_ls_waldir() WHERE name ~ "
        "'^[0-9A-F]{24}$') w), to_regclass('shardherd.heartbeat') IS NOT NULL "
        "FROM (SELECT pg_is_in_recovery() r) s LEFT JOIN pg_stat_wal_receiver w ON true",
        .extended = true,
        .prepared = "facts",
        .constant = true,
        .timeout_ns = 5 * ENV_NS_PER_S,
    };
    if (m->asking || m->conn == NULL || !pg_conn_ready(m->conn))
        return;
    m->asked_applied = m->applied;
    m->asking = pg_send(m->conn, &request, facts_answered, m, NULL) == 0;
}

/* ---- the connection ---- */

static void conn_drop(struct member *m)
{
    m->facts.known = m->asking = false;
    m->heartbeat = 0;
    if (m->conn != NULL)
        pg_conn_close(m->conn, NULL, NULL);
    m->conn = NULL;
}

static void connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct member *m = data;
    if (conn != m->conn)
        return;
    if (err == NULL) {
        facts_ask(m);
        loop_timer_start(&m->facts_timer, FACTS_NS);
        return;
    }
    if (sm_now(&m->sm) == MEMBER_STARTING)
        err_copy(&m->err, err);
    conn_drop(m);
    soon(m);
}

static void lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct member *m = data;
    (void)err;
    if (conn != m->conn)
        return;
    conn_drop(m);
    if (sm_now(&m->sm) == MEMBER_PRIMARY || sm_now(&m->sm) == MEMBER_STANDBY)
        sm_move(&m->sm, MEMBER_STARTING); /* it restarts its processes after a crash of one, or it ends */
    soon(m);
}

struct pg_conn *member_conn_make(struct member *m, const struct pg_conn_events *events, const char *options,
                                 uint64_t patience_ns)
{
    const struct pg_target target = {
        .host = m->o.run,
        .port = m->o.port,
        .dbname = "postgres",
        .user = AGENT_SUPERUSER,
        .application_name = "shardherd agent",
        .options = options,
        .connect_timeout_ns = patience_ns,
    };
    return pg_conn_new(&m->loop, &target, events, m);
}

static void connect_server(struct member *m)
{
    static const struct pg_conn_events events = {connected, lost, NULL};
    struct err err = {0};
    m->conn = member_conn_make(m, &events, MEMBER_CONN_OPTIONS, MEMBER_CONNECT_NS);
    if (pg_conn_connect(m->conn, &err) != 0) {
        err_copy(&m->err, &err);
        conn_drop(m);
        soon(m);
    }
}

/* ---- the checkpoint after a promotion, over a connection of its own ---- */

static void side_drop(struct member *m)
{
    if (m->side != NULL)
        pg_conn_close(m->side, NULL, NULL);
    m->side = NULL;
}

static void checkpointed(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct member *m = data;
    if (conn != m->side)
        return;
    if (reply->err != NULL)
        log_event(LOG_ERROR, "a checkpoint failed", "err", reply->err->message, NULL);
    else {
        m->checkpoints++;
        m->checkpoint_due = false;
    }
    side_drop(m);
    member_changed(m);
}

static void side_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    static const struct pg_request request = {.sql = "CHECKPOINT", .timeout_ns = 600 * ENV_NS_PER_S};
    struct member *m = data;
    if (conn == m->side && (err != NULL || pg_send(conn, &request, checkpointed, m, NULL) != 0))
        side_drop(m);
}

void member_checkpoint(struct member *m)
{
    static const struct pg_conn_events events = {side_connected, NULL, NULL};
    m->checkpoint_due = true;
    side_drop(m);
    m->side = member_conn_make(m, &events, NULL, MEMBER_CONNECT_NS);
    if (pg_conn_connect(m->side, NULL) != 0)
        side_drop(m);
}

void member_checkpoint_soon(struct member *m)
{
    int state = sm_now(&m->sm);
    if (m->side == NULL && (state == MEMBER_PRIMARY || state == MEMBER_STANDBY))
        member_checkpoint(m);
}

static void facts_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    if (m->conn == NULL) {
        connect_server(m);
    } else {
        facts_ask(m);
        if (m->checkpoint_due) /* the server had no room for one more, say */
            member_checkpoint_soon(m);
        loop_timer_start(timer, m->order.held ? HELD_NS : FACTS_NS);
    }
}

/* ---- begin and end ---- */

void member_facts_init(struct member *m)
{
    loop_timer_init(&m->loop, &m->facts_timer, facts_fired, m);
    member_guard_init(m);
    member_door_init(m);
}

void member_facts_begin(struct member *m)
{
    m->slots_for = 0;
    soon(m);
    member_guard_begin(m);
    member_door_begin(m);
}

void member_facts_soon(struct member *m)
{
    if (loop_timer_armed(&m->facts_timer))
        soon(m);
}

void member_facts_end(struct member *m)
{
    conn_drop(m);
    side_drop(m);
    m->checkpoint_due = false;
    loop_timer_stop(&m->facts_timer);
    member_guard_end(m);
    member_door_end(m);
}
