#include "runtime/local.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pg/pg_conn.h"
#include "runtime/login_sql.h"

#define RETRY_NS (50 * ENV_NS_PER_MS)

/*
 *   IDLE --> WAIT --50 ms--> CHECK --ours, ready--> CONNECT --> LOOK --> ROLE --> DATABASE
 *             ^                |                       |          |
 *             +----------------+-----------------------+----------+
 *   any failure, deadline, cancel, the end: --> CLOSING --> OVER
 *
 * CHECK waits for a worker that reads postmaster.pid: only the server of our data directory, once it holds
 * the port and lets sessions in, is spoken to. Whoever sits on the port before is another's server, whose
 * refusals say nothing about ours.
 * CONNECT waits for the connection, woken by it or by the deadline's timer.
 * WAIT waits for its timer: the server does not let us in yet.
 * LOOK, ROLE and DATABASE wait for the answer to a query; ROLE and DATABASE are skipped when they exist.
 * CLOSING waits for the connection to be closed, and for the worker of CHECK.
 */
enum { IDLE, CHECK, CONNECT, WAIT, LOOK, ROLE, DATABASE, CLOSING, OVER, STATES };

static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", SM_NEXT(WAIT), true},
    [CHECK] = {"check", SM_NEXT(WAIT) | SM_NEXT(CONNECT) | SM_NEXT(CLOSING), false},
    [CONNECT] = {"connect", SM_NEXT(WAIT) | SM_NEXT(LOOK) | SM_NEXT(CLOSING), false},
    [WAIT] = {"wait", SM_NEXT(CHECK) | SM_NEXT(CLOSING), false},
    [LOOK] = {"look", SM_NEXT(WAIT) | SM_NEXT(ROLE) | SM_NEXT(DATABASE) | SM_NEXT(CLOSING), false},
    [ROLE] = {"role", SM_NEXT(DATABASE) | SM_NEXT(CLOSING), false},
    [DATABASE] = {"database", SM_NEXT(CLOSING), false},
    [CLOSING] = {"closing", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

/* ---- the end ---- */

static void over(struct local_login *login)
{
    sm_move(&login->sm, OVER);
    login->done(login, login->err.code != ERRC_NONE ? &login->err : NULL, login->data);
}

static void on_closed(void *data)
{
    over(data);
}

static void on_closing_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    over(data);
}

static void finish(struct local_login *login, const struct err *err)
{
    if (err != NULL)
        err_copy(&login->err, err);
    bool checking = sm_now(&login->sm) == CHECK;
    sm_move(&login->sm, CLOSING);
    loop_timer_stop(&login->timer);
    if (checking) {
        work_cancel(&login->work); /* its end follows */
    } else if (login->conn != NULL) {
        pg_conn_close(login->conn, on_closed, login);
        login->conn = NULL;
    } else {
        loop_timer_init(login->local->loop, &login->timer, on_closing_timer, login);
        loop_timer_start(&login->timer, 0);
    }
}

/* Not let in yet, for this reason, which is told if the deadline comes first. */
static void try_again(struct local_login *login, const struct err *why)
{
    if (login->conn != NULL)
        pg_conn_close(login->conn, NULL, NULL);
    login->conn = NULL;
    err_copy(&login->err, why);
    sm_move(&login->sm, WAIT);
    loop_timer_start(&login->timer, RETRY_NS);
}

/* ---- role and database ---- */

static void enter_query(struct local_login *login, int state, const char *sql, pg_reply_cb cb)
{
    struct err err = {0};
    sm_move(&login->sm, state);
    if (pg_exec(login->conn, sql, cb, login, &err) != 0)
        finish(login, &err);
}

static void on_database(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    struct local_login *login = data;
    if (sm_now(&login->sm) == CLOSING)
        return; /* taken back by our own closing */
    if (err_copy(&login->err, reply->err) != 0)
        err_wrap(&login->err, "cannot create the database");
    finish(login, NULL);
}

static void enter_database(struct local_login *login)
{
    const struct local_record *r = login->record;
    if (login->database_exists || r->database[0] == '\0') {
        finish(login, NULL);
        return;
    }
    struct buf sql = {0};
    login_sql_database(&sql, r->database, r->owner);
    enter_query(login, DATABASE, buf_text(&sql), on_database);
    buf_free(&sql);
}

static void on_role(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    struct local_login *login = data;
    if (sm_now(&login->sm) == CLOSING)
        return; /* taken back by our own closing */
    if (reply->err == NULL) {
        enter_database(login);
        return;
    }
    err_copy(&login->err, reply->err);
    err_wrap(&login->err, "cannot create the application's role");
    finish(login, NULL);
}

static void enter_role(struct local_login *login)
{
    const char *owner = login->record->owner;
    if (owner[0] == '\0' || (login->role_exists && !login->set_password)) {
        enter_database(login);
        return;
    }
    struct buf sql = {0};
    login_sql_role(&sql, owner, login->role_exists, login->verifier);
    enter_query(login, ROLE, buf_text(&sql), on_role);
    buf_free(&sql);
}

static void on_look(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    struct local_login *login = data;
    if (sm_now(&login->sm) == CLOSING)
        return; /* taken back by our own closing */
    if (reply->err != NULL) {
        finish(login, reply->err);
        return;
    }
    const char *directory = pg_value(reply, 0, 2);
    if (directory == NULL || strcmp(directory, login->data_path) != 0) {
        struct err err = {0};
        err_set(&err, ERRC_CONFLICT, "the server on %s port %d is another one, of %s", login->record->host,
                login->record->port, directory != NULL ? directory : "an unknown directory");
        try_again(login, &err);
        return;
    }
    login->role_exists = pg_value_bool(reply, 0, 0);
    login->database_exists = pg_value_bool(reply, 0, 1);
    enter_role(login);
}

static void enter_look(struct local_login *login)
{
    struct buf sql = {0};
    login_sql_quiet(&sql);
    buf_add_text(&sql, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = ");
    pg_quote_literal(&sql, login->record->owner);
    buf_add_text(&sql, "), EXISTS (SELECT FROM pg_database WHERE datname = ");
    pg_quote_literal(&sql, login->record->database);
    buf_add_text(&sql, "), current_setting('data_directory')");
    enter_query(login, LOOK, buf_text(&sql), on_look);
    buf_free(&sql);
}

/* ---- connecting ---- */

static void on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    struct local_login *login = data;
    if (sm_now(&login->sm) == CLOSING)
        return; /* taken back by our own closing */
    if (err == NULL) {
        enter_look(login);
        return;
    }
    if (err->code == ERRC_AUTH && login->refused) {
        finish(login, err);
        return;
    }
    login->refused = err->code == ERRC_AUTH; /* believed when the server is still ours after it */
    try_again(login, err);
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    struct local_login *login = data;
    if (sm_now(&login->sm) != CLOSING) /* the failed query has ended it already */
        finish(login, err);
}

static void enter_connect(struct local_login *login)
{
    static const struct pg_conn_events events = {.connected = on_connected, .lost = on_lost};
    const struct local_record *r = login->record;
    const struct pg_target target = {
        .host = r->host,
        .port = r->port,
        .dbname = "postgres",
        .user = LOCAL_SUPERUSER,
        .password = r->password,
        .application_name = "shardherd runtime",
        .connect_timeout_ns = 2 * ENV_NS_PER_S,
    };
    sm_move(&login->sm, CONNECT);
    login->conn = pg_conn_new(login->local->loop, &target, &events, login);
    struct err err = {0};
    if (pg_conn_connect(login->conn, &err) != 0)
        finish(login, &err);
}

/* ---- is it ours ---- */

static const char *line_of(const char *text, int number)
{
    while (text != NULL && number-- > 0) {
        text = strchr(text, '\n');
        text = text != NULL ? text + 1 : NULL;
    }
    return text != NULL ? text : "";
}

/* postmaster.pid: process, directory, start, port, socket directory, address, shared memory, state. The state
 * is written after the port was taken. */
static void check_run(struct work *work)
{
    struct local_login *login = work->data;
    char *path = mem_printf("%s/postmaster.pid", login->data_path);
    char *text = local_file_read(path, 4096, NULL);
    int pid = text != NULL ? (int)strtol(text, NULL, 10) : 0;
    const char *state = line_of(text, 7);
    err_clear(&login->found);
    if (pid == 0 || !local_pid_alive(pid, login->data_path))
        err_set(&login->found, ERRC_UNAVAILABLE, "it has not begun to run");
    else if (strncmp(state, "ready", 5) != 0 && strncmp(state, "standby", 7) != 0)
        err_set(&login->found, ERRC_UNAVAILABLE, "its state is \"%.*s\"", (int)strcspn(state, " \n"), state);
    else if (strtol(line_of(text, 3), NULL, 10) != login->record->port)
        err_set(&login->found, ERRC_CONFLICT, "it listens on port %.*s", (int)strcspn(line_of(text, 3), "\n"),
                line_of(text, 3));
    free(text);
    free(path);
}

static void check_done(struct work *work, int code)
{
    struct local_login *login = work->data;
    if (sm_now(&login->sm) == CLOSING) {
        over(login);
    } else if (code == 0 && login->found.code == ERRC_NONE) {
        err_clear(&login->err);
        enter_connect(login);
    } else {
        login->refused = false;
        try_again(login, &login->found);
    }
}

static void enter_check(struct local_login *login)
{
    sm_move(&login->sm, CHECK);
    if (work_start(login->local->loop, &login->work, check_run, check_done, login) == 0)
        return;
    struct err err = {0};
    sm_move(&login->sm, WAIT);
    err_set(&err, ERRC_INTERNAL, "no worker");
    finish(login, &err);
}

static bool server_ended(const struct local_login *login)
{
    return login->record->pid != 0 && !local_pid_alive(login->record->pid, login->data_path);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct local_login *login = data;
    if (server_ended(login)) {
        struct err err = {0};
        err_set(&err, ERRC_CLOSED, "the server (process %d) has ended", login->record->pid);
        finish(login, &err);
        return;
    }
    if (loop_now(login->local->loop) < login->deadline_ns) {
        enter_check(login);
        return;
    }
    login->err.code = ERRC_TIMEOUT;
    err_wrap(&login->err, "it does not accept connections on %s port %d (it may still be recovering)",
             login->record->host, login->record->port);
    finish(login, NULL);
}

void local_login_start(struct local_login *login, struct local *local, const struct local_record *record,
                       void (*done)(struct local_login *, const struct err *, void *), void *data)
{
    login->local = local;
    login->record = record;
    login->done = done;
    login->data = data;
    err_clear(&login->err);
    login->conn = NULL;
    login->deadline_ns = loop_now(local->loop) + LOCAL_START_TIMEOUT_NS;
    sm_init(&login->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(local->loop, &login->timer, on_timer, login);
    sm_move(&login->sm, WAIT);
    loop_timer_start(&login->timer, 0);
}

void local_login_cancel(struct local_login *login, const struct err *why)
{
    if (sm_now(&login->sm) != CLOSING && sm_now(&login->sm) != OVER)
        finish(login, why);
}
