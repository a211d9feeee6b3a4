/*
 * exposition: GET /metrics, the text format 0.0.4, over everything that is known.
 *
 * A scrape opens no connection (M3): it puts together texts that were rendered when their rows arrived. The
 * putting together is done in slices of at most some milliseconds per turn (M4), and scrapes that come close
 * together share one result. Values stop three periods after their last success; shardherd_instance_up, pg_up
 * and the poll timestamps stay.
 */
#ifndef METRICS_EXPOSITION_H
#define METRICS_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/http_server.h"
#include "loop/loop.h"
#include "metrics/poller.h"

struct exposition;

/* What only the manager knows. Texts and arrays belong to the manager and live until the callback's next run.
 */
struct exposition_operation {
    const char *kind;   /* "move", "split" */
    const char *status; /* "running", "succeeded", "failed" */
    uint64_t count;
};
struct exposition_decision {
    const char *database;
    const char *rule; /* "R7" */
    uint64_t count;   /* how often it was decided so far */
};
struct exposition_database {
    const char *name;
    uint64_t epoch; /* of its routing table, 0 = none */
    unsigned shards;
    unsigned guard_findings; /* of its shards, at the last look at them */
};
/* A move that runs. */
struct exposition_move {
    const char *op, *database, *shard, *target, *state;
    double progress;          /* 0 to 1 */
    double eta_seconds;       /* of the copy; NAN = not known */
    double lag_seconds;       /* the last marker's round trip; NAN = none was made */
    double commit_seconds;    /* on the source; NAN = not known */
    double standby_lag;       /* seconds, of the source's standby that is furthest behind */
    double throttled_seconds; /* so far */
    uint64_t rows, bytes;     /* copied */
    uint64_t total_rows, total_bytes;
    uint64_t tables, tables_copied;
    uint64_t rate, throttle_rate; /* bytes per second; 0 = nothing is copied, it is not throttled */
    uint64_t retained_wal;        /* bytes */
    bool held;                    /* it waits for a person */
    uint64_t compared_rows;       /* of the target with the source's old ones */
};
struct exposition_failovers { /* that ended, of one kind and database */
    const char *database;
    const char *kind; /* "failover", "switchover" */
    uint64_t done, undone;
    const struct hist *blocked; /* how long nobody accepted writes */
};
struct exposition_unwritable { /* a shard that accepts no write just now */
    const char *database;
    const char *shard;
    double seconds;
};
struct exposition_numbers {
    const struct exposition_operation *operations; /* counts now, by kind and status */
    size_t operation_count;
    const struct exposition_decision *decisions;
    size_t decision_count;
    const struct exposition_database *databases;
    size_t database_count;
    const struct exposition_move *moves;
    size_t move_count;
    const struct exposition_failovers *failovers;
    size_t failover_count;
    const struct exposition_unwritable *unwritable;
    size_t unwritable_count;
    const char *store_kind; /* "sqlite"; NULL = say nothing of the store */
    bool store_up;
    uint64_t store_writes;
    uint64_t store_errors;
    bool leader;
    uint64_t term;
    uint64_t config_errors; /* reloads refused */
};

struct exposition_options {
    const char *version; /* of the program */
    const char *commit;
    void (*numbers)(struct exposition_numbers *ret, void *data); /* *ret is zeroed; may be NULL */
    void *data;
};

/* pollers may be NULL. It must be closed before the pollers are. Copies options. */
struct exposition *exposition_new(struct loop *loop, struct pollers *pollers,
                                  const struct exposition_options *options);

/*
 * Answers waiting scrapes with 503, lets those being written end, waits for its worker job; `closed` (may be
 * NULL) runs last. Close the HTTP server first or at the same time.
 */
void exposition_close(struct exposition *exposition, void (*closed)(void *data), void *data);

/* An http_handler_cb: mount it at GET /metrics with the exposition as its data. */
void exposition_handle(struct http_exchange *ex, const struct http_request *request, void *exposition);

#endif
