/* Patient requests, whose answers are taken together, and requests that leave together. */
#include "pg/pg_test.h"

#include <netinet/tcp.h>

#include "pg/pg_impl.h"

#define PATIENCE (50 * MS)

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

static void send_patient(struct session *s, const char *sql, uint64_t timeout_ns, struct answer *a)
{
    memset(a, 0, sizeof *a);
    const struct pg_request r = {
        .sql = sql, .extended = true, .timeout_ns = timeout_ns, .patience_ns = PATIENCE};
    assert_int_equal(pg_send(s->c.conn, &r, answer_take, a, NULL), 0);
}

static void test_patient_answers_come_together(void **state)
{
    struct session *s = *state;
    static struct answer a[20], last;
    char sql[20];
    uint64_t start = loop_clock(&s->f.loop);
    for (int i = 0; i < 20; i++) {
        snprintf(sql, sizeof sql, "SELECT %d", i);
        send_patient(s, sql, 0, &a[i]);
    }
    assert_true(s->c.conn->holding && least_bytes(&s->c) > 1);
    assert_true(wait_count(&s->f, &a[19].done, 1, 5000));
    for (int i = 0; i < 20; i++) {
        assert_int_equal(a[i].done, 1);
        assert_int_equal(atoi(a[i].value), i);
        assert_true(a[i].at_ns - start >= PATIENCE - MS); /* though it was there at once */
    }
    assert_true(!s->c.conn->holding && least_bytes(&s->c) == 1);
    assert_string_equal(query(&s->c, "SELECT 'as before'", &last), "as before");
}

static void test_what_is_wanted_at_once_is_not_held(void **state)
{
    struct session *s = *state;
    static struct answer first, patient, later, wanted;
    send_extended(&s->c, "SELECT 1", NULL, &first);
    send_patient(s, "SELECT pg_sleep(0.02)", 0, &patient);
    assert_false(s->c.conn->holding);
    assert_true(wait_count(&s->f, &first.done, 1, 5000));
    assert_true(wait_count(&s->f, &patient.done, 1, 5000));
    assert_true(first.at_ns < patient.at_ns);
    /* behind one that may wait: both are taken as soon as they are there */
    send_patient(s, "SELECT 1", 0, &later);
    assert_true(s->c.conn->holding);
    send_extended(&s->c, "SELECT 2", NULL, &wanted);
    assert_true(!s->c.conn->holding && least_bytes(&s->c) == 1);
    assert_true(!loop_timer_armed(&s->c.conn->patience_timer));
    assert_true(wait_count(&s->f, &wanted.done, 1, 5000));
    assert_string_equal(later.value, "1");
    assert_string_equal(wanted.value, "2");
}

static void test_P9_errors_among_patient_answers(void **state)
{
    struct session *s = *state;
    static struct answer a[5];
    static const char *const sql[] = {"SELECT 0", "SELECT 1/0", "SELECT 2", "no SQL", "SELECT 4"};
    pg_conn_cork(s->c.conn);
    for (int i = 0; i < 5; i++)
        send_patient(s, sql[i], 0, &a[i]);
    pg_conn_uncork(s->c.conn);
    assert_true(wait_count(&s->f, &a[4].done, 1, 5000));
    for (int i = 0; i < 5; i += 2)
        assert_true(a[i].done == 1 && a[i].err.code == ERRC_NONE && atoi(a[i].value) == i);
    assert_string_equal(a[1].err.sqlstate, "22012");
    assert_string_equal(a[3].err.sqlstate, "42601");
}

static void test_P13_death_is_seen_while_patient(void **state)
{
    struct session *s = *state;
    static struct answer done, running;
    send_patient(s, "SELECT 1", 0, &done);
    send_patient(s, "SELECT pg_sleep(60)", 0, &running);
    loop_timer_stop(&s->c.conn->patience_timer); /* the kernel alone must wake us */
    run_for(&s->f, 50);
    assert_int_equal(done.done, 0);
    pg_server_kill(&server);
    assert_true(wait_count(&s->f, &s->c.lost, 1, 5000));
    assert_string_equal(done.value, "1"); /* it had arrived */
    assert_int_equal(running.err.code, ERRC_CLOSED);
    client_close(&s->c);
    assert_true(pg_server_boot(&server));
}

static void test_P14_deadlines_of_patient_requests(void **state)
{
    struct session *s = *state;
    static struct answer in_time, late;
    send_patient(s, "SELECT 1", 200 * MS, &in_time);
    loop_timer_stop(&s->c.conn->patience_timer);
    assert_true(wait_count(&s->f, &in_time.done, 1, 5000));
    assert_int_equal(in_time.err.code, ERRC_NONE); /* unread until the deadline, but there */
    assert_int_equal(s->c.lost, 0);
    pg_server_signal_all(&server, SIGSTOP);
    uint64_t start = loop_clock(&s->f.loop);
    send_patient(s, "SELECT 1", 300 * MS, &late);
    bool lost = wait_count(&s->f, &s->c.lost, 1, 5000);
    uint64_t ms = (loop_clock(&s->f.loop) - start) / MS;
    pg_server_signal_all(&server, SIGCONT);
    assert_true(lost && ms >= 290 && ms < 2000);
    assert_int_equal(late.err.code, ERRC_TIMEOUT);
}

static void test_large_and_slow_answers(void **state)
{
    struct session *s = *state;
    static struct answer large, slow, last;
    send_patient(s, "SELECT repeat('x', 5000000), pg_sleep(0.15)", 0, &large);
    send_patient(s, "SELECT pg_sleep(0.3)", 0, &slow);
    send_patient(s, "SELECT 3", 0, &last);
    assert_true(wait_count(&s->f, &last.done, 1, 5000));
    assert_true(large.rows == 1 && slow.rows == 1);
    assert_string_equal(last.value, "3");
    assert_false(s->c.conn->holding);
}

static void test_closed_while_patient(void **state)
{
    struct session *s = *state;
    static struct answer a;
    send_patient(s, "SELECT 1", 0, &a);
    assert_true(s->c.conn->holding);
    client_close(&s->c);
    assert_int_equal(a.err.code, ERRC_CANCELED);
}

/* There is no SO_RCVLOWAT for poll() on a Unix socket: the answers come as they come. */
static void test_unix_socket(void **state)
{
    struct session *s = *state;
    static struct answer a[2];
    struct pg_target target = server_target(&server);
    target.host = server.dir;
    target.password = NULL;
    client_close(&s->c);
    client_open(&s->c, &s->f, &target);
    pg_conn_cork(s->c.conn);
    for (int i = 0; i < 2; i++)
        send_patient(s, "SELECT 7", 0, &a[i]);
    pg_conn_uncork(s->c.conn);
    assert_false(s->c.conn->holding);
    assert_true(wait_count(&s->f, &a[1].done, 1, 5000));
    assert_string_equal(a[0].value, "7");
}

/* The kernel's struct tcp_info, of which libc knows the beginning. */
struct long_tcp_info {
    struct tcp_info known;
    uint64_t rates_and_bytes[4];
    uint32_t others[5];
    uint32_t data_segments_out;
};

static uint32_t packets_sent(const struct session *s)
{
    struct long_tcp_info info = {0};
    socklen_t length = sizeof info;
    assert_int_equal(getsockopt(s->c.conn->fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
    return info.data_segments_out;
}

static void test_corked_requests_leave_together(void **state)
{
    struct session *s = *state;
    static struct answer a[10], last;
    uint32_t before = packets_sent(s);
    pg_conn_cork(s->c.conn);
    for (int i = 0; i < 10; i++)
        send_extended(&s->c, "SELECT 1", NULL, &a[i]);
    assert_int_equal(packets_sent(s), before);
    pg_conn_uncork(s->c.conn);
    pg_conn_uncork(s->c.conn); /* once too often does nothing */
    assert_int_equal(packets_sent(s), before + 1);
    assert_true(wait_count(&s->f, &a[9].done, 1, 5000));
    assert_string_equal(query(&s->c, "SELECT 'not corked'", &last), "not corked");
    /* an end in between */
    pg_conn_cork(s->c.conn);
    send_extended(&s->c, "SELECT 1", NULL, &last);
    struct pg_conn *conn = s->c.conn;
    pg_conn_close(conn, client_on_closed, &s->c);
    pg_conn_uncork(conn);
    assert_true(wait_count(&s->f, &s->c.closed, 1, 5000));
    assert_int_equal(last.err.code, ERRC_CANCELED);
}

static void send_joined(struct session *s, const char *sql, const char *prepared, struct answer *a)
{
    memset(a, 0, sizeof *a);
    const struct pg_request r = {
        .sql = sql, .extended = true, .prepared = prepared, .joined = true, .patience_ns = PATIENCE};
    assert_int_equal(pg_send(s->c.conn, &r, answer_take, a, NULL), 0);
}

#define XACT "SELECT pg_current_xact_id()"

static void test_joined_requests_are_one_transaction(void **state)
{
    struct session *s = *state;
    static struct answer joined[3], other, more, alone;
    pg_conn_cork(s->c.conn);
    send_joined(s, XACT, NULL, &joined[0]);
    send_joined(s, XACT, "xact", &joined[1]);
    send_joined(s, XACT, "xact2", &joined[2]);
    send_patient(s, XACT, 0, &other); /* by itself, and what is joined behind it is another transaction */
    send_joined(s, XACT, "xact", &more);
    pg_conn_uncork(s->c.conn);
    send_joined(s, XACT, "xact", &alone); /* not corked */
    assert_true(wait_count(&s->f, &alone.done, 1, 5000));
    int first = atoi(joined[0].value);
    assert_true(first > 0 && atoi(joined[1].value) == first && atoi(joined[2].value) == first);
    assert_int_equal(atoi(other.value), first + 1);
    assert_int_equal(atoi(more.value), first + 2);
    assert_int_equal(atoi(alone.value), first + 3);
    assert_true(more.done == 1 && other.done == 1 && pg_conn_waiting(s->c.conn) == 0);
}

static void test_P9_one_of_the_joined_fails(void **state)
{
    struct session *s = *state;
    static struct answer before, bad, skipped, prepared, behind, again[2];
    for (int turn = 0; turn < 3; turn++) { /* the last: what fails is a Prepare */
        pg_conn_cork(s->c.conn);
        send_joined(s, "SELECT 1", "one", &before);
        send_joined(s, turn < 2 ? "SELECT 1/0" : "no SQL", turn < 2 ? "zero" : "no", &bad);
        send_joined(s, "SELECT 2", NULL, &skipped);
        send_joined(s, "SELECT 3", "three", &prepared);
        send_patient(s, "SELECT 4", 0, &behind);
        pg_conn_uncork(s->c.conn);
        assert_true(wait_count(&s->f, &behind.done, 1, 5000));
        assert_string_equal(before.value, "1");
        assert_string_equal(bad.err.sqlstate, turn < 2 ? "22012" : "42601");
        assert_int_equal(skipped.err.code, ERRC_CANCELED);
        assert_int_equal(prepared.err.code, ERRC_CANCELED);
        assert_string_equal(behind.value, "4");
        assert_true(before.done == 1 && bad.done == 1 && skipped.done == 1 && prepared.done == 1);
    }
    pg_conn_cork(s->c.conn);
    send_joined(s, "SELECT 3", "three", &again[0]); /* its Prepare was skipped: it is not taken to be there */
    send_joined(s, "SELECT 1", "one", &again[1]);
    pg_conn_uncork(s->c.conn);
    assert_true(wait_count(&s->f, &again[1].done, 1, 5000));
    assert_string_equal(again[0].value, "3");
    assert_string_equal(again[1].value, "1");
}

static void test_closed_with_joined_requests(void **state)
{
    struct session *s = *state;
    static struct answer a;
    pg_conn_cork(s->c.conn);
    send_joined(s, "SELECT 1", NULL, &a);
    struct pg_conn *conn = s->c.conn;
    pg_conn_close(conn, client_on_closed, &s->c);
    pg_conn_uncork(conn);
    assert_true(wait_count(&s->f, &s->c.closed, 1, 5000));
    assert_int_equal(a.err.code, ERRC_CANCELED);
}

/* P13: after patient answers the kernel goes on waking us for many bytes only; an end it tells at once. */
static void test_P13_death_is_seen_while_idle(void **state)
{
    struct session *s = *state;
    static struct answer a;
    struct fixture other;
    struct client killer;
    char sql[80];
    s->c.conn->events.notified = NULL; /* who listens is woken for each NOTIFY */
    send_patient(s, "SELECT 1", 0, &a);
    assert_true(wait_count(&s->f, &a.done, 1, 5000));
    assert_true(s->c.conn->numb && !s->c.conn->holding);
    const struct pg_target target = server_target(&server);
    fixture_open(&other);
    client_open(&killer, &other, &target);
    snprintf(sql, sizeof sql, "SELECT pg_terminate_backend(%d)", pg_conn_backend_pid(s->c.conn));
    static struct answer killed;
    assert_string_equal(query(&killer, sql, &killed), "t");
    client_close(&killer);
    fixture_close(&other);
    assert_true(wait_count(&s->f, &s->c.lost, 1, 5000));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_patient_answers_come_together),
        T(test_what_is_wanted_at_once_is_not_held),
        T(test_P9_errors_among_patient_answers),
        T(test_P13_death_is_seen_while_patient),
        T(test_P14_deadlines_of_patient_requests),
        T(test_large_and_slow_answers),
        T(test_closed_while_patient),
        T(test_unix_socket),
        T(test_corked_requests_leave_together),
        T(test_joined_requests_are_one_transaction),
        T(test_P9_one_of_the_joined_fails),
        T(test_closed_with_joined_requests),
        T(test_P13_death_is_seen_while_idle),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
