/* What is read of a status that a member's agent sends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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

static void test_tls(void **state)
{
    struct member_status s = {0};
    (void)state;
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"tls\":true}", &s), 0);
    assert_true(s.tls && !s.plain);
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"tls\":false}", &s), 0);
    assert_true(!s.tls && s.plain);
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\"}", &s), 0);
    assert_true(!s.tls && !s.plain); /* an older agent */
}

static void test_standby(void **state)
{
    struct member_status s;
    (void)state;
    assert_int_equal(
        parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"role\":\"standby\",\"beat\":\"12\","
              "\"receiver\":\"streaming\",\"upstream\":\"10.0.0.5:5432\"}",
              &s),
        0);
    assert_true(s.known && !s.primary && s.beat == 12);
    assert_string_equal(s.upstream, "10.0.0.5:5432");
    assert_int_equal(parse("{\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"role\":\"primary\"}", &s), 0);
    assert_true(s.beat == 0 && s.upstream[0] == '\0');
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

/* Whatever calls for another decision is news; that time goes on, and bytes are written, is none. */
static void test_what_is_news(void **state)
{
    static const char base[] =
        "\"member\":\"a\",\"life\":\"x\",\"clock\":\"5\",\"term\":\"2\",\"seq\":\"3\",\"assigned\":"
        "\"primary\","
        "\"reported\":\"primary\",\"confirmed\":true,\"settled\":true,\"role\":\"primary\",\"timeline\":"
        "\"1\","
        "\"wal_term\":\"2\",\"flushed\":\"0/10\",\"standbys\":[{\"name\":\"b\",\"state\":\"streaming\","
        "\"flushed\":\"0/10\"}]";
    static const struct {
        const char *from, *to;
        bool same;
    } changes[] = {
        {"\"clock\":\"5\"", "\"clock\":\"6\"", true},
        {"\"flushed\":\"0/10\"", "\"flushed\":\"0/20\"", true},
        {"\"life\":\"x\"", "\"life\":\"y\"", false},
        {"\"term\":\"2\"", "\"term\":\"3\"", false},
        {"\"seq\":\"3\"", "\"seq\":\"4\"", false},
        {"\"assigned\":\"primary\"", "\"assigned\":\"standby\"", false},
        {"\"reported\":\"primary\"", "\"reported\":\"stopped\"", false},
        {"\"confirmed\":true", "\"confirmed\":false", false},
        {"\"settled\":true", "\"settled\":false", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"leaving\":true", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"closed\":true", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"may_have_diverged\":true", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"checkpoints\":\"1\"", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"system_id\":\"9\"", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"error\":\"disk\"", false},
        {"\"confirmed\":true", "\"confirmed\":true,\"receiver\":\"streaming\"", false},
        {"\"role\":\"primary\"", "\"role\":\"standby\"", false},
        {"\"role\":\"primary\"", "\"other\":\"primary\"", false},
        {"\"timeline\":\"1\"", "\"timeline\":\"2\"", false},
        {"\"wal_term\":\"2\"", "\"wal_term\":\"3\"", false},
        {"\"state\":\"streaming\"", "\"state\":\"catchup\"", false},
        {"\"name\":\"b\"", "\"name\":\"c\"", false},
        {"{\"name\":\"b\",\"state\":\"streaming\",\"flushed\":\"0/10\"}", "", false},
    };
    char text[1024];
    struct member_status before, after;
    (void)state;
    (void)snprintf(text, sizeof text, "{%s}", base);
    assert_int_equal(parse(text, &before), 0);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        const char *at = strstr(base, changes[i].from);
        assert_non_null(at);
        (void)snprintf(text, sizeof text, "{%.*s%s%s}", (int)(at - base), base, changes[i].to,
                       at + strlen(changes[i].from));
        assert_int_equal(parse(text, &after), 0);
        if (member_status_same(&before, &after) != changes[i].same)
            fail_msg("%s to %s", changes[i].from, changes[i].to);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_container),
        cmocka_unit_test(test_next_password),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_standby),
        cmocka_unit_test(test_what_is_no_status),
        cmocka_unit_test(test_what_is_news),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
