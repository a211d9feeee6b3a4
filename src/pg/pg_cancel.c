/*
 * Cancel: from libpq 17 on by libpq's own asynchronous cancel request, else by pg_cancel_backend() on a
 * short second connection (PQcancel() of older libraries blocks without bound, so that a stopped server
 * would take a worker for ever). Nothing new is sent on the connection until the cancel is over, because a
 * late one would hit the next statement.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pg/pg_impl.h"

#define CANCEL_NS (5 * ENV_NS_PER_S)

struct pg_cancel {
    struct pg_conn *conn; /* whose statement; held until the memory here goes */
#ifdef LIBPQ_HAS_ASYNC_CANCEL
    PGcancelConn *request;
    uv_poll_t *poll;
    int fd;
    struct loop_timer timer;
    struct loop_task end; /* the request failed at once */
#else
    struct pg_conn *helper;
    char sql[64];
#endif
};

/* The owner may go on: called while the cancel object is still closing. */
static void cancel_over(struct pg_cancel *c)
{
    struct pg_conn *conn = c->conn;
    if (conn->cancel != c)
        return;
    conn->cancel = NULL;
    pg_queue_dispatch(conn);
}

#ifdef LIBPQ_HAS_ASYNC_CANCEL

static void cancel_end(struct pg_cancel *c)
{
    loop_timer_stop(&c->timer);
    loop_task_cancel(&c->end);
    if (c->poll != NULL) {
        uv_poll_stop(c->poll);
        uv_close((uv_handle_t *)c->poll, (uv_close_cb)free);
    }
    PQcancelFinish(c->request);
    struct pg_conn *conn = c->conn;
    cancel_over(c);
    free(c);
    pg_conn_unhold(conn);
}

static void cancel_step(struct pg_cancel *c);

static void on_cancel_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    struct pg_cancel *c = poll->data;
    (void)events;
    (void)loop_now(c->conn->loop);
    cancel_step(c);
}

static bool cancel_wait(struct pg_cancel *c, int events)
{
    int fd = PQcancelSocket(c->request);
    if (c->poll == NULL || c->fd != fd) {
        if (c->poll != NULL)
            uv_close((uv_handle_t *)c->poll, (uv_close_cb)free);
        c->poll = mem_zalloc(sizeof *c->poll);
        c->fd = fd;
        if (uv_poll_init(&c->conn->loop->uv, c->poll, fd) != 0) {
            free(c->poll);
            c->poll = NULL;
            return false;
        }
        c->poll->data = c;
    }
    return uv_poll_start(c->poll, events, on_cancel_poll) == 0;
}

static void cancel_step(struct pg_cancel *c)
{
    if (c->poll != NULL)
        uv_poll_stop(c->poll);
    PostgresPollingStatusType step = PQcancelPoll(c->request);
    if (step == PGRES_POLLING_OK || step == PGRES_POLLING_FAILED ||
        !cancel_wait(c, step == PGRES_POLLING_READING ? UV_READABLE : UV_WRITABLE))
        cancel_end(c);
}

static void on_cancel_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    cancel_end(data);
}

static void on_cancel_task(struct loop_task *task, void *data)
{
    (void)task;
    cancel_end(data);
}

static void cancel_start(struct pg_cancel *c)
{
    loop_timer_init(c->conn->loop, &c->timer, on_cancel_timer, c);
    loop_timer_start(&c->timer, CANCEL_NS);
    c->end.run = on_cancel_task;
    c->end.data = c;
    c->request = PQcancelCreate(c->conn->pg);
    if (PQcancelStart(c->request) != 1 || !cancel_wait(c, UV_WRITABLE))
        loop_defer(c->conn->loop, &c->end);
}

static void cancel_abort(struct pg_cancel *c)
{
    cancel_end(c);
}

#else

static void on_helper_closed(void *data)
{
    struct pg_cancel *c = data;
    struct pg_conn *conn = c->conn;
    free(c);
    pg_conn_unhold(conn);
}

static void on_canceled(struct pg_conn *helper, const struct pg_reply *reply, void *data)
{
    (void)reply; /* if it failed, the deadline of the request remains */
    struct pg_cancel *c = data;
    cancel_over(c);
    pg_conn_close(helper, on_helper_closed, c);
}

static void on_helper_connected(struct pg_conn *helper, const struct err *err, void *data)
{
    struct pg_cancel *c = data;
    const struct pg_request request = {.sql = c->sql, .timeout_ns = CANCEL_NS};
    if (err == NULL && pg_send(helper, &request, on_canceled, c, NULL) == 0)
        return;
    cancel_over(c);
    pg_conn_close(helper, on_helper_closed, c);
}

static void cancel_start(struct pg_cancel *c)
{
    const struct pg_conn *conn = c->conn;
    const struct pg_target target = {
        .host = conn->host,
        .port = atoi(conn->port),
        .dbname = conn->dbname,
        .user = conn->user,
        .password = conn->password,
        .sslmode = conn->sslmode,
        .sslrootcert = conn->sslrootcert,
        .sslcert = conn->sslcert,
        .sslkey = conn->sslkey,
        .application_name = conn->application_name,
        .connect_timeout_ns = CANCEL_NS,
    };
    const struct pg_conn_events events = {.connected = on_helper_connected};
    snprintf(c->sql, sizeof c->sql, "SELECT pg_cancel_backend(%d)", PQbackendPID(conn->pg));
    struct resolve_result address = {.count = 1}; /* the very server: the name may have several */
    memcpy(address.address[0], conn->addresses.address[conn->address], sizeof address.address[0]);
    c->helper = pg_conn_new(conn->loop, &target, &events, c);
    pg_conn_use_addresses(c->helper, &address);
    pg_conn_connect(c->helper, NULL);
}

static void cancel_abort(struct pg_cancel *c)
{
    pg_conn_close(c->helper, on_helper_closed, c);
}

#endif

void pg_conn_cancel(struct pg_conn *conn)
{
    if (sm_now(&conn->sm) != PG_READY || list_empty(&conn->flight) || conn->cancel != NULL)
        return;
    struct pg_cancel *c = mem_zalloc(sizeof *c);
    c->conn = conn;
    conn->cancel = c;
    pg_conn_hold(conn);
    cancel_start(c);
}

void pg_cancel_stop(struct pg_conn *conn)
{
    struct pg_cancel *c = conn->cancel;
    conn->cancel = NULL;
    if (c != NULL)
        cancel_abort(c);
}
