/* How much there will be to copy, by what is known of a heap so far. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "operation/copy_estimate.h"

static void total(const struct copy_heap_progress *h, uint64_t rows, uint64_t bytes)
{
    struct copy_total t = {1000, 5000}; /* of other heaps */
    copy_estimate(h, &t);
    assert_int_equal(t.rows, 1000 + rows);
    assert_int_equal(t.bytes, 5000 + bytes);
}

static void test_by_statistics(void **state)
{
    (void)state;
    struct copy_heap_progress h = {.rows = 10000, .bytes = 500000, .share = 0.5, .blocks = 100};
    total(&h, 10000, 500000);
    h.rows_now = 50; /* too few to tell a width */
    h.bytes_now = 50 * 1000;
    total(&h, 10000, 500000);
    h.rows_now = 100;
    h.bytes_now = 100 * 80; /* wider than statistics said */
    total(&h, 10000, 800000);
    h.rows_now = 20000; /* statistics were old */
    h.bytes_now = 20000 * 80;
    total(&h, 20000, 1600000);
}

static void test_without_statistics(void **state)
{
    (void)state;
    struct copy_heap_progress h = {.rows = 0, .bytes = 400000, .share = 0.5, .blocks = 100};
    total(&h, 0, 400000);
    h.rows_now = 1000;
    h.bytes_now = 1000 * 96;
    uint64_t rows = 100 * (8168 / 116) / 2;
    struct copy_total t = {0};
    copy_estimate(&h, &t);
    assert_int_equal(t.rows, rows);
    assert_in_range(t.bytes, rows * 96, rows * 97);
    h.bytes_now = 1000 * 9000; /* out of line: at least one row is in a block */
    h.blocks = 10000;
    total(&h, 5000, 5000ull * 9000);
}

/* Pieces that are through tell how many rows of R a block holds, whatever statistics said. */
static void test_by_pieces(void **state)
{
    (void)state;
    struct copy_heap_progress h = {.rows = 5,
                                   .bytes = 5,
                                   .share = 1,
                                   .blocks = 1000,
                                   .blocks_done = 250,
                                   .rows_done = 2500,
                                   .bytes_done = 100000,
                                   .rows_now = 100,
                                   .bytes_now = 4000};
    total(&h, 10000, 400000);
    h.bytes_now = 400000; /* more than was thought */
    total(&h, 10000, 500000);
    h.over = true;
    total(&h, 2600, 500000);
}

static void test_empty(void **state)
{
    (void)state;
    struct copy_heap_progress h = {.share = 0.5};
    total(&h, 0, 0);
    h.over = true;
    total(&h, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_statistics),
                                       cmocka_unit_test(test_without_statistics),
                                       cmocka_unit_test(test_by_pieces), cmocka_unit_test(test_empty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
