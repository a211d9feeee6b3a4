/*
 * load_stats: the counters, latencies and gaps of a run. Pure.
 */
#ifndef LOAD_LOAD_STATS_H
#define LOAD_LOAD_STATS_H

#include <stdint.h>

#include "base/hist.h"

/*
 * The longest time in which someone waited for a write and none was acknowledged: time without demand does
 * not count. Times are monotonic nanoseconds.
 */
struct load_gap {
    unsigned waiting; /* writes begun and not yet acknowledged */
    uint64_t since_ns;
    uint64_t longest_ns;
    uint64_t longest_at_ns; /* when the longest one ended */
    uint64_t recent_ns;     /* longest since load_gap_recent() was last asked */
};
void load_gap_begin(struct load_gap *g, uint64_t now_ns);
void load_gap_ack(struct load_gap *g, uint64_t now_ns);
/* The write was given up: an interval in which it waited counts. */
void load_gap_abandon(struct load_gap *g, uint64_t now_ns);
/* The longest since the last call, the one going on included. */
uint64_t load_gap_recent(struct load_gap *g, uint64_t now_ns);

#define LOAD_ERROR_CLASSES 64
struct load_error_class {
    char name[16]; /* SQLSTATE, "connection", "timeout", "connect" or "other" */
    uint64_t count;
};

struct load_stats {
    uint64_t operations; /* completed, reads and writes */
    uint64_t reads;
    uint64_t acked_writes; /* operations; a transaction is one */
    uint64_t refused;      /* answers SHR01 */
    uint64_t zero_rows;    /* answers "0 rows" where the ledger says that there is one */
    uint64_t in_doubt;     /* writes whose answer never came */
    uint64_t in_doubt_applied, in_doubt_not_applied; /* how they were settled */
    uint64_t stale_reads;                            /* older than acknowledged, or no row, at last */
    uint64_t abandoned;                              /* writes given up */
    uint64_t reroutes;                               /* new routing tables taken */
    uint64_t previous_owner_tries;
    struct hist latency;       /* all operations; open loop: from the intended start */
    struct hist write_latency; /* writes */
    struct hist refused_wait;  /* from a write's first refusal to its acknowledgement */
    struct load_gap writes;    /* of all writes */
    struct load_error_class errors[LOAD_ERROR_CLASSES];
    unsigned error_classes;
};

void load_stats_error(struct load_stats *s, const char *name);
uint64_t load_stats_errors(const struct load_stats *s);

#endif
