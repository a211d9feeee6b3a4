/*
 * Happy path: lock and read the data directory, wait for an order, do what is missing for it, one thing at a
 * time: each job, program or server that ends calls member_step(), which looks again.
 */
#include "agent/member.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/member_impl.h"
#include "agent/oom.h"
#include "agent/postmaster.h"
#include "base/log.h"
#include "base/mem.h"

#define BACKOFF_MAX_NS (10 * ENV_NS_PER_S)
#define LEAVE_NS       (10 * ENV_NS_PER_S) /* to hand over; a pod and the local runtime wait for longer */
#define BUSY_MAX_NS    ENV_NS_PER_S        /* somebody else has what it takes: it may be free at any moment */
#define HELPER_NS      (24 * 3600 * ENV_NS_PER_S) /* a clone may take long; its owner cancels it */

#define N(state) SM_NEXT(MEMBER_##state)
/* without a server, and nothing going on */
#define IDLE (N(EMPTY) | N(STOPPED) | N(FENCED) | N(FAILED))
static const struct sm_state states[MEMBER_STATE_MAX] = {
    [MEMBER_LOOKING] = {"looking", IDLE, false},
    [MEMBER_EMPTY] = {"empty", N(INITIALIZING) | N(CLONING) | IDLE | N(ENDED), false},
    [MEMBER_INITIALIZING] = {"initializing", IDLE, false},
    [MEMBER_CLONING] = {"cloning", IDLE, false},
    [MEMBER_REWINDING] = {"rewinding", IDLE, false},
    [MEMBER_STOPPED] = {"stopped", N(STARTING) | N(CLONING) | N(REWINDING) | IDLE | N(ENDED), false},
    [MEMBER_FENCED] = {"fenced", N(STARTING) | N(CLONING) | N(REWINDING) | IDLE | N(ENDED), false},
    [MEMBER_FAILED] = {"failed", IDLE | N(STOPPING) | N(ENDED), false},
    [MEMBER_STARTING] = {"starting", N(PRIMARY) | N(STANDBY) | N(STOPPING) | IDLE, false},
    [MEMBER_PRIMARY] = {"primary", N(STARTING) | N(STOPPING), false},
    [MEMBER_STANDBY] = {"standby", N(STARTING) | N(PROMOTING) | N(STOPPING), false},
    [MEMBER_PROMOTING] = {"promoting", N(PRIMARY) | N(STOPPING), false},
    [MEMBER_STOPPING] = {"stopping", IDLE, false},
    [MEMBER_ENDED] = {"ended", 0, true},
};
#undef N
#undef IDLE

/* ---- telling ---- */

void member_changed(struct member *m)
{
    loop_defer(&m->loop, &m->changed);
}

static void publish(struct member *m)
{
    char *text = member_status_text(m);
    if (m->topic != NULL)
        (void)sse_publish(m->topic, "status", text);
    free(text);
}

static void changed_run(struct loop_task *task, void *data)
{
    (void)task;
    publish(data);
}

static void beat_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    loop_timer_start(timer, ENV_NS_PER_S);
    publish(m);
}

static void moved(const struct sm *sm, int from, void *data)
{
    struct member *m = data;
    log_event(LOG_INFO, "state", "from", states[from].name, "to", sm_name(sm), "assigned",
              order_role_name(m->order.role), "term", log_num((long long)m->order.term), NULL);
    member_changed(m);
}

/* ---- jobs and programs ---- */

static void work_done(struct work *work, int code)
{
    struct member *m = work->data;
    (void)code;
    m->working = false;
    free((char *)(uintptr_t)m->job.o.more);
    m->job.o.more = NULL;
    if (m->job.err.code == ERRC_NONE)
        m->job_done(m);
    else if (m->server != 0)
        member_server_hindered(m, &m->job.err);
    else
        member_fail(m, &m->job.err);
    member_step(m);
}

void member_job_start(struct member *m, int state, void (*run)(struct work *), void (*done)(struct member *m))
{
    if (sm_now(&m->sm) != state)
        sm_move(&m->sm, state);
    char *keep = m->job.keep;
    m->job = (struct member_job){.o = m->o,
                                 .order = m->order,
                                 .marks = m->marks,
                                 .standby = !m->as_primary,
                                 .next = m->next_password,
                                 .keep = keep};
    m->job.o.more = member_settings(m);
    m->job.o.held = m->order.held;
    m->job_done = done;
    m->job_orders = m->orders;
    m->working = true;
    (void)work_start(&m->loop, &m->work, run, work_done, m);
}

struct helper_end {
    struct member *m;
    process_cb ended;
};

static void helper_ended(const struct process_result *result, void *data)
{
    struct helper_end *end = data;
    struct member *m = end->m;
    m->helper = NULL;
    watchdog_set_helper(m->dog, 0);
    end->ended(result, m);
    free(end);
    member_step(m);
}

int member_helper_start(struct member *m, const char *const *argv, const char *enough, process_cb ended,
                        struct err *err)
{
    const struct process_options o = {.argv = argv, .timeout_ns = HELPER_NS, .enough = enough};
    struct helper_end *end = mem_alloc(sizeof *end);
    *end = (struct helper_end){m, ended};
    int rc = process_start(&m->loop, &o, helper_ended, end, &m->helper, err);
    if (rc == 0)
        watchdog_set_helper(m->dog, process_pid(m->helper));
    else
        free(end);
    return rc;
}

char *member_program(const struct member *m, const char *name)
{
    return m->o.bin != NULL ? mem_printf("%s/%s", m->o.bin, name) : mem_strdup(name);
}

/* ---- without a server ---- */

void member_settle(struct member *m, enum member_state state)
{
    if (sm_now(&m->sm) != (int)state)
        sm_move(&m->sm, (int)state);
}

void member_fail(struct member *m, const struct err *why)
{
    err_copy(&m->err, why);
    log_event(LOG_ERROR, "this could not be done", "state", sm_name(&m->sm), "err", why->message,
              "again_in_ms", log_num((long long)(m->backoff_ns / ENV_NS_PER_MS)), NULL);
    m->next_password = m->seen.next != 0 && !m->next_password; /* perhaps the upstream wants the other one */
    member_settle(m, MEMBER_FAILED);
    member_changed(m);
    loop_timer_start(&m->retry, m->backoff_ns);
    uint64_t most = why->code == ERRC_CONFLICT ? BUSY_MAX_NS : BACKOFF_MAX_NS;
    m->backoff_ns = m->backoff_ns * 2 < most ? m->backoff_ns * 2 : most;
}

static void refuse(struct member *m, const char *why)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_REFUSED, "%s", why);
    member_fail(m, &err);
}

static void wait_for(struct member *m, enum member_state state, const char *what)
{
    (void)err_set(&m->err, ERRC_CONFLICT, "%s", what);
    member_settle(m, m->data_there ? state : MEMBER_EMPTY);
}

static void idle_primary(struct member *m)
{
    if (!m->confirmed)
        wait_for(
            m, MEMBER_STOPPED,
            "it was the primary before the agent was started anew, and waits until somebody confirms it");
    else if (!member_lease_held(m))
        wait_for(m, MEMBER_FENCED, "the lease as primary ran out; a new lease of this term starts it again");
    else if (m->data_there && m->marks.rewinding)
        refuse(m, "a rewind of the data began and did not end: it can be cloned, but be no primary");
    else if (m->data_there)
        member_server_begin(m);
    else if (m->order.initialize)
        member_initialize(m);
    else
        refuse(m, "there is no data directory, and the order does not say \"initialize\"");
}

static void idle_standby(struct member *m)
{
    bool upstream = m->order.host[0] != '\0';
    /* what a rewind left half done cannot be rewound: the next one would first let it recover, by a log that
     * is half the other's, and add to it */
    bool clone = !m->data_there || m->marks.rewinding ||
                 (m->order.rejoin == ORDER_CLONE && !marks_cloned(&m->marks, &m->order));
    bool rewind = m->marks.primary || (m->order.rejoin == ORDER_REWIND && m->marks.rewound != m->order.term);
    if (clone && !upstream)
        wait_for(m, MEMBER_STOPPED,
                 m->data_there && m->marks.rewinding
                     ? "a rewind did not end: the data has to be cloned, and the order has no upstream"
                     : "there is nobody to clone from: the order has no upstream");
    else if (clone)
        member_clone(m);
    else if (rewind && upstream)
        member_rewind(m);
    else
        member_server_begin(m);
}

static void idle_step(struct member *m)
{
    if (sm_now(&m->sm) == MEMBER_FAILED)
        member_settle(m, m->data_there ? MEMBER_STOPPED : MEMBER_EMPTY);
    switch (m->order.role) {
    case ORDER_PRIMARY:
        idle_primary(m);
        break;
    case ORDER_STANDBY:
        idle_standby(m);
        break;
    case ORDER_FENCED:
        err_clear(&m->err);
        member_settle(m, MEMBER_FENCED);
        break;
    default:
        err_clear(&m->err);
        member_settle(m, m->data_there ? MEMBER_STOPPED : MEMBER_EMPTY);
        break;
    }
}

static void retry_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    member_step(data);
}

/* ---- looking ---- */

static void look_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    enum agent_data found;
    char *signal_path = mem_printf("%s/standby.signal", job->o.data);
    if (flock(m->lock, LOCK_EX | LOCK_NB) != 0) {
        (void)err_set(&job->err, ERRC_CONFLICT, "another agent, or what is left of one, has %s", job->o.data);
    } else if (postmaster_sweep(job->o.data, &job->err) == 0 &&
               agent_data_look(&job->o, &found, &job->err) == 0 &&
               order_load(job->o.data, &job->order, &job->err) == 0 &&
               marks_load(job->o.data, &job->marks, &job->err) == 0) {
        job->there = found == AGENT_DATA_THERE;
        control_read(job->o.data, &job->control);
        /* data that no member made: it was a primary's unless it says otherwise */
        if (job->there && job->order.term == 0 && access(signal_path, F_OK) != 0)
            job->marks.primary = true;
    }
    free(signal_path);
}

static void look_done(struct member *m)
{
    if (m->orders == 0)
        m->order = m->job.order;
    m->marks = m->job.marks;
    m->control = m->job.control;
    m->data_there = m->job.there;
    m->looked = true;
    watchdog_own(m->dog);
    member_settle(m, m->data_there ? MEMBER_STOPPED : MEMBER_EMPTY);
}

static void look(struct member *m)
{
    member_job_start(m, sm_now(&m->sm), look_run, look_done);
}

/* ---- the next thing ---- */

static void http_closed(void *data)
{
    struct member *m = data;
    loop_stop(&m->loop);
}

static void ended(struct member *m)
{
    sm_move(&m->sm, MEMBER_ENDED);
    loop_task_cancel(&m->changed);
    loop_timer_stop(&m->retry);
    loop_timer_stop(&m->leave_timer);
    loop_timer_stop(&m->beat);
    loop_timer_stop(&m->inputs_timer);
    loop_timer_stop(&m->lease_timer);
    loop_timer_stop(&m->turn_timer);
    sse_topic_free(m->topic);
    m->topic = NULL;
    http_server_close(m->http, ENV_NS_PER_S, http_closed, m);
}

void member_step(struct member *m)
{
    int state = sm_now(&m->sm);
    bool ends = m->server != 0 && member_server_ends(m);
    if (m->working || m->helper != NULL || ends || state == MEMBER_ENDED)
        return;
    if (m->server != 0)
        member_server_step(m);
    else if (m->ending && m->saving_ex == NULL && !m->reading && !m->unswept)
        ended(m);
    else if (loop_timer_armed(&m->retry) && !m->ending)
        return;
    else if (m->unswept)
        member_server_sweep(m);
    else if (!m->ending && !m->looked)
        look(m);
    else if (!m->ending)
        idle_step(m);
}

/* For another order, or the end: it may be what is wanted then as well, and begins again. A rewind that has
 * begun to change the data is let end. */
static void helper_cancel(struct member *m)
{
    bool changes = sm_now(&m->sm) == MEMBER_REWINDING && m->marks.rewinding;
    if (m->helper != NULL && !changes)
        process_cancel(m->helper);
}

void member_ordered(struct member *m)
{
    loop_timer_stop(&m->retry);
    m->backoff_ns = MEMBER_BACKOFF_NS;
    if (m->order.role != ORDER_PRIMARY && !m->as_primary)
        watchdog_set_deadline(m->dog, 0);
    helper_cancel(m);
    member_changed(m);
    if (m->leaving && m->order.role == ORDER_STANDBY && m->order.host[0] != '\0')
        member_end(m, NULL); /* another one leads */
    member_step(m);
}

void member_end(struct member *m, const struct err *why)
{
    if (why != NULL) {
        err_copy(&m->err, why);
        m->broken = true;
    }
    if (m->ending)
        return;
    log_event(LOG_INFO, "stopping", "state", sm_name(&m->sm), NULL);
    m->ending = true;
    loop_timer_stop(&m->retry);
    helper_cancel(m);
    member_step(m);
}

/* ---- signals ---- */

/*
 * A primary that somebody listens to, and that has standbys to take over, says that it is about to leave and
 * goes on until another one leads and it is told to follow, for a while. Whoever is told to end again does.
 */
static void member_leave(struct member *m)
{
    bool leads =
        sm_now(&m->sm) == MEMBER_PRIMARY && m->order.role == ORDER_PRIMARY && m->order.sync_count > 0;
    if (m->leaving || m->ending || !leads || sse_clients(m->topic) == 0) {
        member_end(m, NULL);
        return;
    }
    log_event(LOG_INFO, "to stop: another member is to take over first", "at_most_ms",
              log_num((long long)(LEAVE_NS / ENV_NS_PER_MS)), NULL);
    m->leaving = true;
    loop_timer_start(&m->leave_timer, LEAVE_NS);
    member_changed(m);
}

static void leave_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    member_end(data, NULL);
}

static void terminated(struct loop_signal *s, int number, void *data)
{
    (void)s;
    (void)number;
    member_leave(data);
}

/* Process 1 inherits orphans, such as the backends of a postmaster that was killed. The server is ours to
 * reap; other programs are libuv's. */
static void orphans_reap(const struct member *m)
{
    pid_t own = m->helper != NULL ? process_pid(m->helper) : 0;
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0 ||
            info.si_pid == own || info.si_pid == m->server || info.si_pid == watchdog_pid(m->dog))
            return;
        (void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
    }
}

static void child_ended(struct loop_signal *s, int number, void *data)
{
    struct member *m = data;
    siginfo_t info = {0};
    struct err err = {0};
    (void)s;
    (void)number;
    member_server_reap(m);
    if (getpid() == 1)
        orphans_reap(m);
    if (!m->ending && waitid(P_PID, (id_t)watchdog_pid(m->dog), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid != 0) {
        (void)err_set(&err, ERRC_CLOSED, "the watchdog has ended; without it nothing may run here");
        member_end(m, &err);
    }
}

/* ---- life ---- */

static int lock_open(const struct agent_options *o, int *ret, struct err *err)
{
    char *path = mem_printf("%s.lock", o->data);
    *ret = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int rc = *ret < 0 ? err_set_errno(err, errno, "cannot open %s", path) : 0;
    free(path);
    return rc;
}

static void init(struct member *m)
{
    sm_init(&m->sm, states, MEMBER_STATE_MAX, MEMBER_LOOKING, moved, m);
    m->backoff_ns = MEMBER_BACKOFF_NS;
    m->changed = (struct loop_task){.run = changed_run, .data = m};
    loop_timer_init(&m->loop, &m->retry, retry_fired, m);
    loop_timer_init(&m->loop, &m->leave_timer, leave_fired, m);
    loop_timer_init(&m->loop, &m->beat, beat_fired, m);
    member_lease_init(m);
    member_server_init(m);
    member_facts_init(m);
    member_inputs_init(m);
    env_random_text(m->o.env, m->life, sizeof m->life - 1);
}

static int open_all(struct member *m, struct err *err)
{
    int rc = member_http_open(m, err);
    if (rc == 0)
        rc = loop_signal_start(&m->loop, &m->term, SIGTERM, terminated, m, err);
    if (rc == 0)
        rc = loop_signal_start(&m->loop, &m->interrupt, SIGINT, terminated, m, err);
    if (rc == 0)
        rc = loop_signal_start(&m->loop, &m->child, SIGCHLD, child_ended, m, err);
    return rc;
}

static int live(struct member *m, struct err *err)
{
    int rc = loop_init(&m->loop, m->o.env, err);
    if (rc != 0)
        return rc;
    init(m);
    rc = open_all(m, err);
    if (rc != 0)
        return rc; /* the process ends; nothing runs yet */
    m->topic = sse_topic_new(&m->loop, "status", 16);
    log_event(LOG_INFO, "agent started", "member", m->o.member, "data", m->o.data, "http_port",
              log_num(http_server_port(m->http)), NULL);
    member_step(m);
    loop_timer_start(&m->beat, ENV_NS_PER_S);
    (void)loop_run(&m->loop);
    loop_signal_stop(&m->term);
    loop_signal_stop(&m->interrupt);
    loop_signal_stop(&m->child);
    if (loop_fini(&m->loop) != 0)
        return err_set(err, ERRC_INTERNAL, "handles were left open");
    return m->broken ? err_copy(err, &m->err) : 0;
}

int member_run(const struct agent_options *options, struct err *err)
{
    struct member *m = mem_zalloc(sizeof *m);
    m->o = *options;
    oom_protect(m->o.env);
    m->token = member_token_read(m->o.token_file, err);
    int rc = m->token == NULL ? ERRC_INVALID : lock_open(&m->o, &m->lock, err);
    if (rc == 0)
        rc = watchdog_start(m->o.data, &m->dog, err);
    if (rc == 0)
        rc = live(m, err);
    watchdog_stop(m->dog);
    mem_wipe_free(m->token);
    free(m->applied_more);
    free(m->facts.standbys);
    free(m->job.keep);
    free(m);
    return rc;
}
