#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/env.h"
#include "fleet/samples.h"

#define S ENV_NS_PER_S

static int ring_setup(void **state)
{
    struct load_ring *ring = malloc(sizeof *ring); /* not zeroed: init must do */
    load_ring_init(ring);
    *state = ring;
    return 0;
}

static int ring_teardown(void **state)
{
    load_ring_fini(*state);
    free(*state);
    return 0;
}

/* The n-th newest; its time is 0 if there is none. */
static struct load_sample second(const struct load_ring *ring, unsigned n)
{
    struct load_sample s = {0};
    assert_true(load_ring_second(ring, n, &s) == (s.at_ns != 0));
    return s;
}

static struct load_sample minute(const struct load_ring *ring, unsigned n)
{
    struct load_sample s = {0};
    assert_true(load_ring_minute(ring, n, &s) == (s.at_ns != 0));
    return s;
}

static void add(struct load_ring *ring, uint64_t second, double rate, double cpu)
{
    load_ring_add(ring, &(struct load_sample){.at_ns = second * S,
                                              .value = {(float)rate, (float)cpu, (float)NAN, 7},
                                              .active_sessions = 3,
                                              .probe_ms = (float)NAN});
}

static void test_seconds(void **state)
{
    struct load_ring *ring = *state;
    assert_true(second(ring, 0).at_ns == 0);
    for (unsigned i = 0; i < SAMPLES_SECONDS + 50; i++) {
        add(ring, 100 + i, i, 1);
        assert_true(second(ring, 0).at_ns == (100 + i) * S);
    }
    assert_true(second(ring, SAMPLES_SECONDS - 1).at_ns == 150 * S);
    assert_true(second(ring, SAMPLES_SECONDS).at_ns == 0);
    add(ring, 5, 1e9, 1); /* from the past */
    assert_true(second(ring, 0).at_ns == (100 + SAMPLES_SECONDS + 49) * S);
}

/* Places are added while samples come, and a metric may be known later than others. */
static void test_late_metric(void **state)
{
    struct load_ring *ring = *state;
    for (unsigned i = 0; i < SAMPLES_SECONDS * 2; i++)
        add(ring, 100 + i, i, i < 200 ? (double)NAN : i);
    for (unsigned n = 0; n < SAMPLES_SECONDS; n++) {
        unsigned i = SAMPLES_SECONDS * 2 - 1 - n;
        assert_true(second(ring, n).at_ns == (100 + i) * S &&
                    second(ring, n).value[LOAD_QUERY_RATE] == (float)i);
        assert_true(second(ring, n).value[LOAD_CPU] == (float)i &&
                    isnan(second(ring, n).value[LOAD_WAL_RATE]));
    }
    load_ring_fini(ring);
    for (unsigned i = 0; i < 300; i++)
        add(ring, 100 + i, i, i < 200 ? (double)NAN : i);
    for (unsigned n = 0; n < 300; n++)
        assert_true(second(ring, n).value[LOAD_QUERY_RATE] == (float)(299 - n) &&
                    isnan(second(ring, n).value[LOAD_CPU]) == (n >= 100));
}

static void test_minutes_are_means(void **state)
{
    struct load_ring *ring = *state;
    for (unsigned i = 0; i < 121; i++)
        add(ring, 1000 + i, i < 60 ? 10 : i, i % 2 == 0 ? (double)NAN : 4);
    assert_true(minute(ring, 1).at_ns == 1060 * S && minute(ring, 0).at_ns == 1120 * S);
    assert_true(minute(ring, 1).value[LOAD_QUERY_RATE] == 10);
    assert_true(minute(ring, 0).value[LOAD_QUERY_RATE] == 89.5);
    assert_true(minute(ring, 0).value[LOAD_CPU] == 4);
    assert_true(isnan(minute(ring, 0).value[LOAD_WAL_RATE]));
    assert_true(isnan(minute(ring, 0).active_sessions) && isnan(second(ring, 1).active_sessions));
    assert_true(second(ring, 0).active_sessions == 3);
    assert_true(minute(ring, 2).at_ns == 0);
}

static void test_silent_minutes_leave_no_entry(void **state)
{
    struct load_ring *ring = *state;
    add(ring, 1000, 1, 1);
    add(ring, 1000 + 600 + 5, 2, 1);
    assert_true(minute(ring, 0).at_ns == 1060 * S);
    assert_true(minute(ring, 1).at_ns == 0);
    add(ring, 1000 + 660, 3, 1);
    assert_true(minute(ring, 0).at_ns == 1660 * S && minute(ring, 0).value[0] == 2);
}

static void test_mean(void **state)
{
    struct load_ring *ring = *state;
    double mean = -1;
    assert_false(load_ring_mean(ring, LOAD_QUERY_RATE, 0, S, &mean));
    for (unsigned i = 1; i <= 20; i++)
        add(ring, i, i, i == 20 ? (double)NAN : 5);
    assert_true(load_ring_mean(ring, LOAD_QUERY_RATE, 20 * S, 9 * S, &mean) && mean == 15.5);
    assert_true(load_ring_mean(ring, LOAD_QUERY_RATE, 20 * S, 0, &mean) && mean == 20);
    assert_true(load_ring_mean(ring, LOAD_CPU, 20 * S, 9 * S, &mean) && mean == 5);
    assert_false(load_ring_mean(ring, LOAD_CPU, 20 * S, 0, &mean));
    assert_false(load_ring_mean(ring, LOAD_WAL_RATE, 20 * S, 9 * S, &mean));
    assert_false(load_ring_mean(ring, LOAD_QUERY_RATE, 40 * S, 9 * S, &mean));
}

static void test_mean_of_an_hour(void **state)
{
    struct load_ring *ring = *state;
    double mean = -1;
    for (unsigned i = 0; i < 7200; i++) /* an hour of 100, an hour of 200 */
        add(ring, 60 + i, i < 3600 ? 100 : 200, 1);
    uint64_t now = (60 + 7199) * S;
    assert_true(load_ring_mean(ring, LOAD_QUERY_RATE, now, 3500 * S, &mean) && fabs(mean - 200) < 1e-9);
    assert_true(load_ring_mean(ring, LOAD_QUERY_RATE, now, 7200 * S, &mean) && fabs(mean - 150) < 1e-9);
    assert_false(load_ring_mean(ring, LOAD_QUERY_RATE, now + 8000 * S, 3600 * S, &mean));
}

static void test_day_wraps(void **state)
{
    struct load_ring *ring = *state;
    for (unsigned i = 0; i <= SAMPLES_MINUTES + 10; i++)
        add(ring, 60ull * i, i, 1);
    assert_true(minute(ring, 0).value[0] == SAMPLES_MINUTES + 9);
    assert_true(minute(ring, SAMPLES_MINUTES - 1).value[0] == 10);
    assert_true(minute(ring, SAMPLES_MINUTES).at_ns == 0);
}

/* Any pattern of minutes with and without samples, over several days, against a plain list of them. */
static void test_minutes_of_days(void **state)
{
    struct load_ring *ring = *state;
    enum { DAYS = 5 };
    static unsigned with[DAYS * SAMPLES_MINUTES];
    static const unsigned gaps[] = {1, 1, 1, 2, 1, 1, 63, 1, 1, 64, 65, 1, 1, 1, 700, 1, 3};
    unsigned count = 0;
    for (unsigned at = 0; at<DAYS * SAMPLES_MINUTES; at += at> 3000 ? 1 + at % 7 / 6 : gaps[count % 17]) {
        add(ring, 7 + 60ull * at, at % 2000, 1);
        with[count++] = at;
        if (count % 50 != 2)
            continue;
        unsigned last = count - 2; /* the minute of the newest sample is not over yet */
        for (unsigned n = 0;; n++) {
            if (n > last || with[last] - with[last - n] >= SAMPLES_MINUTES) {
                assert_true(minute(ring, n).at_ns == 0);
                break;
            }
            unsigned expected = with[last - n];
            assert_true(minute(ring, n).at_ns == (7 + 60ull * (expected + 1)) * S);
            assert_true(minute(ring, n).value[LOAD_QUERY_RATE] == (float)(expected % 2000));
        }
    }
    assert_true(count > 2000);
}

/* An instance that answers once a month has no seconds of long ago that look new. */
static void test_seconds_of_long_ago_end(void **state)
{
    struct load_ring *ring = *state;
    for (unsigned month = 0; month < 20; month++) {
        add(ring, 100 + month * 30 * 86400ull, month, 1);
        assert_true(second(ring, 0).at_ns == (100 + month * 30 * 86400ull) * S);
        assert_true(second(ring, 1).at_ns == 0);
    }
    for (unsigned i = 0; i < 40; i++) /* every two days: what is less than 24 days old stays, with its time */
        add(ring, (700 + i * 2) * 86400ull, i, 1);
    for (unsigned n = 0; n < 12 && second(ring, n).at_ns != 0; n++)
        assert_true(second(ring, n).at_ns == (700 + (39 - n) * 2) * 86400ull * S);
    assert_true(second(ring, 20).at_ns == 0);
}

static void test_packed_values(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < UINT16_MAX; packed++) {
        float value = load_unpack((uint16_t)packed);
        assert_true(load_pack(value) == packed);
        if (packed == 0)
            continue;
        assert_true(value > load_unpack((uint16_t)(packed - 1)));
        float between = value * 1.0004F; /* less than half a step of the fraction */
        double error = (double)load_unpack(load_pack(between)) / (double)between - 1;
        if (packed >= 1024 && packed < UINT16_MAX - 1)
            assert_true(fabs(error) <= 1.0 / 2048);
    }
    for (unsigned i = 0; i <= 2048; i++)
        assert_true(load_unpack(load_pack((float)i)) == (float)i);
    assert_true(load_pack(-1) == 0 && load_pack(1e-9F) == 0);
    assert_true(isnan(load_unpack(load_pack((float)NAN))));
    assert_true(load_unpack(load_pack(1e15F)) > 9.99e14F);
    assert_true(load_pack(1e30F) == UINT16_MAX - 1 && load_pack((float)INFINITY) == UINT16_MAX - 1);
}

/* What the documents promise: 19 KB for a day of three metrics. */
static void test_memory(void **state)
{
    struct load_ring *ring = *state;
    for (unsigned i = 0; i < 3000; i++)
        add(ring, 60ull * i, i, 1);
    size_t bytes = sizeof *ring + ring->seconds.capacity * sizeof *ring->seconds.at_ms;
    for (int m = 0; m < LOAD_METRIC_MAX; m++) {
        bytes +=
            ring->seconds.column[m] != NULL ? ring->seconds.capacity * sizeof *ring->seconds.column[m] : 0;
        bytes +=
            ring->minutes.column[m] != NULL ? ring->minutes.capacity * sizeof *ring->minutes.column[m] : 0;
    }
    assert_true(ring->seconds.capacity == SAMPLES_SECONDS && ring->minutes.capacity == SAMPLES_MINUTES);
    assert_in_range(bytes, 18000, 19000);
}

static void test_names(void **state)
{
    (void)state;
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        assert_int_equal(load_metric_parse(load_metric_name((enum load_metric)m)), m);
    assert_int_equal(load_metric_parse("latency"), -1);
}

#define RING_TEST(f) cmocka_unit_test_setup_teardown(f, ring_setup, ring_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RING_TEST(test_seconds),
        RING_TEST(test_late_metric),
        RING_TEST(test_minutes_are_means),
        RING_TEST(test_silent_minutes_leave_no_entry),
        RING_TEST(test_mean),
        RING_TEST(test_mean_of_an_hour),
        RING_TEST(test_day_wraps),
        RING_TEST(test_minutes_of_days),
        RING_TEST(test_seconds_of_long_ago_end),
        cmocka_unit_test(test_packed_values),
        RING_TEST(test_memory),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
