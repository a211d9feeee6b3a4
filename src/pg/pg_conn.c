/*
 * Happy path: the name is resolved, a worker starts libpq on the first address, the socket and the worker
 * take turns until libpq says OK, `connected` runs. A refused, silent or broken address leads to the next
 * one, an answer from PostgreSQL itself (wrong password, no such database) ends the attempt.
 */
#include "pg/pg_conn.h"

#include <assert.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pg/pg_impl.h"

static const struct sm_state states[PG_STATES] = {
    [PG_NEW] = {"new", SM_NEXT(PG_RESOLVING) | SM_NEXT(PG_PACED) | SM_NEXT(PG_STEPPING) | SM_NEXT(PG_CLOSING),
                false},
    [PG_RESOLVING] = {"resolving",
                      SM_NEXT(PG_PACED) | SM_NEXT(PG_STEPPING) | SM_NEXT(PG_DOWN) | SM_NEXT(PG_CLOSING),
                      false},
    [PG_PACED] = {"paced", SM_NEXT(PG_STEPPING) | SM_NEXT(PG_CLOSING), false},
    [PG_STEPPING] = {"stepping",
                     SM_NEXT(PG_STEPPING) | SM_NEXT(PG_POLLING) | SM_NEXT(PG_READY) | SM_NEXT(PG_DOWN) |
                         SM_NEXT(PG_CLOSING),
                     false},
    [PG_POLLING] = {"polling", SM_NEXT(PG_STEPPING) | SM_NEXT(PG_DOWN) | SM_NEXT(PG_CLOSING), false},
    [PG_READY] = {"ready", SM_NEXT(PG_DOWN) | SM_NEXT(PG_CLOSING), false},
    [PG_DOWN] = {"down", SM_NEXT(PG_CLOSING), false},
    [PG_CLOSING] = {"closing", 0, true},
};

static void address_start(struct pg_conn *conn);
static void on_paced(void *data);
static void on_connect_timer(struct loop_timer *timer, void *data);
static void on_fault(struct loop_task *task, void *data);
static void on_free(struct loop_task *task, void *data);

/* ---- life ---- */

static void copy_target(struct pg_conn *conn, const struct pg_target *target)
{
    conn->host = mem_strdup(target->host != NULL ? target->host : "");
    conn->port = mem_printf("%d", target->port);
    conn->dbname = mem_strdup(target->dbname);
    conn->user = mem_strdup(target->user);
    conn->password = mem_strdup(target->password);
    conn->sslmode = mem_strdup(target->sslmode != NULL ? target->sslmode : "prefer");
    conn->sslrootcert = mem_strdup(target->sslrootcert);
    conn->sslcert = mem_strdup(target->sslcert);
    conn->sslkey = mem_strdup(target->sslkey);
    conn->application_name = mem_strdup(target->application_name);
    conn->options = mem_strdup(target->options);
    conn->replication = target->replication;
    conn->connect_timeout_ns =
        target->connect_timeout_ns != 0 ? target->connect_timeout_ns : PG_DEFAULT_CONNECT_NS;
    conn->name = mem_printf("%s:%s/%s", conn->host, conn->port, conn->dbname != NULL ? conn->dbname : "");
}

struct pg_conn *pg_conn_new(struct loop *loop, const struct pg_target *target,
                            const struct pg_conn_events *events, void *data)
{
    struct pg_conn *conn = mem_zalloc(sizeof *conn);
    conn->loop = loop;
    conn->events = *events;
    conn->data = data;
    conn->fd = -1;
    copy_target(conn, target);
    sm_init(&conn->sm, states, PG_STATES, PG_NEW, NULL, NULL);
    list_init(&conn->flight);
    list_init(&conn->queue);
    list_init(&conn->spare);
    list_init(&conn->statements);
    loop_timer_init(loop, &conn->connect_timer, on_connect_timer, conn);
    loop_timer_init(loop, &conn->deadline_timer, pg_queue_deadline_fired, conn);
    loop_timer_init(loop, &conn->patience_timer, pg_patience_fired, conn);
    pg_pace_init(&conn->pace, target->pacer, loop, on_paced, conn);
    conn->fault_task.run = on_fault;
    conn->fault_task.data = conn;
    conn->free_task.run = on_free;
    conn->free_task.data = conn;
    return conn;
}

static void on_free(struct loop_task *task, void *data)
{
    (void)task;
    struct pg_conn *conn = data;
    assert(conn->pg == NULL && conn->poll == NULL && conn->waiting == 0);
    sm_fini(&conn->sm);
    if (conn->closed != NULL)
        conn->closed(conn->closed_data);
    pg_query_forget(conn);
    free(conn->host);
    free(conn->port);
    free(conn->dbname);
    free(conn->user);
    mem_wipe_free(conn->password);
    free(conn->sslmode);
    free(conn->sslrootcert);
    free(conn->sslcert);
    free(conn->sslkey);
    free(conn->application_name);
    free(conn->options);
    free(conn->name);
    free(conn);
}

void pg_conn_hold(struct pg_conn *conn)
{
    conn->pending++;
}

void pg_conn_unhold(struct pg_conn *conn)
{
    assert(conn->pending > 0);
    conn->pending--;
    if (conn->pending == 0 && sm_now(&conn->sm) == PG_CLOSING)
        loop_defer(conn->loop, &conn->free_task);
}

void pg_conn_drop(struct pg_conn *conn)
{
    pg_io_pause(conn);
    pg_patience_stop(conn);
    if (conn->poll != NULL) {
        uv_close((uv_handle_t *)conn->poll, (uv_close_cb)free);
        conn->poll = NULL;
        conn->fd = -1;
    }
    if (conn->pg != NULL)
        PQfinish(conn->pg);
    conn->pg = NULL;
}

static void report_connected(struct pg_conn *conn, const struct err *err)
{
    conn->connect_asked = false;
    if (conn->events.connected != NULL)
        conn->events.connected(conn, err, conn->data);
}

void pg_conn_close(struct pg_conn *conn, void (*closed)(void *data), void *data)
{
    if (conn == NULL)
        return;
    if (conn->closed == NULL) {
        conn->closed = closed;
        conn->closed_data = data;
    }
    if (sm_now(&conn->sm) == PG_CLOSING)
        return;
    bool stepping = sm_now(&conn->sm) == PG_STEPPING;
    sm_move(&conn->sm, PG_CLOSING);
    pg_conn_hold(conn);
    pg_pace_release(&conn->pace);
    loop_timer_stop(&conn->connect_timer);
    loop_timer_stop(&conn->deadline_timer);
    loop_task_cancel(&conn->fault_task);
    if (conn->resolve != NULL)
        resolve_cancel(conn->resolve);
    pg_cancel_stop(conn);
    if (stepping)
        work_cancel(&conn->work); /* its done callback drops the connection */
    else
        pg_conn_drop(conn);
    const struct err canceled = {.code = ERRC_CANCELED, .message = "the connection was closed"};
    if (conn->connect_asked)
        report_connected(conn, &canceled);
    pg_queue_fail(conn, &canceled);
    pg_conn_unhold(conn);
}

/* ---- connecting ---- */

static void connect_failed(struct pg_conn *conn, const struct err *err)
{
    pg_pace_release(&conn->pace);
    loop_timer_stop(&conn->connect_timer);
    sm_move(&conn->sm, PG_DOWN);
    pg_conn_drop(conn);
    report_connected(conn, err);
}

/* The server itself has answered: another address of it would say the same. */
static bool error_is_answer(const struct err *err)
{
    return err->code == ERRC_AUTH || err->code == ERRC_SQL || err->code == ERRC_TLS ||
           err->code == ERRC_INVALID;
}

static void address_failed(struct pg_conn *conn, const struct err *err)
{
    pg_conn_drop(conn);
    conn->address++;
    if (conn->address < conn->addresses.count && !error_is_answer(err)) {
        address_start(conn);
        return;
    }
    connect_failed(conn, err);
}

static void address_timed_out(struct pg_conn *conn)
{
    struct err err;
    err_set(&err, ERRC_TIMEOUT, "cannot connect to %s: no answer from %s within %llu ms", conn->name,
            conn->addresses.address[conn->address],
            (unsigned long long)(conn->connect_timeout_ns / ENV_NS_PER_MS));
    address_failed(conn, &err);
}

static void drop_notice(void *data, const PGresult *result)
{
    struct pg_conn *conn = data;
    conn->notices++;
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
        pg_error_result(result, &conn->fatal);
}

struct setting {
    const char *key;
    const char *value;
};

static PGconn *libpq_start(const struct pg_conn *conn)
{
    const char *address = conn->addresses.address[conn->address];
    const struct setting settings[] = {
        {"host", conn->host},
        {"hostaddr", address[0] != '\0' ? address : NULL}, /* P1 */
        {"port", conn->port},
        {"dbname", conn->dbname},
        {"user", conn->user},
        {"password", conn->password},
        {"passfile", "/dev/null/none"}, /* cannot exist: the only password is the target's */
        {"sslmode", conn->sslmode},
        {"sslrootcert", conn->sslrootcert},
        {"sslcert", conn->sslcert},
        {"sslkey", conn->sslkey},
        {"application_name", conn->application_name},
        {"options", conn->options},
        {"replication", conn->replication ? "database" : NULL},
        {"client_encoding", "UTF8"},
        {"gssencmode", "disable"},
        {"target_session_attrs", "any"},
        {"keepalives", "1"},
        {"keepalives_idle", "10"},
        {"keepalives_interval", "5"},
        {"keepalives_count", "3"},
        {"tcp_user_timeout", "20000"},
    };
    enum { COUNT = sizeof settings / sizeof *settings };
    const char *keys[COUNT + 1];
    const char *values[COUNT + 1];
    size_t n = 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (settings[i].value == NULL)
            continue;
        keys[n] = settings[i].key;
        values[n++] = settings[i].value;
    }
    keys[n] = values[n] = NULL;
    return PQconnectStartParams(keys, values, 0);
}

/* On a worker; the loop does not touch conn->pg meanwhile. */
static void step_run(struct work *work)
{
    struct pg_conn *conn = work->data;
    if (conn->pg != NULL) {
        conn->step = PQconnectPoll(conn->pg);
        return;
    }
    conn->pg = libpq_start(conn);
    PQsetNoticeReceiver(conn->pg, drop_notice, conn); /* P15 */
    PQsetErrorVerbosity(conn->pg, PQERRORS_VERBOSE);  /* puts the SQLSTATE into the message */
    conn->step = PQstatus(conn->pg) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
}

/* OpenSSL keeps 34 KB of buffers with a connection, or takes them when there is something to read or write.
 */
static void release_buffers(struct pg_conn *conn)
{
    SSL *ssl = PQsslStruct(conn->pg, "OpenSSL");
    if (ssl != NULL)
        SSL_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
}

static void connect_succeeded(struct pg_conn *conn)
{
    pg_pace_release(&conn->pace);
    loop_timer_stop(&conn->connect_timer);
    release_buffers(conn);
    PQsetErrorVerbosity(conn->pg, PQERRORS_DEFAULT);
    PQsetnonblocking(conn->pg, 1);
    sm_move(&conn->sm, PG_READY);
    int rc = pg_io_poll(conn, UV_READABLE);
    if (rc != 0) {
        struct err err;
        err_set(&err, ERRC_IO, "cannot poll the connection to %s: %s", conn->name, uv_strerror(rc));
        connect_failed(conn, &err);
        return;
    }
    report_connected(conn, NULL);
}

static void step_settle(struct pg_conn *conn)
{
    struct err err;
    int events = conn->step == PGRES_POLLING_READING ? UV_READABLE : UV_WRITABLE;
    if (conn->expired) {
        address_timed_out(conn);
    } else if (conn->step == PGRES_POLLING_OK) {
        connect_succeeded(conn);
    } else if (conn->step == PGRES_POLLING_FAILED) {
        pg_error_connect(conn, &err);
        address_failed(conn, &err);
    } else if (pg_io_poll(conn, events) != 0) {
        err_set(&err, ERRC_IO, "cannot connect to %s: its socket cannot be polled", conn->name);
        address_failed(conn, &err);
    } else {
        sm_move(&conn->sm, PG_POLLING);
    }
}

static void step_done(struct work *work, int code)
{
    struct pg_conn *conn = work->data;
    if (sm_now(&conn->sm) == PG_CLOSING)
        pg_conn_drop(conn);
    else if (code != 0)
        conn->step = PGRES_POLLING_FAILED;
    if (sm_now(&conn->sm) != PG_CLOSING)
        step_settle(conn);
    pg_conn_unhold(conn);
}

static void step_start(struct pg_conn *conn)
{
    sm_move(&conn->sm, PG_STEPPING);
    pg_conn_hold(conn);
    if (work_start(conn->loop, &conn->work, step_run, step_done, conn) == 0)
        return;
    pg_conn_unhold(conn);
    struct err err;
    err_set(&err, ERRC_INTERNAL, "cannot connect to %s: no worker", conn->name);
    connect_failed(conn, &err);
}

void pg_conn_step(struct pg_conn *conn)
{
    pg_io_pause(conn); /* PQconnectPoll() may close the socket and open another with the same number (P3) */
    step_start(conn);
}

static void address_start(struct pg_conn *conn)
{
    conn->expired = false;
    loop_timer_start(&conn->connect_timer, conn->connect_timeout_ns); /* P2 */
    step_start(conn);
}

static void on_paced(void *data)
{
    address_start(data);
}

static void addresses_start(struct pg_conn *conn)
{
    loop_timer_stop(&conn->connect_timer);
    conn->address = 0;
    if (pg_pace_take(&conn->pace))
        address_start(conn);
    else
        sm_move(&conn->sm, PG_PACED);
}

static void on_connect_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct pg_conn *conn = data;
    if (sm_now(&conn->sm) == PG_POLLING) {
        address_timed_out(conn);
        return;
    }
    conn->expired = true; /* the worker or the resolver has it */
    if (conn->resolve != NULL)
        resolve_cancel(conn->resolve);
}

static void on_resolved(const struct err *err, const struct resolve_result *result, void *data)
{
    struct pg_conn *conn = data;
    conn->resolve = NULL;
    if (sm_now(&conn->sm) != PG_CLOSING) {
        struct err why;
        err_copy(&why, err);
        if (conn->expired)
            err_set(&why, ERRC_TIMEOUT, "the name %s was not resolved in time", conn->host);
        if (err == NULL) {
            conn->addresses = *result;
            addresses_start(conn);
        } else {
            err_wrap(&why, "cannot connect to %s", conn->name);
            connect_failed(conn, &why);
        }
    }
    pg_conn_unhold(conn);
}

int pg_conn_connect(struct pg_conn *conn, struct err *err)
{
    if (sm_now(&conn->sm) != PG_NEW)
        return err_set(err, ERRC_CONFLICT, "%s: a connection can be opened only once", conn->name);
    if (conn->host[0] == '\0')
        return err_set(err, ERRC_INVALID, "%s: no host", conn->name);
    if (conn->host[0] == '/')
        conn->addresses.count = 1; /* the directory of a Unix socket: no address */
    if (conn->addresses.count > 0) {
        conn->connect_asked = true;
        addresses_start(conn);
        return 0;
    }
    int rc = resolve_start(conn->loop, conn->host, on_resolved, conn, &conn->resolve, err);
    if (rc != 0)
        return rc;
    conn->connect_asked = true;
    sm_move(&conn->sm, PG_RESOLVING);
    pg_conn_hold(conn);
    loop_timer_start(&conn->connect_timer, conn->connect_timeout_ns);
    return 0;
}

void pg_conn_use_addresses(struct pg_conn *conn, const struct resolve_result *addresses)
{
    assert(sm_now(&conn->sm) == PG_NEW);
    conn->addresses = *addresses;
}

/* ---- losing it ---- */

void pg_conn_fail(struct pg_conn *conn, const struct err *err)
{
    if (sm_now(&conn->sm) != PG_READY)
        return;
    struct err why;
    err_copy(&why, err);
    sm_move(&conn->sm, PG_DOWN);
    loop_timer_stop(&conn->deadline_timer);
    loop_task_cancel(&conn->fault_task);
    pg_cancel_stop(conn);
    pg_conn_drop(conn);
    pg_queue_fail(conn, &why);
    if (sm_now(&conn->sm) == PG_DOWN && conn->events.lost != NULL)
        conn->events.lost(conn, &why, conn->data);
}

void pg_conn_fail_later(struct pg_conn *conn)
{
    loop_defer(conn->loop, &conn->fault_task);
}

static void on_fault(struct loop_task *task, void *data)
{
    (void)task;
    struct pg_conn *conn = data;
    struct err err;
    pg_error_lost(conn, &err);
    pg_conn_fail(conn, &err);
}

/* ---- facts ---- */

bool pg_conn_ready(const struct pg_conn *conn)
{
    return sm_now(&conn->sm) == PG_READY;
}

int pg_conn_server_version(const struct pg_conn *conn)
{
    return pg_conn_ready(conn) ? PQserverVersion(conn->pg) : 0;
}

int pg_conn_backend_pid(const struct pg_conn *conn)
{
    return pg_conn_ready(conn) ? PQbackendPID(conn->pg) : 0;
}

const char *pg_conn_parameter(const struct pg_conn *conn, const char *name)
{
    return pg_conn_ready(conn) ? PQparameterStatus(conn->pg, name) : NULL;
}

const char *pg_conn_name(const struct pg_conn *conn)
{
    return conn->name;
}

void *pg_conn_data(const struct pg_conn *conn)
{
    return conn->data;
}

struct loop *pg_conn_loop(const struct pg_conn *conn)
{
    return conn->loop;
}

int pg_conn_waiting(const struct pg_conn *conn)
{
    return conn->waiting;
}
