#include "operation/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/*
 * What every session of a manager sets itself: a database's or role's defaults must not reach it (A4).
 * Without JIT: compiling the recursive query of freeze() took a second, and the clients' tables are locked by
 * then.
 */
static const char session_options[] =
    "-c synchronous_commit=on -c search_path=pg_catalog -c default_transaction_isolation=read\\ committed "
    "-c default_transaction_read_only=off -c default_transaction_deferrable=off "
    "-c session_replication_role=origin -c row_security=off "
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=10s "
    "-c client_min_messages=warning -c client_connection_check_interval=1s -c DateStyle=ISO -c TimeZone=UTC "
    "-c IntervalStyle=postgres "
    "-c bytea_output=hex -c extra_float_digits=1 -c jit=off";

struct statement {
    struct list node;
    struct link *link;
    char *sql;
    uint64_t timeout_ns;
    link_reply_cb cb;
    void *data;
    struct loop_task fail_task; /* failures are delivered later, never from inside link_exec() */
    struct err err;
};

static void statement_end(struct statement *st, const struct pg_reply *reply)
{
    list_remove(&st->node);
    link_reply_cb cb = st->cb;
    void *data = st->data;
    mem_wipe_free(st->sql); /* CREATE SUBSCRIPTION carries a password */
    free(st);
    cb(reply, data);
}

static void statement_failed(struct loop_task *task, void *data)
{
    (void)task;
    struct statement *st = data;
    struct err err = st->err;
    struct pg_reply reply = {.err = &err};
    statement_end(st, &reply);
}

static void statement_fail(struct statement *st, const struct err *err)
{
    st->err = *err;
    loop_defer(st->link->loop, &st->fail_task);
}

static void on_reply(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    statement_end(data, reply);
}

static void send_waiting(struct link *l)
{
    while (!list_empty(&l->waiting) && l->conn != NULL && pg_conn_ready(l->conn)) {
        struct statement *st = list_item(list_first(&l->waiting), struct statement, node);
        struct pg_request request = {.sql = st->sql, .timeout_ns = st->timeout_ns};
        struct err err = {0};
        list_remove(&st->node);
        list_append(&l->sent, &st->node);
        if (pg_send(l->conn, &request, on_reply, st, &err) != 0)
            statement_fail(st, &err);
    }
}

static void on_closed(void *data)
{
    struct link *l = data;
    --*l->open;
    if (l->closed != NULL)
        l->closed(l->data);
}

static void drop_connection(struct link *l)
{
    struct pg_conn *conn = l->conn;
    l->conn = NULL;
    if (conn != NULL)
        pg_conn_close(conn, on_closed, l);
}

static void fail_waiting(struct link *l, const struct err *err)
{
    list_each(node, &l->waiting)
    {
        struct statement *st = list_item(node, struct statement, node);
        list_remove(&st->node);
        list_append(&l->sent, &st->node);
        statement_fail(st, err);
    }
}

static void on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct link *l = data;
    (void)conn;
    if (err == NULL) {
        l->session++;
        send_waiting(l);
        return;
    }
    struct err why = *err;
    drop_connection(l);
    fail_waiting(l, &why);
}

static void on_notified(struct pg_conn *conn, const char *channel, const char *payload, void *data)
{
    struct link *l = data;
    (void)conn;
    if (l->notified != NULL)
        l->notified(channel, payload, l->data);
}

void link_init(struct link *l, struct loop *loop, const struct instance_access *access,
               const char *application, int *open, void (*closed)(void *data), void *data)
{
    memset(l, 0, sizeof *l);
    l->loop = loop;
    instance_access_copy(&l->access, access);
    snprintf(l->application, sizeof l->application, "%s", application);
    list_init(&l->waiting);
    list_init(&l->sent);
    l->open = open;
    l->closed = closed;
    l->data = data;
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data);

static int connect_link(struct link *l, struct err *err)
{
    struct pg_target target = {
        .host = l->access.host,
        .port = l->access.port,
        .dbname = l->access.dbname,
        .user = l->access.user,
        .password = l->access.password,
        .sslmode = l->access.sslmode,
        .sslrootcert = l->access.sslrootcert,
        .sslcert = l->access.sslcert,
        .sslkey = l->access.sslkey,
        .application_name = l->application,
        .options = session_options,
        .replication = l->replication,
    };
    struct pg_conn_events events = {.connected = on_connected, .lost = on_lost, .notified = on_notified};
    l->conn = pg_conn_new(l->loop, &target, &events, l);
    ++*l->open;
    if (pg_conn_connect(l->conn, err) != 0) {
        drop_connection(l);
        return (int)err->code;
    }
    return 0;
}

/* What was begun between the last answer of the lost session and now still waits: it gets a new one. */
static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct link *l = data;
    struct err why = {0};
    (void)conn;
    l->lost = *err;
    drop_connection(l);
    if (!list_empty(&l->waiting) && connect_link(l, &why) != 0)
        fail_waiting(l, &why);
}

static struct statement *add_statement(struct link *l, const char *sql, uint64_t timeout_ns, link_reply_cb cb,
                                       void *data)
{
    struct statement *st = mem_zalloc(sizeof *st);
    st->link = l;
    st->sql = mem_strdup(sql);
    st->timeout_ns = timeout_ns;
    st->cb = cb;
    st->data = data;
    st->fail_task.run = statement_failed;
    st->fail_task.data = st;
    list_init(&st->node);
    list_append(&l->waiting, &st->node);
    return st;
}

void link_exec(struct link *l, const char *sql, uint64_t timeout_ns, link_reply_cb cb, void *data)
{
    struct err err = {0};
    add_statement(l, sql, timeout_ns, cb, data);
    if (l->conn == NULL && connect_link(l, &err) != 0)
        fail_waiting(l, &err);
    else
        send_waiting(l);
}

bool link_is_up(const struct link *l)
{
    return l->conn != NULL && pg_conn_ready(l->conn);
}

uint64_t link_session(const struct link *l)
{
    return link_is_up(l) ? l->session : 0;
}

void link_exec_in(struct link *l, uint64_t session, const char *sql, uint64_t timeout_ns, link_reply_cb cb,
                  void *data)
{
    struct err err = {0};
    if (session != 0 && link_session(l) == session) {
        link_exec(l, sql, timeout_ns, cb, data);
        return;
    }
    err_set(&err, ERRC_CLOSED, "the session that holds the transaction is gone%s%s",
            l->lost.code != ERRC_NONE ? ": " : "", l->lost.message);
    struct statement *st = add_statement(l, sql, timeout_ns, cb, data);
    list_remove(&st->node);
    list_append(&l->sent, &st->node);
    statement_fail(st, &err);
}

void link_drop(struct link *l)
{
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "the connection was dropped");
    drop_connection(l);
    fail_waiting(l, &err);
}

void link_retarget(struct link *l, const struct instance_access *access)
{
    link_drop(l);
    instance_access_clear(&l->access);
    instance_access_copy(&l->access, access);
}

void link_fini(struct link *l)
{
    link_drop(l);
    instance_access_clear(&l->access);
}
