/*
 * load: the load driver and checker.
 *
 * Three jobs on a given loop: LOAD_INIT creates the rows, LOAD_RUN drives load and then checks, LOAD_CHECK
 * only compares a ledger with the fleet. Clients connect by the routing table of a database and follow it;
 * every acknowledged write goes to a ledger file before its client goes on; at the end every row of every
 * shard is compared with the ledger.
 *
 * What makes a lost write visible and nothing else look like one:
 * - Client i owns the customers whose number mod clients is i and does one operation at a time, so that the
 *   state of each row follows from one sequence.
 * - Every write is idempotent (updates name the version they replace, orders are numbered), so that an
 *   operation is tried until it is acknowledged, also when an earlier try may still be under way.
 * - A write without an answer, or one that touched no row, is settled by a touching UPDATE on the same row:
 *   an UPDATE passes the guards only on the owner, so its answer cannot be a stale one.
 */
#ifndef LOAD_LOAD_H
#define LOAD_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "fleet/hash.h"
#include "fleet/range.h"
#include "load/load_findings.h"
#include "load/load_stats.h"
#include "loop/loop.h"

enum load_mode { LOAD_INIT, LOAD_RUN, LOAD_CHECK };

/* op, name, default weight */
#define LOAD_OP_MAP(X)                                                                                       \
    X(READ, "read", 40)                                                                                      \
    X(INSERT, "insert", 15)                                                                                  \
    X(UPDATE, "update", 25)                                                                                  \
    X(DELETE, "delete", 10)                                                                                  \
    X(TX, "tx", 10)

enum load_op {
#define X(name, text, weight) LOAD_OP_##name,
    LOAD_OP_MAP(X)
#undef X
        LOAD_OP_MAX
};

#define LOAD_SKEWS_MAX   16
#define LOAD_WATCHES_MAX 8

struct load_skew_change {
    uint64_t after_ns; /* from the start of the load */
    const char *skew;
};

/* The texts must live until the run is done. */
struct load_options {
    enum load_mode mode;
    const char *database;
    const char *routing_url;  /* "http://127.0.0.1:8080": the manager's public API; or */
    const char *routing_file; /* a routing document, read again every 200 ms and when SHR01 is seen */
    const char *dbname;       /* NULL = database */
    const char *user;         /* NULL = "app" */
    const char *password;     /* NULL = from passfile, or none */
    const char *passfile;     /* libpq's format; NULL = none */
    const char *sslmode;
    const char *sslrootcert;
    const char *sslcert, *sslkey; /* files of a client certificate and its key, or NULL */
    enum key_type key_type;
    uint32_t customers;
    uint32_t orders_per_customer;
    bool create_tables; /* LOAD_INIT */
    unsigned clients;
    double rate;               /* operations/s over all clients, 0 = closed loop */
    uint64_t duration_ns;      /* 0 = until load_stop() */
    unsigned mix[LOAD_OP_MAX]; /* weights */
    const char *skew;          /* load_skew.h; NULL = uniform */
    struct load_skew_change later[LOAD_SKEWS_MAX];
    unsigned later_count;
    struct range watch[LOAD_WATCHES_MAX];
    unsigned watch_count;
    bool strict; /* SET shardherd.epoch on every connection */
    const char *ledger_path;
    bool fresh_ledger;        /* LOAD_RUN: begin a new one even if the file exists */
    const char *report_path;  /* every finding; NULL = none */
    const char *control_path; /* polled for "skew ...", "rate N", "watch LO..HI", "stop"; NULL = none */
    bool no_check;            /* LOAD_RUN: end without the check */
    uint64_t check_wait_ns;   /* check again while only misplaced or duplicated rows are left, this long */
    uint64_t op_timeout_ns;   /* an answer later than this ends the connection */
    uint64_t give_up_ns;      /* a row that the owner does not have, or an operation after load_stop() */
    uint64_t stall_ns;        /* the run ends when nothing was acknowledged for so long */
    uint64_t seed;            /* 0 = random */
};

/* Sets every default; the caller fills in database and where to find the table. */
void load_options_init(struct load_options *options);

enum load_phase {
    LOAD_STARTING,
    LOAD_FILLING,
    LOAD_LOADING,
    LOAD_DRAINING,
    LOAD_CHECKING,
    LOAD_ENDING,
    LOAD_ENDED
};
const char *load_phase_name(enum load_phase phase); /* "loading" */

struct load_result {
    enum load_mode mode;
    uint64_t duration_ns; /* of the load, or of the filling */
    struct load_stats stats;
    struct range watched[LOAD_WATCHES_MAX]; /* the ranges, and their gaps */
    struct load_gap watch[LOAD_WATCHES_MAX];
    unsigned watch_count;
    uint64_t rows_made; /* LOAD_INIT */
    bool checked;       /* counts and rows are of a complete check */
    uint64_t rows_checked;
    uint64_t check_ns;
    uint64_t counts[FINDING_MAX];
    uint64_t doubts_applied, doubts_open; /* left open by the load, told by the check */
    uint64_t epoch;                       /* of the routing table at the end */
};

struct load;
/* err NULL = the job was done; what the check found is in the result. Both valid during the call. */
typedef void (*load_done_cb)(const struct err *err, const struct load_result *result, void *data);

/* ERRC_INVALID for options that contradict each other. */
int load_run(struct loop *loop, const struct load_options *options, load_done_cb done, void *data,
             struct load **ret, struct err *err);

/* Ends the load in an orderly way and goes on to the check; a second call cancels everything. */
void load_stop(struct load *load);

/* While it loads. ERRC_INVALID as load_skew_parse(), or for a shard that is not in the table. */
int load_set_skew(struct load *load, const char *skew, struct err *err);
/* The next of options.later, at once; ERRC_NOT_FOUND after the last. */
int load_next_skew(struct load *load, struct err *err);
void load_set_rate(struct load *load, double rate);
/* The same, and what is due and not begun yet is forgotten: after a rate that proved too high. */
void load_reset_rate(struct load *load, double rate);
/* Measures the longest write gap of this range too, from the writes that begin now. A range that is watched
 * already is not watched twice. ERRC_LIMIT when there are LOAD_WATCHES_MAX. */
int load_watch(struct load *load, const struct range *range, struct err *err);

/* For a live display: what stands now. */
enum load_phase load_phase(const struct load *load);
const struct load_stats *load_stats(const struct load *load);
struct load_findings *load_findings(struct load *load);
uint64_t load_elapsed(const struct load *load);       /* nanoseconds of load so far */
uint64_t load_progress_rows(const struct load *load); /* made or checked so far */
const char *load_skew_text(const struct load *load);
uint64_t load_epoch(const struct load *load);
struct load_gap *load_write_gap(struct load *load);
/* Of a range that is watched; NULL = it is not. */
struct load_gap *load_watched_gap(struct load *load, const struct range *range);

/* ---- output ---- */

/* The SQL of the two tables. */
void load_print_schema(enum key_type type, struct buf *out);
void load_print_json(const struct load_result *result, const struct load_options *options, struct buf *out);
void load_print_summary(const struct load_result *result, const struct load_options *options,
                        struct buf *out);

/*
 * The command line: argv[0] is "load". Its exit code:
 * 0 done and nothing wrong, 1 the job could not be done, 2 wrong usage or input, 10 the check found a
 * difference, 130 ended by a signal before the check was complete.
 */
int load_main(int argc, char **argv);

#endif
