/*
 * pg_stream: logical replication over a walsender connection (pg_target.replication = true), and the pure
 * decoder of pgoutput messages (protocol version 1, PostgreSQL 15 to 18).
 */
#ifndef PG_PG_STREAM_H
#define PG_PG_STREAM_H

#include "pg/pg_conn.h"

/* ---- pgoutput, no I/O ---- */

enum pgoutput_kind {
    PGOUTPUT_BEGIN,
    PGOUTPUT_COMMIT,
    PGOUTPUT_ORIGIN,
    PGOUTPUT_RELATION,
    PGOUTPUT_TYPE,
    PGOUTPUT_INSERT,
    PGOUTPUT_UPDATE,
    PGOUTPUT_DELETE,
    PGOUTPUT_TRUNCATE,
    PGOUTPUT_MESSAGE
};

struct pgoutput_column { /* of a relation message */
    char name[64];
    uint32_t type_oid;
    bool key;
};

struct pgoutput_relation {
    uint32_t oid;
    char schema[64];
    char name[64];
    char identity; /* 'd', 'n', 'f', 'i' */
    int column_count;
    struct pgoutput_column *columns;
};

struct pgoutput_value {
    char kind;        /* 'n' NULL, 'u' unchanged TOAST, 't' text, 'b' binary */
    const char *data; /* not NUL-terminated; points into the message */
    uint32_t length;
};

#define PGOUTPUT_COLUMNS_MAX 1664
struct pgoutput_tuple {
    int count; /* 0 = absent */
    struct pgoutput_value *values;
};

struct pgoutput_message {
    enum pgoutput_kind kind;
    uint64_t lsn;                             /* BEGIN: final LSN; COMMIT: commit LSN */
    uint64_t end_lsn;                         /* COMMIT */
    uint32_t xid;                             /* BEGIN */
    const struct pgoutput_relation *relation; /* RELATION, INSERT, UPDATE, DELETE; owned by the decoder */
    struct pgoutput_tuple old_tuple;          /* UPDATE and DELETE, if sent ('K' or 'O') */
    struct pgoutput_tuple new_tuple;          /* INSERT, UPDATE */
};

struct pgoutput; /* the decoder: remembers relations */
struct pgoutput *pgoutput_new(void);
void pgoutput_free(struct pgoutput *decoder);
/* Decodes one message; ERRC_PROTOCOL on anything malformed (never reads past length). Valid until the next
 * call. */
int pgoutput_decode(struct pgoutput *decoder, const void *bytes, size_t length, struct pgoutput_message *ret,
                    struct err *err);

/* ---- the stream ---- */

struct pg_stream;
struct pg_stream_events {
    /* One pgoutput payload with its WAL position. */
    void (*message)(struct pg_stream *s, uint64_t wal_start, const char *bytes, size_t length, void *data);
    /* Ended: err NULL after pg_stream_stop(), else why. Exactly once. */
    void (*ended)(struct pg_stream *s, const struct err *err, void *data);
};

/*
 * START_REPLICATION SLOT slot LOGICAL start (proto_version '1', publication_names ...). Answers keepalives at
 * once and reports the confirmed position every second. `publications` as PostgreSQL wants them: identifiers
 * with commas between, double-quoted where they are not plain lower case. A server that is silent for 30 s
 * although asked costs the connection (ERRC_TIMEOUT).
 */
int pg_stream_start(struct pg_conn *conn, const char *slot, uint64_t start_lsn, const char *publications,
                    const struct pg_stream_events *events, void *data, struct pg_stream **ret,
                    struct err *err);
/*
 * Everything up to lsn (end_lsn of a COMMIT) may be forgotten by the server; sent with the next status. When
 * all transactions delivered are confirmed, WAL without changes for us is confirmed without asking. Whoever
 * confirms nothing makes an orderly shutdown of the server wait for its wal_sender_timeout.
 */
void pg_stream_confirm(struct pg_stream *s, uint64_t lsn);
/* The end of the server's WAL as far as it told us: with nothing left to confirm, this may be confirmed. */
uint64_t pg_stream_received(const struct pg_stream *s);
/* Sends CopyDone; ended follows. The connection is usable or lost after it. */
void pg_stream_stop(struct pg_stream *s);

#endif
