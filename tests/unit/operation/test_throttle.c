/* How fast a copy may go: what its source's commits and standbys say of it, second by second. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "operation/standby_lag.h"
#include "operation/throttle.h"

#define MIB ((uint64_t)1 << 20)
#define MS  ENV_NS_PER_MS

static const struct throttle_limits usual = {20 * MS, 5 * ENV_NS_PER_S, 0, 0};

/* A copy that takes what it is given, at most `speed`. */
struct copy {
    struct throttle t;
    uint64_t now, speed, rate; /* rate: what was answered last */
};

static void copy_begin(struct copy *c, uint64_t speed, uint64_t base_ns)
{
    memset(c, 0, sizeof *c);
    throttle_init(&c->t);
    c->now = 1000 * ENV_NS_PER_S;
    c->speed = speed;
    for (int i = 0; base_ns > 0 && i < 5; i++)
        throttle_base(&c->t, base_ns);
}

static void begin(struct copy *c, const struct throttle_limits *limits)
{
    if (c->t.began_ns == 0)
        c->rate = throttle_begin(&c->t, limits, c->now);
}

static uint64_t seconds(struct copy *c, const struct throttle_limits *limits, int count, uint64_t commit,
                        uint64_t lag)
{
    begin(c, limits);
    for (int i = 0; i < count; i++) {
        uint64_t taken = c->rate > 0 && c->rate < c->speed ? c->rate : c->speed;
        struct throttle_sample s = {c->now += ENV_NS_PER_S, commit, lag, taken, -1};
        c->rate = throttle_step(&c->t, limits, &s);
    }
    return c->rate;
}

static void test_bound(void **state)
{
    static const struct {
        unsigned base_us, max_ms, bound_us;
    } rows[] = {
        {0, 20, 20000},                                           /* nothing was measured before */
        {500, 20, 10000},                                         /* nobody feels less than 10 ms */
        {3000, 20, 15000},                                        /* five times */
        {4000, 20, 20000}, {6000, 20, 20000}, {15000, 20, 30000}, /* a slow disk: twice what it always took */
        {500, 3, 3000},                                           /* whoever asks for less gets it */
        {500, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct copy c;
        copy_begin(&c, MIB, rows[i].base_us * (uint64_t)1000);
        assert_int_equal(throttle_commit_bound(&c.t, rows[i].max_ms * MS), rows[i].bound_us * (uint64_t)1000);
    }
}

static void test_base_is_the_median(void **state)
{
    struct throttle t;
    (void)state;
    throttle_init(&t);
    assert_int_equal(throttle_base_median(&t), 0);
    static const uint64_t seen[] = {9, 1, 8, 2, 7};
    for (size_t i = 0; i < 5; i++)
        throttle_base(&t, seen[i]);
    assert_int_equal(throttle_base_median(&t), 7);
    for (uint64_t i = 100; i < 109; i++) /* the newest nine */
        throttle_base(&t, i);
    assert_int_equal(throttle_base_median(&t), 104);
}

static void test_a_quiet_source(void **state)
{
    struct copy c;
    char text[200];
    (void)state;
    copy_begin(&c, 100 * MIB, MS);
    assert_int_equal(seconds(&c, &usual, 100, 2 * MS, 0), 0);
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_string_equal(text, "");
    static const struct throttle_limits most = {20 * MS, 0, 0, 7 * MIB};
    assert_int_equal(seconds(&c, &most, 5, 2 * MS, 0), 7 * MIB); /* the limit of the configuration */
}

static void test_one_slow_commit_is_none(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 100 * MIB, MS);
    seconds(&c, &usual, 5, MS, 0);
    assert_int_equal(seconds(&c, &usual, 1, 500 * MS, 0), 0);
    assert_int_equal(seconds(&c, &usual, 5, MS, 0), 0);
}

static void test_slow_commits(void **state)
{
    struct copy c;
    char text[200];
    (void)state;
    copy_begin(&c, 64 * MIB, MS);
    seconds(&c, &usual, 5, MS, 0);
    assert_int_equal(seconds(&c, &usual, 1, 38 * MS, 0), 0);
    assert_int_equal(seconds(&c, &usual, 1, 38 * MS, 0), 32 * MIB); /* two of three: half */
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_string_equal(text, "copy throttled to 32.0 MiB/s: commits on s1 take 38.0 ms, bound 10.0 ms");
    assert_int_equal(seconds(&c, &usual, 2, 38 * MS, 0), 32 * MIB); /* the cut has to show first */
    assert_int_equal(seconds(&c, &usual, 1, 38 * MS, 0), 16 * MIB);
    assert_int_equal(seconds(&c, &usual, 60, 38 * MS, 0), 4 * MIB); /* never stops: a sixteenth */
}

static void test_recovery(void **state)
{
    struct copy c;
    char text[200];
    int took = 0;
    (void)state;
    copy_begin(&c, 64 * MIB, MS);
    seconds(&c, &usual, 5, MS, 0);
    seconds(&c, &usual, 60, 38 * MS, 0);
    assert_int_equal(seconds(&c, &usual, 3, 9 * MS, 0), 4 * MIB); /* near the bound it stays */
    uint64_t before = c.rate;
    seconds(&c, &usual, 1, 2 * MS, 0);
    seconds(&c, &usual, 1, 2 * MS, 0);
    assert_true(c.rate > before);
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_non_null(strstr(text, "rising again: commits on s1 took 38.0 ms"));
    for (; c.rate != 0 && took < 100; took++) {
        before = c.rate;
        seconds(&c, &usual, 1, 2 * MS, 0);
        assert_true(c.rate == 0 || c.rate > before);
    }
    assert_in_range(took, 10, 30);
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_string_equal(text, "");
}

static void test_a_standby_behind(void **state)
{
    struct copy c;
    char text[200];
    (void)state;
    copy_begin(&c, 64 * MIB, MS);
    assert_int_equal(seconds(&c, &usual, 5, MS, 5 * ENV_NS_PER_S), 0);
    assert_int_equal(seconds(&c, &usual, 1, MS, 7 * ENV_NS_PER_S), 32 * MIB);
    throttle_text(&c.t, "s1", "walreceiver", text, sizeof text);
    assert_string_equal(
        text, "copy throttled to 32.0 MiB/s: standby walreceiver of s1 is 7.0 s behind, bound 5.0 s");
    static const struct throttle_limits off = {20 * MS, 0, 0, 0};
    assert_int_equal(seconds(&c, &off, 60, MS, 100 * ENV_NS_PER_S), 0); /* not looked at any more */
}

/* What was asked for is less than what we would cut to; and a rate that is not used up. */
static void test_with_a_limit(void **state)
{
    static const struct throttle_limits most = {20 * MS, 0, 0, 3 * MIB};
    struct copy c;
    (void)state;
    copy_begin(&c, 64 * MIB, MS);
    seconds(&c, &most, 5, MS, 0);
    c.speed = 3 * MIB;
    for (int i = 0; i < 30; i++)
        assert_in_range(seconds(&c, &most, 1, 50 * MS, 0), 1, 3 * MIB);
    c.speed = 2 * MIB;
    copy_begin(&c, 64 * MIB, MS);
    seconds(&c, &usual, 5, MS, 0);
    c.speed = 10 * MIB; /* the target got slow */
    seconds(&c, &usual, 2, 50 * MS, 0);
    assert_int_equal(c.rate, 5 * MIB);
}

static void test_slow_copy_has_a_floor(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 3 * MIB, MS);
    seconds(&c, &usual, 5, MS, 0);
    assert_int_equal(seconds(&c, &usual, 60, 500 * MS, 0), THROTTLE_FLOOR);
    c.speed = 0; /* nothing moves, whatever is allowed */
    assert_int_equal(seconds(&c, &usual, 60, 500 * MS, 0), THROTTLE_FLOOR);
}

/* ---- the application's transactions ---- */

static const struct throttle_limits tenth = {20 * MS, 0, 0.1, 0};

/* An application that takes all there is: a copy at full speed costs it `cost` of its transactions, a slower
 * one less. Returns the least rate that was answered, lulls aside. */
static uint64_t busy(struct copy *c, int count, double demand, double cost, double *ret_mean)
{
    uint64_t least = UINT64_MAX;
    double sum = 0;
    begin(c, &tenth);
    for (int i = 0; i < count; i++) {
        uint64_t taken = c->rate > 0 && c->rate < c->speed ? c->rate : c->speed;
        double done = demand * (1 - cost * (double)taken / (double)c->speed);
        struct throttle_sample s = {c->now += ENV_NS_PER_S, MS, 0, taken, done};
        c->rate = throttle_step(&c->t, &tenth, &s);
        uint64_t rate = c->rate == 0 ? c->speed : c->rate;
        if (c->t.lull_ns == 0 && rate < least)
            least = rate;
        sum += done;
    }
    if (ret_mean != NULL)
        *ret_mean = sum / count / demand;
    return least;
}

static void test_an_application_that_suffers(void **state)
{
    struct copy c;
    double mean;
    char text[200];
    uint64_t moved = 0;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    busy(&c, 20, 5000, 0.4, NULL); /* as fast as it may be, found by starting slowly */
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_string_equal(text, "copy held at 32.0 MiB/s: faster it would cost s1 too many transactions");
    busy(&c, 60, 5000, 0.5, NULL);
    assert_in_range(c.rate, 1, 31 * MIB);
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_non_null(strstr(text, " fewer transactions beside it, bound 10 %"));
    busy(&c, 600, 5000, 0.4, &mean); /* at a quarter of full speed it lacks a tenth */
    assert_true(mean > 0.9);
    for (int i = 0; i < 400; i++) {
        busy(&c, 1, 5000, 0.4, NULL);
        moved += c.rate;
    }
    assert_in_range(moved / 400, 16 * MIB, 40 * MIB); /* and the copy does not crawl */
}

/* Beside an application that was there: twice as fast with every three looks, until that would be too fast.
 */
static void test_slow_start(void **state)
{
    static const uint64_t rates[] = {8, 8, 16, 16, 16, 32, 32, 32};
    struct copy c;
    double mean;
    char text[200];
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 5000);
    assert_int_equal(throttle_begin(&c.t, &tenth, c.now), 8 * MIB);
    throttle_text(&c.t, "s1", "", text, sizeof text);
    assert_string_equal(text, "copy starts slowly, at 8.0 MiB/s: s1 does 5000 transactions/s");
    c.rate = 8 * MIB;
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        busy(&c, 1, 5000, 0.3, NULL);
        assert_int_equal(c.rate, rates[i] * MIB);
    }
    busy(&c, 1, 5000, 0.3, NULL); /* 7.5 % are missing: 64 MiB/s would cost more than a tenth */
    assert_int_equal(c.rate, 32 * MIB);
    busy(&c, 1, 5000, 0.3, NULL); /* but a little more will do */
    assert_in_range(c.rate, 33 * MIB, 40 * MIB);
    busy(&c, 300, 5000, 0.3, &mean);
    assert_true(mean > 0.9);
}

/* At no moment does the application lose more than it would in a throttled copy. */
static void test_slow_start_costs_little(void **state)
{
    struct copy c;
    double mean;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 5000);
    for (int i = 0; i < 30; i++) {
        busy(&c, 3, 5000, 0.8, &mean);
        assert_true(mean > 0.85);
    }
}

/* A new server is made before the copy, on the same machine, say: the application does less by then. */
static void test_a_count_of_long_before(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 5000);
    throttle_end_count(&c.t, c.now - 5 * ENV_NS_PER_S);
    throttle_base_transactions(&c.t, 40);
    assert_int_equal(throttle_begin(&c.t, &tenth, c.now), THROTTLE_START);
    assert_true(c.t.without == 5000);
}

static void test_no_slow_start(void **state)
{
    static const struct throttle_limits slow = {20 * MS, 0, 0.1, 8 * MIB};
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 20);
    assert_int_equal(throttle_begin(&c.t, &tenth, c.now), 0); /* nobody to give way to */
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 5000);
    assert_int_equal(throttle_begin(&c.t, &usual, c.now), 0);      /* nobody asked for it */
    assert_int_equal(throttle_begin(&c.t, &slow, c.now), 8 * MIB); /* slow enough by itself */
    assert_int_equal(c.t.rate, 0);
}

/* A copy that is slower than it may be is at its full speed, and may be throttled from there. */
static void test_slow_start_of_a_slow_copy(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 20 * MIB, MS);
    throttle_base_transactions(&c.t, 5000);
    busy(&c, 20, 5000, 0.01, NULL);
    assert_int_equal(c.rate, 0);
    assert_int_equal(c.t.peak, 20 * MIB);
}

/* Who was not there before the copy is counted soon after it came. */
static void test_an_application_that_comes_later(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 3);
    assert_int_equal(busy(&c, 5, 3, 0.4, NULL), 128 * MIB);
    assert_int_equal(c.t.cut_ns, 0);
    busy(&c, 16, 5000, 0.4, NULL);
    assert_in_range(c.rate, 1, 127 * MIB);
}

static void test_an_application_that_does_not_suffer(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    assert_int_equal(busy(&c, 25, 5000, 0.05, NULL), THROTTLE_START);
    assert_int_equal(busy(&c, 600, 5000, 0.05, NULL), 128 * MIB);
}

/* By night there were 5000, by day there are 1000: they are counted again before long. */
static void test_demand_changes_by_itself(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    busy(&c, 60, 5000, 0, NULL);
    busy(&c, 90, 1000, 0, NULL);
    assert_int_equal(busy(&c, 60, 1000, 0, NULL), 128 * MIB);
    assert_int_equal(busy(&c, 60, 3000, 0, NULL), 128 * MIB);
}

/* And are not held against the copy at all: it makes a lull, and goes on. */
static void test_a_fall_is_counted_before_a_cut(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    busy(&c, 20, 5000, 0, NULL);
    assert_int_equal(busy(&c, 60, 1000, 0, NULL), 128 * MIB);
    assert_int_equal(c.t.cut_ns, 0);
}

/* A burst that was counted before the copy, by the move's own doing, say, and nobody there afterwards. */
static void test_a_burst_before_the_copy(void **state)
{
    struct copy c;
    int lulls = 0;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 300);
    for (int i = 0; i < 120; i++) {
        bool was = c.t.lull_ns != 0;
        uint64_t least = busy(&c, 1, 10, 0, NULL);
        if (lulls > 0) /* until then it starts slowly */
            assert_int_equal(least, c.t.lull_ns != 0 ? UINT64_MAX : 128 * MIB);
        lulls += !was && c.t.lull_ns != 0;
    }
    assert_int_equal(lulls, 1);
    assert_int_equal(c.t.cut_ns, 0);
}

static void test_nobody_is_there(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    for (int i = 0; i < 600; i++) {
        busy(&c, 1, 20, 0.9, NULL); /* nobody had counted: that took a second */
        assert_int_equal(c.rate, 0);
        assert_int_equal(c.t.lull_ns, 0);
    }
    assert_true(throttle_seconds_left(&c.t, c.now, 1000, 10, 1) == 100); /* nor is one to come */
}

static void test_lulls(void **state)
{
    struct copy c;
    int lulls = 0, seconds_of_them = 0;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    throttle_base_transactions(&c.t, 4900); /* counted before the copy: the first lull can wait */
    throttle_base_transactions(&c.t, 5100);
    for (int i = 0; i < 400; i++) {
        bool was = c.t.lull_ns != 0;
        busy(&c, 1, 5000, 0.05, NULL);
        lulls += !was && c.t.lull_ns != 0;
        seconds_of_them += c.t.lull_ns != 0;
        if (i < 30)
            assert_int_equal(lulls, 0);
        if (c.t.lull_ns != 0)
            assert_int_equal(c.rate, THROTTLE_FLOOR);
        if (i == 2)
            assert_true(isnan(throttle_seconds_left(&c.t, c.now, 1000, 10, 1))); /* it starts */
    }
    assert_in_range(lulls, 9, 11);
    assert_in_range(seconds_of_them, 30, 50);
}

/* What is said to be left, against the copy that follows: lulls that lie before its end are counted, no
 * others. */
static void test_seconds_left(void **state)
{
    const double outside = 128 * MIB, inside = THROTTLE_FLOOR;
    (void)state;
    for (unsigned ahead = 1; ahead < 200; ahead += 7) {
        struct copy c;
        double left = 0;
        copy_begin(&c, (uint64_t)outside, MS);
        for (int i = 0; i < 100 || c.t.lull_ns != 0; i++) /* some lulls, and the last is over */
            busy(&c, 1, 5000, 0.05, NULL);
        struct throttle then = c.t;
        uint64_t from = c.now;
        for (unsigned i = 0; i < ahead; i++) {
            left += c.rate > 0 ? inside : outside;
            busy(&c, 1, 5000, 0.05, NULL);
        }
        double said = throttle_seconds_left(&then, from, left, outside, inside);
        assert_true(fabs(said - ahead) <= 4); /* a look each second: a lull is as much late, five at most */
    }
}

static void test_seconds_left_in_a_lull(void **state)
{
    struct copy c;
    (void)state;
    copy_begin(&c, 128 * MIB, MS);
    while (c.t.lull_ns == 0 || c.t.starting)
        busy(&c, 1, 5000, 0.05, NULL);
    uint64_t now = c.t.lull_ns + 1 * ENV_NS_PER_S;                /* three seconds of it are left */
    assert_true(throttle_seconds_left(&c.t, now, 2, 10, 1) == 2); /* done within it */
    assert_true(throttle_seconds_left(&c.t, now, 3 + 360, 10, 1) == 3 + 36);      /* up to the next */
    assert_true(throttle_seconds_left(&c.t, now, 3 + 360 + 2, 10, 1) == 3 + 38);  /* within the next */
    assert_true(throttle_seconds_left(&c.t, now, 3 + 364 + 20, 10, 1) == 3 + 42); /* a whole one between */
    assert_true(isnan(throttle_seconds_left(&c.t, now, 3, 0, 0)));
}

/* ---- standbys ---- */

static void test_lag(void **state)
{
    struct standby_lag l;
    (void)state;
    standby_lag_init(&l);
    assert_int_equal(standby_lag_of(&l, 100, 5), 0); /* nothing is known */
    for (uint64_t i = 1; i <= 10; i++)
        standby_lag_mark(&l, i * ENV_NS_PER_S, i * 1000);
    uint64_t now = 10 * ENV_NS_PER_S;
    assert_int_equal(standby_lag_of(&l, now, 10000), 0);
    assert_int_equal(standby_lag_of(&l, now, 9500), 0 * ENV_NS_PER_S); /* the mark of right now */
    assert_int_equal(standby_lag_of(&l, now, 7000), 2 * ENV_NS_PER_S);
    assert_int_equal(standby_lag_of(&l, now, 0), 9 * ENV_NS_PER_S);
    standby_lag_mark(&l, now, 10000); /* nothing was written: the mark stays the older one */
    assert_int_equal(standby_lag_of(&l, now + 3 * ENV_NS_PER_S, 9999), 3 * ENV_NS_PER_S);
    standby_lag_mark(&l, now + 4 * ENV_NS_PER_S, 500); /* a failover: its history is another one */
    assert_int_equal(standby_lag_of(&l, now + 5 * ENV_NS_PER_S, 500), 0);
    assert_int_equal(standby_lag_of(&l, now + 5 * ENV_NS_PER_S, 499), 1 * ENV_NS_PER_S);
}

/* Older marks get sparse: the answer is too great by the distance of two, and by no more. */
static void test_lag_for_long(void **state)
{
    struct standby_lag l;
    (void)state;
    standby_lag_init(&l);
    for (uint64_t i = 1; i <= 100000; i++) {
        standby_lag_mark(&l, i * ENV_NS_PER_S, i);
        uint64_t lag = standby_lag_of(&l, i * ENV_NS_PER_S, 0);
        assert_true(lag <= i * ENV_NS_PER_S);
        assert_true(lag >= (i - 1) * ENV_NS_PER_S);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bound),
                                       cmocka_unit_test(test_base_is_the_median),
                                       cmocka_unit_test(test_a_quiet_source),
                                       cmocka_unit_test(test_one_slow_commit_is_none),
                                       cmocka_unit_test(test_slow_commits),
                                       cmocka_unit_test(test_recovery),
                                       cmocka_unit_test(test_a_standby_behind),
                                       cmocka_unit_test(test_with_a_limit),
                                       cmocka_unit_test(test_slow_copy_has_a_floor),
                                       cmocka_unit_test(test_lag),
                                       cmocka_unit_test(test_lag_for_long),
                                       cmocka_unit_test(test_an_application_that_suffers),
                                       cmocka_unit_test(test_slow_start),
                                       cmocka_unit_test(test_slow_start_costs_little),
                                       cmocka_unit_test(test_a_count_of_long_before),
                                       cmocka_unit_test(test_no_slow_start),
                                       cmocka_unit_test(test_slow_start_of_a_slow_copy),
                                       cmocka_unit_test(test_an_application_that_comes_later),
                                       cmocka_unit_test(test_an_application_that_does_not_suffer),
                                       cmocka_unit_test(test_demand_changes_by_itself),
                                       cmocka_unit_test(test_a_fall_is_counted_before_a_cut),
                                       cmocka_unit_test(test_a_burst_before_the_copy),
                                       cmocka_unit_test(test_nobody_is_there),
                                       cmocka_unit_test(test_lulls),
                                       cmocka_unit_test(test_seconds_left),
                                       cmocka_unit_test(test_seconds_left_in_a_lull)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
