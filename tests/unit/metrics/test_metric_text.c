/* The text format: escaping, numbers, families. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/families.h"
#include "metrics/metric_text.h"
#include "metrics/query.h"

static void check_label(const char *value, const char *expected)
{
    struct buf out = {0};
    metric_add_label(&out, "l", value);
    assert_string_equal(buf_text(&out), expected);
    buf_free(&out);
}

static void test_labels(void **state)
{
    (void)state;
    check_label("plain", "l=\"plain\"");
    check_label(NULL, "l=\"\"");
    check_label("", "l=\"\"");
    check_label("a\"b\\c\nd", "l=\"a\\\"b\\\\c\\nd\"");
    check_label("\\n", "l=\"\\\\n\"");
    check_label("gr\xC3\xBC\xC3\x9F", "l=\"gr\xC3\xBC\xC3\x9F\"");
    check_label("\xF0\x9F\x90\x91", "l=\"\xF0\x9F\x90\x91\"");
    check_label("tab\there", "l=\"tab\there\"");
#define BAD "\xEF\xBF\xBD"
    check_label("a\xFFz", "l=\"a" BAD "z\"");
    check_label("\xC3", "l=\"" BAD "\"");
    check_label("\xC0\x80", "l=\"" BAD BAD "\"");                 /* overlong */
    check_label("\xED\xA0\x80", "l=\"" BAD BAD BAD "\"");         /* a surrogate */
    check_label("\xF4\x90\x80\x80", "l=\"" BAD BAD BAD BAD "\""); /* beyond the last character */
    check_label("\xE2\x82\"", "l=\"" BAD BAD "\\\"\"");           /* cut off */
}

static void test_long_labels_are_cut_between_characters(void **state)
{
    (void)state;
    char text[METRIC_LABEL_MAX + 20];
    memset(text, 'x', sizeof text);
    memcpy(text + METRIC_LABEL_MAX - 1, "\xC3\xBC", 2);
    text[sizeof text - 1] = '\0';
    struct buf out = {0};
    metric_add_label(&out, "l", text);
    assert_true(out.length == METRIC_LABEL_MAX - 1 + strlen("l=\"\""));
    assert_null(strstr(buf_text(&out), "\xC3"));
    buf_free(&out);
}

static void test_help(void **state)
{
    (void)state;
    struct buf out = {0};
    const struct metric_family family = {"n_total", METRIC_COUNTER, "a \"b\" \\ c\nd"};
    metric_add_head(&out, &family);
    assert_string_equal(buf_text(&out), "# HELP n_total a \"b\" \\\\ c\\nd\n# TYPE n_total counter\n");
    buf_free(&out);
}

static void test_values(void **state)
{
    (void)state;
    static const char *const good[][2] = {
        {"0", "0"},
        {"-1", "-1"},
        {"12.50", "12.50"},
        {"1e+20", "1e+20"},
        {"-1.5E-7", "-1.5E-7"},
        {".5", ".5"},
        {"5.", "5."},
        {"t", "1"},
        {"f", "0"},
        {"NaN", "NaN"},
        {"Infinity", "+Inf"},
        {"-Infinity", "-Inf"},
        {"18446744073709551615", "18446744073709551615"},
    };
    static const char *const bad[] = {
        "",    "-",   ".",     "+1",
        " 1",  "1 ",  "1\n",   "0x10",
        "1e",  "1e+", "1.2.3", "nan",
        "on",  "1,5", "1_000", "abc",
        "--1", "inf", "1e5e5", "1111111111111111111111111111111111111111111111111111111111111111111"};
    struct buf out = {0};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        buf_reset(&out);
        assert_true(metric_add_value(&out, good[i][0]));
        assert_string_equal(buf_text(&out), good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        buf_reset(&out);
        if (metric_add_value(&out, bad[i]))
            fail_msg("accepted \"%s\"", bad[i]);
        assert_true(out.length == 0);
    }
    buf_free(&out);
}

static void test_decimals(void **state)
{
    (void)state;
    static const struct {
        uint64_t value;
        unsigned digits;
        const char *text;
    } cases[] = {{0, 0, "0"},
                 {0, 9, "0"},
                 {7, 0, "7"},
                 {1, 9, "0.000000001"},
                 {1500000, 9, "0.0015"},
                 {1000000000, 9, "1"},
                 {12345678901, 9, "12.345678901"},
                 {1795257839000100, 6, "1795257839.0001"},
                 {UINT64_MAX, 0, "18446744073709551615"},
                 {UINT64_MAX, 18, "18.446744073709551615"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0};
        metric_add_decimal(&out, cases[i].value, cases[i].digits);
        assert_string_equal(buf_text(&out), cases[i].text);
        buf_free(&out);
    }
}

static void test_floats(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } cases[] = {{0, "0"}, {0.7F, "0.7"}, {-2.5F, "-2.5"}, {16777216.0F, "16777216"}, {1e30F, "1e+30"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0};
        metric_add_float(&out, cases[i].value);
        assert_string_equal(buf_text(&out), cases[i].text);
        buf_free(&out);
    }
}

static void test_starts(void **state)
{
    (void)state;
    struct buf out = {0};
    const struct metric_span name = metric_span("up"), a = metric_span("a=\"1\""), b = metric_span("b=\"2\""),
                             none = metric_span("");
    metric_add_start(&out, name, a, b);
    metric_add_start(&out, name, a, none);
    metric_add_start(&out, name, none, b);
    metric_add_start(&out, name, none, none);
    assert_string_equal(buf_text(&out), "up{a=\"1\",b=\"2\"} up{a=\"1\"} up{b=\"2\"} up ");
    buf_free(&out);
}

static void test_doubles_read_back(void **state)
{
    (void)state;
    static const double values[] = {0,
                                    1,
                                    -1,
                                    0.1,
                                    1.0 / 3,
                                    1e15,
                                    1e300,
                                    -2.5e-300,
                                    123.456,
                                    5e-324,
                                    1795249286.295266,
                                    4294967296.5,
                                    999999999999999};
    struct buf out = {0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        buf_reset(&out);
        metric_add_double(&out, values[i]);
        assert_true(strtod(buf_text(&out), NULL) == values[i]);
    }
    buf_reset(&out);
    metric_add_double(&out, (double)NAN);
    metric_add_double(&out, (double)INFINITY);
    metric_add_double(&out, -(double)INFINITY);
    assert_string_equal(buf_text(&out), "NaN+Inf-Inf");
    buf_reset(&out);
    metric_add_double(&out, 0.1);
    assert_string_equal(buf_text(&out), "0.1");
    metric_add_uint(&out, UINT64_MAX);
    assert_string_equal(buf_text(&out), "0.118446744073709551615");
    buf_free(&out);
}

static void test_histogram(void **state)
{
    (void)state;
    struct hist h;
    hist_reset(&h);
    hist_add(&h, 500);
    hist_add(&h, 3000);
    hist_add(&h, 200000000);
    struct buf out = {0};
    metric_add_histogram(&out, "x_seconds", "a=\"b\"", &h);
    const char *text = buf_text(&out);
    assert_non_null(strstr(text, "x_seconds_bucket{a=\"b\",le=\"0.001\"} 1\n"));
    assert_non_null(strstr(text, "x_seconds_bucket{a=\"b\",le=\"0.005\"} 2\n"));
    assert_non_null(strstr(text, "x_seconds_bucket{a=\"b\",le=\"100\"} 2\n"));
    assert_non_null(strstr(text, "x_seconds_bucket{a=\"b\",le=\"+Inf\"} 3\n"));
    assert_non_null(strstr(text, "x_seconds_sum{a=\"b\"} 200.0035\n"));
    assert_non_null(strstr(text, "x_seconds_count{a=\"b\"} 3\n"));
    buf_free(&out);
}

static void test_names(void **state)
{
    (void)state;
    assert_true(metric_name_valid("pg_settings_a:b_9"));
    assert_false(metric_name_valid(""));
    assert_false(metric_name_valid("9a"));
    assert_false(metric_name_valid("a-b"));
    assert_false(metric_name_valid("a b"));
    assert_false(metric_name_valid("gr\xC3\xBC"));
}

/* ---- the tables ---- */

static const char *all_names[1000];
static size_t name_count;

static void add_name(const struct metric_family *family)
{
    assert_true(metric_name_valid(family->name));
    assert_true(family->help != NULL && family->help[0] != '\0');
    for (size_t i = 0; i < name_count; i++)
        if (strcmp(all_names[i], family->name) == 0)
            fail_msg("two tables fill %s", family->name);
    all_names[name_count++] = family->name;
}

static void check_labels(const struct query_column *column)
{
    static const char *const reserved[] = {"cluster", "namespace", "pod", "instance", "job",
                                           "shard",   "member",    "db",  "le"};
    char labels[200];
    snprintf(labels, sizeof labels, "%s", column->labels);
    char *rest = NULL;
    for (char *label = strtok_r(labels, ",", &rest); label != NULL; label = strtok_r(NULL, ",", &rest))
        for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
            assert_string_not_equal(label, reserved[i]);
}

/* P17, M2: a family is filled from one place only, so that its samples stand together. */
static void test_families_are_unique(void **state)
{
    (void)state;
    name_count = 0;
    for (int q = 0; q < QUERIES; q++) {
        const struct query *query = query_get((enum query_id)q);
        assert_non_null(query->name);
        for (size_t c = 0; c < query->column_count; c++) {
            add_name(&query->columns[c].family);
            check_labels(&query->columns[c]);
        }
        for (int k = 0; k < q; k++)
            assert_string_not_equal(query_get((enum query_id)k)->name, query->name);
    }
    for (int f = 0; f < STATUS_FAMILIES; f++)
        add_name(&status_families[f]);
    for (int f = 0; f < VALUE_FAMILIES; f++)
        add_name(&value_families[f]);
    for (int f = 0; f < HISTOGRAM_FAMILIES; f++)
        add_name(&histogram_families[f]);
}

static void test_sql_by_version(void **state)
{
    (void)state;
    const struct query *checkpointer = query_get(QUERY_CHECKPOINTER), *bgwriter = query_get(QUERY_BGWRITER);
    assert_null(query_sql(checkpointer, 150018));
    assert_null(query_sql(checkpointer, 169999));
    assert_non_null(query_sql(checkpointer, 170000));
    assert_non_null(strstr(query_sql(bgwriter, 160000), "checkpoints_timed"));
    assert_null(strstr(query_sql(bgwriter, 180001), "checkpoints_timed"));
    for (int q = 0; q < QUERIES; q++)
        assert_non_null(query_sql(query_get((enum query_id)q), 180000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_long_labels_are_cut_between_characters),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_decimals),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_starts),
        cmocka_unit_test(test_doubles_read_back),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_families_are_unique),
        cmocka_unit_test(test_sql_by_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
