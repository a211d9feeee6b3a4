#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "k8s/json_split.h"

static bool record(char *text, size_t length, void *data)
{
    struct buf *out = data;
    assert_int_equal(strlen(text), length);
    for (int i = 0; i < JSON_SPLIT_PADDING; i++)
        assert_int_equal(text[length + (size_t)i], 0);
    buf_printf(out, "<%s>", text);
    return true;
}

/* Feeds the text in two pieces, cut at each place, and byte by byte: always the same values (K15). */
static void expect(enum json_split_kind kind, const char *text, const char *values, const char *rest)
{
    size_t length = strlen(text);
    for (size_t cut = 0; cut <= length + 1; cut++) {
        struct json_split split;
        struct buf out = {0};
        size_t piece = cut == length + 1 ? 1 : cut;
        json_split_init(&split, kind, 1000);
        for (size_t at = 0; at < length;) {
            size_t n = piece == 0 || piece > length - at ? length - at : piece;
            char *copy = malloc(n); /* so that the sanitizer sees a read too far */
            memcpy(copy, text + at, n);
            assert_int_equal(json_split_feed(&split, copy, n, record, &out, NULL), 0);
            free(copy);
            at += n;
            piece = cut == length + 1 ? 1 : length;
        }
        assert_string_equal(buf_text(&out), values);
        if (rest != NULL)
            assert_string_equal(buf_text(&split.rest), rest);
        buf_free(&out);
        json_split_free(&split);
    }
}

static void test_K15_lines(void **state)
{
    (void)state;
    expect(JSON_SPLIT_LINES,
           "{\"a\":1}\n{\"b\":\"x\\ny\"}\n\n{\"partial\":", "<{\"a\":1}><{\"b\":\"x\\ny\"}>", NULL);
}

static void test_K15_items(void **state)
{
    (void)state;
    expect(
        JSON_SPLIT_ITEMS,
        "{\"kind\":\"PodList\",\"metadata\":{\"items\":[1,{}],\"continue\":\"\\\"items\\\":[\"},\"items\": [ "
        "{\"a\":[1,2,{\"b\":\"]},\\\\\\\"[\"}]} ,{} ,\n{\"c\":\",\"}],\"after\":[{\"items\":[3]}]}\n",
        "<{\"a\":[1,2,{\"b\":\"]},\\\\\\\"[\"}]} ><{} ><{\"c\":\",\"}>",
        "{\"kind\":\"PodList\",\"metadata\":{\"items\":[1,{}],\"continue\":\"\\\"items\\\":[\"},\"items\": []"
        ",\"after\":[{\"items\":[3]}]}");
    expect(JSON_SPLIT_ITEMS, "{\"items\":[],\"metadata\":{}}", "", "{\"items\":[],\"metadata\":{}}");
    expect(JSON_SPLIT_ITEMS, "{\"items\":null,\"metadata\":{}}", "", "{\"items\":null,\"metadata\":{}}");
    expect(JSON_SPLIT_ITEMS, "{\"x\":\"items\",\"y\":[1,2]}", "", "{\"x\":\"items\",\"y\":[1,2]}");
}

static int feed(enum json_split_kind kind, const char *text, bool *ret_complete, struct err *err)
{
    struct json_split split;
    struct buf out = {0};
    json_split_init(&split, kind, 20);
    int rc = json_split_feed(&split, text, strlen(text), record, &out, err);
    *ret_complete = json_split_complete(&split);
    json_split_free(&split);
    buf_free(&out);
    return rc;
}

static void test_limits_and_ends(void **state)
{
    struct err err = {0};
    bool complete;
    (void)state;
    assert_int_equal(feed(JSON_SPLIT_LINES, "12345678901234567890\n", &complete, &err), 0);
    assert_true(complete);
    assert_int_equal(feed(JSON_SPLIT_LINES, "123456789012345678901234567890\n", &complete, &err), ERRC_LIMIT);
    assert_int_equal(feed(JSON_SPLIT_LINES, "123", &complete, &err), 0);
    assert_false(complete);
    assert_int_not_equal(
        feed(JSON_SPLIT_ITEMS, "{\"items\":[\"123456789012345678901234567890\"]}", &complete, &err), 0);
    assert_int_equal(feed(JSON_SPLIT_ITEMS, "{\"items\":[{}]", &complete, &err), 0);
    assert_false(complete);
    assert_int_equal(feed(JSON_SPLIT_ITEMS, "{\"items\":[{}]} \n", &complete, &err), 0);
    assert_true(complete);
    assert_int_not_equal(feed(JSON_SPLIT_ITEMS, "{\"items\":[{}]} x", &complete, &err), 0);
    assert_int_not_equal(feed(JSON_SPLIT_ITEMS, "]", &complete, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K15_lines),
        cmocka_unit_test(test_K15_items),
        cmocka_unit_test(test_limits_and_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
