/* What is drawn and waits for its client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "load/load_impl.h"

static void nothing(struct loop_task *task, void *data)
{
    (void)task;
    (void)data;
}

static void never(struct loop_timer *timer, void *data)
{
    (void)timer;
    (void)data;
}

static unsigned waiting(const struct load *load)
{
    unsigned n = 0;
    for (unsigned i = 0; i < load->o.clients; i++)
        n += load->clients[i].queue.count;
    return n;
}

/* A rate that proved too high leaves a second of work behind, which a lower one must not have to do first. */
static void test_a_rate_that_proved_too_high_is_forgotten(void **state)
{
    struct loop loop;
    struct load load = {0};
    struct err err = {0};
    (void)state;
    assert_int_equal(loop_init(&loop, env_system(), &err), 0);
    load.loop = &loop;
    load.o.clients = 3;
    load.o.seed = 1;
    load.o.rate = 100000;
    load.o.mix[LOAD_OP_READ] = 1;
    load.ledger.state.shape.customers = 100;
    load.clients = mem_array(load.o.clients, sizeof *load.clients);
    load.turn.run = nothing;
    loop_timer_init(&loop, &load.pace_timer, never, &load);
    assert_int_equal(load_draw_init(&load, &err), 0);

    load_pace_init(&load.pace, load.o.rate, loop_clock(&loop) - ENV_NS_PER_S);
    load_draw(&load);
    assert_true(load.queued >= 100000 && waiting(&load) == load.queued);
    load_set_rate(&load, 1000); /* what was due before stays due */
    assert_true(load.queued >= 100000);
    load_reset_rate(&load, 1000);
    assert_int_equal(load.queued, 0);
    load_draw(&load);
    assert_true(load.queued < 100 && waiting(&load) == load.queued);

    for (unsigned i = 0; i < load.o.clients; i++)
        load_queue_free(&load.clients[i].queue);
    free(load.clients);
    loop_timer_stop(&load.pace_timer);
    loop_task_cancel(&load.turn);
    load_draw_fini(&load);
    assert_int_equal(loop_fini(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_rate_that_proved_too_high_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
