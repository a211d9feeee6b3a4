/*
 * pg_conn: one PostgreSQL connection on the loop, over libpq.
 *
 * Rules P1 to P15: the host is resolved by us and given as hostaddr (P1), each address has its own connect
 * timer (P2), the socket is read again after every PQconnectPoll (P3), no PQexec and friends (P6), results
 * only when !PQisBusy (P7), WRITABLE is polled only while PQflush returns 1 (P8), every query has its own
 * sync so that one error does not spoil the others (P9; but for those that ask to share one), a client-side
 * deadline stands behind every statement (P10, P14), notices never reach stderr (P15).
 *
 * Answers are taken in the turn in which they arrive, but for those that their requests call patient: a poll
 * of twenty queries is twenty small answers, and to be woken for each costs several times what reading them
 * does.
 *
 * Requests are answered in the order they were sent. Extended requests (those with `extended` set) that
 * stand in a row are pipelined; a simple one waits for those before it. When the connection fails, every
 * request still waiting completes with the connection's error, then on_closed runs (if it was connected).
 *
 * The object is owned by its maker and ends with pg_conn_close(), after which no callback but `closed` runs.
 */
#ifndef PG_PG_CONN_H
#define PG_PG_CONN_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct pg_conn;
struct pg_pacer;

struct pg_target {
    const char *host; /* name, address, or a directory for a Unix socket (starts with '/') */
    int port;
    const char *dbname;
    const char *user;
    const char *password;    /* NULL = none; kept in memory only, wiped on close */
    const char *sslmode;     /* NULL = "prefer" */
    const char *sslrootcert; /* file or NULL */
    /* Files of a client certificate and its key, read anew for each connection; NULL = none. Both may name
     * one file that holds both. */
    const char *sslcert, *sslkey;
    const char *application_name;
    const char *options;         /* e.g. "-c statement_timeout=5000"; NULL = none */
    bool replication;            /* logical walsender ("replication=database") */
    uint64_t connect_timeout_ns; /* per address; 0 = 5 s */
    struct pg_pacer *pacer;      /* NULL = connect at once; must outlive the connection */
};

/*
 * Lets only so many connections of a loop be set up at the same time (P12): when a thousand return at once,
 * their SCRAM and TLS arithmetic must not take the workers and the processors from everything else. The
 * others wait, in order, without a timeout. An address that does not answer keeps its place for 250 ms only.
 */
struct pg_pacer *pg_pacer_new(struct loop *loop, int at_once);
void pg_pacer_free(struct pg_pacer *pacer); /* no connection uses it any more; NULL is fine */

struct pg_conn_events {
    /* After pg_conn_connect(): err NULL = ready for queries. Exactly once. */
    void (*connected)(struct pg_conn *conn, const struct err *err, void *data);
    /* The established connection is gone (server killed, deadline passed, protocol error). May be NULL. */
    void (*lost)(struct pg_conn *conn, const struct err *err, void *data);
    /* NOTIFY from another session. May be NULL. */
    void (*notified)(struct pg_conn *conn, const char *channel, const char *payload, void *data);
};

/* Copies everything in target. */
struct pg_conn *pg_conn_new(struct loop *loop, const struct pg_target *target,
                            const struct pg_conn_events *events, void *data);
int pg_conn_connect(struct pg_conn *conn, struct err *err);

/* Completes what waits with ERRC_CANCELED, closes; `closed` (may be NULL) runs right before the memory goes.
 */
void pg_conn_close(struct pg_conn *conn, void (*closed)(void *data), void *data);

bool pg_conn_ready(const struct pg_conn *conn);
int pg_conn_server_version(const struct pg_conn *conn); /* 150018; 0 before it is connected */
int pg_conn_backend_pid(const struct pg_conn *conn);
const char *pg_conn_parameter(const struct pg_conn *conn, const char *name); /* PQparameterStatus or NULL */
const char *pg_conn_name(const struct pg_conn *conn); /* "host:port/dbname" for messages */
void *pg_conn_data(const struct pg_conn *conn);
struct loop *pg_conn_loop(const struct pg_conn *conn);

/* ---- queries ---- */

struct pg_request {
    const char *sql;      /* copied */
    bool extended;        /* one statement, pipelined; false = simple protocol, may be many statements */
    const char *prepared; /* extended only: prepare once per connection under this name, then execute */
    bool constant;        /* sql and prepared stay as they are while the connection lives: no copy is kept */
    /* Extended and between pg_conn_cork() and pg_conn_uncork() only: those that stand in a row share one
     * sync, so they are one transaction, written at once by either side. When one fails, those behind it do
     * not run and fail with ERRC_CANCELED. */
    bool joined;
    int param_count;
    const char *const *params; /* text; copied */
    uint64_t timeout_ns;       /* client-side, from the moment it is sent (a request that waits for its turn
                                  has not begun): at its end the connection is ended (P10); 0 = 30 s */
    /* 0 = the answer is taken as soon as it is there. Else it may lie unread for up to twice as long (100 ms
     * if the server is slower than that), together with others, while none that is wanted at once is in
     * flight before or behind it. The end of a connection is noticed at once all the same. Over TCP only. */
    uint64_t patience_ns;
};

/* Results belong to the layer and are cleared after the callback. Simple requests may have several. */
struct pg_reply {
    const struct err *err; /* NULL = success; ERRC_SQL with sqlstate for the first failed statement */
    int count;
    PGresult *const *results;
};

typedef void (*pg_reply_cb)(struct pg_conn *conn, const struct pg_reply *reply, void *data);

/*
 * ERRC_CLOSED when the connection is not ready, ERRC_LIMIT when 10,000 requests wait, ERRC_INVALID for what
 * can never work (a `prepared` name used before with other SQL). A request fails with ERRC_CLOSED when the
 * connection is lost while it runs and with ERRC_TIMEOUT after its deadline: whether it took effect is then
 * unknown. A failed PREPARE fails its request only and is tried again by the next.
 */
int pg_send(struct pg_conn *conn, const struct pg_request *request, pg_reply_cb cb, void *data,
            struct err *err);

/*
 * Requests sent between these two leave together: one packet and one wake-up of the server instead of one
 * each. Uncork in the same turn. They do nothing on a connection that is not ready.
 */
void pg_conn_cork(struct pg_conn *conn);
void pg_conn_uncork(struct pg_conn *conn);

/* pg_send() of plain SQL text by the simple protocol. */
int pg_exec(struct pg_conn *conn, const char *sql, pg_reply_cb cb, void *data, struct err *err);

/* Requests sent and not yet answered. */
int pg_conn_waiting(const struct pg_conn *conn);

/*
 * Asks the server to cancel what runs, without blocking: from libpq 17 on by its cancel request, before that
 * by pg_cancel_backend() on a short second connection (PQcancel() can block its thread for ever). The running
 * request then completes with SQLSTATE 57014, or normally if it was faster; requests not yet sent wait until
 * the cancel is over, so that it cannot hit them. Returns at once; a cancel that fails (after at most 5 s) is
 * covered by the request's own deadline.
 */
void pg_conn_cancel(struct pg_conn *conn);

/* ---- reading results ---- */

/* Last result of a reply, the value at (row, column) as text, NULL for SQL NULL or out of range. */
const char *pg_value(const struct pg_reply *reply, int row, int column);
int pg_rows(const struct pg_reply *reply); /* of the last result */
bool pg_value_int64(const struct pg_reply *reply, int row, int column, int64_t *ret);
bool pg_value_bool(const struct pg_reply *reply, int row, int column);

/* ---- quoting, for SQL that cannot take parameters ---- */

struct buf;
/* Appends "ident" with quotes doubled; "a.b" must be split by the caller. Needs no connection; UTF-8. */
void pg_quote_ident(struct buf *out, const char *name);
/* Appends 'text' with quotes doubled and an E'' prefix when a backslash occurs. */
void pg_quote_literal(struct buf *out, const char *text);

#endif
