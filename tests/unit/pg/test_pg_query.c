/* Queries on a real server: order, pipelines, prepared statements, errors, deadlines, cancel. */
#include "pg/pg_test.h"

#include "base/buf.h"
#include "pg/pg_impl.h"
#include "support/queue_time.h"

static struct pg_server server;

static int group_setup(void **state)
{
    (void)state;
    return pg_server_start(&server, NULL, NULL) ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    pg_server_stop(&server);
    return 0;
}

struct session {
    struct fixture f;
    struct client c;
};

static int setup(void **state)
{
    struct session *s = mem_zalloc(sizeof *s);
    fixture_open(&s->f);
    const struct pg_target target = server_target(&server);
    client_open(&s->c, &s->f, &target);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct session *s = *state;
    if (s->c.conn != NULL)
        client_close(&s->c);
    fixture_close(&s->f);
    free(s);
    return 0;
}

static void test_simple_and_facts(void **state)
{
    struct session *s = *state;
    static struct answer a;
    assert_string_equal(query(&s->c, "SELECT 41; SELECT 42", &a), "42");
    assert_int_equal(a.results, 2);
    assert_int_equal(pg_conn_server_version(s->c.conn) / 10000, server.major);
    assert_true(pg_conn_backend_pid(s->c.conn) > 0);
    assert_string_equal(pg_conn_parameter(s->c.conn, "client_encoding"), "UTF8");
    query(&s->c, "SHOW lock_timeout", &a);
    assert_string_equal(a.value, "2s");
}

static void test_parameters(void **state)
{
    struct session *s = *state;
    static struct answer a = {0};
    const char *params[] = {"7", NULL, "it's"};
    const struct pg_request r = {.sql = "SELECT $1::int + 1, $2::text IS NULL, $3::text",
                                 .extended = true,
                                 .prepared = "p",
                                 .param_count = 3,
                                 .params = params};
    for (int i = 0; i < 3; i++) {
        memset(&a, 0, sizeof a);
        assert_int_equal(pg_send(s->c.conn, &r, answer_take, &a, NULL), 0);
        assert_true(wait_count(&s->f, &a.done, 1, 5000));
        assert_string_equal(a.value, "8");
    }
    query(&s->c, "SELECT count(*) FROM pg_prepared_statements", &a);
    assert_string_equal(a.value, "1");
}

static int order_next;
static void take_in_order(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    int64_t n;
    assert_null(reply->err);
    assert_true(pg_value_int64(reply, 0, 0, &n));
    assert_int_equal(n, order_next);
    assert_int_equal(*(int *)data, order_next);
    order_next++;
}

static void test_mixed_requests_keep_their_order(void **state)
{
    struct session *s = *state;
    enum { COUNT = 300 };
    int numbers[COUNT];
    char sql[40], text[12];
    order_next = 0;
    for (int i = 0; i < COUNT; i++) {
        numbers[i] = i;
        snprintf(text, sizeof text, "%d", i);
        snprintf(sql, sizeof sql, "SELECT %d", i);
        const char *params[] = {text};
        const struct pg_request extended = {.sql = "SELECT $1::int",
                                            .extended = true,
                                            .prepared = i % 2 ? "n" : NULL,
                                            .param_count = 1,
                                            .params = params};
        const struct pg_request simple = {.sql = sql};
        assert_int_equal(
            pg_send(s->c.conn, i % 7 == 3 ? &simple : &extended, take_in_order, &numbers[i], NULL), 0);
    }
    assert_int_equal(pg_conn_waiting(s->c.conn), COUNT);
    assert_true(wait_count(&s->f, &order_next, COUNT, 10000));
    assert_int_equal(pg_conn_waiting(s->c.conn), 0);
}

static void test_P7_results_only_when_complete(void **state)
{
    struct session *s = *state;
    static struct answer a, late, last;
    send_simple(&s->c, "SELECT repeat('x', 1000) FROM generate_series(1, 20000)", &a);
    send_extended(&s->c, "SELECT pg_sleep(0.4)", NULL, &late);
    send_simple(&s->c, "SELECT pg_sleep(0.4)", &last);
    loop_turns_reset(&s->f.loop);
    const uint64_t queued_us = queue_time_us();
    assert_true(wait_count(&s->f, &a.done, 1, 10000));
    assert_int_equal(a.rows, 20000);
    assert_true(wait_count(&s->f, &late.done, 1, 10000));
    assert_true(wait_count(&s->f, &last.done, 1, 10000));
    run_for(&s->f, 20); /* a turn is measured at its end */
    /* PQgetResult() while PQisBusy() would have stood still for the 400 ms */
    assert_true(s->f.loop.longest_turn_us < 200000 + queue_time_us() - queued_us);
}

static void test_P8_big_request_is_polled_for_writing_only_until_sent(void **state)
{
    struct session *s = *state;
    static struct answer a = {0};
    enum { SIZE = 20 << 20 };
    char *big = mem_alloc(SIZE + 1);
    memset(big, 'y', SIZE);
    big[SIZE] = '\0';
    const char *params[] = {big};
    const struct pg_request r = {
        .sql = "SELECT length($1)", .extended = true, .param_count = 1, .params = params};
    pg_server_signal_all(&server, SIGSTOP); /* so that it cannot read faster than we write */
    assert_int_equal(pg_send(s->c.conn, &r, answer_take, &a, NULL), 0);
    int mask = s->c.conn->mask;
    pg_server_signal_all(&server, SIGCONT);
    assert_int_equal(mask, UV_READABLE | UV_WRITABLE);
    assert_true(wait_count(&s->f, &a.done, 1, 10000));
    assert_string_equal(a.value, "20971520");
    assert_int_equal(s->c.conn->mask, UV_READABLE);
    free(big);
}

static void test_P9_an_error_leaves_its_neighbours_valid(void **state)
{
    struct session *s = *state;
    static struct answer a[7];
    send_extended(&s->c, "SELECT 0", NULL, &a[0]);
    send_extended(&s->c, "SELECT 1/0", NULL, &a[1]);
    send_extended(&s->c, "SELECT 2", "two", &a[2]);
    send_extended(&s->c, "SELECT no_such_column", "bad", &a[3]);
    send_extended(&s->c, "SELECT 4", "four", &a[4]);
    send_extended(&s->c, "this is not SQL", NULL, &a[5]);
    send_extended(&s->c, "SELECT 6", "two-of-them", &a[6]);
    assert_true(wait_count(&s->f, &a[6].done, 1, 5000));
    for (int i = 0; i < 7; i++) {
        char digit[2] = {(char)('0' + i), '\0'};
        assert_int_equal(a[i].done, 1);
        if (i % 2 == 0)
            assert_string_equal(a[i].value, digit);
        assert_int_equal(a[i].err.code, i % 2 == 0 ? ERRC_NONE : ERRC_SQL);
    }
    assert_string_equal(a[1].err.sqlstate, "22012");
    assert_string_equal(a[3].err.sqlstate, "42703");
    assert_string_equal(a[5].err.sqlstate, "42601");
}

/* Texts that stay are not copied; those that do not are, and compared. */
static void test_constant_and_other_statements(void **state)
{
    struct session *s = *state;
    static struct answer a[6];
    static const char *const sql[] = {"SELECT 0", "SELECT 1"};
    static const char *const names[] = {"zero", "one"};
    for (int i = 0; i < 6; i++) {
        char copy[20];
        snprintf(copy, sizeof copy, "%s", sql[i % 2]);
        const struct pg_request r = {.sql = i < 4 ? sql[i % 2] : copy,
                                     .extended = true,
                                     .prepared = names[i % 2],
                                     .constant = i < 4 && i % 2 == 0};
        memset(&a[i], 0, sizeof a[i]);
        assert_int_equal(pg_send(s->c.conn, &r, answer_take, &a[i], NULL), 0);
        assert_true(wait_count(&s->f, &a[i].done, 1, 5000));
        assert_int_equal(atoi(a[i].value), i % 2);
    }
    const struct pg_request taken = {.sql = "SELECT 2", .extended = true, .prepared = "zero"};
    assert_int_equal(pg_send(s->c.conn, &taken, answer_take, &a[0], NULL), ERRC_INVALID);
    query(&s->c, "SELECT count(*) FROM pg_prepared_statements", &a[0]);
    assert_string_equal(a[0].value, "2");
}

static void test_failed_prepare_is_tried_again(void **state)
{
    struct session *s = *state;
    static struct answer a, b, other;
    send_extended(&s->c, "SELECT n FROM later", "later", &a);
    send_extended(&s->c, "SELECT n FROM later", "later", &b);
    assert_true(wait_count(&s->f, &b.done, 1, 5000));
    assert_string_equal(a.err.sqlstate, "42P01");
    assert_string_equal(b.err.sqlstate, "42P01"); /* not 26000: it has an error of its own */
    query(&s->c, "CREATE TEMP TABLE later AS SELECT 5 AS n", &other);
    send_extended(&s->c, "SELECT n FROM later", "later", &a);
    assert_true(wait_count(&s->f, &a.done, 1, 5000));
    assert_string_equal(a.value, "5");
}

static void test_prepared_statement_survives_the_server_forgetting_it(void **state)
{
    struct session *s = *state;
    static struct answer a, other;
    query(&s->c, "CREATE TEMP TABLE t AS SELECT 1 AS n", &other);
    for (int round = 0; round < 3; round++) {
        send_extended(&s->c, "SELECT * FROM t", "all", &a);
        assert_true(wait_count(&s->f, &a.done, 1, 5000));
        assert_int_equal(a.err.code, ERRC_NONE);
        query(&s->c, round == 0 ? "DEALLOCATE ALL" : "ALTER TABLE t ADD COLUMN x int; ANALYZE t", &other);
        send_extended(&s->c, "SELECT * FROM t", "all", &a);
        assert_true(wait_count(&s->f, &a.done, 1, 5000));
        assert_string_equal(a.err.sqlstate, round == 0 ? "26000" : "0A000");
        if (round > 0)
            query(&s->c, "ALTER TABLE t DROP COLUMN x", &other);
    }
}

static void test_P10_locked_relation(void **state)
{
    struct session *s = *state;
    struct client holder;
    static struct answer a, blocked, neighbours[2], last;
    const struct pg_target target = server_target(&server);
    client_open(&holder, &s->f, &target);
    query(&holder, "CREATE TABLE locked (n int)", &a);
    query(&holder, "BEGIN; LOCK TABLE locked", &a);
    query(&s->c, "SET lock_timeout = '150ms'", &a);
    send_extended(&s->c, "SELECT 1", "n1", &neighbours[0]);
    send_extended(&s->c, "SELECT count(*) FROM locked", NULL, &blocked);
    send_extended(&s->c, "SELECT 3", "n3", &neighbours[1]);
    assert_true(wait_count(&s->f, &neighbours[1].done, 1, 5000));
    assert_string_equal(neighbours[0].value, "1");
    assert_string_equal(blocked.err.sqlstate, "55P03");
    assert_string_equal(neighbours[1].value, "3");
    /* without a server-side bound the client's own deadline ends the connection */
    query(&s->c, "SET lock_timeout = 0", &a);
    memset(&last, 0, sizeof last);
    const struct pg_request r = {.sql = "TABLE locked", .extended = true, .timeout_ns = 200 * MS};
    assert_int_equal(pg_send(s->c.conn, &r, answer_take, &last, NULL), 0);
    assert_true(wait_count(&s->f, &s->c.lost, 1, 5000));
    assert_int_equal(last.err.code, ERRC_TIMEOUT);
    query(&holder, "ROLLBACK; DROP TABLE locked", &a);
    client_close(&holder);
}

/* The deadline of a request that waits for its turn starts with its turn. */
static void test_deadlines_of_a_queue(void **state)
{
    struct session *s = *state;
    static struct answer a, b = {0}, c = {0};
    send_simple(&s->c, "SELECT pg_sleep(0.5)", &a);
    const struct pg_request quick = {.sql = "SELECT 1", .timeout_ns = 300 * MS};
    const struct pg_request slow = {.sql = "SELECT pg_sleep(5)", .timeout_ns = 300 * MS};
    assert_int_equal(pg_send(s->c.conn, &quick, answer_take, &b, NULL), 0);
    assert_int_equal(pg_send(s->c.conn, &slow, answer_take, &c, NULL), 0);
    assert_true(wait_count(&s->f, &c.done, 1, 5000));
    assert_int_equal(a.err.code, ERRC_NONE);
    assert_int_equal(b.err.code, ERRC_NONE);
    assert_int_equal(c.err.code, ERRC_TIMEOUT);
    assert_int_equal(s->c.lost, 1);
}

static void test_cancel_hits_only_what_runs(void **state)
{
    struct session *s = *state;
    static struct answer a, b, c;
    for (int i = 0; i < 5; i++) {
        send_simple(&s->c, "SELECT pg_sleep(20)", &a);
        send_simple(&s->c, "SELECT 'next'", &b);
        send_extended(&s->c, "SELECT 'last'", "last", &c);
        run_for(&s->f, 20);
        pg_conn_cancel(s->c.conn);
        pg_conn_cancel(s->c.conn);
        assert_true(wait_count(&s->f, &c.done, 1, 10000));
        assert_string_equal(a.err.sqlstate, "57014");
        assert_string_equal(b.value, "next");
        assert_string_equal(c.value, "last");
    }
    /* what was to be canceled is faster; the next one starts only when the cancel is over */
    for (int i = 0; i < 5; i++) {
        send_simple(&s->c, "SELECT 'quick'", &a);
        send_simple(&s->c, "SELECT 'slow' FROM pg_sleep(0.1)", &b);
        pg_conn_cancel(s->c.conn);
        assert_true(wait_count(&s->f, &b.done, 1, 10000));
        assert_string_equal(a.value, "quick");
        assert_string_equal(b.value, "slow");
    }
    pg_conn_cancel(s->c.conn); /* nothing runs: nothing happens */
    assert_string_equal(query(&s->c, "SELECT 9", &a), "9");
}

static void test_copy_in_a_plain_query_is_refused(void **state)
{
    struct session *s = *state;
    static struct answer a;
    send_simple(&s->c, "COPY (SELECT 1) TO STDOUT", &a);
    assert_true(wait_count(&s->f, &s->c.lost, 1, 5000));
    assert_int_equal(a.done, 1);
    assert_int_equal(a.err.code, ERRC_INVALID);
}

static void test_bad_requests_start_nothing(void **state)
{
    struct session *s = *state;
    static struct answer a;
    const char *params[] = {"1"};
    const struct pg_request simple = {.sql = "SELECT $1", .param_count = 1, .params = params};
    const struct pg_request no_sql = {.extended = true};
    assert_int_equal(pg_send(s->c.conn, &simple, answer_take, &a, NULL), ERRC_INVALID);
    assert_int_equal(pg_send(s->c.conn, &no_sql, answer_take, &a, NULL), ERRC_INVALID);
    send_extended(&s->c, "SELECT 1", "one", &a);
    const struct pg_request other = {.sql = "SELECT 2", .extended = true, .prepared = "one"};
    assert_int_equal(pg_send(s->c.conn, &other, answer_take, &a, NULL), ERRC_INVALID);
    assert_int_equal(pg_conn_waiting(s->c.conn), 1);
    assert_true(wait_count(&s->f, &a.done, 1, 5000));
}

static void test_waiting_requests_are_limited(void **state)
{
    struct session *s = *state;
    struct err err = {0};
    int rc = 0, sent = 0;
    struct answer *a = mem_zalloc(sizeof *a);
    while (rc == 0 && sent < 20000) {
        const struct pg_request r = {.sql = "SELECT 1", .extended = true, .prepared = "one"};
        rc = pg_send(s->c.conn, &r, answer_take, a, &err);
        sent += rc == 0;
    }
    assert_int_equal(rc, ERRC_LIMIT);
    assert_int_equal(pg_conn_waiting(s->c.conn), sent);
    assert_true(wait_count(&s->f, &a->done, sent, 20000));
    free(a);
}

static void test_empty_and_many_results(void **state)
{
    struct session *s = *state;
    static struct answer a;
    query(&s->c, "", &a);
    assert_int_equal(a.results, 1);
    query(&s->c, "SELECT 1; SELECT 2; SELECT 3; SELECT 4; SELECT 5", &a);
    assert_int_equal(a.results, 5);
    send_extended(&s->c, "", NULL, &a);
    assert_true(wait_count(&s->f, &a.done, 1, 5000));
    assert_int_equal(a.err.code, ERRC_NONE);
    send_simple(&s->c, "SELECT 1; SELECT 1/0; SELECT 3", &a);
    assert_true(wait_count(&s->f, &a.done, 1, 5000));
    assert_string_equal(a.err.sqlstate, "22012");
}

static void add_quoted_query(struct buf *sql, const char *text)
{
    buf_add_text(sql, "SELECT");
    pg_quote_literal(sql, text);
    buf_add_text(sql, " AS ");
    pg_quote_ident(sql, text);
}

static void test_quoting(void **state)
{
    static const char *const cases[] = {"plain",      "it's",        "a\\b", "back\\'slash",
                                        "\"double\"", "Grüße $1 %s", "--x"};
    struct session *s = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf sql = {0};
        static struct answer a;
        add_quoted_query(&sql, cases[i]);
        assert_string_equal(query(&s->c, buf_text(&sql), &a), cases[i]);
        buf_free(&sql);
    }
    struct buf b = {0};
    pg_quote_ident(&b, "a\"b");
    assert_string_equal(buf_text(&b), "\"a\"\"b\"");
    buf_free(&b);
}

/* ---- throughput of one small query after the other ---- */

struct ping {
    struct client *c;
    int left;
    int done;
};

static void ping_again(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct ping *p = data;
    assert_null(reply->err);
    p->done++;
    if (--p->left <= 0)
        return;
    const char *params[] = {"42"};
    const struct pg_request r = {
        .sql = "SELECT $1::int", .extended = true, .prepared = "ping", .param_count = 1, .params = params};
    assert_int_equal(pg_send(conn, &r, ping_again, p, NULL), 0);
}

static void test_one_query_after_the_other(void **state)
{
    struct session *s = *state;
    enum { COUNT = 5000 };
    struct ping p = {.c = &s->c, .left = COUNT};
    const struct pg_request first = {.sql = "SELECT 1", .extended = true};
    uint64_t start = loop_clock(&s->f.loop);
    assert_int_equal(pg_send(s->c.conn, &first, ping_again, &p, NULL), 0);
    assert_true(wait_count(&s->f, &p.done, COUNT, 30000));
    double seconds = (double)(loop_clock(&s->f.loop) - start) / 1e9;
    print_message("one query after the other: %.0f per second\n", COUNT / seconds);
    assert_true(COUNT / seconds > 500);
    assert_int_equal(s->c.conn->spare_count, 2); /* items were used again, not allocated */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_simple_and_facts),
        T(test_parameters),
        T(test_mixed_requests_keep_their_order),
        T(test_P7_results_only_when_complete),
        T(test_P8_big_request_is_polled_for_writing_only_until_sent),
        T(test_P9_an_error_leaves_its_neighbours_valid),
        T(test_constant_and_other_statements),
        T(test_failed_prepare_is_tried_again),
        T(test_prepared_statement_survives_the_server_forgetting_it),
        T(test_P10_locked_relation),
        T(test_deadlines_of_a_queue),
        T(test_cancel_hits_only_what_runs),
        T(test_copy_in_a_plain_query_is_refused),
        T(test_bad_requests_start_nothing),
        T(test_waiting_requests_are_limited),
        T(test_empty_and_many_results),
        T(test_quoting),
        T(test_one_query_after_the_other),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
