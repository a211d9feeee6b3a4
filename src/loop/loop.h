/*
 * loop: the one event loop, on libuv.
 *
 * Everything runs on the thread that calls loop_run(), except worker jobs (work.h). One clock value serves a
 * whole turn (timers that fire late in it see a newer one). The loop measures its turns: the time between the
 * moment events were delivered and the moment it waits again (U1: the longest turn is exported and alarmed).
 * libuv has no hook at the return of its poll, so a turn is the time between two waits less the time that
 * libuv reports as idle.
 *
 * Contract of every asynchronous call in this project: a non-zero return means that nothing was started and
 * no callback will run; zero means exactly one callback, later, never from inside the call; a canceled call
 * completes with ERRC_CANCELED.
 */
#ifndef LOOP_LOOP_H
#define LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/env.h"
#include "base/err.h"
#include "base/hist.h"
#include "base/list.h"

struct loop_timer;

/* A callback that runs in the same turn, after the current callback returned. Embed it; zero-init is idle. */
struct loop_task {
    struct list node;
    bool queued;
    void (*run)(struct loop_task *task, void *data);
    void *data;
};

/*
 * A turn that was longer than LOOP_TURN_ALARM_US. Of its time the loop's thread worked for cpu_us and was
 * ready to run for waited_us without getting a processor; what is left it slept, in a system call that does
 * not return or because the process was stopped. Both also count what was before the turn, for at most 50 ms.
 */
struct loop_long_turn {
    uint64_t us; /* 0 = there was none */
    bool known;  /* the kernel says what follows */
    uint64_t cpu_us;
    uint64_t waited_us;
};

struct loop {
    uv_loop_t uv;
    struct env *env;
    uint64_t now_ns;          /* read it with loop_now() */
    bool now_stale;           /* the next loop_now() takes the clock */
    struct list tasks;        /* queued loop_tasks */
    uv_idle_t idle;           /* keeps the loop awake while tasks are queued */
    uv_prepare_t prepare;     /* end of a turn: runs tasks, records its length */
    uv_check_t check;         /* after the I/O callbacks: runs tasks */
    uv_timer_t alarm;         /* the one libuv timer behind every loop_timer */
    struct loop_timer **heap; /* armed timers, a binary heap by (deadline, sequence) */
    unsigned heap_size;
    unsigned heap_capacity;
    uint64_t timer_sequence;
    uint64_t alarm_deadline_ns;  /* what the alarm is set for, 0 = not set */
    bool firing;                 /* inside the alarm's callback */
    uint64_t turn_ns;            /* when this turn began, see loop_now() */
    struct hist turns;           /* lengths of all turns */
    uint64_t longest_turn_us;    /* since loop_turns_reset() */
    uint64_t long_turns;         /* longer than LOOP_TURN_ALARM_US, ever */
    struct loop_long_turn worst; /* the longest of them since loop_take_alarm() */
    int sched_fd;                /* the kernel's figures of the loop's thread, 0 = none */
    uint64_t sched_ns;           /* when they were read last: */
    uint64_t sched_cpu_ns, sched_waited_ns;
    int handles; /* open handles of src/loop, without the loop's own four */
    int jobs;    /* worker jobs and lookups whose libuv callback is still to come */
    bool stopping;
    char *scratch; /* read buffers of streams, made at the first read */
};

/* env must outlive the loop. Also sets the size of the worker pool (U2) and ignores SIGPIPE. */
int loop_init(struct loop *loop, struct env *env, struct err *err);

/* Runs until loop_stop() or until nothing is left that could cause an event. Returns 0. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/*
 * Runs what is queued, waits for worker jobs, closes the loop's own handles. Returns 0, or the number of
 * handles still open, each printed on stderr by type: at the end of every test this must be 0.
 */
int loop_fini(struct loop *loop);

/*
 * Monotonic nanoseconds of this turn; the first call of a turn takes the clock, and the turn's length counts
 * from there. So a callback of libuv that does work without it calls it first. (libuv's own measure of
 * waiting costs a second epoll_wait() in each turn.)
 */
uint64_t loop_now(struct loop *loop);

/* Wall clock in microseconds since 1970, for display. */
int64_t loop_wall(const struct loop *loop);

/* The clock right now, for measuring within a turn (write block, queries). */
uint64_t loop_clock(const struct loop *loop);

/* Queues task->run(task, task->data) for this turn's end; a queued task is not queued twice. */
void loop_defer(struct loop *loop, struct loop_task *task);
void loop_task_cancel(struct loop_task *task);

/* A turn longer than this means that something blocks the loop (U1). */
#define LOOP_TURN_ALARM_US 100000
/* The longest turn above that since the last call. */
struct loop_long_turn loop_take_alarm(struct loop *loop);

/* Forgets the longest turn so far (the histogram stays). */
void loop_turns_reset(struct loop *loop);

/* ---- timers ---- */

/*
 * A timer that belongs to a state of its owner. Embed it. It needs no closing: after loop_timer_stop() its
 * memory can go at once. One-shot; arm it again in its callback for a period. Ties fire in arming order.
 */
struct loop_timer {
    struct loop *loop;
    unsigned index; /* place in the heap + 1; 0 = not armed */
    uint64_t deadline_ns;
    uint64_t sequence;
    void (*fire)(struct loop_timer *timer, void *data);
    void *data;
};

void loop_timer_init(struct loop *loop, struct loop_timer *timer,
                     void (*fire)(struct loop_timer *timer, void *data), void *data);
/* Arms (or re-arms) for `delay` nanoseconds from this turn's clock; resolution is one millisecond. */
void loop_timer_start(struct loop_timer *timer, uint64_t delay_ns);
void loop_timer_start_at(struct loop_timer *timer, uint64_t deadline_ns);
/* Idempotent, and legal on a timer that was never armed. */
void loop_timer_stop(struct loop_timer *timer);
bool loop_timer_armed(const struct loop_timer *timer);

/* ---- signals ---- */

struct loop_signal {
    uv_signal_t uv;
    struct loop *loop;
    void (*caught)(struct loop_signal *signal, int number, void *data);
    void *data;
};

int loop_signal_start(struct loop *loop, struct loop_signal *signal, int number,
                      void (*caught)(struct loop_signal *signal, int number, void *data), void *data,
                      struct err *err);
/* The memory may be reused once the loop has turned: embed it in something that lives as long as the loop. */
void loop_signal_stop(struct loop_signal *signal);

#endif
