/* The list of what checks found: errors first, nothing twice, and never more than fits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "operation/findings.h"

#define LEN(array) (sizeof(array) / sizeof(array)[0])

static void add(struct buf *list, const char *severity, const char *subject)
{
    const struct finding one = {severity, subject, "a \"finding\"", "a remedy"};
    findings_add(list, &one);
}

/* The subjects in order, with a blank after each. */
static void subjects(const struct buf *list, char *ret, size_t size)
{
    yyjson_doc *doc = yyjson_read(buf_text(list), list->length, 0);
    yyjson_val *item;
    size_t i, max, at = 0;
    assert_true(yyjson_is_arr(yyjson_doc_get_root(doc)));
    ret[0] = '\0';
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, item)
    {
        at += (size_t)snprintf(ret + at, size - at, "%s ", yyjson_get_str(yyjson_obj_get(item, "subject")));
    }
    yyjson_doc_free(doc);
}

static void test_errors_first(void **state)
{
    static const char *const given[][2] = {{"warning", "a"}, {"error", "b"},   {"warning", "c"},
                                           {"error", "d"},   {"warning", "a"}, {"error", "b"}};
    struct buf list = {0};
    char text[64], first[64];
    (void)state;
    assert_int_equal(findings_errors(&list, NULL, 0), 0);
    for (size_t i = 0; i < LEN(given); i++)
        add(&list, given[i][0], given[i][1]);
    subjects(&list, text, sizeof text);
    assert_string_equal(text, "b d a c ");
    assert_int_equal(findings_errors(&list, first, sizeof first), 2);
    assert_string_equal(first, "b: a \"finding\" (remedy: a remedy)");
    buf_free(&list);
}

static void test_one_of_an_older_version_is_an_error(void **state)
{
    struct buf list = {0};
    (void)state;
    buf_add_text(&list, "[{\"subject\":\"t\",\"finding\":\"f\",\"remedy\":\"r\"}]");
    assert_int_equal(findings_errors(&list, NULL, 0), 1);
    buf_free(&list);
}

static void test_no_more_than_fits(void **state)
{
    struct buf list = {.limit = 2048};
    char name[16], text[1024];
    (void)state;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "%s%02d", i % 2 == 0 ? "w" : "e", i);
        add(&list, i % 2 == 0 ? "warning" : "error", name);
        assert_true(list.length <= list.limit);
    }
    assert_false(list.overflowed);
    subjects(&list, text, sizeof text);
    assert_non_null(strstr(text, "e01 e03 "));
    assert_null(strstr(text, "w"));
    assert_non_null(strstr(text, " findings "));
    yyjson_doc *doc = yyjson_read(buf_text(&list), list.length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    snprintf(text, sizeof text, "%zu more are not shown", 100 - (yyjson_arr_size(root) - 1));
    assert_string_equal(yyjson_get_str(yyjson_obj_get(yyjson_arr_get_last(root), "finding")), text);
    yyjson_doc_free(doc);
    buf_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_first),
        cmocka_unit_test(test_one_of_an_older_version_is_an_error),
        cmocka_unit_test(test_no_more_than_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
