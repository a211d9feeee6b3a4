#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/env.h"
#include "k8s/json_cut.h"

static const char *const path[] = {"metadata", "managedFields", NULL};

static void check(const char *text, const char *want)
{
    size_t length = strlen(text);
    char *copy = malloc(length + 1); /* exact, so that asan sees a byte too far */
    memcpy(copy, text, length + 1);
    size_t left = json_cut(copy, length, path);
    assert_int_equal(left, strlen(want));
    assert_memory_equal(copy, want, left);
    free(copy);
}

static void test_one_member_goes(void **state)
{
    (void)state;
    check("{\"a\":1,\"metadata\":{\"name\":\"x\",\"managedFields\":[{\"f\":\"]}\"}]},\"b\":[2]}",
          "{\"a\":1,\"metadata\":{\"name\":\"x\",\"managedFields\":null},\"b\":[2]}");
    check("{\"metadata\":{\"managedFields\":[{\"k:{\\\"name\\\":\\\"a\\\\\\\\\\\"}\":{}}],\"x\":0}}",
          "{\"metadata\":{\"managedFields\":null,\"x\":0}}");
}

static void test_everything_else_stays(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"metadata\":{}}",
        "{\"metadata\":null}",
        "{\"metadata\":[{\"managedFields\":[1,2,3]}]}",
        "{\"managedFields\":[1,2,3]}",
        "{\"spec\":{\"metadata\":{\"managedFields\":[1,2,3]}}}",
        "{\"metadata\":{\"x\":{\"managedFields\":[1,2,3]}}}",
        "{\"metadata\":{\"a\":\"\\\",\\\"managedFields\\\":[1,2,3]\"}}",
        "{\"metadata\":{\"managedFields\":[1,2,3",
        "{\"metadata\":{\"managedFields\":[]}}",
        "{\"metadata\":{\"managedFields\":\"text of some length\"}}",
        "{\"metadata\":{\"a\":\"open",
        "{\"metadata\"",
        "{\"metadata\":",
        "{\"a\":}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        check(texts[i], texts[i]);
}

static void random_value(struct buf *out, unsigned depth)
{
    static const char *const strings[] = {"a",     "\\\"",          "\\\\",          "[", "}",
                                          "{\\\"", "managedFields", "\\\\\\\\\\\"]", ""};
    uint64_t kind = env_random_below(env_system(), depth > 0 ? 6 : 3);
    if (kind < 2) {
        buf_addc(out, '"');
        for (uint64_t n = env_random_below(env_system(), 40); n > 0; n--)
            buf_add_text(out, strings[env_random_below(env_system(), 9)]);
        buf_addc(out, '"');
    } else if (kind == 2) {
        buf_printf(out, "%d", (int)env_random_below(env_system(), 100000));
    } else {
        bool object = kind > 3;
        buf_addc(out, object ? '{' : '[');
        uint64_t count = env_random_below(env_system(), 6);
        for (uint64_t i = 0; i < count; i++) {
            buf_printf(out, i > 0 ? "," : "");
            if (object)
                buf_printf(out, "\"k%d\\\"\":", (int)i);
            random_value(out, depth - 1);
        }
        buf_addc(out, object ? '}' : ']');
    }
}

/* Whatever the member holds, and whatever stands before and behind it, the end that is found is the right
 * one. */
static void test_random_values(void **state)
{
    (void)state;
    for (int i = 0; i < 3000; i++) {
        struct buf text = {0}, want = {0}, before = {0}, behind = {0};
        random_value(&before, 3);
        random_value(&behind, 3);
        buf_printf(&want, "{\"q\":%s,\"metadata\":{\"b\":%s,\"managedFields\":null,\"z\":%s}}",
                   buf_text(&before), buf_text(&before), buf_text(&behind));
        buf_printf(&text, "{\"q\":%s,\"metadata\":{\"b\":%s,\"managedFields\":[1,2,", buf_text(&before),
                   buf_text(&before));
        random_value(&text, 5);
        buf_printf(&text, "],\"z\":%s}}", buf_text(&behind));
        yyjson_doc *doc = yyjson_read(text.data, text.length, 0);
        assert_non_null(doc);
        yyjson_doc_free(doc);
        check(buf_text(&text), buf_text(&want));
        buf_free(&text);
        buf_free(&want);
        buf_free(&before);
        buf_free(&behind);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_member_goes),
        cmocka_unit_test(test_everything_else_stays),
        cmocka_unit_test(test_random_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
