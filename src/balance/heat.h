/*
 * heat: is a shard hot? Reads rings only.
 */
#ifndef BALANCE_HEAT_H
#define BALANCE_HEAT_H

#include "balance/balance.h"

enum heat_break {
    HEAT_WHOLE,  /* the row fills the window, or the history ends */
    HEAT_FELL,   /* a sample at or below the threshold */
    HEAT_EVEN,   /* above it, but not by enough above the others */
    HEAT_MISSING /* no sample, or no figure of any other shard */
};

struct heat {
    unsigned row;           /* hot samples in a row, from the newest; at most the window */
    unsigned above;         /* the same, asking only for the threshold */
    enum heat_break broken; /* what ended the row */
    double load;            /* mean over max(row, 1) newest samples; NAN without a newest sample */
    double others;          /* mean of the other shards over the same samples */
    bool compared;          /* there are others */
};

/* Of all shards of the snapshot, in its order: each is compared with the others, and all at once are n log n.
 * To be freed. */
struct heat *heat_measure(const struct balance_facts *facts);

/* The greatest of the newest `window` samples; NAN if one of them is missing. What others may lay on top
 * counts on it. */
double heat_peak(const struct balance_facts *facts, size_t shard);

/* The greatest minute of the last `span_ns`; NAN unless every minute of it is there. */
double heat_peak_minute(const struct balance_facts *facts, size_t shard, uint64_t span_ns);

uint64_t heat_period(const struct balance_facts *facts);

#endif
