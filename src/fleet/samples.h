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
 * A thousand instances have one of each, so they grow with the samples up to their limit, a metric that is
 * never known takes nothing, and what only the newest sample is asked for is not kept.
 */
struct load_seconds {
    unsigned count, next; /* next is where the next one goes: the oldest, once all places are taken */
    unsigned capacity;
    uint32_t *at_ms; /* since the first sample of the ring, modulo 2^32 */
    float *column[LOAD_METRIC_MAX];
};

/* The minute that ended `number` minutes after the first sample is at number % SAMPLES_MINUTES. */
struct load_minutes {
    uint32_t newest; /* number of the newest, 0 = none */
    unsigned capacity;
    uint64_t present[SAMPLES_MINUTES / 64 + 1]; /* a bit for each place */
    uint16_t *column[LOAD_METRIC_MAX];          /* see load_pack() */
};

struct load_ring {
    struct load_sample newest; /* once there is one */
    struct load_seconds seconds;
    struct load_minutes minutes; /* means of 60 s; their time is their end */
    double sum[LOAD_METRIC_MAX]; /* of the minute being filled */
    unsigned sum_count[LOAD_METRIC_MAX];
    uint64_t first_ns; /* where the grid of minutes begins */
    uint64_t minute_started_ns;
};

/* The form of minutes in memory: 0.0002 to 10^15 with an error of at most 1/2048; less is 0, NAN stays. */
uint16_t load_pack(float value);
float load_unpack(uint16_t packed);

/* A sample's number for people and documents: 0.7, not 0.699999988. */
double load_value(float value);

void load_ring_init(struct load_ring *ring); /* what was there before is not looked at */
void load_ring_fini(struct load_ring *ring); /* may be initialised again; NULL is fine */
/* A sample older than the newest is dropped. */
void load_ring_add(struct load_ring *ring, const struct load_sample *sample);
/* The n-th newest second (0 = newest); false if there is none, *ret is then untouched. Times are exact to the
 * millisecond. */
bool load_ring_second(const struct load_ring *ring, unsigned n, struct load_sample *ret);
bool load_ring_minute(const struct load_ring *ring, unsigned n, struct load_sample *ret);
/*
 * Mean of a metric over the samples not older than window_ns, NAN left out; false if there is none. A window
 * above 10 minutes is answered from whole minutes and what the present one has so far.
 */
bool load_ring_mean(const struct load_ring *ring, enum load_metric m, uint64_t now_ns, uint64_t window_ns,
                    double *ret);

#endif
