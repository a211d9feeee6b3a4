#include "runtime/kube_probe.h"

#include <string.h>

#include "base/buf.h"

#define RETRY_NS       (200 * ENV_NS_PER_MS)
#define OLDEST_VERSION 150000
#define LEAST          4 /* slots, senders and workers: a move needs two, and another may run beside it */

/*
 *   IDLE --> WAIT --0.2 s--> CONNECT --> LOOK --> WAIT (the second connection) --> CONNECT
 *             ^                 |                                                    |
 *             +--not answered---+                     the owner was let in: --> CLOSING
 *   any end, failure, cancel: --> CLOSING --> OVER
 *
 * WAIT waits for its timer, CONNECT for a connection, LOOK for the answer to the query, CLOSING for the
 * connection to be closed.
 */
enum { IDLE, WAIT, CONNECT, LOOK, CLOSING, OVER, STATES };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", N(WAIT), true},
    [WAIT] = {"wait", N(CONNECT) | N(CLOSING), false},
    [CONNECT] = {"connect", N(WAIT) | N(LOOK) | N(CLOSING), false},
    [LOOK] = {"look", N(WAIT) | N(CLOSING), false},
    [CLOSING] = {"closing", N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

static void over(void *data)
{
    struct kube_probe *p = data;
    sm_move(&p->sm, OVER);
    p->done(p, p->err.code != ERRC_NONE ? &p->err : NULL, p->data);
}

static void on_closing_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    over(data);
}

static void finish(struct kube_probe *p, const struct err *err)
{
    struct pg_conn *conn = p->conn;
    if (err != NULL)
        err_copy(&p->err, err);
    else
        err_clear(&p->err);
    loop_timer_stop(&p->timer);
    sm_move(&p->sm, CLOSING);
    p->conn = NULL;
    if (conn != NULL) {
        pg_conn_close(conn, over, p);
        return;
    }
    loop_timer_init(p->loop, &p->timer, on_closing_timer, p);
    loop_timer_start(&p->timer, 0);
}

static void try_in(struct kube_probe *p, uint64_t pause_ns)
{
    if (p->conn != NULL)
        pg_conn_close(p->conn, NULL, NULL);
    p->conn = NULL;
    sm_move(&p->sm, WAIT);
    loop_timer_start(&p->timer, pause_ns);
}

/* ---- what the server says ---- */

#define NOT_OURS(name) name " NOT IN ('shardherd', 'information_schema') AND " name " !~ '^pg_'"
#define NOT_OF_AN_EXTENSION(catalog)                                                                         \
    "NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '" catalog "'::regclass AND d.objid = o.oid AND " \
    "d.deptype = 'e')"

/* Roles that something in this database belongs or is granted to. The bootstrap superuser is pinned: what is
 * his stands in no list of dependencies. */
static const char roles[] =
    "SELECT refobjid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND classid <> "
    "'pg_extension'::regclass AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "UNION SELECT relowner FROM pg_class o JOIN pg_namespace n ON n.oid = relnamespace "
    "WHERE o.oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND " NOT_OURS("nspname") " AND " //
    NOT_OF_AN_EXTENSION("pg_class")                                                                       //
    " UNION SELECT proowner FROM pg_proc o JOIN pg_namespace n ON n.oid = pronamespace "
    "WHERE o.oid >= 16384 AND " NOT_OURS("nspname") " AND " NOT_OF_AN_EXTENSION("pg_proc") //
    " UNION SELECT nspowner FROM pg_namespace o "
    "WHERE (o.oid >= 16384 OR nspname = 'public') AND " NOT_OURS("nspname") " AND " //
    NOT_OF_AN_EXTENSION("pg_namespace");

static void query_make(const struct kube_probe *p, struct buf *sql)
{
    (void)buf_add_text(
        sql, "SELECT current_setting('server_version_num')::int, current_setting('wal_level'), "
             "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(), "
             "current_setting('max_replication_slots')::int, current_setting('max_wal_senders')::int, "
             "current_setting('max_logical_replication_workers')::int, "
             "EXISTS (SELECT FROM pg_roles WHERE rolname = ");
    pg_quote_literal(sql, p->owner);
    (void)buf_add_text(sql, "), ");
    if (!p->whole) {
        (void)buf_add_text(sql, "NULL");
        return;
    }
    (void)buf_printf(sql,
                     "(SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles WHERE rolname !~ "
                     "'^pg_' AND oid IN (%s) AND rolname <> ",
                     roles);
    pg_quote_literal(sql, p->owner);
    (void)buf_addc(sql, ')');
}

static int limit_check(const struct pg_reply *reply, int column, const char *name, struct err *err)
{
    int64_t value = 0;
    if (!pg_value_int64(reply, 0, column, &value) || value >= LEAST)
        return 0;
    return err_set(err, ERRC_REFUSED, "%s is %d: set it to %d or more and restart the server", name,
                   (int)value, LEAST);
}

static int limits_check(const struct pg_reply *reply, struct err *err)
{
    int rc = limit_check(reply, 4, "max_replication_slots", err);
    if (rc == 0)
        rc = limit_check(reply, 5, "max_wal_senders", err);
    return rc != 0 ? rc : limit_check(reply, 6, "max_logical_replication_workers", err);
}

static int reply_check(const struct kube_probe *p, const struct pg_reply *reply, struct err *err)
{
    int64_t version = 0;
    const char *level = pg_value(reply, 0, 1), *others = pg_value(reply, 0, 8);
    if (!pg_value_int64(reply, 0, 0, &version) || version < OLDEST_VERSION)
        return err_set(err, ERRC_UNSUPPORTED, "PostgreSQL is %d.%d, and %d or newer is needed: upgrade it",
                       (int)version / 10000, (int)version % 10000, OLDEST_VERSION / 10000);
    if (pg_value_bool(reply, 0, 3))
        return err_set(err, ERRC_REFUSED, "it is a standby: name the StatefulSet of the primary");
    if (level == NULL || strcmp(level, "logical") != 0)
        return err_set(err, ERRC_REFUSED, "wal_level is %s: set it to logical and restart the server",
                       level != NULL ? level : "?");
    if (!pg_value_bool(reply, 0, 2))
        return err_set(err, ERRC_REFUSED,
                       "its role %s is no superuser: name a Secret with one, which guards and subscriptions "
                       "need",
                       p->target.user);
    if (limits_check(reply, err) != 0)
        return (int)err->code;
    if (!pg_value_bool(reply, 0, 7))
        return err_set(err, ERRC_REFUSED,
                       "it has no role %s, which owns the tables on every shard (spec.owner): create it with "
                       "LOGIN and the password of spec.credentials.secret",
                       p->owner);
    if (others != NULL)
        return err_set(err, ERRC_REFUSED,
                       "objects of database %s belong or are granted to roles that the other shards will not "
                       "have: %.200s; give them to %s (ALTER ... OWNER TO) and revoke the grants",
                       p->target.dbname, others, p->owner);
    return 0;
}

static void on_look(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct kube_probe *p = data;
    struct err err = {0};
    if (conn != p->conn)
        return;
    if (reply->err != NULL)
        finish(p, reply->err);
    else if (reply_check(p, reply, &err) != 0)
        finish(p, &err);
    else {
        p->as_owner = true;
        try_in(p, 0);
    }
}

static void enter_look(struct kube_probe *p)
{
    struct buf sql = {0};
    struct err err = {0};
    query_make(p, &sql);
    sm_move(&p->sm, LOOK);
    if (pg_exec(p->conn, buf_text(&sql), on_look, p, &err) != 0)
        finish(p, &err);
    buf_free(&sql);
}

/* ---- connecting ---- */

/* An answer of the server that trying again does not change. */
static bool is_final(const struct err *err)
{
    return err->code == ERRC_AUTH || err->code == ERRC_TLS ||
           (err->code == ERRC_SQL && strncmp(err->sqlstate, "57P", 3) != 0 &&
            strncmp(err->sqlstate, "53", 2) != 0);
}

static void refused(struct kube_probe *p, const struct err *why)
{
    struct err err = *why;
    if (err_is_sql(why, "3D000"))
        (void)err_set(&err, ERRC_REFUSED,
                      "it has no database %s: the ShardedDatabase is to be called as the database with the "
                      "rows",
                      p->target.dbname);
    else if (p->as_owner)
        (void)err_wrap(&err, "as the application's role %s, with the password of spec.credentials.secret",
                       p->owner);
    else if (err.code == ERRC_AUTH)
        (void)err_wrap(&err, "as %s, with the password of the Secret that its annotation names",
                       p->target.user);
    finish(p, &err);
}

static void on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct kube_probe *p = data;
    if (conn != p->conn)
        return;
    if (err == NULL && p->as_owner)
        finish(p, NULL);
    else if (err == NULL)
        enter_look(p);
    else if (is_final(err) || loop_now(p->loop) >= p->deadline_ns)
        refused(p, err);
    else {
        if (p->progress != NULL)
            p->progress(err->message, p->data);
        try_in(p, RETRY_NS);
    }
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct kube_probe *p = data;
    if (conn == p->conn)
        finish(p, err);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    static const struct pg_conn_events events = {.connected = on_connected, .lost = on_lost};
    struct kube_probe *p = data;
    struct pg_target target = p->target;
    struct err err = {0};
    (void)timer;
    if (p->as_owner) {
        target.user = p->owner;
        target.password = p->owner_password;
    }
    sm_move(&p->sm, CONNECT);
    p->conn = pg_conn_new(p->loop, &target, &events, p);
    if (pg_conn_connect(p->conn, &err) != 0)
        finish(p, &err);
}

void kube_probe_start(struct kube_probe *p)
{
    sm_init(&p->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(p->loop, &p->timer, on_timer, p);
    err_clear(&p->err);
    p->as_owner = false;
    p->conn = NULL;
    try_in(p, 0);
}

void kube_probe_cancel(struct kube_probe *p)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    int now = sm_now(&p->sm);
    if (now == WAIT || now == CONNECT || now == LOOK)
        finish(p, &canceled);
}
