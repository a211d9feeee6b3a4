/*
 * pg_impl: what the files of this folder share about a connection. Not for other folders.
 *
 * A connection carries a queue of items. An item is an extended query, a simple query, a COPY or a
 * replication stream; its `ops` know how to send it and how to read what comes back. Extended queries may be
 * in flight together (pipeline mode); every other item is exclusive: alone in flight.
 */
#ifndef PG_PG_IMPL_H
#define PG_PG_IMPL_H

#include <libpq-fe.h>
#include <uv.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/sm.h"
#include "loop/loop.h"
#include "loop/work.h"
#include "pg/pg_conn.h"

#define PG_WAITING_MAX         10000 /* requests waiting on one connection before ERRC_LIMIT */
#define PG_DEFAULT_CONNECT_NS  (5 * ENV_NS_PER_S)
#define PG_DEFAULT_REQUEST_NS  (30 * ENV_NS_PER_S)
#define PG_ITEMS_KEPT          2 /* finished items kept for re-use: 0.8 KB each; one ends while the next is sent */
#define PG_PATIENCE_MAX_NS     (50 * ENV_NS_PER_MS)
#define PG_STATEMENT_NAME_SIZE 80

/*
 * NEW --> RESOLVING --> PACED --> STEPPING <--> POLLING --> READY --> DOWN
 *
 * RESOLVING  waits for the resolver or the connect timer
 * PACED      waits for its place among those being set up (left out without a pacer)
 * STEPPING   waits for a worker that runs PQconnectStartParams or PQconnectPoll: SCRAM and the parsing of CA
 *            files take 5 to 300 ms of CPU inside one call, which must not be a turn of the loop
 * POLLING    waits for the socket or the connect timer
 * READY      waits for the socket, a deadline or a request
 * DOWN       failed or lost; waits for pg_conn_close()
 * CLOSING    waits for its own pending callbacks (`pending`), then the memory goes
 *
 * A failed address goes from STEPPING or POLLING to STEPPING with the next one.
 */
enum pg_state {
    PG_NEW,
    PG_RESOLVING,
    PG_PACED,
    PG_STEPPING,
    PG_POLLING,
    PG_READY,
    PG_DOWN,
    PG_CLOSING,
    PG_STATES
};

struct pg_item;

struct pg_item_ops {
    bool exclusive;
    /* Puts it on the wire (flushing is done by the caller); false = libpq refused, the connection is lost. */
    bool (*send)(struct pg_conn *conn, struct pg_item *item);
    /* Takes what has arrived, without ever blocking; true = complete. */
    bool (*read)(struct pg_conn *conn, struct pg_item *item);
    /* Told that everything handed to libpq has reached the kernel; may be NULL. */
    void (*drained)(struct pg_conn *conn, struct pg_item *item);
    /* Exactly once, when the item has left the queue. err is the connection's error, or NULL. */
    void (*finish)(struct pg_conn *conn, struct pg_item *item, const struct err *err);
};

/* A statement prepared on this connection under a name of the caller. */
struct pg_statement {
    struct list node;
    const char *name;
    const char *sql;
    bool constant;                            /* both are the caller's */
    char server_name[PG_STATEMENT_NAME_SIZE]; /* name, with a suffix after the server forgot or refused it */
    unsigned generation;
    enum { STATEMENT_ABSENT, STATEMENT_SENT, STATEMENT_READY } state;
};

struct pg_item {
    struct list node;
    const struct pg_item_ops *ops;
    void *owner;          /* COPY and streams: their own object */
    uint64_t timeout_ns;  /* 0 = none */
    uint64_t deadline_ns; /* set when sent; 0 = none */
    uint64_t patience_ns; /* 0 = the answer is wanted at once */
    bool hasty;           /* in flight and wanted at once */

    /* queries only */
    const struct pg_request *request; /* during send() */
    struct pg_request copy;           /* a queued request; its texts are in `texts` */
    char *texts;
    pg_reply_cb cb;
    void *data;
    struct pg_statement *statement;
    bool preparing; /* the results of its Prepare come first */
    bool gap;       /* the last PQgetResult() returned NULL */
    bool joined;    /* the sync comes after a later item */
    struct err err;
    int result_count;
    int result_capacity;
    PGresult **results; /* `few` until there are more */
    PGresult *few[2];
};

struct pg_cancel;

/* A place among the connections being set up. */
struct pg_pace {
    struct pg_pacer *pacer;
    struct list node; /* in the pacer's queue while waiting */
    bool held;
    struct loop_timer timer;
    void (*go)(void *data);
    void *data;
};

struct pg_conn {
    struct loop *loop;
    struct sm sm;
    struct pg_conn_events events;
    void *data;
    char *name;

    /* target */
    char *host, *port, *dbname, *user, *password, *sslmode, *sslrootcert, *sslcert, *sslkey;
    char *application_name, *options;
    bool replication;
    uint64_t connect_timeout_ns;

    /* connecting */
    struct pg_pace pace;
    struct resolve *resolve;
    struct resolve_result addresses;
    int address;
    struct work work;
    PostgresPollingStatusType step; /* of the last PQconnectPoll() */
    struct loop_timer connect_timer;
    bool expired;       /* the connect timer fired while a worker or the resolver had the connection */
    bool connect_asked; /* `connected` is owed */

    /* the socket */
    PGconn *pg;
    uv_poll_t *poll; /* allocated: a new one for each new fd, freed by its close callback */
    int fd;
    int mask;         /* what is polled */
    bool want_write;  /* PQflush() returned 1 */
    bool read_paused; /* back-pressure of a COPY */
    struct err fatal; /* the last FATAL the server sent: why it is about to end the connection */
    unsigned notices; /* NOTICE and NOTIFY messages seen */
    bool got_input;   /* during a delivery: the socket was readable */
    bool corked;
    struct pg_item *unsynced; /* the last one sent, whose sync was not; NULL = none. Only while corked. */
    bool numb;                /* the kernel wakes us for many bytes only */
    unsigned hasty;           /* items in flight that are wanted at once */
    bool holding;             /* answers may lie in the kernel's buffer until patience_timer fires */
    uint64_t patience_ns;     /* of the last hold: it grows while the server is not done */
    struct loop_timer patience_timer;

    /* requests */
    struct list flight;
    struct list queue;
    struct list spare;
    int spare_count;
    int waiting;
    bool pipeline;
    bool dispatching;
    struct list statements;
    struct list *statement_last; /* the one that was used last, NULL = none was */
    struct loop_timer deadline_timer;
    struct loop_task fault_task; /* reports a failure found inside a call of the user */

    struct pg_cancel *cancel;

    /* closing */
    int pending; /* callbacks that must come before the memory goes */
    struct loop_task free_task;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- pg_conn.c ---- */

/* Ends an established connection: all items finish with err, then `lost`. Not from inside a user's call. */
void pg_conn_fail(struct pg_conn *conn, const struct err *err);
/* The same at the end of this turn, with what libpq knows as the reason. */
void pg_conn_fail_later(struct pg_conn *conn);
/* One more or one less callback that must come before the memory goes. */
void pg_conn_hold(struct pg_conn *conn);
void pg_conn_unhold(struct pg_conn *conn);
/* Stops the poll handle, then ends the PGconn (P5). */
void pg_conn_drop(struct pg_conn *conn);

/* Before pg_conn_connect(): tries these in turn instead of asking the resolver. */
void pg_conn_use_addresses(struct pg_conn *conn, const struct resolve_result *addresses);

/* ---- pg_io.c ---- */

/* (Re)starts polling the socket of conn->pg; `events` as for uv_poll_start (P3). 0 or a libuv error. */
int pg_io_poll(struct pg_conn *conn, int events);
/* Stops it; legal at any time. */
void pg_io_pause(struct pg_conn *conn);
/* pg_query.c: sends the sync of the joined requests, if one is owed; false = libpq refused. */
bool pg_query_sync(struct pg_conn *conn);
/* Sends what libpq has buffered and polls for what is needed. */
void pg_io_flush(struct pg_conn *conn);
/* Polls for what want_write and read_paused say. */
void pg_io_update(struct pg_conn *conn);
/* From how many unread bytes on the kernel says that there is something to read; the end of the connection
 * it says at once. */
void pg_io_wake_at(const struct pg_conn *conn, int bytes);
/* The kernel has bytes that libpq has not. */
bool pg_io_unread(const struct pg_conn *conn);
/* Delivers what libpq has read already. */
void pg_io_deliver(struct pg_conn *conn);
/* Delivers NOTIFY messages only. */
void pg_io_notifies(struct pg_conn *conn);
/* Something happened on the established connection. */
void pg_io_ready(struct pg_conn *conn, int status, int events);
/* Part of pg_conn.c: something happened on the socket while connecting. */
void pg_conn_step(struct pg_conn *conn);

/* ---- pg_patience.c ---- */

void pg_patience_fired(struct loop_timer *timer, void *data);
/* Begins or ends to hold answers back, as what is in flight allows. On an established connection. */
void pg_patience_update(struct pg_conn *conn);
/* Takes what was held back. Like every delivery it may end the connection. */
void pg_patience_end(struct pg_conn *conn);
/* The socket goes. */
void pg_patience_stop(struct pg_conn *conn);

/* ---- pg_queue.c ---- */

/* Sends at once if nothing stands in the way, else queues. */
void pg_queue_add(struct pg_conn *conn, struct pg_item *item);
bool pg_queue_may_send(const struct pg_conn *conn, const struct pg_item_ops *ops);
/* Sends an item that may be sent. */
void pg_queue_send(struct pg_conn *conn, struct pg_item *item);
/* Sends what has become possible. */
void pg_queue_dispatch(struct pg_conn *conn);
/* Takes the item out and finishes it. */
void pg_queue_finish(struct pg_conn *conn, struct pg_item *item, const struct err *err);
/* Finishes all of them. */
void pg_queue_fail(struct pg_conn *conn, const struct err *err);
void pg_queue_deadline_fired(struct loop_timer *timer, void *data);
/* Arms the timer for an item's deadline_ns. */
void pg_queue_deadline(struct pg_conn *conn, uint64_t deadline_ns);
/* Checks that a request may be added now. */
int pg_queue_check(const struct pg_conn *conn, struct err *err);

/* ---- pg_query.c ---- */

void pg_query_forget(struct pg_conn *conn); /* frees statements and spare items */

/* ---- pg_pacer.c ---- */

/* pacer may be NULL; go(data) is called by pg_pace_release() of another one. */
void pg_pace_init(struct pg_pace *pace, struct pg_pacer *pacer, struct loop *loop, void (*go)(void *data),
                  void *data);
/* True = go on now; false = go() will be called. */
bool pg_pace_take(struct pg_pace *pace);
/* Gives the place back, or leaves the queue. Idempotent. */
void pg_pace_release(struct pg_pace *pace);

/* ---- pg_cancel.c ---- */

/* Ends a running cancel; conn->cancel becomes NULL and holds go once it is over. */
void pg_cancel_stop(struct pg_conn *conn);

/* ---- pg_copy.c ---- */

struct pg_copy;
/* pg_copy_put() without its limit, also before `ready`. */
void pg_copy_queue(struct pg_copy *copy, const void *bytes, size_t length);
size_t pg_copy_queued(const struct pg_copy *copy);

/* ---- pg_error.c ---- */

/* Why connecting failed, from PQerrorMessage() with PQERRORS_VERBOSE. */
int pg_error_connect(const struct pg_conn *conn, struct err *err);
/* The first error of a result, as ERRC_SQL. */
int pg_error_result(const PGresult *result, struct err *err);
/* ERRC_CLOSED with the reason of a lost connection. */
int pg_error_lost(const struct pg_conn *conn, struct err *err);
/* Copies text in one line: line ends become "; ", the last one goes. */
void pg_error_one_line(const char *text, char *out, size_t size);

#endif
