/* When a move goes back for the sake of a disk, and what it says then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "operation/wal_guard.h"

#define MIB ((uint64_t)1 << 20)

static const struct wal_guard_limits usual = {100 * MIB, 50 * MIB};
static const struct wal_guard_facts fine = {.source = "s1",
                                            .target = "s2",
                                            .slot = "shardherd_shop_m1_f",
                                            .wal_status = "reserved",
                                            .retained = 10 * MIB,
                                            .source_free = 1000 * MIB,
                                            .target_free = 1000 * MIB,
                                            .to_come = 900 * MIB};

static void judge(const struct wal_guard_facts *f, const char *const *words)
{
    struct err err = {0};
    assert_int_equal(wal_guard_judge(&usual, f, &err), words != NULL ? ERRC_LIMIT : 0);
    for (int i = 0; words != NULL && words[i] != NULL; i++)
        if (strstr(err.message, words[i]) == NULL)
            fail_msg("\"%s\" lacks \"%s\"", err.message, words[i]);
}

#define REFUSED(f, ...) judge(f, (const char *const[]){__VA_ARGS__, NULL})

static void test_retained(void **state)
{
    struct wal_guard_facts f = fine;
    (void)state;
    judge(&f, NULL);
    f.retained = 100 * MIB - 1;
    judge(&f, NULL);
    f.retained = 100 * MIB;
    REFUSED(&f, "slot shardherd_shop_m1_f keeps 100 MiB of WAL on s1", "bound 100 MiB",
            "moves.max_retained_wal", "s2");
    static const struct wal_guard_limits none = {0};
    assert_int_equal(wal_guard_judge(&none, &f, NULL), 0);
}

static void test_status(void **state)
{
    static const struct {
        const char *status, *word;
    } rows[] = {{"", NULL},
                {"reserved", NULL},
                {"extended", NULL},
                {"unreserved", "is losing"},
                {"lost", "has lost"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct wal_guard_facts f = fine;
        f.wal_status = rows[i].status;
        if (rows[i].word == NULL)
            judge(&f, NULL);
        else
            REFUSED(&f, rows[i].word, "shardherd_shop_m1_f", "max_slot_wal_keep_size");
    }
}

static void test_disks(void **state)
{
    struct wal_guard_facts f = fine;
    (void)state;
    f.source_free = 49 * MIB;
    REFUSED(&f, "the disk of the WAL of s1 has 49 MiB free, 50 MiB are to stay free", "moves.min_free_disk");
    f.wal_status = ""; /* no slot yet: the move keeps nothing there */
    judge(&f, NULL);
    f = fine;
    f.source_free = WAL_GUARD_UNKNOWN;
    judge(&f, NULL);
    f.target_free = 949 * MIB;
    REFUSED(&f, "the disk of the data of s2 has 949 MiB free, 900 MiB are still to come and 50 MiB");
    f.to_come = 0;
    judge(&f, NULL);
    f.target_free = 49 * MIB;
    REFUSED(&f, "s2 has 49 MiB free, 50 MiB are to stay");
    f.target_free = WAL_GUARD_UNKNOWN;
    judge(&f, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_retained), cmocka_unit_test(test_status),
                                       cmocka_unit_test(test_disks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
