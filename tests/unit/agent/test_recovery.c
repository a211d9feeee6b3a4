/* What the title of a startup process says of where it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/recovery.h"

static void test_titles(void **state)
{
    uint64_t at = 7;
    (void)state;
    assert_true(recovery_segment_of("postgres: shop-s1-0: startup recovering 000000030000000200000005",
                                    16 << 20, &at));
    assert_int_equal(at, 0x205000000);
    assert_true(recovery_segment_of("postgres: startup waiting for 000000030000000200000005", 1 << 20, &at));
    assert_int_equal(at, 0x200500000);
    static const char *const none[] = {"postgres: shop-s1-0: startup ",
                                       "postgres: startup",
                                       "postgres: a: checkpointer ",
                                       "",
                                       "postgres: startup recovering 00000003000000020000000",
                                       "postgres: startup recovering 00000002.history",
                                       "postgres: a: walsender streaming 000000030000000200000005"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_false(recovery_segment_of(none[i], 16 << 20, &at));
    assert_int_equal(at, 0x200500000);
    assert_false(recovery_segment(0, "/nowhere", &at));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_titles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
