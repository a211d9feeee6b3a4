/* From which amount of free space on writes are refused, and from which on they are not any more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/disk.h"

#define MIB (1024ull * 1024)
#define GIB (1024 * MIB)

static void test_judged(void **state)
{
    static const struct {
        uint64_t size, free;
        enum disk_state before, then;
    } cases[] = {
        {0, 0, DISK_ENOUGH, DISK_ENOUGH}, /* not known */
        {0, 0, DISK_FULL, DISK_ENOUGH},
        {100 * GIB, 5 * GIB, DISK_ENOUGH, DISK_ENOUGH},
        {100 * GIB, 5 * GIB - 1, DISK_ENOUGH, DISK_LOW},
        {100 * GIB, 1 * GIB, DISK_LOW, DISK_LOW},
        {100 * GIB, 1 * GIB - 1, DISK_LOW, DISK_FULL},
        {100 * GIB, 2 * GIB - 1, DISK_FULL, DISK_FULL}, /* not to and fro */
        {100 * GIB, 2 * GIB, DISK_FULL, DISK_LOW},
        {10 * GIB, 10 * GIB / 50, DISK_ENOUGH, DISK_LOW},
        {10 * GIB, 10 * GIB / 50 - 1, DISK_ENOUGH, DISK_FULL},
        {1 * GIB, 103 * MIB, DISK_ENOUGH, DISK_ENOUGH}, /* a tenth */
        {1 * GIB, 102 * MIB, DISK_ENOUGH, DISK_LOW},
        {1 * GIB, 48 * MIB, DISK_ENOUGH, DISK_LOW},
        {1 * GIB, 48 * MIB - 1, DISK_ENOUGH, DISK_FULL},
        {256 * MIB, 96 * MIB, DISK_ENOUGH, DISK_ENOUGH}, /* low is never below what ends full */
        {256 * MIB, 96 * MIB - 1, DISK_ENOUGH, DISK_LOW},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct disk_space space = {cases[i].free, cases[i].size};
        assert_int_equal(disk_judge(&space, cases[i].before), cases[i].then);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_judged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
