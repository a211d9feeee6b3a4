/* Results, made by hand, as families: duplicates, bad values, limits (P17). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "metrics/render.h"

#define MEMBER "shard=\"s1\",member=\"a\""

/* A result with these columns and rows; NULL = SQL NULL. */
static PGresult *make_result(const char *const *columns, int column_count, const char *const *values,
                             int rows)
{
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc attributes[8] = {{0}};
    for (int c = 0; c < column_count; c++)
        attributes[c].name = (char *)(uintptr_t)columns[c];
    assert_true(PQsetResultAttrs(result, column_count, attributes));
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < column_count; c++) {
            const char *v = values[r * column_count + c];
            assert_true(PQsetvalue(result, r, c, (char *)(uintptr_t)v, v != NULL ? (int)strlen(v) : -1));
        }
    return result;
}

static const struct query_column columns_table[] = {
    {"hits", {"x_hits", METRIC_COUNTER, "h"}, "name,kind"},
    {"misses", {"x_misses", METRIC_COUNTER, "m"}, "name,kind"},
    {"absent", {"x_absent", METRIC_COUNTER, "a"}, "name"},
    {"one", {"x_kind", METRIC_GAUGE, "k"}, "kind"},
};
static const struct query table_query = {.name = "x", .columns = columns_table, .column_count = 4};
static const char *const table_columns[] = {"name", "kind", "hits", "misses", "one"};

/* The text of all families; family k's ends at ends[k]. */
static char *text_of(const struct samples *s, size_t *ends)
{
    size_t length = 0, at = 0;
    for (unsigned f = 0; f < s->families; f++)
        length += s->lengths[f];
    char *text = malloc(length + 1);
    struct samples_reader r;
    samples_reader_init(&r, s);
    for (unsigned f = 0; f < s->families; f++) {
        assert_int_equal(samples_reader_next(&r, text + at), s->lengths[f]);
        at += s->lengths[f];
        ends[f] = at;
    }
    text[length] = '\0';
    return text;
}

static void check_family(const struct samples *s, unsigned family, const char *expected)
{
    size_t ends[RENDER_DYNAMIC_MAX];
    assert_true(family < s->families);
    char *text = text_of(s, ends);
    size_t start = family > 0 ? ends[family - 1] : 0;
    text[ends[family]] = '\0';
    assert_string_equal(text + start, expected);
    free(text);
}

static void test_columns_become_families(void **state)
{
    (void)state;
    const char *const values[] = {"a", "k1", "1", "10", "1", "b\"", "k2", "2", NULL, "1"};
    PGresult *result = make_result(table_columns, 5, values, 2);
    uint64_t dropped = 0;
    struct samples *s = render_result(&table_query, result, MEMBER, NULL, &dropped);
    assert_true(s->families == 4);
    check_family(s, 0,
                 "x_hits{" MEMBER ",name=\"a\",kind=\"k1\"} 1\nx_hits{" MEMBER
                 ",name=\"b\\\"\",kind=\"k2\"} 2\n");
    check_family(s, 1, "x_misses{" MEMBER ",name=\"a\",kind=\"k1\"} 10\n");
    check_family(s, 2, "");
    check_family(s, 3, "x_kind{" MEMBER ",kind=\"k1\"} 1\nx_kind{" MEMBER ",kind=\"k2\"} 1\n");
    assert_true(dropped == 0);
    samples_free(s);
    PQclear(result);
}

/* P17 */
static void test_duplicates_and_bad_values_are_dropped_and_counted(void **state)
{
    (void)state;
    const char *const values[] = {"a", "k", "1",   "1", NULL, "a", "k", "2", "2", NULL,
                                  "b", "k", "bad", "3", NULL, "c", "k", "4", "4", NULL};
    PGresult *result = make_result(table_columns, 5, values, 4);
    uint64_t dropped = 0;
    struct samples *s = render_result(&table_query, result, MEMBER, NULL, &dropped);
    check_family(s, 0,
                 "x_hits{" MEMBER ",name=\"a\",kind=\"k\"} 1\nx_hits{" MEMBER ",name=\"c\",kind=\"k\"} 4\n");
    check_family(s, 1,
                 "x_misses{" MEMBER ",name=\"a\",kind=\"k\"} 1\nx_misses{" MEMBER
                 ",name=\"b\",kind=\"k\"} 3\nx_misses{" MEMBER ",name=\"c\",kind=\"k\"} 4\n");
    assert_true(dropped == 3); /* the second row twice, the bad value once */
    samples_free(s);
    PQclear(result);
}

/* Each combination of braces and commas, and a value that PostgreSQL prints otherwise. */
static void test_labels_of_the_member_and_of_the_row(void **state)
{
    (void)state;
    static const struct query_column columns[] = {{"hits", {"x_hits", METRIC_COUNTER, "h"}, ""},
                                                  {"misses", {"x_misses", METRIC_COUNTER, "m"}, "name"}};
    static const struct query query = {.name = "x", .columns = columns, .column_count = 2};
    const char *const values[] = {"a", "k", "-Infinity", "t", NULL};
    PGresult *result = make_result(table_columns, 5, values, 1);
    uint64_t dropped = 0;
    struct samples *s = render_result(&query, result, MEMBER, NULL, &dropped);
    check_family(s, 0, "x_hits{" MEMBER "} -Inf\n");
    check_family(s, 1, "x_misses{" MEMBER ",name=\"a\"} 1\n");
    samples_free(s);
    s = render_result(&query, result, "", NULL, &dropped);
    check_family(s, 0, "x_hits -Inf\n");
    check_family(s, 1, "x_misses{name=\"a\"} 1\n");
    assert_true(dropped == 0);
    samples_free(s);
    PQclear(result);
}

/* A table of labels that a peer made long must not become one without end. */
static void test_label_sets_are_limited(void **state)
{
    (void)state;
    enum { ROWS = 5000 };
    PGresult *result = make_result(table_columns, 5, NULL, 0);
    char name[300], one[] = "1";
    memset(name, 'n', sizeof name);
    for (int r = 0; r < ROWS; r++) {
        snprintf(name + 200, sizeof name - 200, "%d", r);
        assert_true(PQsetvalue(result, r, 0, name, (int)strlen(name)));
        for (int c = 1; c < 5; c++)
            assert_true(PQsetvalue(result, r, c, c == 2 || c == 3 ? NULL : one, c == 2 || c == 3 ? -1 : 1));
    }
    uint64_t dropped = 0;
    struct samples *s = render_result(&table_query, result, MEMBER, NULL, &dropped);
    assert_true((size_t)(s->values - s->bytes) <= RENDER_TEXT_MAX);
    check_family(s, 0, "");
    assert_true(dropped == ROWS - 1); /* of the last column, whose rows have one label set all */
    samples_free(s);
    PQclear(result);
}

/* What stays with an instance between two polls is small. */
static void test_a_sample_takes_few_bytes(void **state)
{
    (void)state;
    enum { ROWS = 300 };
    PGresult *result = make_result(table_columns, 5, NULL, 0);
    char name[32], value[] = "123456";
    for (int r = 0; r < ROWS; r++) {
        snprintf(name, sizeof name, "row-%d", r);
        assert_true(PQsetvalue(result, r, 0, name, (int)strlen(name)));
        for (int c = 1; c < 5; c++)
            assert_true(PQsetvalue(result, r, c, value, 6));
    }
    uint64_t dropped = 0;
    size_t ends[4];
    struct samples *s = render_result(&table_query, result, MEMBER, NULL, &dropped);
    free(text_of(s, ends));
    const char *end = (const char *)(s->lengths + s->families);
    assert_true(ends[3] > 2 * ROWS * 60 && end - s->values < 2 * ROWS * 16);
    samples_free(s);
    PQclear(result);
}

static void test_an_empty_result(void **state)
{
    (void)state;
    PGresult *result = make_result(table_columns, 5, NULL, 0);
    uint64_t dropped = 0;
    struct samples *s = render_result(&table_query, result, MEMBER, NULL, &dropped);
    for (unsigned f = 0; f < 4; f++)
        check_family(s, f, "");
    samples_free(s);
    PQclear(result);
}

static void test_text_is_limited_in_whole_lines(void **state)
{
    (void)state;
    enum { ROWS = 30000 };
    PGresult *result = make_result(table_columns, 5, NULL, 0);
    char name[32], one[] = "1";
    for (int r = 0; r < ROWS; r++) {
        snprintf(name, sizeof name, "row-%d", r);
        assert_true(PQsetvalue(result, r, 0, name, (int)strlen(name)));
        for (int c = 1; c < 5; c++)
            assert_true(PQsetvalue(result, r, c, one, 1));
    }
    uint64_t dropped = 0;
    struct samples *s = render_result(&table_query, result, MEMBER, NULL, &dropped);
    size_t ends[4], lines = 0;
    char *text = text_of(s, ends);
    size_t length = ends[3];
    assert_true(length <= RENDER_TEXT_MAX && length > RENDER_TEXT_MAX - 120);
    assert_true(text[length - 1] == '\n');
    for (size_t i = 0; i < length; i++)
        lines += text[i] == '\n';
    assert_true(lines + dropped == 3 * ROWS);
    assert_non_null(
        strstr(text, "x_hits{" MEMBER ",name=\"row-9999\",kind=\"1\"} 1\n")); /* far from the first */
    free(text);
    samples_free(s);
    PQclear(result);
}

static const char *const setting_columns[] = {"lines"};
static const struct query setting_query = {.name = "settings", .dynamic = true};

static struct samples *render_settings(const char *text, struct dynamic_families *d, uint64_t *dropped)
{
    PGresult *result = make_result(setting_columns, 1, &text, 1);
    struct samples *s = render_result(&setting_query, result, MEMBER, d, dropped);
    PQclear(result);
    return s;
}

static void test_lines_become_families(void **state)
{
    (void)state;
    struct dynamic_families *d = dynamic_families_new();
    uint64_t dropped = 0;
    struct samples *s = render_settings("a\t\t1\nb.x-y\tseconds\t0.2", d, &dropped);
    assert_true(dropped == 0 && dynamic_families_count(d) == 2);
    check_family(s, 1, "pg_settings_b_x_y_seconds{" MEMBER "} 0.2\n");
    assert_string_equal(dynamic_family(d, 0)->help, "Server Parameter: a");
    assert_string_equal(dynamic_family(d, 1)->help, "Server Parameter: b.x-y [Units converted to seconds.]");
    samples_free(s);
    s = render_settings("b.x-y\tseconds\t5\n" /* known */
                        "c\t\t6\n"            /* new */
                        "c\t\t7\n"            /* twice in one answer */
                        "d e\t\t1\n"          /* no name of a metric */
                        "f\t\ton\n"           /* no number */
                        "g\t1\n"              /* a part is missing */
                        "\n",
                        d, &dropped);
    check_family(s, 0, "");
    check_family(s, 1, "pg_settings_b_x_y_seconds{" MEMBER "} 5\n");
    check_family(s, 2, "pg_settings_c{" MEMBER "} 6\n");
    assert_true(dropped == 4);
    assert_string_equal(dynamic_family(d, 2)->name, "pg_settings_c");
    samples_free(s);
    s = render_settings(NULL, d, &dropped);
    assert_true(dropped == 4);
    for (unsigned f = 0; f < s->families; f++)
        check_family(s, f, "");
    samples_free(s);
    dynamic_families_free(d);
}

static void test_families_of_servers_are_limited(void **state)
{
    (void)state;
    struct dynamic_families *d = dynamic_families_new();
    struct buf text = {0};
    for (int r = 0; r < 2500; r++)
        buf_printf(&text, "%s%d\t\t1", r > 0 ? "\n" : "", r);
    uint64_t dropped = 0;
    struct samples *s = render_settings(buf_text(&text), d, &dropped);
    assert_true(dynamic_families_count(d) == RENDER_DYNAMIC_MAX);
    assert_true(dropped == 2500 - RENDER_DYNAMIC_MAX);
    samples_free(s);
    buf_free(&text);
    dynamic_families_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_become_families),
        cmocka_unit_test(test_duplicates_and_bad_values_are_dropped_and_counted),
        cmocka_unit_test(test_labels_of_the_member_and_of_the_row),
        cmocka_unit_test(test_label_sets_are_limited),
        cmocka_unit_test(test_a_sample_takes_few_bytes),
        cmocka_unit_test(test_an_empty_result),
        cmocka_unit_test(test_text_is_limited_in_whole_lines),
        cmocka_unit_test(test_lines_become_families),
        cmocka_unit_test(test_families_of_servers_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
