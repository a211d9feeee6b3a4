#include "runtime/kube_login.h"

#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "runtime/login_sql.h"

#define RETRY_NS (200 * ENV_NS_PER_MS)

/*
 *   IDLE --> WAIT --0.2 s--> CONNECT ---> LOOK --> COMPARE --> ROLE --> DATABASE
 *             ^                 | |        ^ |         |
 *             +-----------------+ v        | |         +--(same password)--> DATABASE
 *             ^               HASH --> RENEW |
 *             +------------------------------+
 *   any end, failure, cancel: --> CLOSING --> OVER
 *
 * WAIT waits for its timer. CONNECT waits for the connection. LOOK, ROLE and DATABASE wait for the answer to
 * a query. COMPARE waits for a worker that compares the password with what the server has, so that one that
 * did not change is not written. HASH waits for a worker that makes the verifier of the superuser's new
 * password when only the previous one was let in, RENEW for the server to take it. CLOSING waits for the
 * connection to be closed.
 */
enum { IDLE, WAIT, CONNECT, HASH, RENEW, LOOK, COMPARE, ROLE, DATABASE, CLOSING, OVER, STATES };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", N(WAIT), true},
    [WAIT] = {"wait", N(CONNECT) | N(CLOSING), false},
    [CONNECT] = {"connect", N(WAIT) | N(HASH) | N(LOOK) | N(CLOSING), false},
    [HASH] = {"hash", N(RENEW) | N(CLOSING), false},
    [RENEW] = {"renew", N(LOOK) | N(CLOSING), false},
    [LOOK] = {"look", N(WAIT) | N(COMPARE) | N(CLOSING), false},
    [COMPARE] = {"compare", N(ROLE) | N(DATABASE) | N(CLOSING), false},
    [ROLE] = {"role", N(DATABASE) | N(CLOSING), false},
    [DATABASE] = {"database", N(CLOSING), false},
    [CLOSING] = {"closing", N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

static void over(void *data)
{
    struct kube_login *login = data;
    sm_move(&login->sm, OVER);
    mem_wipe_free(login->verifier);
    login->verifier = NULL;
    login->done(login, login->err.code != ERRC_NONE ? &login->err : NULL, login->data);
}

static void on_closing_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    over(data);
}

static void finish(struct kube_login *login, const struct err *err)
{
    struct pg_conn *conn = login->conn;
    if (err != NULL)
        err_copy(&login->err, err);
    else
        err_clear(&login->err);
    loop_timer_stop(&login->timer);
    sm_move(&login->sm, CLOSING);
    login->conn = NULL;
    if (conn != NULL) {
        pg_conn_close(conn, over, login);
        return;
    }
    loop_timer_init(login->loop, &login->timer, on_closing_timer, login);
    loop_timer_start(&login->timer, 0);
}

static void finish_doing(struct kube_login *login, const struct err *err, const char *what)
{
    struct err wrapped = *err;
    /* read_only_sql_transaction: another one leads by now, and who does is asked again */
    if (err_is_sql(err, "25006"))
        wrapped.code = ERRC_CONFLICT;
    (void)err_wrap(&wrapped, "%s", what);
    finish(login, &wrapped);
}

/* Not let in yet, for this reason, which is told if the deadline comes first. */
static void try_again(struct kube_login *login, const struct err *why)
{
    if (login->conn != NULL)
        pg_conn_close(login->conn, NULL, NULL);
    login->conn = NULL;
    err_copy(&login->err, why);
    if (login->progress != NULL)
        login->progress(why->message, login->data);
    sm_move(&login->sm, WAIT);
    loop_timer_start(&login->timer, RETRY_NS);
}

/* ---- role and database ---- */

static void query(struct kube_login *login, int state, struct buf *sql, pg_reply_cb cb)
{
    struct err err = {0};
    sm_move(&login->sm, state);
    if (pg_exec(login->conn, buf_text(sql), cb, login, &err) != 0)
        finish(login, &err);
    if (sql->data != NULL)
        memset(sql->data, 0, sql->length); /* may hold a verifier */
    buf_free(sql);
}

static void on_database(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct kube_login *login = data;
    if (conn != login->conn)
        return;
    if (reply->err != NULL && !err_is_sql(reply->err, "42P04")) /* duplicate_database: made meanwhile */
        finish_doing(login, reply->err, "cannot create the database");
    else
        finish(login, NULL);
}

static void enter_database(struct kube_login *login)
{
    struct buf sql = {0};
    if (login->database_exists) {
        finish(login, NULL);
        return;
    }
    login_sql_database(&sql, login->database, login->owner);
    query(login, DATABASE, &sql, on_database);
}

static void on_role(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct kube_login *login = data;
    if (conn != login->conn)
        return;
    if (reply->err != NULL)
        finish_doing(login, reply->err, "cannot create the application's role");
    else
        enter_database(login);
}

static void compare_run(struct work *work)
{
    struct kube_login *login = work->data;
    login->same = scram_matches(login->verifier, login->owner_password);
    mem_wipe_free(login->verifier);
    login->verifier = NULL;
    if (!login->same)
        login->verifier = scram_verifier(login->owner, login->owner_password, &login->work_err);
}

static void compare_done(struct work *work, int code)
{
    struct kube_login *login = work->data;
    struct buf sql = {0};
    (void)code;
    if (sm_now(&login->sm) == CLOSING) /* canceled, or the connection was lost meanwhile */
        over(login);
    else if (login->work_err.code != ERRC_NONE)
        finish(login, &login->work_err);
    else if (login->same)
        enter_database(login);
    else {
        login_sql_role(&sql, login->owner, login->role_exists, login->verifier);
        query(login, ROLE, &sql, on_role);
    }
}

static void enter_compare(struct kube_login *login)
{
    struct buf sql = {0};
    sm_move(&login->sm, COMPARE);
    if (login->owner_password != NULL) {
        (void)work_start(login->loop, &login->work, compare_run, compare_done, login);
    } else if (login->role_exists) {
        enter_database(login);
    } else {
        login_sql_role(&sql, login->owner, false, NULL);
        query(login, ROLE, &sql, on_role);
    }
}

static void on_look(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct kube_login *login = data;
    if (conn != login->conn)
        return;
    if (reply->err != NULL) {
        try_again(login, reply->err);
        return;
    }
    login->role_exists = pg_value_bool(reply, 0, 0);
    mem_wipe_free(login->verifier);
    login->verifier = mem_strdup(pg_value(reply, 0, 1));
    login->database_exists = pg_value_bool(reply, 0, 2);
    login->copied_from = pg_value_bool(reply, 0, 3);
    enter_compare(login);
}

static void enter_look(struct kube_login *login)
{
    struct buf sql = {0};
    login_sql_quiet(&sql);
    (void)buf_add_text(&sql, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = ");
    pg_quote_literal(&sql, login->owner);
    (void)buf_add_text(&sql, "), (SELECT rolpassword FROM pg_authid WHERE rolname = ");
    pg_quote_literal(&sql, login->owner);
    (void)buf_add_text(&sql, "), EXISTS (SELECT FROM pg_database WHERE datname = ");
    pg_quote_literal(&sql, login->database);
    (void)buf_add_text(&sql, "), EXISTS (SELECT FROM pg_replication_slots WHERE slot_type = 'logical')");
    query(login, LOOK, &sql, on_look);
}

/* ---- a new password of the superuser ---- */

static void on_renewed(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct kube_login *login = data;
    if (conn != login->conn)
        return;
    if (reply->err != NULL)
        finish_doing(login, reply->err, "cannot give the superuser its new password");
    else
        enter_look(login);
}

static void hash_run(struct work *work)
{
    struct kube_login *login = work->data;
    mem_wipe_free(login->verifier);
    login->verifier = scram_verifier(login->target.user, login->target.password, &login->work_err);
}

static void hash_done(struct work *work, int code)
{
    struct kube_login *login = work->data;
    struct buf sql = {0};
    (void)code;
    if (sm_now(&login->sm) == CLOSING) {
        over(login);
    } else if (login->work_err.code != ERRC_NONE) {
        finish(login, &login->work_err);
    } else {
        login_sql_quiet(&sql);
        login_sql_role(&sql, login->target.user, true, login->verifier);
        query(login, RENEW, &sql, on_renewed);
    }
}

/* ---- connecting ---- */

static void on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct kube_login *login = data;
    if (conn != login->conn)
        return;
    if (err != NULL) { /* a wrong password, too: a new one may reach the server a little later */
        login->refused = err->code == ERRC_AUTH && login->previous_password != NULL && !login->refused;
        try_again(login, err);
    } else if (login->refused) {
        sm_move(&login->sm, HASH);
        (void)work_start(login->loop, &login->work, hash_run, hash_done, login);
    } else {
        enter_look(login);
    }
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct kube_login *login = data;
    if (conn != login->conn)
        return;
    if (sm_now(&login->sm) != COMPARE && sm_now(&login->sm) != HASH) {
        finish(login, err);
        return;
    }
    sm_move(&login->sm, CLOSING); /* the worker's end follows */
    err_copy(&login->err, err);
    pg_conn_close(login->conn, NULL, NULL);
    login->conn = NULL;
}

static void on_timer(struct loop_timer *timer, void *data)
{
    static const struct pg_conn_events events = {.connected = on_connected, .lost = on_lost};
    struct kube_login *login = data;
    struct pg_target target = login->target;
    struct err err = {0};
    (void)timer;
    if (login->refused)
        target.password = login->previous_password;
    if (loop_now(login->loop) >= login->deadline_ns) {
        err = login->err;
        err.code = ERRC_TIMEOUT;
        (void)err_wrap(&err, "PostgreSQL does not let us in at %s port %d", login->target.host,
                       login->target.port);
        finish(login, &err);
        return;
    }
    sm_move(&login->sm, CONNECT);
    login->conn = pg_conn_new(login->loop, &target, &events, login);
    if (pg_conn_connect(login->conn, &err) != 0)
        finish(login, &err);
}

void kube_login_start(struct kube_login *login)
{
    sm_init(&login->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(login->loop, &login->timer, on_timer, login);
    err_clear(&login->err);
    err_clear(&login->work_err);
    login->refused = false;
    sm_move(&login->sm, WAIT);
    loop_timer_start(&login->timer, 0);
}

void kube_login_cancel(struct kube_login *login)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    int now = sm_now(&login->sm);
    if (now == CLOSING || now == OVER || now == IDLE)
        return;
    if (now == HASH || (now == COMPARE && login->owner_password != NULL))
        on_lost(login->conn, &canceled, login);
    else
        finish(login, &canceled);
}
