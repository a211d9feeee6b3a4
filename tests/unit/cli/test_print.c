/* Tables, YAML, bars and numbers for people: pure output. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/bar.h"
#include "cli/human.h"
#include "cli/table.h"
#include "cli/yaml.h"

/* ---- tables ---- */

static const struct table_column columns[] = {
    {"NAME", 0, 0}, {"STATUS", 0, 0}, {"RATE", 0, 1}, {"WHY", 1, 0}, {0}};

static void fill(struct table *t)
{
    table_init(t, columns);
    table_row(t);
    table_cell(t, "shop");
    table_cell(t, "running");
    table_paint(t, TABLE_WARN);
    table_cell(t, "12");
    table_cell(t, "hot");
    table_row(t);
    table_cell(t, "a-longer-name");
    table_cell(t, "");
    table_cellf(t, "%d", 34567);
}

static void expect_table(const struct table *t, const struct table_look *look, const char *wanted)
{
    struct buf out = {0};
    table_print(t, look, &out);
    assert_string_equal(buf_text(&out), wanted);
    buf_free(&out);
}

static void test_table(void **state)
{
    struct table t;
    (void)state;
    fill(&t);
    expect_table(&t, &(struct table_look){0},
                 "NAME            STATUS     RATE\n"
                 "shop            running      12\n"
                 "a-longer-name   -         34567\n");
    expect_table(&t, &(struct table_look){.wide = true, .no_header = true},
                 "shop            running      12   hot\n"
                 "a-longer-name   -         34567   -\n");
    expect_table(&t, &(struct table_look){.color = true, .no_header = true},
                 "shop            \033[33mrunning\033[0m      12\n"
                 "a-longer-name   -         34567\n");
    assert_int_equal(table_rows(&t), 2);
    assert_string_equal(table_get(&t, 1, 3), "-");
    table_free(&t);
}

static void test_table_keeps_widths(void **state)
{
    size_t widths[4] = {0};
    struct table t;
    (void)state;
    fill(&t);
    expect_table(&t, &(struct table_look){.no_header = true, .widths = widths},
                 "shop            running      12\n"
                 "a-longer-name   -         34567\n");
    table_free(&t);
    table_init(&t, columns);
    table_row(&t);
    table_cell(&t, "b");
    expect_table(&t, &(struct table_look){.no_header = true, .widths = widths},
                 "b               -             -\n");
    table_free(&t);
}

static void test_table_is_safe(void **state)
{
    static const struct table_column two[] = {{"A", 0, 0}, {"B", 0, 0}, {0}};
    struct table t;
    (void)state;
    table_init(&t, two);
    table_row(&t);
    table_cell(&t, "x\033[2J\ny");
    table_cell(&t, "\xc2\x9b"
                   "31m");
    table_cell(&t, "dropped");
    table_row(&t);
    table_cell(&t, "größe");
    table_cell(&t, "z");
    expect_table(&t, &(struct table_look){.no_header = true}, "x?[2J?y   ?31m\ngröße     z\n");
    table_free(&t);
}

/* ---- YAML ---- */

static void expect_yaml(const char *json, const char *wanted)
{
    struct buf out = {0};
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    yaml_print(yyjson_doc_get_root(doc), &out);
    assert_string_equal(buf_text(&out), wanted);
    yyjson_doc_free(doc);
    buf_free(&out);
}

static void test_yaml_layout(void **state)
{
    (void)state;
    expect_yaml("{\"items\":[{\"name\":\"s1\",\"ranges\":[{\"lo\":\"-1\"}],\"z\":null},{\"name\":\"s2\"}],"
                "\"e\":[],\"o\":{}}",
                "items:\n- name: s1\n  ranges:\n  - lo: \"-1\"\n  z: null\n- name: s2\ne: []\no: {}\n");
    expect_yaml("[[1,2.5],[true]]", "- - 1\n  - 2.5\n- - true\n");
    expect_yaml("\"x\"", "x\n");
    expect_yaml("{}", "{}\n");
}

static void test_yaml_strings(void **state)
{
    (void)state;
    expect_yaml(
        "[\"plain text\",\"yes\",\"\",\"12\",\"a: b\",\"a #b\",\"a:b\",\"- x\",\"on\",\"ends:\",\"tail \"]",
        "- plain text\n- \"yes\"\n- \"\"\n- \"12\"\n- \"a: b\"\n- \"a #b\"\n- a:b\n- \"- x\"\n- \"on\"\n- "
        "\"ends:\"\n"
        "- \"tail \"\n");
    expect_yaml(
        "{\"a\":\"one\\n  two\\n\",\"b\":\"one\\ntwo\",\"c\":\"\\u001b[2J\",\"d\":\" "
        "x\\ny\",\"e\":\"x\\n\\n\"}",
        "a: |\n  one\n    two\nb: |-\n  one\n  two\nc: \"\\x1B[2J\"\nd: \" x\\ny\"\ne: \"x\\n\\n\"\n");
    expect_yaml("{\"a b\":1,\"true\":2,\"\\u0085\":3}", "a b: 1\n\"true\": 2\n\"\\x85\": 3\n");
}

/* ---- bars ---- */

static struct bar_facts facts(void)
{
    return (struct bar_facts){.id = "m7k2",
                              .what = "split shop/s1 -> s3",
                              .phase = "copy",
                              .status = "running",
                              .progress = 0.43,
                              .rows = 41000,
                              .total_rows = 98000,
                              .bytes = 12.3 * 1048576,
                              .total_bytes = 28.1 * 1048576,
                              .bytes_rate = 8.2 * 1048576,
                              .rows_rate = -1,
                              .eta_seconds = 3.6,
                              .lag_seconds = 0.003,
                              .elapsed_seconds = 5,
                              .block_seconds = -1};
}

static void expect_bar(const struct bar_facts *f, unsigned width, const char *wanted)
{
    struct buf out = {0};
    bar_print(f, &(struct bar_look){.width = width}, &out);
    assert_string_equal(buf_text(&out), wanted);
    assert_true(table_width(buf_text(&out)) <= width);
    buf_free(&out);
}

static void test_bar(void **state)
{
    struct bar_facts f = facts();
    (void)state;
    expect_bar(
        &f, 140,
        "split shop/s1 -> s3  copy      [============>                 ]  43%  ETA 4s  12.3 MiB/28.1 MiB"
        "  41.0k/98.0k rows  8.2 MiB/s  lag 3.0 ms");
    f.throttle_rate = 4 << 20;
    expect_bar(&f, 116,
               "split shop/s1 -> s3  copy      [============                ]  43%  ETA 4s"
               "  throttled to 4.0 MiB/s  41.0k/98.0k rows");
    f.throttle_rate = -1;
    expect_bar(&f, 60, "split shop/s1 -> s3  copy      [====>     ]  43%  ETA 4s");
    expect_bar(&f, 24, "split shop/s1 -> s3");
    f.status = "done";
    f.progress = 1;
    f.block_seconds = 0.0073;
    expect_bar(
        &f, 100,
        "split shop/s1 -> s3  done      [=======================] 100%  in 5.00 s  writes blocked 7.3 ms");
}

static void test_bar_fits(void **state)
{
    struct bar_facts f = facts();
    (void)state;
    for (unsigned width = 1; width < 200; width++)
        for (int utf8 = 0; utf8 < 2; utf8++)
            for (int tenth = -1; tenth <= 11; tenth++) {
                struct buf out = {0};
                f.progress = tenth / 10.0;
                bar_print(&f, &(struct bar_look){.width = width, .utf8 = utf8 == 1}, &out);
                assert_true(table_width(buf_text(&out)) <= width);
                buf_free(&out);
            }
}

static void test_bar_line(void **state)
{
    struct bar_facts f = facts();
    struct buf out = {0};
    (void)state;
    bar_line(&f, &out);
    assert_string_equal(buf_text(&out),
                        "m7k2 split shop/s1 -> s3: copy, 43%, ETA 4s, 12.3 MiB of 28.1 MiB, 41.0k of 98.0k "
                        "rows, 8.2 MiB/s, lag 3.0 ms");
    buf_reset(&out);
    f.throttle_rate = 4 << 20;
    f.throttle = "copy throttled to 4.0 MiB/s: commits on s1 take 38.0 ms, bound 20.0 ms";
    bar_line(&f, &out);
    assert_string_equal(buf_text(&out),
                        "m7k2 split shop/s1 -> s3: copy, 43%, ETA 4s, 12.3 MiB of 28.1 MiB, 41.0k of 98.0k "
                        "rows, 8.2 MiB/s, lag 3.0 ms: copy throttled to 4.0 MiB/s: commits on s1 take 38.0 "
                        "ms, bound 20.0 ms");
    buf_reset(&out);
    f = (struct bar_facts){
        .status = "failed", .error = "no\nspace", .elapsed_seconds = -1, .eta_seconds = -1};
    bar_line(&f, &out);
    assert_string_equal(buf_text(&out), "operation: failed: no?space");
    buf_free(&out);
}

/* ---- numbers ---- */

static void test_human(void **state)
{
    char out[HUMAN_SIZE];
    (void)state;
    assert_string_equal(human_bytes(0, out), "0 B");
    assert_string_equal(human_bytes(1023, out), "1023 B");
    assert_string_equal(human_bytes(1536, out), "1.5 KiB");
    assert_string_equal(human_bytes(1048575, out), "1.0 MiB");
    assert_string_equal(human_count(0.3, out), "0.3");
    assert_string_equal(human_count(9999, out), "9999");
    assert_string_equal(human_count(12345, out), "12.3k");
    assert_string_equal(human_count(4.1e6, out), "4.1M");
    assert_string_equal(human_age(-5, out), "0s");
    assert_string_equal(human_age(119, out), "119s");
    assert_string_equal(human_age(192, out), "3m12s");
    assert_string_equal(human_age(3600 * 3, out), "3h");
    assert_string_equal(human_age(86400 * 3 + 3600 * 2, out), "3d2h");
    assert_string_equal(human_duration(0.00085, out), "850 us");
    assert_string_equal(human_duration(0.0073, out), "7.3 ms");
    assert_string_equal(human_duration(1.236, out), "1.24 s");
    assert_string_equal(human_percent(0.5, out), "50%");
    assert_string_equal(human_percent(0.0004, out), "<0.1%");
    assert_string_equal(human_percent(1.031, out), "103%");
}

static void test_time(void **state)
{
    int64_t us = -1;
    (void)state;
    assert_true(human_time_parse("1970-01-01T00:00:00Z", &us) && us == 0);
    assert_true(human_time_parse("2026-11-21T07:15:00.123456Z", &us) && us == 1795245300123456);
    assert_true(human_time_parse("2000-02-29T23:59:59.5Z", &us) && us == 951868799500000);
    us = 7;
    assert_false(human_time_parse("2026-11-21", &us));
    assert_false(human_time_parse("2026-13-21T07:15:00Z", &us));
    assert_false(human_time_parse("2026-11-21T07:15:00+01:00", &us));
    assert_false(human_time_parse(NULL, &us));
    assert_int_equal(us, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),         cmocka_unit_test(test_table_keeps_widths),
        cmocka_unit_test(test_table_is_safe), cmocka_unit_test(test_yaml_layout),
        cmocka_unit_test(test_yaml_strings),  cmocka_unit_test(test_bar),
        cmocka_unit_test(test_bar_fits),      cmocka_unit_test(test_bar_line),
        cmocka_unit_test(test_human),         cmocka_unit_test(test_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
