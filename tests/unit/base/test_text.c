/* Text, numbers and the error value: tables of cases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/text.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void test_int64(void **state)
{
    (void)state;
    const struct {
        const char *text;
        bool good;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-1", true, -1},
        {"0042", true, 42},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"0x10", false, 0},
        {"1e3", false, 0},
        {"--1", false, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t value = 77;
        bool good = text_to_int64(cases[i].text, &value);
        if (good != cases[i].good || value != (good ? cases[i].value : 77))
            fail_msg("\"%s\"", cases[i].text);
    }
}

static void test_uint64(void **state)
{
    (void)state;
    uint64_t value = 77;
    assert_true(text_to_uint64("18446744073709551615", &value));
    assert_true(value == UINT64_MAX);
    value = 77;
    static const char *const bad[] = {"18446744073709551616", "-1", "", "+1", " 1", "1 ", "1.0", "a"};
    for (size_t i = 0; i < COUNT(bad); i++)
        if (text_to_uint64(bad[i], &value) || value != 77)
            fail_msg("\"%s\"", bad[i]);
}

static void test_double(void **state)
{
    (void)state;
    double value = 77;
    assert_true(text_to_double("-2.5e3", &value));
    assert_true(value > -2500.1 && value < -2499.9);
    assert_true(text_to_double("0", &value));
    static const char *const bad[] = {"",      " 1", "1 ",   "nan", "inf", "-inf",
                                      "1e999", "+1", "0x10", "1,5", "-",   "."};
    value = 77;
    for (size_t i = 0; i < COUNT(bad); i++)
        if (text_to_double(bad[i], &value) || value < 76.9 || value > 77.1)
            fail_msg("\"%s\"", bad[i]);
}

static void test_duration(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint64_t ns; /* 0 = refused */
    } cases[] = {
        {"90", 90000000000},
        {"250ms", 250000000},
        {"7us", 7000},
        {"10s", 10000000000},
        {"5m", 300000000000},
        {"5min", 300000000000},
        {"1h", 3600000000000},
        {"2d", 172800000000000},
        {"", 0},
        {"s", 0},
        {"-1s", 0},
        {"1.5s", 0},
        {"1 s", 0},
        {"1S", 0},
        {"10ss", 0},
        {"18446744073709551615s", 0},
        {"300000000000d", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t ns = 0;
        if (text_to_duration(cases[i].text, &ns) != (cases[i].ns != 0) ||
            (cases[i].ns != 0 && ns != cases[i].ns))
            fail_msg("\"%s\"", cases[i].text);
    }
}

static void test_bytes(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint64_t bytes; /* 0 = refused */
    } cases[] = {
        {"512", 512},        {"8kB", 8192},       {"16MB", 16777216},   {"1GiB", 1073741824},
        {"1Gi", 1073741824}, {"2TB", 2ull << 40}, {"1KB", 0},           {"1mb", 0},
        {"-1", 0},           {"MB", 0},           {"17179869184GB", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t bytes = 0;
        if (text_to_bytes(cases[i].text, &bytes) != (cases[i].bytes != 0) ||
            (cases[i].bytes != 0 && bytes != cases[i].bytes))
            fail_msg("\"%s\"", cases[i].text);
    }
}

static void test_names(void **state)
{
    (void)state;
    char longest[65];
    memset(longest, 'a', 64);
    longest[63] = '\0';
    assert_true(text_is_name(longest));
    longest[63] = 'a';
    longest[64] = '\0';
    assert_false(text_is_name(longest));
    static const char *const good[] = {"a", "shop", "s1", "0", "a-b"};
    static const char *const bad[] = {"", "-a", "a-", "A", "a_b", "a.b", "a b", "\xc3\xa4"};
    for (size_t i = 0; i < COUNT(good); i++)
        assert_true(text_is_name(good[i]));
    for (size_t i = 0; i < COUNT(bad); i++)
        if (text_is_name(bad[i]))
            fail_msg("\"%s\"", bad[i]);
    assert_true(text_starts_with("shard", "sh"));
    assert_true(text_starts_with("shard", ""));
    assert_false(text_starts_with("sh", "shard"));
}

static void test_lsn(void **state)
{
    (void)state;
    static const char *const same[] = {"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1"};
    for (size_t i = 0; i < COUNT(same); i++) {
        uint64_t lsn;
        char text[TEXT_LSN_SIZE];
        assert_true(text_to_lsn(same[i], &lsn));
        text_from_lsn(lsn, text);
        assert_string_equal(text, same[i]);
    }
    uint64_t lsn = 77;
    assert_true(text_to_lsn("16/b374d848", &lsn));
    assert_true(lsn == 0x16b374d848);
    lsn = 77;
    static const char *const bad[] = {"",     "0",    "/0",   "0/",    "0/0 ",  " 0/0",        "0/ 0",
                                      "0/-1", "-1/0", "0/+1", "0x1/1", "1/0x1", "123456789/0", "0/123456789",
                                      "g/0",  "0/0/0"};
    for (size_t i = 0; i < COUNT(bad); i++)
        if (text_to_lsn(bad[i], &lsn) || lsn != 77)
            fail_msg("\"%s\"", bad[i]);
}

/* ---- err ---- */

static void test_err_set_and_wrap(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, ERRC_NOT_FOUND, "no %s", "shard"), ERRC_NOT_FOUND);
    assert_int_equal(err_wrap(&e, "move %d", 7), ERRC_NOT_FOUND);
    assert_string_equal(e.message, "move 7: no shard");
    assert_int_equal(err_set(&e, ERRC_IO, "again: %s", e.message), ERRC_IO); /* an argument from itself */
    assert_string_equal(e.message, "again: move 7: no shard");
    assert_int_equal(err_set(NULL, ERRC_IO, "x"), ERRC_IO);
    assert_int_equal(err_set_errno(&e, 2, "file"), ERRC_IO);
    assert_string_equal(e.message, "file: No such file or directory");
}

static void test_err_truncates(void **state)
{
    (void)state;
    struct err e = {0};
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    err_set(&e, ERRC_IO, "%s", text);
    assert_int_equal(strlen(e.message), ERR_MESSAGE_SIZE - 1);
    err_wrap(&e, "%s", text);
    assert_true(strlen(e.message) < ERR_MESSAGE_SIZE);
    for (int i = 0; i < 100; i++)
        err_wrap(&e, "step %d", i);
    assert_int_equal(strncmp(e.message, "step 99: step 98: ", 18), 0);
    err_set_errno(&e, 2, "%s", text);
    assert_non_null(strstr(e.message, "No such file")); /* the cause outlives a long prefix */
}

static void test_err_sql(void **state)
{
    (void)state;
    struct err e = {0}, copy = {0};
    assert_int_equal(err_set_sql(&e, "SHR01", "refused"), ERRC_SQL);
    assert_true(err_is_sql(&e, "SHR01"));
    assert_false(err_is_sql(&e, "23505"));
    err_wrap(&e, "insert");
    assert_true(err_is_sql(&e, "SHR01"));
    assert_int_equal(err_copy(&copy, &e), ERRC_SQL);
    assert_string_equal(copy.message, "insert: refused");
    err_set(&e, ERRC_IO, "x");
    assert_string_equal(e.sqlstate, "");
    err_set_sql(&e, NULL, "x");
    assert_string_equal(e.sqlstate, "XX000");
    err_clear(&e);
    assert_int_equal(e.code, ERRC_NONE);
    assert_int_equal(err_copy(&copy, NULL), ERRC_NONE);
}

static void test_err_names_are_distinct(void **state)
{
    (void)state;
    for (int a = 0; a < ERRC_MAX; a++)
        for (int b = 0; b < a; b++)
            assert_string_not_equal(err_code_name((enum err_code)a), err_code_name((enum err_code)b));
    assert_string_equal(err_code_name(ERRC_NOT_FOUND), "not_found");
    assert_string_equal(err_code_name(ERRC_MAX), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_int64),
        cmocka_unit_test(test_uint64),
        cmocka_unit_test(test_double),
        cmocka_unit_test(test_duration),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_lsn),
        cmocka_unit_test(test_err_set_and_wrap),
        cmocka_unit_test(test_err_truncates),
        cmocka_unit_test(test_err_sql),
        cmocka_unit_test(test_err_names_are_distinct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
