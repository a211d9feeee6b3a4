/* Orders: what is taken, what is refused and why, and that what is written down reads back the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/order.h"
#include "base/mem.h"

static int parse(const char *text, struct order *o, struct err *err)
{
    return order_parse(text, strlen(text), o, err);
}

static void test_there_and_back(void **state)
{
    static const char *const texts[] = {
        "{\"term\":\"7\",\"seq\":\"2\",\"role\":\"primary\",\"initialize\":true,\"lease_ms\":3000,"
        "\"sync\":{\"need\":1,\"members\":[\"b\",\"shop-s1-2\"]},\"slots\":[\"shardherd_b\"]}",
        "{\"term\":\"18446744073709551615\",\"seq\":\"0\",\"role\":\"standby\",\"upstream\":{\"host\":\"10.0."
        "0.5\","
        "\"port\":5432,\"slot\":\"shardherd_b\"},\"rejoin\":\"clone\"}",
        "{\"term\":\"8\",\"seq\":\"0\",\"role\":\"standby\",\"rejoin\":\"auto\"}",
        "{\"term\":\"8\",\"seq\":\"2\",\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1},"
        "\"rejoin\":\"auto\",\"delay_ms\":2147483647}",
        "{\"term\":\"8\",\"seq\":\"2\",\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1},"
        "\"rejoin\":\"auto\",\"slots\":[\"shardherd_c\",\"shardherd_d\"]}",
        "{\"term\":\"8\",\"seq\":\"0\",\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1},"
        "\"timeline\":3,\"timeline_term\":\"7\",\"rejoin\":\"rewind\"}",
        "{\"term\":\"8\",\"seq\":\"2\",\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1,"
        "\"slot\":\"shardherd_b\",\"tls\":false},\"rejoin\":\"auto\"}",
        "{\"term\":\"8\",\"seq\":\"0\",\"role\":\"fenced\"}",
        "{\"term\":\"8\",\"seq\":\"0\",\"role\":\"stopped\"}",
        "{\"term\":\"8\",\"seq\":\"9\",\"role\":\"stopped\",\"closed\":true}",
        "{\"term\":\"8\",\"seq\":\"4\",\"role\":\"primary\",\"initialize\":false,\"lease_ms\":0,"
        "\"sync\":{\"need\":0,\"members\":[]},\"slots\":[],\"held\":true}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct order o, again;
        struct err err = {0};
        assert_int_equal(parse(texts[i], &o, &err), 0);
        char *text = order_text(&o);
        assert_string_equal(text, texts[i]);
        assert_int_equal(parse(text, &again, &err), 0);
        assert_true(order_same(&o, &again));
        free(text);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no JSON object"},
        {"[]", "no JSON object"},
        {"{\"role\":\"fenced\"}", "\"term\""},
        {"{\"term\":0,\"role\":\"fenced\"}", "\"term\""},
        {"{\"term\":-1,\"role\":\"fenced\"}", "\"term\""},
        {"{\"term\":\"1x\",\"role\":\"fenced\"}", "\"term\""},
        {"{\"term\":1}", "\"role\""},
        {"{\"term\":1,\"role\":\"none\"}", "\"role\""},
        {"{\"term\":1,\"role\":\"king\"}", "\"role\""},
        {"{\"term\":1,\"role\":\"fenced\",\"crown\":1}", "\"crown\""},
        {"{\"term\":1,\"role\":\"fenced\",\"upstream\":{\"host\":\"a\",\"port\":1}}", "standby"},
        {"{\"term\":1,\"role\":\"standby\",\"initialize\":true}", "primary"},
        {"{\"term\":1,\"role\":\"standby\",\"held\":true}", "primary"},
        {"{\"term\":1,\"role\":\"standby\",\"closed\":true}", "stopped or fenced"},
        {"{\"term\":1,\"role\":\"standby\",\"upstream\":{\"host\":\"a' x='\",\"port\":1}}", "upstream.host"},
        {"{\"term\":1,\"role\":\"standby\",\"upstream\":{\"host\":\"a\"}}", "upstream"},
        {"{\"term\":1,\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1,\"slot\":\"S\"}}", "slot"},
        {"{\"term\":1,\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1,\"tls\":\"off\"}}",
         "true or false"},
        {"{\"term\":1,\"role\":\"primary\",\"sync\":{\"need\":2,\"members\":[\"b\"]}}", "sync.need"},
        {"{\"term\":1,\"role\":\"primary\",\"sync\":{\"need\":1,\"members\":[\"b\\\"\"]}}", "sync.members"},
        {"{\"term\":1,\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":70000}}", "65535"},
        {"{\"term\":1,\"role\":\"primary\",\"slots\":[\"mine\"]}", "shardherd_"},
        {"{\"term\":3,\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1},\"timeline_term\":2}",
         "timeline_term"},
        {"{\"term\":3,\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1},\"timeline\":2,"
         "\"timeline_term\":3}",
         "timeline_term"},
        {"{\"term\":1,\"role\":\"standby\",\"slots\":[\"shardherd_c\"]}", "upstream"},
        {"{\"term\":1,\"role\":\"fenced\",\"slots\":[\"shardherd_c\"]}", "upstream"},
        {"{\"term\":1,\"role\":\"primary\",\"lease_ms\":10}", "lease_ms"},
        {"{\"term\":1,\"role\":\"standby\",\"delay_ms\":1000}", "delay_ms"},
        {"{\"term\":1,\"role\":\"standby\",\"upstream\":{\"host\":\"a\",\"port\":1},\"delay_ms\":2147483648}",
         "delay_ms"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct order o = {.term = 99};
        struct err err = {0};
        assert_int_equal(parse(cases[i].text, &o, &err), ERRC_INVALID);
        if (strstr(err.message, cases[i].says) == NULL)
            fail_msg("%s: %s", cases[i].text, err.message);
        assert_int_equal(o.term, 99);
    }
}

static void test_order_of_orders(void **state)
{
    struct order a = {.term = 2, .seq = 1}, b = {.term = 2, .seq = 1};
    (void)state;
    assert_int_equal(order_compare(&a, &b), 0);
    b.seq = 2;
    assert_int_equal(order_compare(&a, &b), -1);
    a.term = 3;
    assert_int_equal(order_compare(&a, &b), 1);
}

static void test_closed_is_said_or_not(void **state)
{
    struct order o;
    struct err err = {0};
    (void)state;
    assert_int_equal(parse("{\"term\":1,\"role\":\"stopped\"}", &o, &err), 0);
    assert_false(o.closed || o.closed_said);
    assert_int_equal(parse("{\"term\":1,\"role\":\"primary\",\"closed\":false}", &o, &err), 0);
    assert_true(!o.closed && o.closed_said);
    assert_int_equal(parse("{\"term\":1,\"role\":\"fenced\",\"closed\":true}", &o, &err), 0);
    assert_true(o.closed && o.closed_said);
}

static void test_copies(void **state)
{
    struct order o = {.term = 3, .seq = 2};
    struct marks m = {.cloned = 3, .cloned_seq = 2};
    (void)state;
    assert_true(marks_cloned(&m, &o));
    o.seq = 3; /* once more */
    assert_false(marks_cloned(&m, &o));
    m.cloned_seq = UINT64_MAX; /* of an older agent */
    assert_true(marks_cloned(&m, &o));
    o.term = 4;
    assert_false(marks_cloned(&m, &o));
}

static void file_put(const char *data, const char *suffix, const char *text)
{
    char *path = mem_printf("%s.%s", data, suffix);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    free(path);
}

static void test_files(void **state)
{
    char folder[] = "/tmp/order-XXXXXX";
    struct order o = {.term = 1};
    struct marks m = {.primary = true},
                 wanted = {.primary = true, .rewinding = true, .rewound = 3, .cloned = 4, .cloned_seq = 6};
    struct err err = {0};
    (void)state;
    assert_non_null(mkdtemp(folder));
    char *data = mem_printf("%s/pgdata", folder);
    assert_int_equal(order_load(data, &o, &err), 0);
    assert_int_equal(o.term, 0);
    assert_int_equal(marks_load(data, &m, &err), 0);
    assert_false(m.primary);
    assert_int_equal(order_save(data, "{\"term\":\"5\",\"role\":\"fenced\"}", &err), 0);
    assert_int_equal(order_load(data, &o, &err), 0);
    assert_int_equal(o.term, 5);
    assert_int_equal(marks_save(data, &wanted, &err), 0);
    assert_int_equal(marks_load(data, &m, &err), 0);
    assert_true(m.primary && m.rewinding);
    assert_int_equal(m.rewound, 3);
    assert_int_equal(m.cloned, 4);
    assert_int_equal(m.cloned_seq, 6);
    /* a term that cannot be read is no term 0, nor are marks that cannot be read none */
    file_put(data, "order", "{\"term\":");
    assert_int_equal(order_load(data, &o, &err), ERRC_CORRUPT);
    file_put(data, "marks", "{}");
    assert_int_equal(marks_load(data, &m, &err), ERRC_CORRUPT);
    static const char *const made[] = {"order", "marks"};
    for (int i = 0; i < 2; i++) {
        char *path = mem_printf("%s.%s", data, made[i]);
        assert_int_equal(unlink(path), 0);
        free(path);
    }
    assert_int_equal(rmdir(folder), 0);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_order_of_orders), cmocka_unit_test(test_closed_is_said_or_not),
        cmocka_unit_test(test_copies),          cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
