/*
 * pg_test: what the tests of src/pg share: a loop, a server, and waiting for a condition with a deadline.
 */
#ifndef PG_PG_TEST_H
#define PG_PG_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/mem.h"
#include "pg/pg_conn.h"
#include "pg/pg_impl.h"
#include "support/pg_server.h"

#define MS ENV_NS_PER_MS

struct fixture {
    struct loop loop;
    struct loop_timer tick;
};

static inline void fixture_tick(struct loop_timer *timer, void *data)
{
    (void)timer;
    (void)data;
}

static inline void fixture_open(struct fixture *f)
{
    assert_int_equal(loop_init(&f->loop, env_system(), NULL), 0);
    loop_timer_init(&f->loop, &f->tick, fixture_tick, NULL);
}

static inline void fixture_close(struct fixture *f)
{
    loop_timer_stop(&f->tick);
    assert_int_equal(loop_fini(&f->loop), 0);
}

/* Turns the loop until *value >= wanted; false when it took longer than ms. */
static inline bool wait_count(struct fixture *f, const int *value, int wanted, int ms)
{
    const uint64_t end = loop_clock(&f->loop) + (unsigned)ms * MS;
    while (*value < wanted && loop_clock(&f->loop) < end) {
        loop_timer_start(&f->tick, 20 * MS);
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    }
    loop_timer_stop(&f->tick);
    return *value >= wanted;
}

static inline void run_for(struct fixture *f, int ms)
{
    const int never = 0;
    (void)wait_count(f, &never, 1, ms);
}

/* A connection and what its events told. */
struct client {
    struct fixture *f;
    struct pg_conn *conn;
    int connected; /* times called, with or without an error */
    int lost;
    int closed;
    int notified;
    struct err err; /* of the last event */
    char payload[64];
};

static inline void client_on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    struct client *c = data;
    c->connected++;
    err_clear(&c->err);
    err_copy(&c->err, err);
}

static inline void client_on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    struct client *c = data;
    c->lost++;
    err_copy(&c->err, err);
}

static inline void client_on_notified(struct pg_conn *conn, const char *channel, const char *payload,
                                      void *data)
{
    (void)conn;
    (void)channel;
    struct client *c = data;
    c->notified++;
    snprintf(c->payload, sizeof c->payload, "%s", payload);
}

static inline void client_on_closed(void *data)
{
    struct client *c = data;
    c->closed++;
    c->conn = NULL;
}

static const struct pg_conn_events client_events = {
    .connected = client_on_connected, .lost = client_on_lost, .notified = client_on_notified};

static inline struct pg_target server_target(const struct pg_server *s)
{
    return (struct pg_target){.host = "127.0.0.1",
                              .port = s->port,
                              .dbname = "postgres",
                              .user = "postgres",
                              .password = s->password,
                              .application_name = "pg_test",
                              .options = "-c lock_timeout=2000"};
}

static inline void client_start(struct client *c, struct fixture *f, const struct pg_target *target)
{
    memset(c, 0, sizeof *c);
    c->f = f;
    c->conn = pg_conn_new(&f->loop, target, &client_events, c);
    struct err err = {0};
    if (pg_conn_connect(c->conn, &err) != 0)
        fail_msg("pg_conn_connect: %s", err.message);
    assert_int_equal(c->connected, 0); /* never from inside the call */
}

static inline void client_open(struct client *c, struct fixture *f, const struct pg_target *target)
{
    client_start(c, f, target);
    assert_true(wait_count(f, &c->connected, 1, 20000));
    if (c->err.code != ERRC_NONE)
        fail_msg("%s", c->err.message);
}

static inline void client_close(struct client *c)
{
    pg_conn_close(c->conn, client_on_closed, c);
    assert_int_equal(c->closed, 0);
    assert_true(wait_count(c->f, &c->closed, 1, 10000));
}

/* The answer to one request, copied. */
struct answer {
    int done;
    struct err err;
    int results;
    int rows;
    char value[128]; /* row 0, column 0 of the last result */
    uint64_t at_ns;
};

static inline void answer_take(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct answer *a = data;
    a->done++;
    err_copy(&a->err, reply->err);
    a->results = reply->count;
    a->rows = reply->count > 0 ? pg_rows(reply) : -1;
    const char *value = pg_value(reply, 0, 0);
    snprintf(a->value, sizeof a->value, "%s", value != NULL ? value : "(null)");
    a->at_ns = loop_clock(pg_conn_loop(conn));
}

static inline void send_extended(struct client *c, const char *sql, const char *prepared, struct answer *a)
{
    struct err err = {0};
    memset(a, 0, sizeof *a);
    const struct pg_request r = {.sql = sql, .extended = true, .prepared = prepared};
    if (pg_send(c->conn, &r, answer_take, a, &err) != 0)
        fail_msg("pg_send: %s", err.message);
    assert_int_equal(a->done, 0);
}

static inline void send_simple(struct client *c, const char *sql, struct answer *a)
{
    struct err err = {0};
    memset(a, 0, sizeof *a);
    if (pg_exec(c->conn, sql, answer_take, a, &err) != 0)
        fail_msg("pg_exec: %s", err.message);
    assert_int_equal(a->done, 0);
}

/* Runs SQL and demands success. */
static inline const char *query(struct client *c, const char *sql, struct answer *a)
{
    send_simple(c, sql, a);
    assert_true(wait_count(c->f, &a->done, 1, 20000));
    if (a->err.code != ERRC_NONE)
        fail_msg("%s: %s", sql, a->err.message);
    return a->value;
}

/* From how many bytes on the kernel wakes us: 1, while answers are wanted at once. */
static inline int least_bytes(const struct client *c)
{
    int bytes = 0;
    socklen_t length = sizeof bytes;
    assert_int_equal(getsockopt(c->conn->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, &length), 0);
    return bytes;
}

#endif
