/* What the demo shows, and what it finds in a manager's log. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cli/demo_files.h"
#include "cli/demo_view.h"
#include "cli/table.h"

static void numbers_have_commas(void **state)
{
    (void)state;
    static const struct {
        uint64_t value;
        const char *text;
    } cases[] = {{0, "0"},
                 {7, "7"},
                 {999, "999"},
                 {1000, "1,000"},
                 {12345, "12,345"},
                 {1234567, "1,234,567"},
                 {UINT64_MAX, "18,446,744,073,709,551,615"}};
    char text[32];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(demo_view_number(cases[i].value, text), cases[i].text);
}

static void text_is_wrapped_at_blanks(void **state)
{
    (void)state;
    struct buf out = {0};
    demo_view_wrap("one two three four", 12, 4, &out);
    assert_string_equal(buf_text(&out), "one two\n    three\n    four");
    buf_reset(&out);
    demo_view_wrap("a-word-that-is-longer-than-the-line then", 10, 2, &out);
    assert_string_equal(buf_text(&out), "a-word-that-is-longer-than-the-line\n  then");
    buf_reset(&out);
    demo_view_wrap("", 10, 2, &out);
    assert_string_equal(buf_text(&out), "");
    buf_free(&out);
}

static struct demo_view busy_view(void)
{
    struct demo_view v = {.shard_count = 3,
                          .threshold = 1250,
                          .window = 10,
                          .loading = true,
                          .operations = 2000,
                          .p50_ms = 1.2,
                          .p99_ms = 1234.5,
                          .gap_ms = 12.3,
                          .acked = 123456,
                          .refused = 12,
                          .task = "catch_up",
                          .task_share = 0.5};
    static const double rates[] = {212, 5000, 0};
    for (int i = 0; i < 3; i++) {
        snprintf(v.shards[i].name, sizeof v.shards[i].name, "s%d", i + 1);
        snprintf(v.shards[i].state, sizeof v.shards[i].state, "serving");
        v.shards[i].rate = i == 2 ? (double)NAN : rates[i];
        v.shards[i].bytes = i == 2 ? (double)NAN : 49.4e6;
    }
    v.shards[1].hot = 4;
    snprintf(v.shards[2].role, sizeof v.shards[2].role, "receives");
    snprintf(v.task_text, sizeof v.task_text, "100,000 of 200,000 rows");
    return v;
}

static void block_fits_usual_terminals(void **state)
{
    (void)state;
    struct demo_view v = busy_view();
    for (unsigned width = 80; width <= 200; width += 10) {
        struct demo_look look = {.width = width, .utf8 = true};
        struct buf out = {0};
        demo_view_block(&v, &look, &out);
        char *copy = mem_strdup(buf_text(&out)), *rest = copy, *line;
        int lines = 0;
        for (; (line = strsep(&rest, "\n")) != NULL; lines++)
            assert_true(table_width(line) <= width);
        assert_int_equal(lines, 8); /* heading, three shards, load, task, and what follows the last end */
        free(copy);
        buf_free(&out);
    }
}

static void block_says_what_is_hot_and_what_moves(void **state)
{
    (void)state;
    struct demo_view v = busy_view();
    struct demo_look look = {.width = 100};
    struct buf out = {0};
    demo_view_block(&v, &look, &out);
    assert_non_null(strstr(buf_text(&out), "hot, 4 of 10 s"));
    assert_non_null(strstr(buf_text(&out), "threshold 1,250/s"));
    assert_non_null(strstr(buf_text(&out), "receives"));
    assert_non_null(strstr(buf_text(&out), "  catch up "));
    assert_non_null(strstr(buf_text(&out), " 50 %  100,000 of 200,000 rows"));
    assert_null(strchr(buf_text(&out), '\033'));
    for (const char *p = buf_text(&out); *p != '\0'; p++)
        assert_true((unsigned char)*p < 0x80); /* no UTF-8 where it is not wanted */
    buf_reset(&out);
    look.color = true;
    demo_view_block(&v, &look, &out);
    assert_non_null(strstr(buf_text(&out), "\033[31m#")); /* above the threshold: red */
    buf_free(&out);
}

static void members_stand_beside_what_they_are_to_be(void **state)
{
    (void)state;
    struct demo_view v = busy_view();
    struct demo_look look = {.width = 80};
    struct buf out = {0};
    v.member_count = 3;
    v.members[0] = (struct demo_member){"shop-s1-0", "s1", "", "", true, false, false, (double)NAN};
    v.members[1] = (struct demo_member){"shop-s1-1", "s1", "primary", "promoting", false, true, true, 0};
    v.members[2] = (struct demo_member){"shop-s1-2", "s1", "standby", "standby", false, true, true, 2048};
    demo_view_block(&v, &look, &out);
    assert_non_null(strstr(buf_text(&out), "  shop-s1-0     -         not heard   \n"));
    assert_non_null(strstr(buf_text(&out), "  shop-s1-1     primary   promoting   "));
    assert_non_null(strstr(buf_text(&out), "standby     2.0 KiB behind, commits wait for it\n"));
    assert_null(strstr(buf_text(&out), "threshold")); /* none is to turn hot */
    buf_free(&out);
}

/* The length of each shard's bar in a text without colors. */
static void bars_are_in_proportion(void **state)
{
    (void)state;
    static const double rates[] = {0, 625, 1250, 2500, 9999};
    size_t before = 0;
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        struct demo_view v = {.shard_count = 1, .threshold = 1250};
        struct demo_look look = {.width = 90};
        struct buf out = {0};
        size_t cells = 0;
        v.shards[0].rate = rates[i];
        v.shards[0].bytes = 0;
        demo_view_block(&v, &look, &out);
        for (const char *p = buf_text(&out); *p != '\0'; p++)
            cells += *p == '#';
        assert_int_equal(cells, (size_t)(fmin(rates[i] / 2500, 1) * 44));
        assert_true(cells >= before);
        before = cells;
        buf_free(&out);
    }
}

static void line_leaves_out_what_is_usual(void **state)
{
    (void)state;
    struct demo_view v = busy_view();
    struct buf out = {0};
    demo_view_line(&v, &out);
    assert_string_equal(buf_text(&out),
                        "s1 212 tx/s, s2 5,000 tx/s (hot, 4 of 10 s), s3 - tx/s (receives); writes p99 "
                        "1234.5 ms; catch up 50 %, 100,000 of 200,000 rows");
    buf_free(&out);
}

/* ---- files ---- */

static void directory_must_be_empty(void **state)
{
    (void)state;
    char parent[] = "/tmp/shardherd-demo-unit-XXXXXX";
    struct err err = {0};
    struct stat st;
    char *made = NULL;
    bool is_made;
    assert_non_null(mkdtemp(parent));
    assert_int_equal(demo_directory_make(parent, NULL, &made, &is_made, &err), 0);
    assert_false(is_made);
    free(made);
    char *wanted = mem_printf("%s/new", parent);
    assert_int_equal(demo_directory_make(wanted, NULL, &made, &is_made, &err), 0);
    assert_true(is_made);
    assert_int_equal(stat(made, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0711);
    free(made);
    made = NULL;
    assert_int_equal(demo_directory_make(parent, NULL, &made, &is_made, &err), ERRC_CONFLICT);
    assert_null(made);
    assert_non_null(strstr(err.message, parent));
    assert_int_equal(demo_directory_clean(parent, true, true, &err), 0);
    assert_int_equal(stat(parent, &st), -1);
    free(wanted);
}

static void temporary_directory_is_passable(void **state)
{
    (void)state;
    char closed[] = "/tmp/shardherd-demo-unit-XXXXXX";
    struct err err = {0};
    struct stat st;
    char *made = NULL;
    bool is_made;
    assert_non_null(mkdtemp(closed)); /* mode 0700 */
    assert_int_equal(demo_directory_make(NULL, closed, &made, &is_made, &err), 0);
    assert_true(is_made);
    assert_int_equal(strncmp(made, geteuid() == 0 ? "/var/tmp/" : closed, 9), 0);
    assert_int_equal(stat(made, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0711);
    assert_int_equal(demo_directory_clean(made, true, true, &err), 0);
    free(made);
    assert_int_equal(rmdir(closed), 0);
}

static void log_tells_its_cause(void **state)
{
    (void)state;
    static const struct {
        const char *log, *tail, *cause;
    } cases[] = {
        {"", "", ""},
        {"a\nb\nc\n", "b\nc", ""},
        {"a", "a", ""},
        {"level=info err=no\nlevel=error msg=x err=short\n", "level=info err=no\nlevel=error msg=x err=short",
         "short"},
        {"level=error err=\"first\"\nlevel=error msg=x err=\"port \\\"5\\\" is taken\" op=1\nz\n",
         "level=error msg=x err=\"port \\\"5\\\" is taken\" op=1\nz", "port \"5\" is taken"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[] = "/tmp/shardherd-demo-unit-XXXXXX";
        int fd = mkstemp(path);
        struct buf tail = {0}, cause = {0};
        assert_true(fd >= 0);
        assert_int_equal(write(fd, cases[i].log, strlen(cases[i].log)), (ssize_t)strlen(cases[i].log));
        close(fd);
        demo_log_tail(path, 2, &tail, &cause);
        assert_string_equal(buf_text(&tail), cases[i].tail);
        assert_string_equal(buf_text(&cause), cases[i].cause);
        unlink(path);
        buf_free(&tail);
        buf_free(&cause);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_have_commas),
        cmocka_unit_test(text_is_wrapped_at_blanks),
        cmocka_unit_test(block_fits_usual_terminals),
        cmocka_unit_test(block_says_what_is_hot_and_what_moves),
        cmocka_unit_test(members_stand_beside_what_they_are_to_be),
        cmocka_unit_test(bars_are_in_proportion),
        cmocka_unit_test(line_leaves_out_what_is_usual),
        cmocka_unit_test(directory_must_be_empty),
        cmocka_unit_test(temporary_directory_is_passable),
        cmocka_unit_test(log_tells_its_cause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
