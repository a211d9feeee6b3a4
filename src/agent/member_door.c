/*
 * The server's door: does the postmaster still let anybody in? Sessions that it let in before say nothing of
 * that, as they are processes of their own.
 *
 * Each second the kernel is asked whether the postmaster is stopped (SIGSTOP, a debugger), and each fifth a
 * new connection is tried. One that is stopped at two looks in a row, or that answers nothing to a new
 * connection for DOOR_NS, twice in a row, while the connection that the facts are asked over does answer (so
 * that it is not the machine that is slow), is ended by SIGKILL. What follows is that of a postmaster that
 * died: its sessions are ended, and it is started again in its place if the order is confirmed, or the shard
 * fails over. Any answer is one, also that there are too many sessions.
 */
#include <signal.h>

#include "agent/member_impl.h"
#include "agent/postmaster.h"
#include "base/log.h"

#define LOOK_NS      (1 * ENV_NS_PER_S)
#define TRY_NS       (5 * ENV_NS_PER_S)
#define DOOR_NS      (10 * ENV_NS_PER_S)
#define SILENT_TRIES 2
#define SLOW_NS      (5 * ENV_NS_PER_S) /* then it is not ready any more */
#define FRESH_NS     (3 * ENV_NS_PER_S)

static void door_drop(struct member *m)
{
    if (m->door != NULL)
        pg_conn_close(m->door, NULL, NULL);
    m->door = NULL;
    m->door_slow = false;
}

/* What was seen of a postmaster says nothing of the next one. */
static void door_forget(struct member *m)
{
    door_drop(m);
    m->door_stopped = m->door_silent = 0;
}

static void end_server(struct member *m, const char *why)
{
    log_event(LOG_ERROR, "the postmaster lets nobody in: it is ended", "why", why, NULL);
    door_forget(m);
    m->doors_shut++;
    (void)kill(m->server, SIGKILL); /* its end is told by SIGCHLD */
}

static void answered(struct pg_conn *conn, const struct err *err, void *data)
{
    struct member *m = data;
    uint64_t now = loop_now(&m->loop);
    if (conn != m->door)
        return;
    bool others = m->facts.known && now < m->facts.at_ns + FRESH_NS;
    bool silent = err != NULL && err->code == ERRC_TIMEOUT && others && m->server != 0 && m->stop_signal == 0;
    door_drop(m);
    m->door_silent = silent ? m->door_silent + 1 : 0;
    if (m->door_silent >= SILENT_TRIES)
        end_server(m, "new connections get no answer, while the one that there is does");
    member_changed(m);
}

static void try_door(struct member *m)
{
    static const struct pg_conn_events events = {answered, NULL, NULL};
    m->door_tried_ns = loop_now(&m->loop);
    m->door = member_conn_make(m, &events, MEMBER_CONN_OPTIONS, DOOR_NS);
    if (pg_conn_connect(m->door, NULL) != 0)
        door_drop(m);
}

static void door_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    bool shut = member_door_shut(m);
    uint64_t now = loop_now(&m->loop);
    loop_timer_start(timer, LOOK_NS);
    if (m->server == 0 || m->stop_signal != 0)
        return;
    m->door_stopped = postmaster_is_stopped(m->server) ? m->door_stopped + 1 : 0;
    if (m->door_stopped > 1)
        end_server(m, "it is stopped, by a signal or a debugger");
    else if (m->facts.known && m->door == NULL && now >= m->door_tried_ns + TRY_NS)
        try_door(m);
    m->door_slow = m->door_silent > 0 || (m->door != NULL && now >= m->door_tried_ns + SLOW_NS);
    if (shut != member_door_shut(m))
        member_changed(m);
}

bool member_door_shut(const struct member *m)
{
    return m->door_stopped > 0 || m->door_slow;
}

void member_door_init(struct member *m)
{
    loop_timer_init(&m->loop, &m->door_timer, door_fired, m);
}

void member_door_begin(struct member *m)
{
    door_forget(m);
    m->door_tried_ns = loop_now(&m->loop);
    loop_timer_start(&m->door_timer, LOOK_NS);
}

void member_door_end(struct member *m)
{
    door_forget(m);
    loop_timer_stop(&m->door_timer);
}
