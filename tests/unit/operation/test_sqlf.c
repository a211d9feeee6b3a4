/* SQL text with values put in: nothing that is put in can end its quotes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "operation/sqlf.h"
#include "operation/transient.h"

static void expect(const char *expected, const char *fmt, ...)
{
    struct buf out = {0};
    va_list args;
    va_start(args, fmt);
    sqlvf(&out, fmt, args);
    va_end(args);
    assert_string_equal(buf_text(&out), expected);
    buf_free(&out);
}

static void test_values(void **state)
{
    (void)state;
    expect("SELECT 1", "SELECT 1");
    expect("'plain'", "%L", "plain");
    expect("'it''s'", "%L", "it's");
    expect("''';DROP TABLE t;--'", "%L", "';DROP TABLE t;--");
    expect(" E'a\\\\''b'", "%L", "a\\'b"); /* a backslash cannot escape the quote */
    expect("NULL", "%L", NULL);
    expect("''", "%L", "");
    expect("\"Odd \"\"Name\"\"\"", "%I", "Odd \"Name\"");
    expect("'-9223372036854775808'::bigint", "%d", INT64_MIN);
    expect("'9223372036854775807'::bigint", "%d", INT64_MAX);
    expect("a b 100% c", "%s %s 100%% %s", "a", "b", "c");
    expect("%s and %L are not read twice", "%s and %s are not read twice", "%s", "%L");
    expect("f('1'::bigint, 'x', \"y\", z)", "f(%d, %L, %I, %s)", (int64_t)1, "x", "y", "z");
}

static void test_appends(void **state)
{
    struct buf out = {0};
    (void)state;
    sqlf(&out, "SELECT %L", "a");
    sqlf(&out, ", %d", (int64_t)7);
    assert_string_equal(buf_text(&out), "SELECT 'a', '7'::bigint");
    buf_free(&out);
}

static void test_transient(void **state)
{
    static const char *const mended[] = {"08006", "40001", "40P01", "53300", "57P01",
                                         "57P03", "57014", "55P03", "55006"};
    static const char *const lasting[] = {"42703", "23505", "SHR01", "SHR03", "55000", "XX000", ""};
    struct err err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof mended / sizeof *mended; i++) {
        err_set_sql(&err, mended[i], "x");
        assert_true(err_is_transient(&err));
    }
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++) {
        err_set_sql(&err, lasting[i], "x");
        assert_false(err_is_transient(&err));
    }
    err_set(&err, ERRC_CLOSED, "x");
    assert_true(err_is_transient(&err));
    err_set(&err, ERRC_REFUSED, "x");
    assert_false(err_is_transient(&err));
    err_set(&err, ERRC_STALE, "x");
    assert_false(err_is_transient(&err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_appends),
                                       cmocka_unit_test(test_transient)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
