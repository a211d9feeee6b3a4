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

static void check_family(const struct samples *s, unsigned family, const char *expected)
{
    assert_true(family < s->families);
    size_t n = s->offsets[family + 1] - s->offsets[family];
    char *text = strndup(s->text + s->offsets[family], n);
    assert_string_equal(text, expected);
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
    size_t length = s->offsets[4];
    assert_true(length <= RENDER_TEXT_MAX && length > RENDER_TEXT_MAX - 100);
    assert_true(s->text[length - 1] == '\n');
    size_t lines = 0;
    for (size_t i = 0; i < length; i++)
        lines += s->text[i] == '\n';
    assert_true(lines + dropped == 3 * ROWS);
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
    assert_true(dropped == 4 && s->offsets[s->families] == 0);
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
        cmocka_unit_test(test_an_empty_result),
        cmocka_unit_test(test_text_is_limited_in_whole_lines),
        cmocka_unit_test(test_lines_become_families),
        cmocka_unit_test(test_families_of_servers_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
