/* When the fence may begin, by the markers before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "operation/calm.h"

#define US 1000u

/* Feeds the trips, each of which ends when the one before did plus its own time; returns how many were used,
 * and the last answer. The last trip repeats. */
static unsigned feed(const unsigned *trips_us, size_t count, enum calm_answer *ret)
{
    struct calm c;
    uint64_t now = 1000 * ENV_NS_PER_S;
    unsigned used = 0;
    calm_begin(&c, now);
    do {
        uint64_t trip = trips_us[used < count ? used : count - 1] * (uint64_t)US;
        now += trip;
        used++;
        *ret = calm_add(&c, trip, now);
        assert_true(used < 100000);
    } while (*ret == CALM_AGAIN);
    return used;
}

#define FEED(used, answer, ...)                                                                              \
    do {                                                                                                     \
        static const unsigned trips[] = {__VA_ARGS__};                                                       \
        enum calm_answer got;                                                                                \
        assert_int_equal(feed(trips, sizeof trips / sizeof trips[0], &got), used);                           \
        assert_int_equal(got, answer);                                                                       \
    } while (0)

static void test_calm_from_the_start(void **state)
{
    (void)state;
    FEED(8, CALM_GO, 2000);
    FEED(8, CALM_GO, 2000, 2900, 2500, 2000, 3900, 2000, 2000,
         2000); /* within half as much again, and 1 ms */
}

/* A target that comes from behind: each marker is the shortest so far, which does not make it a calm one. */
static void test_still_getting_better(void **state)
{
    (void)state;
    FEED(12, CALM_GO, 47000, 49000, 57000, 31000, 19000, 14000, 5700, 4500, 2000);
    FEED(8, CALM_GO, 73000, 32000, 22000, 6000, 3000, 2500, 2000);
}

/* One long trip among short ones: some more must follow it. */
static void test_one_stall(void **state)
{
    (void)state;
    FEED(11, CALM_GO, 2000, 2000, 2000, 2000, 2000, 2000, 30000, 2000);
    FEED(12, CALM_GO, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 30000, 2000);
}

/* It never gets as good again: after its patience what is quick must do. */
static void test_patience(void **state)
{
    (void)state;
    FEED(1 + 150, CALM_GO, 1000, 20000);
    FEED(1 + 60, CALM_BUSY, 1000, 50000);
    FEED(60, CALM_BUSY, 50000); /* alike, but too slow for the fence */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm_from_the_start),
        cmocka_unit_test(test_still_getting_better),
        cmocka_unit_test(test_one_stall),
        cmocka_unit_test(test_patience),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
