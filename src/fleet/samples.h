/*
 * samples: the load of one shard over time, in rings of 1 s (10 minutes) and 1 min (24 hours) resolution.
 *
 * Observers add, deciders read. Times are monotonic nanoseconds of the loop's turn.
 */
#ifndef FLEET_SAMPLES_H
#define FLEET_SAMPLES_H

#include <stdbool.h>
#include <stdint.h>

#define SAMPLES_SECONDS 600
#define SAMPLES_MINUTES 1440

enum load_metric { LOAD_QUERY_RATE, LOAD_CPU, LOAD_WAL_RATE, LOAD_SIZE, LOAD_METRIC_MAX };
const char *load_metric_name(enum load_metric m); /* "query_rate", "cpu", "wal_rate", "size" */
int load_metric_parse(const char *name);          /* -1 if unknown */

struct load_sample {
    uint64_t at_ns;
    float value[LOAD_METRIC_MAX]; /* transactions/s, cores, bytes/s, bytes; NAN = not known */
    float active_sessions;        /* NAN = not known, or not the newest */
    float probe_ms;               /* latency of the poll; NAN = not known, or not the newest */
};

/*
 * A thousand instances have two of these each, so they grow with the samples up to their limit, a metric that
 * is never known takes nothing, and what only the newest sample is asked for is not kept.
 */
struct load_history {
    unsigned count, next; /* next is where the next one goes: the oldest, once all places are taken */
    unsigned capacity;
    uint64_t *at_ns;   /* of seconds */
    uint32_t *minutes; /* of minutes: whole ones since the first sample */
    float *column[LOAD_METRIC_MAX];
};

struct load_ring {
    struct load_sample newest; /* once there is one */
    struct load_history seconds;
    struct load_history minutes; /* means of 60 s; their time is their end */
    double sum[LOAD_METRIC_MAX]; /* of the minute being filled */
    unsigned sum_count[LOAD_METRIC_MAX];
    uint64_t first_ns; /* where the grid of minutes begins */
    uint64_t minute_started_ns;
};

/* A sample's number for people and documents: 0.7, not 0.699999988. */
double load_value(float value);

void load_ring_init(struct load_ring *ring); /* what was there before is not looked at */
void load_ring_fini(struct load_ring *ring); /* may be initialised again; NULL is fine */
/* A sample older than the newest is dropped. */
void load_ring_add(struct load_ring *ring, const struct load_sample *sample);
/* The n-th newest second (0 = newest); false if there is none, *ret is then untouched. */
bool load_ring_second(const struct load_ring *ring, unsigned n, struct load_sample *ret);
bool load_ring_minute(const struct load_ring *ring, unsigned n, struct load_sample *ret);
/*
 * Mean of a metric over the samples not older than window_ns, NAN left out; false if there is none. A window
 * above 10 minutes is answered from whole minutes and what the present one has so far.
 */
bool load_ring_mean(const struct load_ring *ring, enum load_metric m, uint64_t now_ns, uint64_t window_ns,
                    double *ret);

#endif
