/* The server's life: begin, run, reload, promote, stop, and the sweep after its end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/member_impl.h"
#include "agent/postmaster.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

#define IMMEDIATE_NS (5 * ENV_NS_PER_S)     /* for an immediate stop; then SIGKILL */
#define STEADY_NS    (5 * ENV_NS_PER_S)     /* who lived shorter is started again after a pause only */
#define TURN_NS      (1500 * ENV_NS_PER_MS) /* a receiver tries every half a second */

/* ---- begin ---- */

static void begin_run(struct work *work)
{
    struct member *m = work->data;
    if (postmaster_sweep(m->job.o.data, &m->job.err) == 0 && agent_port_check(&m->job.o, &m->job.err) == 0)
        (void)member_configure(&m->job, false, &m->job.err);
}

static void applied(struct member *m)
{
    m->applied++;
    m->applied_inputs = m->job.inputs;
    m->marks = m->job.marks;
}

static void spawn(struct member *m)
{
    struct err err = {0};
    char *postgres = member_program(m, "postgres");
    const char *const argv[] = {postgres, "-D", m->o.data, NULL};
    m->started_ns = loop_now(&m->loop);
    m->stop_signal = 0;
    if (postmaster_spawn(argv, &m->server, &err) != 0) {
        member_fail(m, &err);
    } else {
        watchdog_set_postmaster(m->dog, m->server);
        member_turn(m);
        member_facts_begin(m);
    }
    free(postgres);
}

static void begun(struct member *m)
{
    applied(m);
    if (m->orders != m->job_orders || m->ending || (m->as_primary && !member_lease_held(m)))
        member_settle(m, MEMBER_STOPPED); /* the step that follows decides anew */
    else
        spawn(m);
}

void member_server_begin(struct member *m)
{
    /* under a later term it begins a timeline of its own, which only a promotion does */
    m->as_primary = m->order.role == ORDER_PRIMARY && m->marks.primary &&
                    (m->marks.primary_term == 0 || m->marks.primary_term == m->order.term);
    if (m->as_primary)
        m->marks.primary_term = m->order.term;
    m->lease_lost = false;
    if (m->order.role != ORDER_PRIMARY)
        watchdog_set_deadline(m->dog, 0); /* of an order before */
    member_job_start(m, MEMBER_STARTING, begin_run, begun);
    free(m->applied_more);
    m->applied_more = mem_strdup(m->job.o.more);
}

/* ---- stop ---- */

static void stop_send(struct member *m, int number)
{
    m->stop_signal = number;
    (void)kill(m->server, number);
    loop_timer_start(&m->stop_timer, number == SIGINT ? m->o.stop_ns : IMMEDIATE_NS);
}

static void stop_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    (void)timer;
    if (m->server == 0)
        return;
    log_event(LOG_WARN, "the server does not stop in time", "next",
              m->stop_signal == SIGINT ? "an immediate stop" : "SIGKILL", NULL);
    stop_send(m, m->stop_signal == SIGINT ? SIGQUIT : SIGKILL);
}

/* What the order means for a server that runs: a signal to end it by, or 0. */
static int stop_wanted(const struct member *m)
{
    const struct order *o = &m->order;
    bool anew = (o->rejoin == ORDER_CLONE && !marks_cloned(&m->marks, o)) ||
                (o->rejoin == ORDER_REWIND && m->marks.rewound != o->term) ||
                (o->host[0] != '\0' && (m->marks.primary || m->marks.rewinding));
    switch (o->role) {
    case ORDER_FENCED:
        return SIGQUIT;
    case ORDER_PRIMARY:
        return !member_lease_held(m) ? SIGQUIT : m->ending ? SIGINT : 0;
    case ORDER_STANDBY:
        return m->ending || m->as_primary || anew ? SIGINT : 0;
    case ORDER_STOPPED:
        return SIGINT;
    default:
        return m->ending ? SIGINT : 0;
    }
}

static void stop(struct member *m, int number)
{
    if (sm_now(&m->sm) != MEMBER_STOPPING) {
        sm_move(&m->sm, MEMBER_STOPPING);
        member_facts_end(m);
        stop_send(m, number);
    } else if (number == SIGQUIT && m->stop_signal == SIGINT) {
        stop_send(m, number);
    }
}

/* ---- its end ---- */

static void sweep_run(struct work *work)
{
    struct member *m = work->data;
    (void)postmaster_sweep(m->job.o.data, &m->job.err);
    control_read(m->job.o.data, &m->job.control);
}

static void swept(struct member *m)
{
    struct err err = {0};
    bool steady = loop_now(&m->loop) - m->started_ns > STEADY_NS;
    bool wanted = m->stop_signal != 0;
    m->unswept = false;
    if (steady)
        m->backoff_ns = MEMBER_BACKOFF_NS;
    watchdog_set_postmaster(m->dog, 0);
    watchdog_set_deadline(m->dog,
                          m->order.role == ORDER_PRIMARY && m->order.lease_ms > 0 ? m->lease_until : 0);
    m->control = m->job.control;
    m->stop_signal = 0;
    m->as_primary = false;
    if (wanted || steady || m->exits <= 1) {
        member_settle(m, MEMBER_STOPPED);
    } else {
        (void)err_set(&err, ERRC_CLOSED, "PostgreSQL %s soon after its start", m->exit_text);
        member_fail(m, &err);
    }
}

void member_server_sweep(struct member *m)
{
    member_job_start(m, MEMBER_STOPPING, sweep_run, swept);
}

/* The watchdog goes on looking for what the postmaster may have left behind until the sweep is done. */
static void server_ended(struct member *m, const siginfo_t *info)
{
    loop_timer_stop(&m->stop_timer);
    m->server = 0;
    m->unswept = true;
    member_turn(m); /* perhaps it was ended because we stood still */
    if (m->order.role == ORDER_PRIMARY && !member_lease_held(m)) { /* by the watchdog, if not by us */
        m->lease_lost = true;
        m->stop_signal = SIGQUIT;
    }
    watchdog_set_postmaster(m->dog, -1);
    member_facts_end(m);
    if (m->stop_signal == 0) {
        m->exits++;
        (void)snprintf(m->exit_text, sizeof m->exit_text,
                       info->si_code == CLD_EXITED ? "ended with exit code %d" : "was ended by signal %d",
                       info->si_status);
        log_event(LOG_ERROR, "the server has ended by itself", "how", m->exit_text, NULL);
    } else {
        log_event(LOG_INFO, "the server has stopped", NULL);
    }
    member_settle(m, MEMBER_STOPPING);
    member_step(m); /* to the sweep, at once or when a job that is under way has ended */
}

void member_server_reap(struct member *m)
{
    siginfo_t info = {0};
    if (m->server != 0 && waitid(P_PID, (id_t)m->server, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0)
        server_ended(m, &info);
}

/* ---- changes while it runs ---- */

static void reload_run(struct work *work)
{
    struct member *m = work->data;
    (void)member_configure(&m->job, true, &m->job.err);
}

static void reloaded(struct member *m)
{
    applied(m);
    if (m->server != 0)
        (void)kill(m->server, SIGHUP);
    log_event(LOG_INFO, "the configuration was reloaded", NULL);
    member_facts_soon(m);
}

/*
 * While the servers of the shard are about to get another password, and a little after, the upstream may want
 * either: a standby that receives nothing tries the one and the other by turns.
 */
static bool turn_password(struct member *m)
{
    int state = sm_now(&m->sm);
    uint64_t now = loop_now(&m->loop), since = m->turned_ns > m->started_ns ? m->turned_ns : m->started_ns;
    bool receives = m->facts.known && strcmp(m->facts.receiver, "streaming") == 0;
    if (m->seen.next == 0) {
        m->next_password = false;
        return false;
    }
    if ((state != MEMBER_STANDBY && state != MEMBER_STARTING) || m->order.host[0] == '\0' || receives ||
        (m->facts.known && m->facts.applied != m->applied) || now < since + TURN_NS)
        return false;
    m->next_password = !m->next_password;
    m->turned_ns = now;
    return true;
}

static bool reload_if_changed(struct member *m)
{
    char *wanted = member_settings(m);
    bool same = !turn_password(m) && strcmp(wanted, m->applied_more) == 0 &&
                (m->seen.settings == 0 || m->seen.settings == m->applied_inputs.settings) &&
                (m->seen.tls == 0 || m->seen.tls == m->applied_inputs.tls) &&
                (m->seen.password == 0 || m->seen.password == m->applied_inputs.password);
    free(wanted);
    if (same)
        return false;
    member_job_start(m, sm_now(&m->sm), reload_run, reloaded);
    free(m->applied_more);
    m->applied_more = mem_strdup(m->job.o.more);
    return true;
}

static void promote_run(struct work *work)
{
    struct member *m = work->data;
    m->job.marks.primary = true;
    m->job.marks.primary_term = m->job.order.term;
    (void)marks_save(m->job.o.data, &m->job.marks, &m->job.err);
}

/*
 * The file and the signal together, in one turn of the loop, not by the worker: any SIGUSR1 makes the
 * postmaster look for the file, so that one that was left there would promote it later.
 */
static int promote(struct member *m, struct err *err)
{
    char *path = mem_printf("%s/promote", m->o.data);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int rc = fd < 0 ? err_set_errno(err, errno, "cannot write %s", path) : 0;
    if (fd >= 0)
        (void)close(fd);
    if (rc == 0)
        (void)kill(m->server, SIGUSR1);
    free(path);
    return rc;
}

static void promoted(struct member *m)
{
    struct err err = {0};
    m->marks = m->job.marks;
    if (m->orders != m->job_orders || m->ending || !member_lease_held(m) || sm_now(&m->sm) != MEMBER_STANDBY)
        return;
    m->as_primary = true;
    member_turn(m);
    sm_move(&m->sm, MEMBER_PROMOTING);
    if (promote(m, &err) != 0) {
        err_copy(&m->err, &err);
        stop(m, SIGQUIT);
    } else {
        member_facts_soon(m);
    }
}

bool member_server_ends(struct member *m)
{
    int signal = stop_wanted(m);
    if (m->server != 0 && signal != 0)
        stop(m, signal);
    return sm_now(&m->sm) == MEMBER_STOPPING;
}

void member_server_step(struct member *m)
{
    int state = sm_now(&m->sm);
    if (m->order.role == ORDER_NONE || state == MEMBER_PROMOTING || loop_timer_armed(&m->retry) ||
        reload_if_changed(m))
        return;
    bool may = m->facts.known && (!m->order.held || member_applied(m)); /* nobody is in it who could write */
    if (m->order.role == ORDER_PRIMARY && state == MEMBER_STANDBY && may)
        member_job_start(m, state, promote_run, promoted);
}

void member_server_up(struct member *m)
{
    int state = sm_now(&m->sm);
    if (state != MEMBER_STARTING && state != MEMBER_PROMOTING)
        return;
    if (state == MEMBER_PROMOTING && m->facts.recovery)
        return;
    if (state == MEMBER_PROMOTING)
        member_checkpoint(m);
    if (!m->facts.recovery) /* for when it is a standby again; until it is written, marks.primary says it */
        marks_label(&m->marks, (uint32_t)m->facts.timeline, m->marks.primary_term);
    err_clear(&m->err);
    sm_move(&m->sm, m->facts.recovery ? MEMBER_STANDBY : MEMBER_PRIMARY);
    log_event(LOG_INFO, "the server is up", "role", sm_name(&m->sm), NULL);
    member_step(m);
}

void member_server_hindered(struct member *m, const struct err *why)
{
    err_copy(&m->err, why);
    log_event(LOG_ERROR, "the configuration could not be changed", "err", why->message, NULL);
    free(m->applied_more);
    m->applied_more = mem_strdup("");
    loop_timer_start(&m->retry, ENV_NS_PER_S);
    member_changed(m);
}

void member_server_init(struct member *m)
{
    loop_timer_init(&m->loop, &m->stop_timer, stop_fired, m);
}
