/*
 * The guard of commits that wait for standbys which are not there: PostgreSQL acknowledges a commit whose
 * wait for its standby is cancelled, while a session that is ended gets an error instead.
 *
 * It has a connection of its own, which is there before it is needed: behind the facts, or a slot that is
 * being made, it would come too late. Failure modes: without its connection it makes another one, at every
 * turn.
 */
#include <stdio.h>

#include "agent/member_impl.h"
#include "base/buf.h"
#include "base/log.h"

#define GUARD_NS (100 * ENV_NS_PER_MS) /* commits end at the second look in a row: */
#define SHORT_NS (50 * ENV_NS_PER_MS)  /* so long after the first, together at most 0.15 s */

static void guard_drop(struct member *m)
{
    m->guarding = false;
    m->guard_short = 0;
    if (m->guard != NULL)
        pg_conn_close(m->guard, NULL, NULL);
    m->guard = NULL;
}

static void connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct member *m = data;
    if (conn == m->guard && err != NULL)
        guard_drop(m);
}

static void lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct member *m = data;
    (void)err;
    if (conn == m->guard)
        guard_drop(m);
}

static void connect_guard(struct member *m)
{
    static const struct pg_conn_events events = {connected, lost, NULL};
    m->guard = member_conn_make(m, &events, MEMBER_CONN_OPTIONS, MEMBER_CONNECT_NS);
    if (pg_conn_connect(m->guard, NULL) != 0)
        guard_drop(m);
}

static void answered(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct member *m = data;
    int64_t ended = 0;
    if (conn != m->guard)
        return;
    m->guarding = false;
    if (reply->err != NULL)
        return;
    m->guard_short = pg_value_bool(reply, 0, 0) ? m->guard_short + 1 : 0;
    if (m->guard_short > 0)
        loop_timer_start(&m->guard_timer, SHORT_NS);
    if (pg_value_int64(reply, 0, 1, &ended) && ended > 0) {
        m->guard_ended += (uint64_t)ended;
        log_event(LOG_ERROR, "commits that waited for standbys which do not stream were ended", "sessions",
                  log_num(ended), NULL);
        member_changed(m);
    }
}

/* Statement: $1 the names, $2 how many of them are needed, $3 whether to end who waits. */
static void look(struct member *m)
{
    struct buf names = {0};
    char need[16];
    for (int i = 0; i < m->order.sync_count; i++)
        (void)buf_printf(&names, "%c%s", i == 0 ? '{' : ',', m->order.sync[i]);
    (void)buf_addc(&names, '}');
    (void)snprintf(need, sizeof need, "%d", m->order.sync_need);
    const char *const params[] = {buf_text(&names), need, m->guard_short > 0 ? "true" : "false"};
    const struct pg_request request = {
        .sql =
            "WITH s AS (SELECT count(DISTINCT application_name) < $2::int AS short FROM pg_stat_replication "
            "WHERE state = 'streaming' AND application_name = ANY ($1::text[])) "
            "SELECT short, CASE WHEN short AND $3::bool THEN (SELECT count(pg_terminate_backend(pid)) "
            "FROM pg_stat_activity WHERE wait_event = 'SyncRep') END FROM s",
        .extended = true,
        .prepared = "guard",
        .param_count = 3,
        .params = params,
        .timeout_ns = 5 * ENV_NS_PER_S,
    };
    m->guarding = pg_send(m->guard, &request, answered, m, NULL) == 0;
    buf_free(&names);
}

static void guard_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    loop_timer_start(timer, GUARD_NS);
    if (sm_now(&m->sm) != MEMBER_PRIMARY || m->order.sync_need == 0)
        return;
    if (m->guard == NULL)
        connect_guard(m);
    else if (!m->guarding && pg_conn_ready(m->guard))
        look(m);
}

void member_guard_init(struct member *m)
{
    loop_timer_init(&m->loop, &m->guard_timer, guard_fired, m);
}

void member_guard_begin(struct member *m)
{
    loop_timer_start(&m->guard_timer, GUARD_NS);
}

void member_guard_end(struct member *m)
{
    guard_drop(m);
    loop_timer_stop(&m->guard_timer);
}
