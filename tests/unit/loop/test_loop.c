/* Timers, tasks, turns, signals, worker jobs, resolution. */
#include "loop/loop_test.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "loop/work.h"
#include "support/queue_time.h"

#define MS ENV_NS_PER_MS

/* ---- timers ---- */

struct record {
    char text[256];
    int count;
};

struct named {
    struct loop_timer timer;
    struct record *record;
    char name;
    struct named *other; /* what the callback acts on */
    int rearm;           /* how often it arms itself again */
};

static void on_named(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct named *n = data;
    n->record->text[n->record->count++] = n->name;
    if (n->rearm-- > 0)
        loop_timer_start(&n->timer, 0);
    if (n->other != NULL)
        loop_timer_stop(&n->other->timer);
}

static void named_init(struct fixture *f, struct named *n, struct record *r, char name)
{
    *n = (struct named){.record = r, .name = name};
    loop_timer_init(&f->loop, &n->timer, on_named, n);
}

static void test_timers_fire_by_deadline(void **state)
{
    struct fixture *f = *state;
    struct record r = {0};
    struct named n[3];
    for (int i = 0; i < 3; i++)
        named_init(f, &n[i], &r, (char)('a' + i));
    uint64_t start = loop_clock(&f->loop);
    loop_timer_start(&n[0].timer, 12 * MS);
    loop_timer_start(&n[1].timer, 3 * MS);
    loop_timer_start(&n[2].timer, 7 * MS);
    RUN_UNTIL(f, r.count == 3);
    assert_string_equal(r.text, "bca");
    assert_true(loop_clock(&f->loop) - start >= 12 * MS);
    assert_false(loop_timer_armed(&n[0].timer));
}

static void test_timers_never_fire_early(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 20; i++) {
        struct record r = {0};
        struct named n;
        named_init(f, &n, &r, 'x');
        uint64_t deadline = loop_clock(&f->loop) + 1 * MS + (uint64_t)i * 77777;
        loop_timer_start_at(&n.timer, deadline);
        RUN_UNTIL(f, r.count == 1);
        assert_true(loop_clock(&f->loop) >= deadline);
    }
}

static void test_timers_tie_in_arming_order(void **state)
{
    struct fixture *f = *state;
    struct record r = {0};
    struct named n[26];
    uint64_t deadline = loop_now(&f->loop) + 2 * MS;
    for (int i = 0; i < 26; i++) {
        named_init(f, &n[i], &r, (char)('a' + i));
        loop_timer_start_at(&n[i].timer, deadline);
    }
    loop_timer_start_at(&n[0].timer, deadline); /* armed again: now the last */
    RUN_UNTIL(f, r.count == 26);
    assert_string_equal(r.text, "bcdefghijklmnopqrstuvwxyza");
}

static void test_timer_rearmed_in_its_callback_lets_others_pass(void **state)
{
    struct fixture *f = *state;
    struct record r = {0};
    struct named n[2];
    named_init(f, &n[0], &r, 'a');
    named_init(f, &n[1], &r, 'b');
    n[0].rearm = 2;
    uint64_t deadline = loop_now(&f->loop) + 1 * MS;
    loop_timer_start_at(&n[0].timer, deadline);
    loop_timer_start_at(&n[1].timer, deadline);
    RUN_UNTIL(f, r.count == 4);
    assert_string_equal(r.text, "abaa");
}

static void on_endless(struct loop_timer *timer, void *data)
{
    (void)data;
    loop_timer_start(timer, 0);
}

static void test_timer_armed_without_delay_does_not_hold_the_turn(void **state)
{
    struct fixture *f = *state;
    struct loop_timer timer;
    loop_timer_init(&f->loop, &timer, on_endless, NULL);
    loop_timer_start(&timer, 0);
    RUN_UNTIL(f, f->loop.turns.count >= 5);
    loop_timer_stop(&timer);
}

static void test_timer_stopped_in_a_callback_does_not_fire(void **state)
{
    struct fixture *f = *state;
    struct record r = {0};
    struct named n[3];
    for (int i = 0; i < 3; i++) {
        named_init(f, &n[i], &r, (char)('a' + i));
        loop_timer_start(&n[i].timer, 1 * MS);
    }
    n[0].other = &n[1];
    RUN_UNTIL(f, r.count == 2);
    assert_string_equal(r.text, "ac");
    loop_timer_stop(&n[1].timer);
    loop_timer_stop(&n[1].timer);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct many {
    struct loop_timer timer;
    struct fixture *f;
    uint64_t *last;
    int *fired;
};

static void on_many(struct loop_timer *timer, void *data)
{
    struct many *m = data;
    assert_true(timer->deadline_ns >= *m->last);
    *m->last = timer->deadline_ns;
    (*m->fired)++;
}

/* The heap against a sorted list: 2000 timers, every third stopped, some armed anew. */
static void test_timers_many_in_order(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 2000 };
    struct many *all = mem_array(COUNT, sizeof *all);
    uint64_t expected[COUNT];
    uint64_t last = 0, base = loop_now(&f->loop);
    int fired = 0, kept = 0;
    for (int i = 0; i < COUNT; i++) {
        all[i] = (struct many){.f = f, .last = &last, .fired = &fired};
        loop_timer_init(&f->loop, &all[i].timer, on_many, &all[i]);
        loop_timer_start_at(&all[i].timer, base + env_random_below(env_system(), 20 * MS));
    }
    for (int i = 0; i < COUNT; i++) {
        if (i % 3 == 0)
            loop_timer_stop(&all[i].timer);
        else if (i % 3 == 1)
            loop_timer_start_at(&all[i].timer, base + env_random_below(env_system(), 20 * MS));
        if (i % 3 != 0)
            expected[kept++] = all[i].timer.deadline_ns;
    }
    qsort(expected, (size_t)kept, sizeof expected[0], by_value);
    RUN_UNTIL(f, fired == kept);
    assert_int_equal(last, expected[kept - 1]);
    free(all);
}

static void test_run_ends_when_nothing_is_left(void **state)
{
    struct fixture *f = *state;
    struct record r = {0};
    struct named n;
    named_init(f, &n, &r, 'x');
    n.rearm = 3;
    loop_timer_start(&n.timer, 1 * MS);
    loop_run(&f->loop);
    assert_int_equal(r.count, 4);
}

/* ---- tasks and turns ---- */

struct task_chain {
    struct loop_task task;
    struct fixture *f;
    int left;
    int ran;
    struct loop_task *queue_too;
};

static void on_chain(struct loop_task *task, void *data)
{
    struct task_chain *c = data;
    c->ran++;
    if (c->left-- > 0)
        loop_defer(&c->f->loop, task);
    if (c->queue_too != NULL)
        loop_defer(&c->f->loop, c->queue_too);
}

static void chain_init(struct task_chain *c, struct fixture *f, int left)
{
    *c = (struct task_chain){.f = f, .left = left};
    c->task.run = on_chain;
    c->task.data = c;
}

static void test_task_runs_later_and_once(void **state)
{
    struct fixture *f = *state;
    struct task_chain a, b;
    chain_init(&a, f, 0);
    chain_init(&b, f, 0);
    a.queue_too = &b.task;
    loop_defer(&f->loop, &a.task);
    loop_defer(&f->loop, &a.task);
    assert_int_equal(a.ran, 0);
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(a.ran, 1);
    assert_int_equal(b.ran, 1);
    loop_defer(&f->loop, &b.task);
    loop_task_cancel(&b.task);
    loop_task_cancel(&b.task);
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(b.ran, 1);
}

static void test_endless_tasks_do_not_starve_timers(void **state)
{
    struct fixture *f = *state;
    struct task_chain c;
    struct record r = {0};
    struct named n;
    chain_init(&c, f, INT32_MAX);
    named_init(f, &n, &r, 't');
    loop_defer(&f->loop, &c.task);
    loop_timer_start(&n.timer, 5 * MS);
    RUN_UNTIL(f, r.count == 1);
    assert_true(c.ran > 1);
    loop_task_cancel(&c.task);
}

static void burn(struct loop *loop, uint64_t ns)
{
    uint64_t end = loop_clock(loop) + ns;
    while (loop_clock(loop) < end)
        ;
}

static void on_burn(struct loop_timer *timer, void *data)
{
    struct fixture *f = data;
    uint64_t now = loop_now(&f->loop);
    burn(timer->loop, 30 * MS);
    assert_int_equal(loop_now(&f->loop), now); /* one clock per turn */
}

static void test_longest_turn_counts_work_not_waiting(void **state)
{
    struct fixture *f = *state;
    struct loop_timer burner;
    loop_timer_init(&f->loop, &burner, on_burn, f);
    loop_timer_start(&burner, 60 * MS);
    const uint64_t queued_us = queue_time_us();
    loop_run(&f->loop);
    assert_true(f->loop.longest_turn_us >= 30000);
    assert_true(f->loop.longest_turn_us < 55000 + queue_time_us() - queued_us);
    assert_true(f->loop.turns.count > 0);
    loop_turns_reset(&f->loop);
    assert_int_equal(f->loop.longest_turn_us, 0);
}

static void on_burn_long(struct loop_timer *timer, void *data)
{
    struct fixture *f = data;
    (void)timer;
    burn(&f->loop, 120 * MS);
}

/* U1 */
static void test_U1_long_turns_are_counted_and_told_once(void **state)
{
    struct fixture *f = *state;
    struct loop_timer burner;
    loop_timer_init(&f->loop, &burner, on_burn, f); /* 30 ms */
    loop_timer_start(&burner, 0);
    loop_run(&f->loop);
    assert_int_equal(f->loop.long_turns, 0);
    assert_int_equal(loop_take_alarm(&f->loop).us, 0);
    loop_timer_init(&f->loop, &burner, on_burn_long, f);
    loop_timer_start(&burner, 0);
    loop_run(&f->loop);
    assert_int_equal(f->loop.long_turns, 1);
    uint64_t us = loop_take_alarm(&f->loop).us;
    assert_true(us >= 120000 && us == f->loop.longest_turn_us);
    assert_int_equal(loop_take_alarm(&f->loop).us, 0);
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * ENV_NS_PER_S + (uint64_t)t.tv_nsec;
}

static void on_work_150(struct loop_timer *timer, void *data)
{
    uint64_t until = thread_cpu_ns() + 150 * MS;
    (void)timer, (void)data;
    while (thread_cpu_ns() < until)
        continue;
}

static void on_sleep_150(struct loop_timer *timer, void *data)
{
    (void)timer, (void)data;
    (void)usleep(150000);
}

static struct loop_long_turn long_turn(struct fixture *f, void (*fire)(struct loop_timer *timer, void *data))
{
    struct loop_timer timer;
    loop_timer_init(&f->loop, &timer, fire, f);
    loop_timer_start(&timer, 0);
    loop_run(&f->loop);
    return loop_take_alarm(&f->loop);
}

/* Another process that never rests wants the only processor that both may have. */
static pid_t competitor_start(cpu_set_t *before)
{
    cpu_set_t one;
    assert_int_equal(sched_getaffinity(0, sizeof *before, before), 0);
    CPU_ZERO(&one);
    for (size_t cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, before))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            (void)thread_cpu_ns();
    return child;
}

/* U1: a long turn says whether it worked, waited for a processor or slept. */
static void test_U1_a_long_turn_says_why(void **state)
{
    struct fixture *f = *state;
    cpu_set_t before;
    struct loop_long_turn t = long_turn(f, on_sleep_150);
    if (!t.known)
        skip(); /* a kernel without these figures */
    assert_true(t.us >= 150000 && t.cpu_us < 60000);
    assert_true(t.us > t.cpu_us + t.waited_us + 80000 || t.waited_us > 40000); /* the machine may be busy */
    t = long_turn(f, on_work_150);
    assert_true(t.cpu_us >= 149000 && t.cpu_us < 210000);
    pid_t child = competitor_start(&before);
    assert_true(child > 0);
    t = long_turn(f, on_work_150);
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
    (void)sched_setaffinity(0, sizeof before, &before);
    assert_true(t.cpu_us >= 149000 && t.cpu_us < 210000);
    assert_true(t.waited_us >= 40000 && t.us + 60000 > t.cpu_us + t.waited_us);
}

/* U2: as many workers as jobs that block (SCRAM, SQLite, files) want; what the user set stays. */
static void test_U2_the_pool_has_its_size(void **state)
{
    (void)state;
    struct loop loop;
    assert_int_equal(unsetenv("UV_THREADPOOL_SIZE"), 0);
    assert_int_equal(loop_init(&loop, env_system(), NULL), 0);
    assert_true(atoi(getenv("UV_THREADPOOL_SIZE")) >= 4);
    assert_int_equal(loop_fini(&loop), 0);
    assert_int_equal(setenv("UV_THREADPOOL_SIZE", "7", 1), 0);
    assert_int_equal(loop_init(&loop, env_system(), NULL), 0);
    assert_string_equal(getenv("UV_THREADPOOL_SIZE"), "7");
    assert_int_equal(loop_fini(&loop), 0);
    unsetenv("UV_THREADPOOL_SIZE");
}

struct poller {
    uv_poll_t poll;
    struct fixture *f;
    uint64_t seen_ns;
};

static void on_pipe(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    struct poller *p = poll->data;
    p->seen_ns = loop_now(&p->f->loop);
    burn(&p->f->loop, 20 * MS);
    uv_close((uv_handle_t *)poll, NULL);
}

static void write_byte(struct work *work)
{
    struct timespec pause = {.tv_nsec = 30000000};
    nanosleep(&pause, NULL); /* lets the loop wait; no result depends on it */
    int *fd = work->data;
    ssize_t ignored = write(*fd, "x", 1);
    (void)ignored;
}

static void work_done(struct work *work, int code)
{
    (void)work;
    assert_int_equal(code, 0);
}

/* A callback of libuv's poll phase sees the clock of its own turn, and its time is counted. */
static void test_turn_includes_poll_callbacks(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct poller p = {.f = f};
    uv_poll_init(&f->loop.uv, &p.poll, fds[0]);
    p.poll.data = &p;
    uv_poll_start(&p.poll, UV_READABLE, on_pipe);
    struct work work;
    uint64_t start = loop_now(&f->loop);
    assert_int_equal(work_start(&f->loop, &work, write_byte, work_done, &fds[1]), 0);
    loop_run(&f->loop);
    assert_true(p.seen_ns >= start + 30 * MS);
    assert_true(f->loop.longest_turn_us >= 20000);
    close(fds[0]);
    close(fds[1]);
}

static void on_stop_timer(struct loop_timer *timer, void *data)
{
    (void)data;
    loop_stop(timer->loop);
}

static void test_stop_ends_the_run(void **state)
{
    struct fixture *f = *state;
    struct loop_timer stop, later;
    loop_timer_init(&f->loop, &stop, on_stop_timer, NULL);
    loop_timer_init(&f->loop, &later, on_stop_timer, NULL);
    loop_timer_start(&stop, 1 * MS);
    loop_timer_start(&later, 3600 * ENV_NS_PER_S);
    loop_run(&f->loop);
    assert_true(loop_timer_armed(&later));
    loop_timer_stop(&later);
}

static void test_fini_reports_a_leaked_handle(void **state)
{
    (void)state;
    struct loop *loop = mem_zalloc(sizeof *loop);
    assert_int_equal(loop_init(loop, env_system(), NULL), 0);
    uv_timer_t leak;
    uv_timer_init(&loop->uv, &leak);
    assert_int_equal(loop_fini(loop), 1);
    uv_close((uv_handle_t *)&leak, NULL);
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    assert_int_equal(uv_loop_close(&loop->uv), 0);
    free(loop);
}

/* ---- signals ---- */

static void on_signal(struct loop_signal *signal, int number, void *data)
{
    int *seen = data;
    *seen = number;
    loop_signal_stop(signal);
    loop_signal_stop(signal);
}

static void test_signal_is_caught(void **state)
{
    struct fixture *f = *state;
    struct loop_signal signal;
    int seen = 0;
    assert_int_equal(loop_signal_start(&f->loop, &signal, SIGUSR1, on_signal, &seen, &f->err), 0);
    raise(SIGUSR1);
    RUN_UNTIL(f, seen == SIGUSR1);
}

static void test_signal_refuses_what_cannot_be_caught(void **state)
{
    struct fixture *f = *state;
    struct loop_signal signal;
    assert_int_equal(loop_signal_start(&f->loop, &signal, SIGKILL, on_signal, NULL, &f->err), ERRC_IO);
    assert_non_null(strstr(f->err.message, "signal 9"));
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
}

/* ---- work ---- */

struct job {
    struct work work;
    uv_sem_t *gate;
    int ran;
    int done;
    int code;
};

static void on_job(struct work *work)
{
    struct job *j = work->data;
    if (j->gate != NULL)
        uv_sem_wait(j->gate);
    j->ran = 1;
}

static void on_job_done(struct work *work, int code)
{
    struct job *j = work->data;
    j->done++;
    j->code = code;
}

static void test_work_runs_and_reports(void **state)
{
    struct fixture *f = *state;
    struct job j = {0};
    assert_int_equal(work_start(&f->loop, &j.work, on_job, on_job_done, &j), 0);
    assert_int_equal(j.done, 0);
    RUN_UNTIL(f, j.done == 1);
    assert_int_equal(j.code, 0);
    assert_int_equal(j.ran, 1);
}

static int jobs_done(const struct job *jobs, int count)
{
    int done = 0;
    for (int i = 0; i < count; i++)
        done += jobs[i].done;
    return done;
}

/* Fills the pool with jobs that wait, so that the last one is certainly still queued. */
static void test_work_cancel_before_it_starts(void **state)
{
    struct fixture *f = *state;
    enum { JOBS = 64 };
    uv_sem_t gate;
    uv_sem_init(&gate, 0);
    struct job jobs[JOBS];
    memset(jobs, 0, sizeof jobs);
    for (int i = 0; i < JOBS; i++) {
        jobs[i].gate = &gate;
        assert_int_equal(work_start(&f->loop, &jobs[i].work, on_job, on_job_done, &jobs[i]), 0);
    }
    work_cancel(&jobs[JOBS - 1].work);
    assert_int_equal(jobs[JOBS - 1].done, 0);
    RUN_UNTIL(f, jobs[JOBS - 1].done == 1);
    assert_int_equal(jobs[JOBS - 1].code, ERRC_CANCELED);
    assert_int_equal(jobs[JOBS - 1].ran, 0);
    for (int i = 0; i < JOBS; i++)
        uv_sem_post(&gate);
    RUN_UNTIL(f, jobs_done(jobs, JOBS) == JOBS);
    work_cancel(&jobs[0].work); /* after its end: nothing */
    uv_sem_destroy(&gate);
}

/* ---- resolution ---- */

struct lookup {
    int calls;
    struct err err;
    struct resolve_result result;
};

static void on_lookup(const struct err *err, const struct resolve_result *result, void *data)
{
    struct lookup *l = data;
    l->calls++;
    if (err != NULL)
        l->err = *err;
    l->result = *result;
}

static void test_resolve_literals(void **state)
{
    struct fixture *f = *state;
    static const char *const hosts[] = {"127.0.0.1", "::1", "2001:db8::5"};
    for (size_t i = 0; i < 3; i++) {
        struct lookup l = {0};
        assert_int_equal(resolve_start(&f->loop, hosts[i], on_lookup, &l, NULL, &f->err), 0);
        assert_int_equal(l.calls, 0);
        assert_int_equal(f->loop.jobs, 0); /* no worker */
        RUN_UNTIL(f, l.calls == 1);
        assert_int_equal(l.result.count, 1);
        assert_string_equal(l.result.address[0], hosts[i]);
    }
}

static void test_resolve_name(void **state)
{
    struct fixture *f = *state;
    struct lookup l = {0};
    assert_int_equal(resolve_start(&f->loop, "localhost", on_lookup, &l, NULL, &f->err), 0);
    RUN_UNTIL(f, l.calls == 1);
    assert_int_equal(l.err.code, ERRC_NONE);
    bool known = false;
    for (int i = 0; i < l.result.count; i++)
        known =
            known || strcmp(l.result.address[i], "127.0.0.1") == 0 || strcmp(l.result.address[i], "::1") == 0;
    assert_true(known);
}

static void test_resolve_unknown_name(void **state)
{
    struct fixture *f = *state;
    struct lookup l = {0};
    assert_int_equal(resolve_start(&f->loop, "no..such", on_lookup, &l, NULL, &f->err), 0);
    RUN_UNTIL(f, l.calls == 1);
    assert_int_equal(l.err.code, ERRC_UNAVAILABLE);
    assert_non_null(strstr(l.err.message, "no..such"));
    assert_int_equal(resolve_start(&f->loop, "", on_lookup, &l, NULL, &f->err), ERRC_INVALID);
}

static void test_resolve_cancel(void **state)
{
    struct fixture *f = *state;
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    for (size_t i = 0; i < 2; i++) {
        struct lookup l = {0};
        struct resolve *r;
        assert_int_equal(resolve_start(&f->loop, hosts[i], on_lookup, &l, &r, &f->err), 0);
        resolve_cancel(r);
        assert_int_equal(l.calls, 0);
        RUN_UNTIL(f, l.calls == 1);
        assert_int_equal(l.err.code, ERRC_CANCELED);
        RUN_UNTIL(f, f->loop.jobs == 0);
        assert_int_equal(l.calls, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(test_timers_fire_by_deadline),
        LOOP_TEST(test_timers_never_fire_early),
        LOOP_TEST(test_timers_tie_in_arming_order),
        LOOP_TEST(test_timer_rearmed_in_its_callback_lets_others_pass),
        LOOP_TEST(test_timer_armed_without_delay_does_not_hold_the_turn),
        LOOP_TEST(test_timer_stopped_in_a_callback_does_not_fire),
        LOOP_TEST(test_timers_many_in_order),
        LOOP_TEST(test_run_ends_when_nothing_is_left),
        LOOP_TEST(test_task_runs_later_and_once),
        LOOP_TEST(test_endless_tasks_do_not_starve_timers),
        LOOP_TEST(test_longest_turn_counts_work_not_waiting),
        LOOP_TEST(test_U1_long_turns_are_counted_and_told_once),
        LOOP_TEST(test_U1_a_long_turn_says_why),
        cmocka_unit_test(test_U2_the_pool_has_its_size),
        LOOP_TEST(test_turn_includes_poll_callbacks),
        LOOP_TEST(test_stop_ends_the_run),
        cmocka_unit_test(test_fini_reports_a_leaked_handle),
        LOOP_TEST(test_signal_is_caught),
        LOOP_TEST(test_signal_refuses_what_cannot_be_caught),
        LOOP_TEST(test_work_runs_and_reports),
        LOOP_TEST(test_work_cancel_before_it_starts),
        LOOP_TEST(test_resolve_literals),
        LOOP_TEST(test_resolve_name),
        LOOP_TEST(test_resolve_unknown_name),
        LOOP_TEST(test_resolve_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
