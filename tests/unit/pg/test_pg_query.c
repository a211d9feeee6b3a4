/* Queries on a real server: order, pipelines, prepared statements, errors, deadlines, cancel. */
#include "pg/pg_test.h"

#include "base/buf.h"

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
    struct answer a;
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
    struct answer a = {0};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_simple_and_facts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parameters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mixed_requests_keep_their_order, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
