/* What is read of a status that a member's agent sends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ha/member_status.h"

static int parse(const char *text, struct member_status *ret)
{
    struct err err = {0};
    return member_status_parse(text, strlen(text), ret, &err);
}

static void test_container(void **state)
{
    struct member_status s;
    (void)state;
    assert_int_equal(
        parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"cpu_us\":\"1500000\",\"cpu_limit\":0.500,"
              "\"memory_bytes\":\"4096\",\"memory_limit_bytes\":\"8192\"}",
              &s),
        0);
    assert_true(s.contained && s.cpu_us == 1500000 && s.cpu_limit > 0.49 && s.cpu_limit < 0.51);
    assert_true(s.memory_bytes == 4096 && s.memory_limit == 8192);
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\"}", &s), 0);
    assert_true(!s.contained && s.memory_bytes == 0); /* on a machine without a group of its own */
}

static void test_next_password(void **state)
{
    struct member_status s = {0};
    (void)state;
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"next_password\":\"m1\"}", &s),
                     0);
    assert_string_equal(s.next_password, "m1");
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\"}", &s), 0);
    assert_string_equal(s.next_password, "");
}

static void test_what_is_no_status(void **state)
{
    static const char *const texts[] = {"",
                                        "[]",
                                        "{}",
                                        "{\"member\":\"a\",\"life\":\"x\"}",
                                        "{\"member\":\"a\",\"clock\":\"5\"}",
                                        "{\"member\":7,\"life\":\"x\",\"clock\":\"5\"}"};
    struct member_status s = {.clock = 9};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(parse(texts[i], &s), ERRC_PROTOCOL);
    assert_int_equal(s.clock, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_container),
        cmocka_unit_test(test_next_password),
        cmocka_unit_test(test_what_is_no_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
