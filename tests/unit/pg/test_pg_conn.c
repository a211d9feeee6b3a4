/* Connecting, losing and closing, on real servers: rules P1 to P6, P8, P11 to P15. */
#include "pg/pg_test.h"

#include <sys/resource.h>
#include <unistd.h>

#include "pg/pg_impl.h"
#include "pg/wire.h"
#include "support/queue_time.h"

static struct pg_server server;

static int group_setup(void **state)
{
    (void)state;
    return pg_server_start(&server, NULL, "max_connections = 300\n") ? 0 : -1;
}

static int blocking_calls;

/* P6: whatever any test did, nothing blocking was reached. */
static int group_teardown(void **state)
{
    (void)state;
    pg_server_stop(&server);
    return blocking_calls;
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

/* P6: these must not be reached. */
PGresult *PQexec(PGconn *conn, const char *query)
{
    (void)conn;
    (void)query;
    blocking_calls++;
    return NULL;
}

PGconn *PQconnectdb(const char *conninfo)
{
    (void)conninfo;
    blocking_calls++;
    return NULL;
}

PGconn *PQconnectdbParams(const char *const *keywords, const char *const *values, int expand)
{
    (void)keywords;
    (void)values;
    (void)expand;
    blocking_calls++;
    return NULL;
}

int PQcancel(PGcancel *cancel, char *text, int size)
{
    (void)cancel;
    (void)text;
    (void)size;
    blocking_calls++;
    return 0;
}

/* A socket that listens on the server's port at another address. */
static int listen_on(const char *address, int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    assert_int_equal(inet_pton(AF_INET, address, &a.sin_addr), 1);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void start_at(struct client *c, struct fixture *f, const struct pg_target *target, const char *first,
                     const char *second)
{
    struct resolve_result addresses = {.count = second != NULL ? 2 : 1};
    snprintf(addresses.address[0], sizeof addresses.address[0], "%s", first);
    snprintf(addresses.address[1], sizeof addresses.address[1], "%s", second != NULL ? second : "");
    memset(c, 0, sizeof *c);
    c->f = f;
    c->conn = pg_conn_new(&f->loop, target, &client_events, c);
    pg_conn_use_addresses(c->conn, &addresses);
    assert_int_equal(pg_conn_connect(c->conn, NULL), 0);
}

static void connect_at(struct client *c, struct fixture *f, const struct pg_target *target, const char *first,
                       const char *second)
{
    start_at(c, f, target, first, second);
    assert_true(wait_count(f, &c->connected, 1, 20000));
}

static void test_P1_libpq_never_resolves(void **state)
{
    struct client c;
    struct pg_target target = server_target(&server);
    target.host = "no-such-host.invalid";
    connect_at(&c, *state, &target, "127.0.0.1", NULL);
    assert_int_equal(c.err.code, ERRC_NONE);
    client_close(&c);
}

static void test_P1_unknown_name(void **state)
{
    struct client c;
    struct pg_target target = server_target(&server);
    target.host = "no-such-host.invalid";
    target.connect_timeout_ns = 500 * MS;
    client_start(&c, *state, &target);
    assert_true(wait_count(*state, &c.connected, 1, 20000));
    assert_true(c.err.code == ERRC_UNAVAILABLE || c.err.code == ERRC_TIMEOUT);
    assert_non_null(strstr(c.err.message, "no-such-host.invalid"));
    client_close(&c);
}

static void test_P2_connect_timer_per_address(void **state)
{
    struct fixture *f = *state;
    struct client c;
    int silent = listen_on("127.0.0.2", server.port);
    struct pg_target target = server_target(&server);
    target.connect_timeout_ns = 400 * MS;
    uint64_t start = loop_clock(&f->loop);
    connect_at(&c, f, &target, "127.0.0.2", "127.0.0.1");
    uint64_t ms = (loop_clock(&f->loop) - start) / MS;
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_true(ms >= 390 && ms < 5000);
    client_close(&c);
    connect_at(&c, f, &target, "127.0.0.2", NULL);
    assert_int_equal(c.err.code, ERRC_TIMEOUT);
    client_close(&c);
    close(silent);
    target.connect_timeout_ns = 1; /* passes while a worker has the connection */
    for (int i = 0; i < 5; i++) {
        connect_at(&c, f, &target, "127.0.0.1", NULL);
        assert_int_equal(c.err.code, ERRC_TIMEOUT);
        client_close(&c);
    }
}

static void test_P3_refused_first_host(void **state)
{
    struct client c;
    struct answer a;
    struct pg_target target = server_target(&server);
    connect_at(&c, *state, &target, "127.0.0.2", "127.0.0.1");
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_string_equal(query(&c, "SELECT 1", &a), "1");
    client_close(&c);
}

static void test_P3_localhost(void **state)
{
    struct client c;
    struct pg_target target = server_target(&server);
    target.host = "localhost"; /* ::1 comes first where it is known, and is refused */
    client_open(&c, *state, &target);
    client_close(&c);
}

/* libpq itself takes a new socket, with the same number, after the refused TLS attempt. */
static void test_P3_libpq_reconnects_inside(void **state)
{
    struct pg_server s;
    struct client c;
    char command[600];
    if (PQsslAttributeNames(NULL)[0] == NULL)
        skip(); /* a libpq without TLS */
    assert_true(pg_server_start(&s, NULL, NULL));
    pg_server_halt(&s, SIGINT);
    snprintf(command, sizeof command,
             "cd %s/data && openssl req -new -x509 -days 2 -nodes -subj /CN=test -newkey rsa:2048 -keyout "
             "server.key "
             "-out server.crt && chmod 600 server.key && "
             "echo hostnossl all all 127.0.0.1/32 scram-sha-256 > pg_hba.conf",
             s.dir);
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    assert_int_equal(pg_server_run(&s, argv), 0);
    assert_true(pg_server_append(&s, "data/postgresql.conf", "ssl = on\n"));
    assert_true(pg_server_boot(&s));
    struct pg_target target = server_target(&s);
    client_open(&c, *state, &target); /* sslmode=prefer: refused by pg_hba with TLS, accepted without */
    client_close(&c);
    target.sslmode = "require";
    client_start(&c, *state, &target);
    assert_true(wait_count(*state, &c.connected, 1, 10000));
    assert_int_equal(c.err.code, ERRC_AUTH); /* 28000: no pg_hba.conf entry */
    client_close(&c);
    target.sslmode = "verify-full";
    target.sslrootcert = "/nonexistent/root.crt";
    client_start(&c, *state, &target);
    assert_true(wait_count(*state, &c.connected, 1, 10000));
    assert_int_equal(c.err.code, ERRC_TLS);
    client_close(&c);
    pg_server_stop(&s);
}

static void test_P4_refused_is_reported(void **state)
{
    struct client c;
    struct pg_target target = server_target(&server);
    target.port = pg_server_free_port();
    client_start(&c, *state, &target);
    assert_true(wait_count(*state, &c.connected, 1, 5000));
    assert_int_equal(c.err.code, ERRC_UNAVAILABLE);
    assert_non_null(strstr(c.err.message, "refused"));
    assert_null(strchr(c.err.message, '\n'));
    assert_false(pg_conn_ready(c.conn));
    assert_int_equal(pg_exec(c.conn, "SELECT 1", NULL, NULL, NULL), ERRC_CLOSED);
    client_close(&c);
}

/* Closes after so and so many turns, so that every state is met. */
static void test_P5_close_in_every_state(void **state)
{
    struct fixture *f = *state;
    struct pg_target target = server_target(&server);
    bool seen[PG_STATES] = {false};
    for (int i = 0; i < 60; i++) {
        struct client c;
        struct answer a = {0};
        target.host = i % 2 == 0 ? "localhost" : "127.0.0.1";
        target.port = i % 10 == 9 ? 1 : server.port;
        client_start(&c, f, &target);
        for (int turn = 0; turn < i / 2 && c.connected == 0; turn++) {
            loop_timer_start(&f->tick, 1 * MS);
            uv_run(&f->loop.uv, UV_RUN_ONCE);
        }
        bool sent = c.connected == 1 && pg_exec(c.conn, "SELECT pg_sleep(5)", answer_take, &a, NULL) == 0;
        seen[sm_now(&c.conn->sm)] = true;
        pg_conn_close(c.conn, client_on_closed, &c);
        assert_int_equal(c.connected, 1); /* with ERRC_CANCELED, if not before */
        assert_int_equal(a.done, sent ? 1 : 0);
        assert_true(!sent || a.err.code == ERRC_CANCELED);
        pg_conn_close(c.conn, client_on_closed, &c);
        assert_true(wait_count(f, &c.closed, 1, 5000));
        assert_int_equal(c.closed, 1);
        assert_int_equal(c.lost, 0);
    }
    assert_true(seen[PG_RESOLVING] && seen[PG_STEPPING] && seen[PG_POLLING] && seen[PG_READY] &&
                seen[PG_DOWN]);
    struct pg_conn *conn = pg_conn_new(&f->loop, &target, &client_events, NULL);
    pg_conn_close(conn, NULL, NULL);
}

static void close_me(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)reply;
    pg_conn_close(conn, client_on_closed, data);
}

static void test_P5_close_from_inside_a_callback(void **state)
{
    struct client c;
    struct answer rest[3];
    const struct pg_target target = server_target(&server);
    client_open(&c, *state, &target);
    assert_int_equal(pg_exec(c.conn, "SELECT 1", close_me, &c, NULL), 0);
    send_extended(&c, "SELECT 2", NULL, &rest[0]);
    send_simple(&c, "SELECT 3", &rest[1]);
    send_extended(&c, "SELECT 4", "s", &rest[2]);
    assert_true(wait_count(*state, &c.closed, 1, 5000));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rest[i].done, 1);
        assert_int_equal(rest[i].err.code, ERRC_CANCELED);
    }
}

static void test_P6_nothing_blocks(void **state)
{
    struct fixture *f = *state;
    struct client c;
    struct answer a;
    const struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    send_simple(&c, "SELECT pg_sleep(20)", &a);
    run_for(f, 100);
    pg_conn_cancel(c.conn);
    assert_true(wait_count(f, &a.done, 1, 5000));
    assert_string_equal(a.err.sqlstate, "57014");
    client_close(&c);
    assert_int_equal(blocking_calls, 0);
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

enum { MANY = 100 };

static void open_many(struct fixture *f, struct client *all, struct pg_pacer *pacer)
{
    struct pg_target target = server_target(&server);
    target.pacer = pacer;
    target.connect_timeout_ns = 60 * ENV_NS_PER_S;
    for (int i = 0; i < MANY; i++)
        client_start(&all[i], f, &target);
    for (int i = 0; i < MANY; i++) {
        assert_true(wait_count(f, &all[i].connected, 1, 60000));
        if (all[i].err.code != ERRC_NONE)
            fail_msg("%s", all[i].err.message);
    }
}

static void close_many(struct client *all)
{
    for (int i = 0; i < MANY; i++)
        client_close(&all[i]);
}

static void test_P8_idle_connections_cost_nothing(void **state)
{
    struct fixture *f = *state;
    struct client *all = mem_array(MANY, sizeof *all);
    open_many(f, all, NULL);
    for (int i = 0; i < MANY; i++) {
        struct answer a;
        query(&all[i], "SELECT 1", &a);
        assert_int_equal(all[i].conn->mask, UV_READABLE);
    }
    double before = cpu_seconds();
    uint64_t turns = f->loop.turns.count;
    run_for(f, 1000);
    double cpu = cpu_seconds() - before;
    turns = f->loop.turns.count - turns;
    print_message("%d idle connections: %.1f ms CPU and %d turns in 1 s\n", MANY, cpu * 1000, (int)turns);
    assert_true(cpu < 0.05);
    assert_true(turns < 100); /* 50 of them are the clock of the test */
    for (int i = 0; i < MANY; i++)
        assert_int_equal(all[i].conn->mask, UV_READABLE);
    close_many(all);
    free(all);
}

static void test_P11_one_backend_per_connection(void **state)
{
    struct client c;
    struct answer a, many[20];
    struct pg_target target = server_target(&server);
    target.application_name = "P11";
    client_open(&c, *state, &target);
    for (int i = 0; i < 20; i++)
        send_extended(&c, "SELECT 1", NULL, &many[i]);
    query(&c, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'P11'", &a);
    assert_string_equal(a.value, "1");
    client_close(&c);
}

static void return_many(struct fixture *f, struct client *all, struct pg_pacer *pacer, const char *how)
{
    loop_turns_reset(&f->loop);
    hist_reset(&f->loop.turns);
    uint64_t start = loop_clock(&f->loop), queued_us = queue_time_us();
    open_many(f, all, pacer);
    print_message("%d SCRAM connections %s in %d ms; turns of the loop: p99 %d us, longest %d us\n", MANY,
                  how, (int)((loop_clock(&f->loop) - start) / MS), (int)hist_quantile(&f->loop.turns, 0.99),
                  (int)f->loop.longest_turn_us);
    assert_true(pacer == NULL || hist_quantile(&f->loop.turns, 0.99) < 50000 + queue_time_us() - queued_us);
    close_many(all);
}

static void test_P12_hundred_return_at_once(void **state)
{
    struct fixture *f = *state;
    struct client *all = mem_array(MANY, sizeof *all);
    open_many(f, all, NULL);
    pg_server_kill(&server);
    for (int i = 0; i < MANY; i++) {
        assert_true(wait_count(f, &all[i].lost, 1, 5000));
        assert_int_equal(all[i].err.code, ERRC_CLOSED);
    }
    close_many(all);
    assert_true(pg_server_boot(&server));
    struct pg_pacer *pacer = pg_pacer_new(&f->loop, 4);
    return_many(f, all, NULL, "at once");
    return_many(f, all, pacer, "four at a time");
    pg_pacer_free(pacer);
    free(all);
}

/* placed: only those with a place. On a slow machine one that hears nothing for 250 ms goes on without. */
static int being_set_up(const struct client *all, int count, bool placed)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        int now = all[i].conn != NULL ? sm_now(&all[i].conn->sm) : PG_NEW;
        n += (now == PG_STEPPING || now == PG_POLLING) && (!placed || all[i].conn->pace.held);
    }
    return n;
}

static void one_turn(struct fixture *f)
{
    loop_timer_start(&f->tick, 5 * MS);
    uv_run(&f->loop.uv, UV_RUN_ONCE);
}

/* The most that were being set up, with a place, at the same time until *done, or for ms. */
static int watch(struct fixture *f, const struct client *all, int count, const int *done, int ms)
{
    uint64_t end = loop_clock(&f->loop) + (unsigned)ms * MS;
    int most = 0;
    while (*done == 0 && loop_clock(&f->loop) < end) {
        int n = being_set_up(all, count, true);
        most = n > most ? n : most;
        one_turn(f);
    }
    return most;
}

static void test_P12_pacer(void **state)
{
    enum { COUNT = 20 };
    struct fixture *f = *state;
    struct client all[COUNT], dead[2];
    struct pg_target target = server_target(&server);
    struct pg_pacer *pacer = pg_pacer_new(&f->loop, 2);
    target.pacer = pacer;
    int silent = listen_on("127.0.0.4", server.port);
    uint64_t start = loop_clock(&f->loop);
    target.host = "127.0.0.4";
    for (int i = 0; i < 2; i++)
        client_start(&dead[i], f, &target); /* they take both places, but not for long */
    target.host = "127.0.0.1";
    for (int i = 0; i < COUNT; i++)
        client_start(&all[i], f, &target);
    for (int turn = 0; turn < 1000 && sm_now(&all[3].conn->sm) != PG_PACED; turn++)
        one_turn(f);
    assert_int_equal(sm_now(&all[3].conn->sm), PG_PACED);
    client_close(&all[3]); /* while it waits */
    assert_int_equal(all[3].connected, 1);
    for (; loop_clock(&f->loop) - start < 200 * MS; one_turn(f)) /* silence gives a place back after 250 ms */
        assert_int_equal(being_set_up(all, COUNT, false), 0);
    int most = 0;
    for (int i = 0; i < COUNT; i++) {
        int n = watch(f, all, COUNT, &all[i].connected, 10000);
        most = n > most ? n : most;
    }
    assert_int_equal(most, 2);
    assert_int_equal(dead[0].connected, 0); /* still patient: 5 s are its own */
    for (int i = 0; i < COUNT; i++)
        if (i != 3) {
            assert_int_equal(all[i].err.code, ERRC_NONE);
            client_close(&all[i]);
        }
    for (int i = 0; i < 2; i++)
        client_close(&dead[i]);
    close(silent);
    pg_pacer_free(pacer);
}

static void test_P13_restart_is_seen_at_once(void **state)
{
    struct fixture *f = *state;
    struct client c;
    struct answer a;
    const struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    send_simple(&c, "SELECT pg_sleep(20)", &a);
    run_for(f, 50);
    uint64_t start = loop_clock(&f->loop);
    pg_server_halt(&server, SIGINT);
    assert_true(wait_count(f, &c.lost, 1, 1000));
    assert_true(loop_clock(&f->loop) - start < 2000 * MS);
    assert_int_equal(a.done, 1);
    assert_int_equal(a.err.code, ERRC_CLOSED);
    assert_non_null(strstr(a.err.message, "57P01")); /* the server said why */
    assert_int_equal(c.err.code, ERRC_CLOSED);
    client_close(&c);
    assert_true(pg_server_boot(&server));
    client_open(&c, f, &target);
    client_close(&c);
}

static void test_P14_stopped_server(void **state)
{
    struct fixture *f = *state;
    struct client c, late;
    struct answer a[2] = {{0}};
    struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    pg_server_signal_all(&server, SIGSTOP);
    const struct pg_request r = {.sql = "SELECT 1", .extended = true, .timeout_ns = 300 * MS};
    uint64_t start = loop_clock(&f->loop);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pg_send(c.conn, &r, answer_take, &a[i], NULL), 0);
    target.connect_timeout_ns = 300 * MS;
    client_start(&late, f, &target); /* the kernel accepts for the stopped server */
    assert_true(wait_count(f, &c.lost, 1, 5000));
    uint64_t ms = (loop_clock(&f->loop) - start) / MS;
    assert_true(ms >= 290 && ms < 2000);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(a[i].done, 1);
        assert_int_equal(a[i].err.code, ERRC_TIMEOUT);
    }
    assert_int_equal(c.err.code, ERRC_TIMEOUT);
    assert_true(wait_count(f, &late.connected, 1, 5000));
    assert_int_equal(late.err.code, ERRC_TIMEOUT);
    pg_server_signal_all(&server, SIGCONT);
    client_close(&c);
    client_close(&late);
}

static void test_P14_dropped_packets(void **state)
{
    struct fixture *f = *state;
    struct client c, late;
    struct answer a;
    struct wire w = {.listener = listen_on("127.0.0.6", server.port), .port = server.port};
    assert_int_equal(pthread_create(&w.thread, NULL, wire_run, &w), 0);
    struct pg_target target = server_target(&server);
    target.host = "127.0.0.6";
    client_open(&c, f, &target);
    assert_string_equal(query(&c, "SELECT 14", &a), "14");
    w.drop = true;
    while (!w.dropping)
        run_for(f, 1);
    const struct pg_request r = {.sql = "SELECT 1", .extended = true, .timeout_ns = 300 * MS};
    memset(&a, 0, sizeof a);
    uint64_t start = loop_clock(&f->loop);
    assert_int_equal(pg_send(c.conn, &r, answer_take, &a, NULL), 0);
    drop_packets(w.listener); /* a handshake gets no answer either */
    target.connect_timeout_ns = 300 * MS;
    client_start(&late, f, &target);
    assert_true(wait_count(f, &c.lost, 1, 5000));
    assert_true(wait_count(f, &late.connected, 1, 5000));
    uint64_t ms = (loop_clock(&f->loop) - start) / MS;
    assert_true(ms >= 290 && ms < 2000);
    assert_int_equal(a.err.code, ERRC_TIMEOUT);
    assert_int_equal(c.err.code, ERRC_TIMEOUT);
    assert_int_equal(late.err.code, ERRC_TIMEOUT);
    start = loop_clock(&f->loop);
    client_close(&c); /* with bytes that were never acknowledged */
    client_close(&late);
    assert_true(loop_clock(&f->loop) - start < 1000 * MS);
    w.stop = true;
    pthread_join(w.thread, NULL);
    close(w.listener);
}

static void test_P14_cancel_of_a_stopped_server_holds_nothing(void **state)
{
    struct fixture *f = *state;
    struct client c;
    struct answer a;
    const struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    send_simple(&c, "SELECT pg_sleep(20)", &a);
    run_for(f, 50);
    pg_server_signal_all(&server, SIGSTOP);
    pg_conn_cancel(c.conn);
    run_for(f, 100);
    uint64_t start = loop_clock(&f->loop);
    client_close(&c); /* with the cancel under way */
    assert_true(loop_clock(&f->loop) - start < 1000 * MS);
    assert_int_equal(a.err.code, ERRC_CANCELED);
    pg_server_signal_all(&server, SIGCONT);
}

static void test_P15_notices_are_silent(void **state)
{
    struct fixture *f = *state;
    struct client c;
    struct answer a;
    char path[128], text[256] = "";
    snprintf(path, sizeof path, "%s/stderr", server.dir);
    fflush(stderr);
    int old = dup(2);
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    dup2(fileno(file), 2);
    const struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    query(&c, "DO $$ BEGIN RAISE NOTICE 'heard'; RAISE WARNING 'loud'; END $$", &a);
    query(&c, "DROP TABLE IF EXISTS no_such_table", &a);
    send_extended(&c, "DROP TABLE IF EXISTS no_such_table", NULL, &a);
    assert_true(wait_count(f, &a.done, 1, 5000));
    unsigned notices = c.conn->notices;
    client_close(&c);
    fflush(stderr);
    dup2(old, 2);
    close(old);
    rewind(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    assert_int_equal(n, 0);
    assert_int_equal(notices, 4); /* they did come */
}

static void connect_error(struct fixture *f, const struct pg_target *target, struct err *ret)
{
    struct client c;
    client_start(&c, f, target);
    assert_true(wait_count(f, &c.connected, 1, 10000));
    *ret = c.err;
    assert_null(strchr(ret->message, '\n'));
    assert_null(strstr(ret->message, "sesame"));
    client_close(&c);
}

static void test_errors_have_a_code(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct pg_target target = server_target(&server);
    target.password = "open-sesame";
    connect_error(f, &target, &err);
    assert_int_equal(err.code, ERRC_AUTH);
    target.password = NULL;
    connect_error(f, &target, &err);
    assert_int_equal(err.code, ERRC_AUTH);
    target = server_target(&server);
    target.user = "nobody-here";
    connect_error(f, &target, &err);
    assert_int_equal(err.code, ERRC_AUTH);
    target = server_target(&server);
    target.dbname = "nowhere";
    connect_error(f, &target, &err);
    assert_int_equal(err.code, ERRC_SQL);
    assert_string_equal(err.sqlstate, "3D000");
    assert_non_null(strstr(err.message, "nowhere"));
    target = server_target(&server);
    target.sslmode = "require"; /* this server has no TLS */
    connect_error(f, &target, &err);
    assert_int_equal(err.code, ERRC_TLS);
    target.sslmode = "nonsense";
    connect_error(f, &target, &err);
    assert_int_equal(err.code, ERRC_INVALID);
}

/* A peer that answers the startup packet with these bytes. */
static void fake_error(struct fixture *f, const char *bytes, size_t length, struct err *ret)
{
    struct client c;
    int fd = listen_on("127.0.0.3", server.port);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    struct pg_target target = server_target(&server);
    target.sslmode = "disable";
    target.host = "127.0.0.3";
    client_start(&c, f, &target);
    int peer = -1;
    ssize_t got = -1; /* the loop connects and sends while we look */
    char in[1024];
    for (int i = 0; i < 2000 && got <= 0; i++) {
        run_for(f, 5);
        if (peer < 0)
            peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (peer >= 0)
            got = recv(peer, in, sizeof in, MSG_DONTWAIT);
    }
    assert_true(got > 0);
    assert_int_equal(write(peer, bytes, length), (ssize_t)length);
    close(peer);
    assert_true(wait_count(f, &c.connected, 1, 5000));
    *ret = c.err;
    client_close(&c);
    close(fd);
}

static void test_starting_up_is_unavailable(void **state)
{
    static const char starting[] = "E\0\0\0\x38SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0";
    static const char garbage[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    struct err err;
    char bytes[sizeof starting];
    memcpy(bytes, starting, sizeof starting);
    bytes[4] = (char)(sizeof starting - 1); /* the length without the letter */
    fake_error(*state, bytes, sizeof starting, &err);
    assert_int_equal(err.code, ERRC_UNAVAILABLE);
    assert_non_null(strstr(err.message, "starting up"));
    fake_error(*state, garbage, sizeof garbage - 1, &err);
    assert_int_equal(err.code, ERRC_UNAVAILABLE);
    fake_error(*state, "", 0, &err);
    assert_int_equal(err.code, ERRC_UNAVAILABLE);
}

static void test_unix_socket(void **state)
{
    struct client c;
    struct answer a;
    struct pg_target target = server_target(&server);
    target.host = server.dir;
    target.password = NULL;
    client_open(&c, *state, &target);
    assert_string_equal(query(&c, "SELECT inet_client_addr() IS NULL", &a), "t");
    client_close(&c);
    target.host = "/nonexistent";
    client_start(&c, *state, &target);
    assert_true(wait_count(*state, &c.connected, 1, 5000));
    assert_int_equal(c.err.code, ERRC_UNAVAILABLE);
    client_close(&c);
}

static void test_idle_connection_learns_why(void **state)
{
    struct fixture *f = *state;
    struct client c, other;
    struct answer a;
    const struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    client_open(&other, f, &target);
    char sql[80];
    snprintf(sql, sizeof sql, "SELECT pg_terminate_backend(%d)", pg_conn_backend_pid(c.conn));
    query(&other, sql, &a);
    assert_true(wait_count(f, &c.lost, 1, 5000));
    assert_int_equal(c.err.code, ERRC_CLOSED);
    assert_non_null(strstr(c.err.message, "57P01"));
    client_close(&c);
    client_close(&other);
}

static void test_notify(void **state)
{
    struct fixture *f = *state;
    struct client c, other;
    struct answer a;
    const struct pg_target target = server_target(&server);
    client_open(&c, f, &target);
    client_open(&other, f, &target);
    query(&c, "LISTEN news", &a);
    query(&other, "NOTIFY news, 'epoch 43'", &a);
    assert_true(wait_count(f, &c.notified, 1, 5000));
    assert_string_equal(c.payload, "epoch 43");
    client_close(&c);
    client_close(&other);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_P1_libpq_never_resolves),
        T(test_P1_unknown_name),
        T(test_P2_connect_timer_per_address),
        T(test_P3_refused_first_host),
        T(test_P3_localhost),
        T(test_P3_libpq_reconnects_inside),
        T(test_P4_refused_is_reported),
        T(test_P5_close_in_every_state),
        T(test_P5_close_from_inside_a_callback),
        T(test_P6_nothing_blocks),
        T(test_P8_idle_connections_cost_nothing),
        T(test_P11_one_backend_per_connection),
        T(test_P12_hundred_return_at_once),
        T(test_P12_pacer),
        T(test_P13_restart_is_seen_at_once),
        T(test_P14_stopped_server),
        T(test_P14_dropped_packets),
        T(test_P14_cancel_of_a_stopped_server_holds_nothing),
        T(test_P15_notices_are_silent),
        T(test_errors_have_a_code),
        T(test_starting_up_is_unavailable),
        T(test_unix_socket),
        T(test_idle_connection_learns_why),
        T(test_notify),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
