/*
 * loop_test: the fixture of the loop's tests: a loop, and waiting for a condition with a deadline.
 */
#ifndef TESTS_LOOP_TEST_H
#define TESTS_LOOP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "loop/loop.h"

#define WAIT_NS (20 * ENV_NS_PER_S)

struct fixture {
    struct loop loop;
    struct err err;
    struct loop_timer watchdog;
    struct loop_timer tick; /* conditions outside the loop are looked at every 5 ms */
    bool timed_out;
};

static void fixture_tick(struct loop_timer *timer, void *data)
{
    (void)data;
    loop_timer_start(timer, 5 * ENV_NS_PER_MS);
}

static void fixture_watchdog(struct loop_timer *timer, void *data)
{
    (void)timer;
    ((struct fixture *)data)->timed_out = true;
}

static int fixture_setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    if (loop_init(&f->loop, env_system(), &f->err) != 0)
        return -1;
    loop_timer_init(&f->loop, &f->watchdog, fixture_watchdog, f);
    loop_timer_init(&f->loop, &f->tick, fixture_tick, f);
    *state = f;
    return 0;
}

/* Every handle and every count must be gone; what is still open is printed by the loop. */
static int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    int open = loop_fini(&f->loop);
    if (open == 0 && f->loop.handles == 0 && f->loop.jobs == 0) {
        free(f);
        return 0;
    }
    return -1;
}

/* Turns the loop until the condition holds; fails after WAIT_NS. */
#define RUN_UNTIL(f, condition)                                                                              \
    do {                                                                                                     \
        loop_timer_start(&(f)->watchdog, WAIT_NS);                                                           \
        loop_timer_start(&(f)->tick, 0);                                                                     \
        while (!(condition) && !(f)->timed_out)                                                              \
            uv_run(&(f)->loop.uv, UV_RUN_ONCE);                                                              \
        loop_timer_stop(&(f)->watchdog);                                                                     \
        loop_timer_stop(&(f)->tick);                                                                         \
        assert_false((f)->timed_out);                                                                        \
    } while (0)

#define LOOP_TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

#endif
