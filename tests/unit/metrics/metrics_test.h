/*
 * metrics_test: what the tests of src/metrics share: a loop, a fleet, pollers that count their events.
 */
#ifndef METRICS_METRICS_TEST_H
#define METRICS_METRICS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/mem.h"
#include "metrics/poller.h"
#include "support/pg_server.h"

#define MS ENV_NS_PER_MS

struct fixture {
    struct loop loop;
    struct loop_timer tick;
    struct fleet fleet;
    struct pollers *pollers;
    int sampled, ups, downs, closed;
    struct err last_down;
    uint64_t down_ns, up_ns;
};

static inline void fixture_tick(struct loop_timer *timer, void *data)
{
    (void)timer;
    (void)data;
}

static inline void on_sampled(struct fleet_instance *instance, void *data)
{
    (void)instance;
    ((struct fixture *)data)->sampled++;
}

static inline void on_up(struct fleet_instance *instance, void *data)
{
    (void)instance;
    struct fixture *f = data;
    f->ups++;
    f->up_ns = loop_clock(&f->loop);
}

static inline void on_down(struct fleet_instance *instance, const struct err *err, void *data)
{
    (void)instance;
    struct fixture *f = data;
    f->downs++;
    f->down_ns = loop_clock(&f->loop);
    err_clear(&f->last_down);
    err_copy(&f->last_down, err);
}

static inline void on_pollers_closed(void *data)
{
    ((struct fixture *)data)->closed++;
}

static inline void fixture_open(struct fixture *f, const struct pollers_options *options)
{
    static const struct pollers_events events = {.sampled = on_sampled, .up = on_up, .down = on_down};
    memset(f, 0, sizeof *f);
    assert_int_equal(loop_init(&f->loop, env_system(), NULL), 0);
    loop_timer_init(&f->loop, &f->tick, fixture_tick, NULL);
    fleet_init(&f->fleet);
    f->pollers = pollers_new(&f->loop, &f->fleet, options, &events, f);
}

/* Turns the loop until the condition holds; false when it took longer than ms. */
#define WAIT_UNTIL(f, ms, condition)                                                                         \
    ({                                                                                                       \
        const uint64_t wait_end = loop_clock(&(f)->loop) + (uint64_t)(ms)*MS;                                \
        while (!(condition) && loop_clock(&(f)->loop) < wait_end) {                                          \
            loop_timer_start(&(f)->tick, 20 * MS);                                                           \
            uv_run(&(f)->loop.uv, UV_RUN_ONCE);                                                              \
        }                                                                                                    \
        loop_timer_stop(&(f)->tick);                                                                         \
        (condition);                                                                                         \
    })

static inline void fixture_close(struct fixture *f)
{
    pollers_close(f->pollers, on_pollers_closed, f);
    assert_int_equal(f->closed, 0);
    assert_true(WAIT_UNTIL(f, 10000, f->closed == 1));
    fleet_fini(&f->fleet);
    loop_timer_stop(&f->tick);
    assert_int_equal(loop_fini(&f->loop), 0);
}

static inline struct fleet_instance *add_instance(struct fixture *f, const char *name, const char *shard,
                                                  const struct pg_server *s, const char *dbname)
{
    char host[] = "127.0.0.1", user[] = "postgres", password[32], db[64];
    snprintf(password, sizeof password, "%s", s->password);
    snprintf(db, sizeof db, "%s", dbname);
    const struct instance_access access = {
        .host = host, .port = s->port, .user = user, .password = password, .dbname = db};
    struct fleet_instance *instance;
    assert_int_equal(fleet_add_instance(&f->fleet, name, "static", &access, &instance, NULL), 0);
    free(instance->database);
    free(instance->shard);
    instance->database = mem_strdup("shop");
    instance->shard = mem_strdup(shard);
    return instance;
}

#endif
