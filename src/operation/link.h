/*
 * link: a connection of an operation to one server that is made when it is needed and made again after it was
 * lost. Statements wait while it connects and fail together when it cannot.
 */
#ifndef OPERATION_LINK_H
#define OPERATION_LINK_H

#include "base/list.h"
#include "fleet/fleet.h"
#include "pg/pg_conn.h"

typedef void (*link_reply_cb)(const struct pg_reply *reply, void *data);

struct link {
    struct loop *loop;
    struct instance_access access;
    char application[64]; /* application_name: how a later manager finds and ends our old backends */
    struct pg_conn *conn; /* NULL while not connected */
    struct list waiting;  /* statements that wait for the connection */
    struct list sent;
    struct err lost;            /* why the connection went, for the log */
    bool replication;           /* set after link_init(): a walsender of the database */
    uint64_t session;           /* connections that were made so far: the number of the present one */
    int *open;                  /* counts connections not yet closed, of all links of an operation */
    void (*closed)(void *data); /* called after *open fell */
    void (*notified)(const char *channel, const char *payload, void *data); /* NOTIFY; may be NULL */
    void *data;
};

/* access is copied. The struct must stay until closed was called for every connection. */
void link_init(struct link *l, struct loop *loop, const struct instance_access *access,
               const char *application, int *open, void (*closed)(void *data), void *data);

/*
 * Runs SQL (simple protocol, may be several statements) with settings of our own: synchronous_commit = on,
 * search_path = pg_catalog, read committed, origin role, no row security. The callback comes exactly once.
 * timeout_ns is the client's deadline: at its end the connection is dropped and the outcome is unknown.
 */
void link_exec(struct link *l, const char *sql, uint64_t timeout_ns, link_reply_cb cb, void *data);

bool link_is_up(const struct link *l);

/* The number of the present session, 0 if there is none: for link_exec_in(). */
uint64_t link_session(const struct link *l);

/*
 * link_exec() for statements of a transaction that is open in that very session: with another session, or
 * none, nothing is sent and the callback gets ERRC_CLOSED. (link_exec() would make a new connection, where
 * COMMIT of nothing succeeds.)
 */
void link_exec_in(struct link *l, uint64_t session, const char *sql, uint64_t timeout_ns, link_reply_cb cb,
                  void *data);

/* Drops the connection (the server rolls back); statements complete with ERRC_CANCELED. Usable again. */
void link_drop(struct link *l);

/* link_drop(); from now on to another server. access is copied. */
void link_retarget(struct link *l, const struct instance_access *access);

/* link_drop() and forget the secrets. */
void link_fini(struct link *l);

#endif
