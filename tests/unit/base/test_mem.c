/* Memory that a burst leaves between what lasts goes back to the system. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"

enum { PIECES = 32768, PIECE = 1000, LASTING = 64, MIB = 1 << 20 };

#if !defined(__SANITIZE_ADDRESS__) /* which has a heap of its own */
static long resident_kib(void)
{
    char line[256];
    long kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    if (file == NULL)
        return 0;
    while (kib == 0 && fgets(line, sizeof line, file) != NULL)
        (void)sscanf(line, "VmRSS: %ld", &kib);
    fclose(file);
    return kib;
}
#endif

static void free_but(char **pieces, unsigned each)
{
    for (unsigned i = 0; i < PIECES; i++)
        if (each == 0 || i % each != 0) {
            free(pieces[i]);
            pieces[i] = NULL;
        }
}

static void test_free_pages_between_go_back(void **state)
{
    (void)state;
    static char *pieces[PIECES];
    struct mem_use use = {0};
    for (unsigned i = 0; i < PIECES; i++)
        pieces[i] = mem_zalloc(PIECE);
    for (unsigned i = 0; i < PIECES; i++)
        pieces[i][PIECE - 1] = 1;
    assert_false(mem_settle(&use, MIB)); /* all is in use */
#if !defined(__SANITIZE_ADDRESS__)
    long full = resident_kib();
    free_but(pieces, LASTING);
    assert_true(full - resident_kib() < 8 * 1024); /* what lasts is between: nothing goes by itself */
    assert_false(mem_settle(&use, (size_t)PIECES * PIECE));
    assert_true(mem_settle(&use, MIB));
    assert_true(full - resident_kib() > 20 * 1024);
    assert_false(mem_settle(&use, MIB)); /* done */
#endif
    free_but(pieces, 0);
}

/* The burst began and ended between two looks. */
static void test_a_burst_that_nobody_saw(void **state)
{
    (void)state;
    struct mem_use use = {0};
    assert_false(mem_settle(&use, MIB));
#if !defined(__SANITIZE_ADDRESS__)
    static char *pieces[PIECES];
    for (unsigned i = 0; i < PIECES; i++) {
        pieces[i] = mem_zalloc(PIECE);
        pieces[i][PIECE - 1] = 1;
    }
    long full = resident_kib();
    free_but(pieces, LASTING);
    assert_true(mem_settle(&use, MIB));
    assert_true(full - resident_kib() > 20 * 1024);
    assert_false(mem_settle(&use, MIB));
    free_but(pieces, 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_pages_between_go_back),
        cmocka_unit_test(test_a_burst_that_nobody_saw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
