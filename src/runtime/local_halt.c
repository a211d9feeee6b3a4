#include "runtime/local.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "base/mem.h"

#define POLL_NS       (20 * ENV_NS_PER_MS)
#define FAST_GRACE_NS (30 * ENV_NS_PER_S)
#define QUIT_GRACE_NS (10 * ENV_NS_PER_S)
#define KILL_GRACE_NS (5 * ENV_NS_PER_S)
/* The agent is told to stop its server within 30 s; then it has 10 s more for an immediate stop. */
#define AGENT_GRACE_NS (45 * ENV_NS_PER_S)
#define WATCH_GRACE_NS (15 * ENV_NS_PER_S) /* the watchdog ends what is left within 10 s */

/*
 *   IDLE --> FAST --30 s--> QUIT --10 s--> KILL (force) --5 s--> OVER (timeout)
 *     |        |             | |             |
 *     +--------|--immediate--+ +--no force---|-----------------> OVER (timeout)
 *              +-------------+---gone--------+-----------------> OVER
 *
 * An agent: FAST (SIGTERM sent) --45 s--> KILL; gone means that its watchdog is gone as well.
 *
 * FAST (SIGINT sent: sessions are ended), QUIT (SIGQUIT: no checkpoint) and KILL (SIGKILL) wait for the
 * process to go, woken every 20 ms, because it need not be a child of ours.
 */
enum { IDLE, FAST, QUIT, KILL, OVER, STATES };

static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", SM_NEXT(FAST) | SM_NEXT(QUIT), true},
    [FAST] = {"fast", SM_NEXT(QUIT) | SM_NEXT(KILL) | SM_NEXT(OVER), false},
    [QUIT] = {"quit", SM_NEXT(KILL) | SM_NEXT(OVER), false},
    [KILL] = {"kill", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

static bool alive(const struct local_halt *halt, int pid)
{
    return pid != 0 &&
           (halt->agent ? local_agent_alive(pid, halt->data_path) : local_pid_alive(pid, halt->data_path));
}

static void enter(struct local_halt *halt, int state, int number, uint64_t grace_ns)
{
    sm_move(&halt->sm, state);
    if (alive(halt, halt->pid))
        (void)kill(halt->pid, number);
    halt->deadline_ns = loop_now(halt->local->loop) + grace_ns;
    loop_timer_start(&halt->timer, POLL_NS);
}

static void finish(struct local_halt *halt, const struct err *err)
{
    sm_move(&halt->sm, OVER);
    loop_timer_stop(&halt->timer);
    free(halt->data_path);
    halt->data_path = NULL;
    halt->done(halt, err, halt->data);
}

static void give_up(struct local_halt *halt)
{
    struct err err = {0};
    err_set(&err, ERRC_TIMEOUT, "the %s %s (process %d) did not end: is it suspended, or its disk stuck?",
            halt->agent ? "agent of" : "server in", halt->data_path,
            halt->pid != 0 ? halt->pid : halt->watch_pid);
    finish(halt, &err);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct local_halt *halt = data;
    if (!alive(halt, halt->pid) && !alive(halt, halt->watch_pid))
        finish(halt, NULL);
    else if (loop_now(halt->local->loop) < halt->deadline_ns)
        loop_timer_start(&halt->timer, POLL_NS);
    else if (sm_now(&halt->sm) == FAST && halt->agent)
        enter(halt, KILL, SIGKILL, WATCH_GRACE_NS);
    else if (sm_now(&halt->sm) == FAST)
        enter(halt, QUIT, SIGQUIT, QUIT_GRACE_NS);
    else if (sm_now(&halt->sm) == QUIT && halt->force)
        enter(halt, KILL, SIGKILL, KILL_GRACE_NS);
    else
        give_up(halt);
}

void local_halt_start(struct local_halt *halt, struct local *local, int pid, const char *data_path,
                      bool immediate, bool force,
                      void (*done)(struct local_halt *, const struct err *, void *), void *data)
{
    *halt = (struct local_halt){.local = local,
                                .pid = pid,
                                .data_path = mem_strdup(data_path),
                                .force = force,
                                .done = done,
                                .data = data};
    sm_init(&halt->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(local->loop, &halt->timer, on_timer, halt);
    if (immediate)
        enter(halt, QUIT, SIGQUIT, QUIT_GRACE_NS);
    else
        enter(halt, FAST, SIGINT, FAST_GRACE_NS);
}

void local_halt_agent(struct local_halt *halt, struct local *local, const struct local_record *record,
                      const char *data_path, void (*done)(struct local_halt *, const struct err *, void *),
                      void *data)
{
    *halt = (struct local_halt){.local = local,
                                .pid = record->agent_pid,
                                .watch_pid = record->watch_pid,
                                .agent = true,
                                .data_path = mem_strdup(data_path),
                                .done = done,
                                .data = data};
    sm_init(&halt->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(local->loop, &halt->timer, on_timer, halt);
    enter(halt, FAST, SIGTERM, AGENT_GRACE_NS);
}

void local_halt_abandon(struct local_halt *halt)
{
    if (halt->data_path == NULL)
        return;
    loop_timer_stop(&halt->timer);
    sm_move(&halt->sm, OVER);
    free(halt->data_path);
    halt->data_path = NULL;
}
