#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fleet/range.h"

static struct range_set set_of(const struct range *items, size_t n)
{
    struct range_set set = {0};
    for (size_t i = 0; i < n; i++)
        assert_int_equal(range_set_add(&set, &items[i], NULL), 0);
    return set;
}

static void expect_set(const struct range_set *set, const struct range *items, size_t n)
{
    assert_int_equal(set->count, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(set->items[i].lo, items[i].lo);
        assert_int_equal(set->items[i].hi, items[i].hi);
    }
}

static void test_add_merges_neighbours(void **state)
{
    (void)state;
    struct range_set set = set_of((struct range[]){{10, 19}, {30, 39}, {-5, -1}}, 3);
    expect_set(&set, (struct range[]){{-5, -1}, {10, 19}, {30, 39}}, 3);
    assert_int_equal(range_set_add(&set, &(struct range){20, 29}, NULL), 0);
    expect_set(&set, (struct range[]){{-5, -1}, {10, 39}}, 2);
    assert_int_equal(range_set_add(&set, &(struct range){0, 3}, NULL), 0);
    assert_int_equal(range_set_add(&set, &(struct range){7, 9}, NULL), 0);
    expect_set(&set, (struct range[]){{-5, 3}, {7, 39}}, 2);
    range_set_free(&set);
}

static void test_add_at_the_ends_of_the_space(void **state)
{
    (void)state;
    struct range_set set = set_of(
        (struct range[]){{INT64_MIN, INT64_MIN}, {INT64_MAX, INT64_MAX}, {INT64_MIN + 1, INT64_MAX - 1}}, 3);
    expect_set(&set, (struct range[]){{INT64_MIN, INT64_MAX}}, 1);
    assert_int_equal(range_set_add(&set, &(struct range){INT64_MAX, INT64_MAX}, NULL), ERRC_CONFLICT);
    assert_int_equal(range_set_remove(&set, &(struct range){INT64_MAX, INT64_MAX}, NULL), 0);
    assert_int_equal(range_set_remove(&set, &(struct range){INT64_MIN, INT64_MIN}, NULL), 0);
    expect_set(&set, (struct range[]){{INT64_MIN + 1, INT64_MAX - 1}}, 1);
    assert_int_equal(range_set_add(&set, &(struct range){INT64_MAX, INT64_MAX}, NULL), 0);
    expect_set(&set, (struct range[]){{INT64_MIN + 1, INT64_MAX}}, 1);
    range_set_free(&set);
}

static void test_add_refuses_overlap(void **state)
{
    (void)state;
    struct range_set set = set_of((struct range[]){{10, 19}, {30, 39}}, 2);
    static const struct range bad[] = {{10, 19}, {5, 10}, {19, 25}, {12, 13}, {0, 100}, {20, 30}, {39, 39}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        assert_int_equal(range_set_add(&set, &bad[i], &err), ERRC_CONFLICT);
        assert_non_null(strstr(err.message, "overlaps"));
    }
    assert_int_equal(range_set_add(&set, &(struct range){3, 2}, NULL), ERRC_INVALID);
    expect_set(&set, (struct range[]){{10, 19}, {30, 39}}, 2);
    range_set_free(&set);
}

static void test_remove(void **state)
{
    (void)state;
    struct range_set set = set_of((struct range[]){{0, 99}}, 1);
    assert_int_equal(range_set_remove(&set, &(struct range){40, 59}, NULL), 0);
    expect_set(&set, (struct range[]){{0, 39}, {60, 99}}, 2);
    assert_int_equal(range_set_remove(&set, &(struct range){30, 70}, NULL), ERRC_CONFLICT);
    assert_int_equal(range_set_remove(&set, &(struct range){40, 59}, NULL), ERRC_CONFLICT);
    assert_int_equal(range_set_remove(&set, &(struct range){0, 9}, NULL), 0);
    assert_int_equal(range_set_remove(&set, &(struct range){90, 99}, NULL), 0);
    expect_set(&set, (struct range[]){{10, 39}, {60, 89}}, 2);
    assert_int_equal(range_set_remove(&set, &(struct range){10, 39}, NULL), 0);
    expect_set(&set, (struct range[]){{60, 89}}, 1);
    range_set_free(&set);
}

/* Every operation on small numbers against an array of booleans. */
static void test_against_a_model(void **state)
{
    (void)state;
    bool model[32] = {false};
    struct range_set set = {0};
    uint32_t seed = 1;
    for (int step = 0; step < 200000; step++) {
        seed = seed * 1664525u + 1013904223u;
        int lo = (int)(seed >> 8 & 31);
        int hi = lo + (int)(seed >> 16 & 7);
        hi = hi > 31 ? 31 : hi;
        bool add = seed >> 24 & 1, allowed = true;
        for (int i = lo; i <= hi; i++)
            allowed = allowed && model[i] != add;
        struct range r = {lo, hi};
        int rc = add ? range_set_add(&set, &r, NULL) : range_set_remove(&set, &r, NULL);
        assert_int_equal(rc, allowed ? 0 : ERRC_CONFLICT);
        for (int i = lo; allowed && i <= hi; i++)
            model[i] = add;
        for (int i = 0; i < 32; i++)
            assert_int_equal(range_set_contains(&set, i), model[i]);
        for (size_t i = 1; i < set.count; i++)
            assert_true(set.items[i - 1].hi + 1 < set.items[i].lo);
    }
    range_set_free(&set);
}

static void test_contains_and_copy(void **state)
{
    (void)state;
    struct range_set set = set_of((struct range[]){{0, 9}, {20, 29}}, 2), copy, empty = {0}, none;
    assert_true(range_set_contains_range(&set, &(struct range){20, 29}));
    assert_true(range_set_contains_range(&set, &(struct range){3, 3}));
    assert_false(range_set_contains_range(&set, &(struct range){5, 20}));
    assert_false(range_set_contains_range(&set, &(struct range){30, 31}));
    range_set_copy(&copy, &set);
    assert_true(range_set_equal(&copy, &set));
    assert_int_equal(range_set_remove(&copy, &(struct range){29, 29}, NULL), 0);
    assert_false(range_set_equal(&copy, &set));
    assert_false(range_set_equal(&empty, &set));
    range_set_copy(&none, &empty);
    assert_true(range_set_equal(&none, &empty));
    range_set_free(&none);
    range_set_free(&copy);
    range_set_free(&set);
}

static void test_split_evenly(void **state)
{
    (void)state;
    struct range out[1000];
    range_split_evenly(1, out);
    assert_true(out[0].lo == INT64_MIN && out[0].hi == INT64_MAX);
    assert_true(range_width_minus_one(&out[0]) == UINT64_MAX);
    range_split_evenly(2, out);
    assert_true(out[0].hi == -1 && out[1].lo == 0);
    for (size_t n = 1; n <= 1000; n++) {
        range_split_evenly(n, out);
        assert_true(out[0].lo == INT64_MIN && out[n - 1].hi == INT64_MAX);
        for (size_t i = 1; i < n; i++) {
            assert_int_equal(out[i - 1].hi + 1, out[i].lo);
            assert_int_equal(range_width_minus_one(&out[i - 1]), range_width_minus_one(&out[0]));
        }
        assert_true(range_width_minus_one(&out[n - 1]) - range_width_minus_one(&out[0]) < n);
    }
}

static void test_text(void **state)
{
    (void)state;
    static const char *const good[] = {"-9223372036854775808..9223372036854775807",
                                       "-9223372036854775808..-1", "0..0", "-7..-7"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct range r;
        char text[RANGE_TEXT_SIZE];
        assert_int_equal(range_parse(good[i], &r, NULL), 0);
        range_format(&r, text);
        assert_string_equal(text, good[i]);
    }
    static const char *const bad[] = {"",      "..",     "1..",   "..1",
                                      "1",     "2..1",   "1...2", "1..2 ",
                                      "a..b",  "1-2",    "+1..2", "9223372036854775808..9223372036854775808",
                                      "1..2.", "1..2..3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct range r = {1, 2};
        struct err err = {0};
        assert_int_equal(range_parse(bad[i], &r, &err), ERRC_INVALID);
        assert_true(r.lo == 1 && r.hi == 2 && err.message[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_merges_neighbours), cmocka_unit_test(test_add_at_the_ends_of_the_space),
        cmocka_unit_test(test_add_refuses_overlap),   cmocka_unit_test(test_remove),
        cmocka_unit_test(test_against_a_model),       cmocka_unit_test(test_contains_and_copy),
        cmocka_unit_test(test_split_evenly),          cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
