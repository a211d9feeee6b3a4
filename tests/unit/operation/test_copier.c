/* How heaps are cut into pieces: every block once, nothing after the last left out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "operation/copier.h"

static void test_pieces(void **state)
{
    static struct copier_heap heaps[] = {
        {.blocks = 10000}, {.blocks = 0}, {.blocks = 4096}, {.blocks = 4097}};
    static const struct copier_piece want[] = {{0, 0, 4096}, {0, 4096, 8192}, {0, 8192, -1}, {1, 0, -1},
                                               {2, 0, -1},   {3, 0, 4096},    {3, 4096, -1}};
    (void)state;
    assert_int_equal(copier_pieces(heaps, 4), 7);
    for (int n = 0; n < 7; n++) {
        struct copier_piece got = copier_piece(heaps, 4, n);
        assert_int_equal(got.heap, want[n].heap);
        assert_int_equal(got.first, want[n].first);
        assert_int_equal(got.last, want[n].last);
    }
    assert_int_equal(copier_pieces(heaps, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
