/*
 * pg_copy: COPY out, COPY in, and the pump between two connections with back-pressure.
 */
#ifndef PG_PG_COPY_H
#define PG_PG_COPY_H

#include "pg/pg_conn.h"

struct pg_copy;

/*
 * COPY ... TO STDOUT on conn. `rows` gets each CopyData message as it comes (for text format: one line with
 * its '\n'), valid during the call; `done` comes exactly once. Other requests on conn wait behind it.
 */
typedef void (*pg_copy_rows_cb)(const char *bytes, size_t length, void *data);
typedef void (*pg_copy_done_cb)(const struct err *err, uint64_t rows, uint64_t bytes, void *data);
int pg_copy_out(struct pg_conn *conn, const char *sql, pg_copy_rows_cb rows, pg_copy_done_cb done, void *data,
                struct pg_copy **ret, struct err *err);

/*
 * COPY ... FROM STDIN on conn. `ready` is called when bytes can be put: at the start and whenever the queue
 * ran empty. pg_copy_put() queues; it refuses with ERRC_LIMIT above 1 MiB queued: wait for the next `ready`.
 */
typedef void (*pg_copy_ready_cb)(struct pg_copy *copy, void *data);
int pg_copy_in(struct pg_conn *conn, const char *sql, pg_copy_ready_cb ready, pg_copy_done_cb done,
               void *data, struct pg_copy **ret, struct err *err);
int pg_copy_put(struct pg_copy *copy, const void *bytes, size_t length, struct err *err);
/* NULL ends the data; a reason makes the server fail the COPY with that text. */
void pg_copy_end(struct pg_copy *copy, const char *reason);

/* COPY out: no more rows until resumed; the server is slowed down by TCP. Idempotent. */
void pg_copy_pause(struct pg_copy *copy);
void pg_copy_resume(struct pg_copy *copy);

/*
 * Ends it as soon as the server lets us; `done` follows, with an error unless the COPY was faster. A COPY
 * that waits behind other requests never starts and completes with ERRC_CANCELED.
 */
void pg_copy_cancel(struct pg_copy *copy);

/*
 * The connection is ended with ERRC_TIMEOUT when the server lets us wait for this long without any progress
 * (times in which it waits for us do not count). Default 300 s; 0 = for ever.
 */
void pg_copy_set_stall_timeout(struct pg_copy *copy, uint64_t timeout_ns);
/* The connection is ended with ERRC_TIMEOUT if the COPY is not over after this time, whatever it does. */
void pg_copy_set_deadline(struct pg_copy *copy, uint64_t timeout_ns);

/*
 * From one connection to another; reading stops while the writer is behind (1 MiB, and one row) or the rate
 * is used up. The first error of either side ends both; `rows` of `done` is the server's count. A canceled
 * or failed COPY that the server does not end within 30 s costs its connection.
 */
struct pg_pump_options {
    struct pg_conn *source;
    const char *source_sql; /* COPY ... TO STDOUT (FORMAT binary) */
    struct pg_conn *target;
    const char *target_sql; /* COPY ... FROM STDIN (FORMAT binary) */
    uint64_t bytes_per_second;
    void (*progress)(uint64_t rows, uint64_t bytes, void *data); /* at most every 100 ms; may be NULL */
};
struct pg_pump;
int pg_pump_start(const struct pg_pump_options *options, pg_copy_done_cb done, void *data,
                  struct pg_pump **ret, struct err *err);
void pg_pump_set_rate(struct pg_pump *pump, uint64_t bytes_per_second);
/* done follows with ERRC_CANCELED once both connections are usable again or lost. */
void pg_pump_cancel(struct pg_pump *pump);

#endif
