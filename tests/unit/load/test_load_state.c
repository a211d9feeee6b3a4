#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "base/mem.h"
#include "load/load_keys.h"
#include "load/load_ledger.h"
#include "load/load_pass.h"
#include "load/load_sql.h"

static const struct load_shape shape = {KEY_BIGINT, 10, 3};

static struct load_write plan(const struct load_state *s, enum load_change change, uint32_t number)
{
    struct load_write w;
    load_state_plan(s, change, number, &w);
    return w;
}

static void apply(struct load_state *s, enum load_change change, uint32_t number)
{
    struct load_write w = plan(s, change, number);
    assert_int_equal(load_state_apply(s, &w, NULL), 0);
}

static void test_state_follows_writes(void **state)
{
    (void)state;
    struct load_state s;
    load_state_init(&s, &shape);
    assert_int_equal(load_state_orders(&s), 30);
    apply(&s, CHANGE_UPDATE, 4);
    apply(&s, CHANGE_INSERT, 4);
    apply(&s, CHANGE_TX, 4);
    apply(&s, CHANGE_DELETE, 4);
    assert_int_equal(s.version[4], 2);
    assert_int_equal(s.first[4], 2);
    assert_int_equal(s.next[4], 6);
    assert_int_equal(load_state_orders(&s), 31);
    assert_int_equal(s.writes, 4);
    load_state_fini(&s);
}

static void test_writes_out_of_order_are_refused(void **state)
{
    (void)state;
    static const struct load_write wrong[] = {
        {CHANGE_UPDATE, 1, 2, 0}, {CHANGE_UPDATE, 1, 0, 0},  {CHANGE_INSERT, 1, 0, 5},
        {CHANGE_INSERT, 1, 0, 3}, {CHANGE_DELETE, 1, 0, 2},  {CHANGE_TX, 1, 1, 3},
        {CHANGE_TX, 1, 2, 4},     {CHANGE_UPDATE, 10, 1, 0},
    };
    struct load_state s;
    struct err err;
    load_state_init(&s, &shape);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(load_state_apply(&s, &wrong[i], &err), ERRC_CORRUPT);
        assert_int_equal(load_state_doubt(&s, &wrong[i], &err), ERRC_CORRUPT);
    }
    assert_int_equal(s.writes, 0);
    for (int i = 0; i < 3; i++)
        apply(&s, CHANGE_DELETE, 1);
    struct load_write none_left = plan(&s, CHANGE_DELETE, 1);
    assert_int_equal(load_state_apply(&s, &none_left, &err), ERRC_CORRUPT);
    load_state_fini(&s);
}

static void test_doubt_until_the_next_record(void **state)
{
    (void)state;
    struct load_state s;
    load_state_init(&s, &shape);
    struct load_write w = plan(&s, CHANGE_TX, 3);
    assert_int_equal(load_state_doubt(&s, &w, NULL), 0);
    assert_int_equal(s.pending[3], PENDING_VERSION | PENDING_NEXT);
    assert_int_equal(s.version[3], 0);
    assert_int_equal(load_state_apply(&s, &w, NULL), 0);
    assert_int_equal(s.pending[3], 0);
    assert_int_equal(s.version[3], 1);
    load_state_fini(&s);
}

static void test_records_read_back(void **state)
{
    (void)state;
    struct load_state a, b;
    struct buf out = {0};
    struct load_random random = {.state = 3};
    load_state_init(&a, &shape);
    load_state_init(&b, &shape);
    for (int i = 0; i < 2000; i++) {
        enum load_change change = (enum load_change)load_random_below(&random, CHANGE_MAX);
        uint32_t n = load_random_below(&random, 10);
        if (change == CHANGE_DELETE && a.first[n] == a.next[n])
            continue;
        struct load_write w = plan(&a, change, n);
        if (i % 7 == 0) {
            load_record_doubt(&out, &w);
            assert_int_equal(load_state_doubt(&a, &w, NULL), 0);
            continue;
        }
        load_record_write(&out, &w);
        assert_int_equal(load_state_apply(&a, &w, NULL), 0);
    }
    char *rest = buf_take(&out), *text = rest, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (line[0] != '\0')
            assert_int_equal(load_record_replay(&b, line, NULL), 0);
    }
    assert_memory_equal(a.version, b.version, 10 * sizeof *a.version);
    assert_memory_equal(a.first, b.first, 10 * sizeof *a.first);
    assert_memory_equal(a.next, b.next, 10 * sizeof *a.next);
    assert_memory_equal(a.pending, b.pending, 10);
    assert_int_equal(a.writes, b.writes);
    free(text);
    load_state_fini(&a);
    load_state_fini(&b);
}

static void test_headers(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "hello",
        "shardherd-load 2 key=bigint customers=5 orders=3",
        "shardherd-load 1 key=money customers=5 orders=3",
        "shardherd-load 1 key=bigint customers=0 orders=3",
        "shardherd-load 1 key=bigint customers=5 orders=",
        "shardherd-load 1 key=bigint customers=5 orders=3 more",
        "shardherd-load 1 key=smallint customers=50000 orders=3",
        "shardherd-load 1 key=bigint customers=99999999999 orders=3",
    };
    struct err err;
    struct load_shape got;
    for (enum key_type type = 0; type < KEY_TYPE_MAX; type++) {
        struct buf out = {0};
        const struct load_shape one = {type, 77, 5};
        load_record_header(&out, &one);
        out.data[out.length - 1] = '\0';
        assert_int_equal(load_record_parse_header(out.data, &got, &err), 0);
        assert_int_equal(got.key_type, type);
        assert_int_equal(got.customers, 77);
        assert_int_equal(got.orders, 5);
        buf_free(&out);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(load_record_parse_header(wrong[i], &got, &err), ERRC_CORRUPT);
}

static void test_bad_records(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "u",
        "u 1",
        "u 1 2",
        "u 1 1 1",
        "x 1 1",
        "u 10 1",
        "u 1 -1",
        "u 1 1 ",
        "? u 1 1",
        "? x 1 1 1",
        "! lost",
        "! gone 1 1 1 1",
        "! lost 99 1 1 1",
        "! lost 1 1 3 2",
        "endless",
        "run",
        "run x",
        "i 1 3",
        "u 4294967296 1",
        "u  1 1",
    };
    struct load_state s;
    struct err err;
    load_state_init(&s, &shape);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(load_record_replay(&s, wrong[i], &err), ERRC_CORRUPT);
    assert_int_equal(load_record_replay(&s, "! lost 2 7 1 9", &err), 0);
    assert_int_equal(s.found[FINDING_LOST], 1);
    assert_int_equal(s.version[2], 7);
    assert_int_equal(s.next[2], 9);
    assert_int_equal(load_record_replay(&s, "run 8", &err), 0);
    assert_int_equal(s.unclean_clients, 8);
    assert_int_equal(load_record_replay(&s, "end", &err), 0);
    assert_int_equal(s.unclean_clients, 0);
    load_state_fini(&s);
}

/* ---- the file ---- */

static char *temporary(void)
{
    char *path = mem_strdup("/tmp/shardherd-test-ledger-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return path;
}

static void write_some(struct load_ledger *ledger)
{
    for (uint32_t n = 0; n < 5; n++) {
        struct load_write w = plan(&ledger->state, CHANGE_UPDATE, n);
        load_ledger_ack(ledger, &w);
    }
}

static void append(const char *path, const char *text)
{
    FILE *f = fopen(path, "a");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void test_file_keeps_what_was_flushed(void **state)
{
    (void)state;
    char *path = temporary();
    struct load_ledger a, b;
    struct err err = {0};
    assert_int_equal(load_ledger_create(&a, path, &shape, &err), 0);
    load_ledger_run(&a, 2);
    write_some(&a);
    assert_int_equal(load_ledger_flush(&a, &err), 0);
    /* another reader sees it while the writer still has it open: it is not in our memory only */
    assert_int_equal(load_ledger_open(&b, path, NULL, true, &err), 0);
    assert_int_equal(b.state.writes, 5);
    assert_int_equal(b.state.unclean_clients, 2);
    load_ledger_close(&b);
    load_ledger_end(&a);
    load_ledger_close(&a);
    assert_int_equal(load_ledger_open(&b, path, &shape, true, &err), 0);
    assert_int_equal(b.state.unclean_clients, 0);
    load_ledger_close(&b);
    unlink(path);
    free(path);
}

static void test_torn_tail_is_cut(void **state)
{
    (void)state;
    char *path = temporary();
    struct load_ledger a;
    struct err err = {0};
    assert_int_equal(load_ledger_create(&a, path, &shape, &err), 0);
    write_some(&a);
    load_ledger_close(&a);
    append(path, "u 3 2");
    assert_int_equal(load_ledger_open(&a, path, &shape, false, &err), 0);
    assert_int_equal(a.state.writes, 5);
    write_some(&a); /* goes behind the last whole line */
    load_ledger_close(&a);
    assert_int_equal(load_ledger_open(&a, path, &shape, true, &err), 0);
    assert_int_equal(a.state.writes, 10);
    load_ledger_close(&a);
    unlink(path);
    free(path);
}

static void test_wrong_files(void **state)
{
    (void)state;
    char *path = temporary();
    struct load_ledger a;
    struct err err = {0};
    const struct load_shape other = {KEY_TEXT, 10, 3};
    assert_int_equal(load_ledger_open(&a, path, NULL, true, &err), ERRC_CORRUPT); /* empty */
    assert_int_equal(load_ledger_create(&a, path, &shape, &err), 0);
    load_ledger_close(&a);
    assert_int_equal(load_ledger_open(&a, path, &other, true, &err), ERRC_CONFLICT);
    append(path, "u 1 1\nu 1 3\n");
    assert_int_equal(load_ledger_open(&a, path, NULL, true, &err), ERRC_CORRUPT);
    assert_non_null(strstr(err.message, "line 3"));
    unlink(path);
    assert_int_equal(load_ledger_open(&a, path, NULL, true, &err), ERRC_NOT_FOUND);
    free(path);
}

/* ---- what answers mean ---- */

static void test_verdicts(void **state)
{
    (void)state;
    static const struct {
        enum err_code code;
        const char *sqlstate;
        enum load_verdict may_commit, may_not;
    } cases[] = {
        {ERRC_NONE, "", VERDICT_DONE, VERDICT_DONE},
        {ERRC_SQL, "SHR01", VERDICT_REFUSED, VERDICT_REFUSED},
        {ERRC_SQL, "SHR02", VERDICT_AGAIN, VERDICT_AGAIN},
        {ERRC_SQL, "23505", VERDICT_EXISTS, VERDICT_EXISTS},
        {ERRC_SQL, "23503", VERDICT_AGAIN, VERDICT_AGAIN},
        {ERRC_SQL, "40001", VERDICT_AGAIN, VERDICT_AGAIN},
        {ERRC_SQL, "57014", VERDICT_AGAIN, VERDICT_AGAIN},
        {ERRC_SQL, "57P01", VERDICT_DOUBT, VERDICT_AGAIN}, /* "... has already committed locally" */
        {ERRC_SQL, "08006", VERDICT_DOUBT, VERDICT_AGAIN},
        {ERRC_CLOSED, "", VERDICT_DOUBT, VERDICT_AGAIN},
        {ERRC_TIMEOUT, "", VERDICT_DOUBT, VERDICT_AGAIN},
        {ERRC_CANCELED, "", VERDICT_DOUBT, VERDICT_AGAIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err err = {.code = cases[i].code};
        memcpy(err.sqlstate, cases[i].sqlstate, strlen(cases[i].sqlstate));
        assert_int_equal(load_verdict(&err, true), cases[i].may_commit);
        assert_int_equal(load_verdict(&err, false), cases[i].may_not);
    }
    assert_int_equal(load_verdict(NULL, true), VERDICT_DONE);
}

/* ---- passwords ---- */

static void test_passfile(void **state)
{
    (void)state;
    char text[] = "# comment\n10.0.0.1:5432:shop:app:one\n*:5433:*:app:t\\:w\\\\o\n*:*:*:bob:x\n";
    const struct load_pass pass = {.text = text};
    char out[32];
    assert_true(load_pass_find(&pass, "10.0.0.1", 5432, "shop", "app", out, sizeof out));
    assert_string_equal(out, "one");
    assert_true(load_pass_find(&pass, "h", 5433, "x", "app", out, sizeof out));
    assert_string_equal(out, "t:w\\o");
    assert_true(load_pass_find(&pass, "h", 1, "x", "bob", out, sizeof out));
    assert_false(load_pass_find(&pass, "10.0.0.1", 5432, "shop", "ap", out, sizeof out));
    assert_false(load_pass_find(&pass, "10.0.0.1", 5432, "sho", "app", out, sizeof out));
    assert_false(load_pass_find(&pass, "10.0.0.10", 5432, "shop", "app", out, sizeof out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_follows_writes),
        cmocka_unit_test(test_writes_out_of_order_are_refused),
        cmocka_unit_test(test_doubt_until_the_next_record),
        cmocka_unit_test(test_records_read_back),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_bad_records),
        cmocka_unit_test(test_file_keeps_what_was_flushed),
        cmocka_unit_test(test_torn_tail_is_cut),
        cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_passfile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
