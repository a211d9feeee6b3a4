#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "load/load_pace.h"
#include "load/load_stats.h"

#define MS ENV_NS_PER_MS

static unsigned take_all(struct load_pace *pace, uint64_t now, uint64_t *ret_first)
{
    unsigned n = 0;
    uint64_t intended;
    while (load_pace_take(pace, now, &intended)) {
        assert_true(intended <= now);
        if (n++ == 0)
            *ret_first = intended;
    }
    return n;
}

static void test_open_loop_is_not_moved_by_delay(void **state)
{
    (void)state;
    struct load_pace pace;
    uint64_t first = 0;
    load_pace_init(&pace, 1000, 5000 * MS);
    assert_int_equal(take_all(&pace, 5000 * MS, &first), 1); /* the first is due at once */
    assert_int_equal(load_pace_next(&pace), 5001 * MS);
    assert_int_equal(take_all(&pace, 5000 * MS + MS / 2, &first), 0);
    /* nobody looked for 100 ms: the missed ones are still due, each with its own intended start */
    assert_int_equal(take_all(&pace, 5100 * MS, &first), 100);
    assert_int_equal(first, 5001 * MS);
    assert_int_equal(load_pace_next(&pace), 5101 * MS);
}

static void test_long_run_keeps_the_rate(void **state)
{
    (void)state;
    struct load_pace pace;
    uint64_t first, total = 0;
    load_pace_init(&pace, 333.3, 0);
    for (uint64_t now = 0; now < 3600 * ENV_NS_PER_S; now += 777 * MS)
        total += take_all(&pace, now, &first);
    assert_in_range(total, 1199500, 1200100); /* 333.3/s for an hour is 1,199,880 */
}

static void test_change_of_rate(void **state)
{
    (void)state;
    struct load_pace pace;
    uint64_t first = 0;
    load_pace_init(&pace, 100, 0);
    assert_int_equal(take_all(&pace, 1000 * MS, &first), 101);
    load_pace_change(&pace, 1000, 1005 * MS);
    assert_int_equal(load_pace_next(&pace), 1005 * MS);
    assert_int_equal(take_all(&pace, 1010 * MS, &first), 6);
    /* what was due before stays due */
    load_pace_change(&pace, 10, 1020 * MS);
    assert_int_equal(take_all(&pace, 1020 * MS, &first), 1);
    assert_int_equal(first, 1011 * MS);
}

static void test_closed_loop_is_always_due(void **state)
{
    (void)state;
    struct load_pace pace;
    uint64_t intended = 0;
    load_pace_init(&pace, 0, 7);
    for (uint64_t now = 7; now < 1000; now++) {
        assert_true(load_pace_take(&pace, now, &intended));
        assert_int_equal(intended, now);
    }
}

/* ---- gaps ---- */

static void test_gap_counts_waiting_only(void **state)
{
    (void)state;
    struct load_gap g = {0};
    load_gap_begin(&g, 100);
    load_gap_ack(&g, 110);
    load_gap_begin(&g, 5000); /* nobody wanted to write between: no gap */
    load_gap_ack(&g, 5020);
    assert_int_equal(g.longest_ns, 20);
    assert_int_equal(g.longest_at_ns, 5020);
}

static void test_gap_of_many_writers(void **state)
{
    (void)state;
    struct load_gap g = {0};
    load_gap_begin(&g, 0);
    load_gap_begin(&g, 40);
    load_gap_ack(&g, 50); /* the second one's, but somebody has waited since 0 */
    assert_int_equal(g.longest_ns, 50);
    load_gap_ack(&g, 130);
    assert_int_equal(g.longest_ns, 80);
    load_gap_begin(&g, 200);
    load_gap_abandon(&g, 400);
    assert_int_equal(g.longest_ns, 200);
    assert_int_equal(load_gap_recent(&g, 400), 200);
    assert_int_equal(load_gap_recent(&g, 9999), 0);
    load_gap_begin(&g, 10000);
    assert_int_equal(load_gap_recent(&g, 10300), 300); /* one that goes on */
}

static void test_error_classes(void **state)
{
    (void)state;
    static struct load_stats s;
    char name[8];
    load_stats_error(&s, "40001");
    load_stats_error(&s, "timeout");
    load_stats_error(&s, "40001");
    assert_int_equal(s.error_classes, 2);
    assert_int_equal(s.errors[0].count, 2);
    for (int i = 0; i < 200; i++) { /* never more than there is room for */
        (void)snprintf(name, sizeof name, "X%d", i);
        load_stats_error(&s, name);
    }
    assert_int_equal(s.error_classes, LOAD_ERROR_CLASSES);
    assert_int_equal(load_stats_errors(&s), 203);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_loop_is_not_moved_by_delay),
        cmocka_unit_test(test_long_run_keeps_the_rate),
        cmocka_unit_test(test_change_of_rate),
        cmocka_unit_test(test_closed_loop_is_always_due),
        cmocka_unit_test(test_gap_counts_waiting_only),
        cmocka_unit_test(test_gap_of_many_writers),
        cmocka_unit_test(test_error_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
