#include "loop/loop.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loop/loop_impl.h"

/* Tasks that queue tasks may not keep the loop from its sockets: the rest runs after the next poll. */
#define TASKS_PER_TURN 4096

#define WORKERS "8"

#define SCHED_NS (50 * ENV_NS_PER_MS)

static void run_tasks(struct loop *loop)
{
    for (int i = 0; i < TASKS_PER_TURN && !list_empty(&loop->tasks); i++) {
        struct loop_task *task = list_item(list_first(&loop->tasks), struct loop_task, node);
        loop_task_cancel(task);
        task->run(task, task->data);
    }
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* being active is its work: the poll does not block; on_prepare stops it */
}

static void on_check(uv_check_t *check)
{
    (void)loop_now(check->data);
    run_tasks(check->data);
}

/* ---- why a turn was long ---- */

static bool sched_read(const struct loop *loop, uint64_t *cpu_ns, uint64_t *waited_ns)
{
    char text[96];
    ssize_t length = loop->sched_fd > 0 ? pread(loop->sched_fd, text, sizeof text - 1, 0) : -1;
    if (length <= 0)
        return false;
    text[length] = '\0';
    char *end;
    *cpu_ns = strtoull(text, &end, 10);
    *waited_ns = strtoull(end, NULL, 10);
    return *end == ' ';
}

/* Not in each turn: it is a system call. */
static void sched_note(struct loop *loop)
{
    if (loop->turn_ns - loop->sched_ns < SCHED_NS)
        return;
    loop->sched_ns = loop->turn_ns;
    (void)sched_read(loop, &loop->sched_cpu_ns, &loop->sched_waited_ns);
}

static void sched_open(struct loop *loop)
{
    if (loop->sched_fd == 0) /* of this thread, whoever reads it later */
        loop->sched_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    loop->sched_ns = 0;
}

static void long_turn(struct loop *loop, uint64_t us)
{
    uint64_t cpu_ns = 0, waited_ns = 0;
    loop->long_turns++;
    if (us <= loop->worst.us)
        return;
    loop->worst = (struct loop_long_turn){.us = us, .known = sched_read(loop, &cpu_ns, &waited_ns)};
    if (!loop->worst.known)
        return;
    loop->worst.cpu_us = (cpu_ns - loop->sched_cpu_ns) / 1000;
    loop->worst.waited_us = (waited_ns - loop->sched_waited_ns) / 1000;
}

static void record_turn(struct loop *loop)
{
    uint64_t us = loop->now_stale ? 0 : (loop_clock(loop) - loop->turn_ns) / 1000;
    hist_add(&loop->turns, us);
    if (us > loop->longest_turn_us)
        loop->longest_turn_us = us;
    if (us > LOOP_TURN_ALARM_US)
        long_turn(loop, us);
    loop->now_stale = true;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct loop *loop = prepare->data;
    run_tasks(loop);
    if (list_empty(&loop->tasks))
        uv_idle_stop(&loop->idle);
    loop_alarm_set(loop);
    record_turn(loop);
}

static void own_handles_init(struct loop *loop)
{
    /* these four cannot fail: they only enter lists of the loop */
    uv_idle_init(&loop->uv, &loop->idle);
    uv_prepare_init(&loop->uv, &loop->prepare);
    uv_check_init(&loop->uv, &loop->check);
    uv_timer_init(&loop->uv, &loop->alarm);
    loop->idle.data = loop->prepare.data = loop->check.data = loop->alarm.data = loop;
    uv_prepare_start(&loop->prepare, on_prepare);
    uv_check_start(&loop->check, on_check);
    uv_unref((uv_handle_t *)&loop->prepare);
    uv_unref((uv_handle_t *)&loop->check);
}

int loop_init(struct loop *loop, struct env *env, struct err *err)
{
    memset(loop, 0, sizeof *loop);
    setenv("UV_THREADPOOL_SIZE", WORKERS, 0); /* read by libuv at the first job */
    signal(SIGPIPE, SIG_IGN);
    int rc = uv_loop_init(&loop->uv);
    if (rc != 0)
        return err_set(err, ERRC_IO, "event loop: %s", uv_strerror(rc));
    loop->uv.data = loop;
    loop->env = env;
    loop->now_stale = true;
    list_init(&loop->tasks);
    hist_reset(&loop->turns);
    own_handles_init(loop);
    return 0;
}

int loop_run(struct loop *loop)
{
    loop->now_stale = true;
    sched_open(loop);
    (void)loop_now(loop);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    record_turn(loop); /* the last one, after which nothing waits any more */
    loop->stopping = false;
    return 0;
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
    uv_stop(&loop->uv);
}

static void settle(struct loop *loop)
{
    /* enough turns for close callbacks that close further handles; live handles do not hold us up */
    for (int i = 0; i < 8; i++)
        uv_run(&loop->uv, UV_RUN_NOWAIT);
    while (loop->jobs > 0)
        uv_run(&loop->uv, UV_RUN_ONCE);
}

static void count_open(uv_handle_t *handle, void *data)
{
    int *open = data;
    (*open)++;
    fprintf(stderr, "loop: a handle is still open: %s%s%s\n", uv_handle_type_name(handle->type),
            uv_is_active(handle) ? ", active" : "", uv_is_closing(handle) ? ", closing" : "");
}

int loop_fini(struct loop *loop)
{
    settle(loop);
    loop_alarm_set(loop);
    uv_close((uv_handle_t *)&loop->idle, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->check, NULL);
    uv_close((uv_handle_t *)&loop->alarm, NULL);
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    if (loop->sched_fd > 0)
        (void)close(loop->sched_fd);
    loop->sched_fd = 0;
    free((void *)loop->heap);
    free(loop->scratch);
    loop->heap = NULL;
    loop->scratch = NULL;
    loop->heap_size = loop->heap_capacity = 0;
    if (uv_loop_close(&loop->uv) == 0)
        return 0;
    int open = 0;
    uv_walk(&loop->uv, count_open, &open);
    return open > 0 ? open : 1;
}

uint64_t loop_now(struct loop *loop)
{
    if (loop->now_stale)
        loop_now_take(loop);
    return loop->now_ns;
}

void loop_now_take(struct loop *loop)
{
    loop->now_ns = loop_clock(loop);
    if (loop->now_stale) {
        loop->turn_ns = loop->now_ns;
        sched_note(loop);
    }
    loop->now_stale = false;
}

int64_t loop_wall(const struct loop *loop)
{
    return loop->env->wall_us(loop->env);
}

uint64_t loop_clock(const struct loop *loop)
{
    return loop->env->monotonic_ns(loop->env);
}

void loop_defer(struct loop *loop, struct loop_task *task)
{
    assert(task->run != NULL);
    if (task->queued)
        return;
    task->queued = true;
    list_append(&loop->tasks, &task->node);
    uv_idle_start(&loop->idle, on_idle);
}

void loop_task_cancel(struct loop_task *task)
{
    if (!task->queued)
        return;
    task->queued = false;
    list_remove(&task->node);
}

struct loop_long_turn loop_take_alarm(struct loop *loop)
{
    struct loop_long_turn turn = loop->worst;
    loop->worst = (struct loop_long_turn){0};
    return turn;
}

void loop_turns_reset(struct loop *loop)
{
    loop->longest_turn_us = 0;
}

/* ---- signals ---- */

static void on_signal(uv_signal_t *uv, int number)
{
    struct loop_signal *s = uv->data;
    (void)loop_now(s->loop);
    s->caught(s, number, s->data);
}

static void on_signal_closed(uv_handle_t *handle)
{
    struct loop_signal *s = handle->data;
    s->loop->handles--;
    s->loop = NULL;
}

int loop_signal_start(struct loop *loop, struct loop_signal *s, int number,
                      void (*caught)(struct loop_signal *signal, int number, void *data), void *data,
                      struct err *err)
{
    int rc = uv_signal_init(&loop->uv, &s->uv);
    if (rc != 0)
        return err_set(err, ERRC_IO, "signal %d: %s", number, uv_strerror(rc));
    s->uv.data = s;
    s->loop = loop;
    s->caught = caught;
    s->data = data;
    loop->handles++;
    rc = uv_signal_start(&s->uv, on_signal, number);
    if (rc == 0)
        return 0;
    loop_signal_stop(s);
    return err_set(err, ERRC_IO, "signal %d: %s", number, uv_strerror(rc));
}

void loop_signal_stop(struct loop_signal *s)
{
    if (s->loop != NULL && !uv_is_closing((uv_handle_t *)&s->uv))
        uv_close((uv_handle_t *)&s->uv, on_signal_closed);
}
