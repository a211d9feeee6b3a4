#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "k8s/resource_version.h"

static void test_K17_versions_compare_as_numbers_of_any_length(void **state)
{
    static const struct {
        const char *a, *b;
        enum rv_order order;
    } rows[] = {
        {"9", "10", RV_OLDER},
        {"10", "9", RV_NEWER},
        {"12345", "12345", RV_EQUAL},
        {"340282366920938463463374607431768211455", "340282366920938463463374607431768211454", RV_NEWER},
        {"99999999999999999999", "340282366920938463463374607431768211455", RV_OLDER},
        {"", "", RV_EQUAL},
        {"", "1", RV_UNRELATED},
        {"0", "1", RV_UNRELATED},
        {"01", "2", RV_UNRELATED},
        {"x", "2", RV_UNRELATED},
        {"2x", "3", RV_UNRELATED},
        {"-1", "1", RV_UNRELATED},
        {"x", "x", RV_EQUAL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(rv_compare(rows[i].a, rows[i].b), rows[i].order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_K17_versions_compare_as_numbers_of_any_length)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
