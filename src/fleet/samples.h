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

/* float, because a thousand instances keep some thousand of them each */
struct load_sample {
    uint64_t at_ns;
    float value[LOAD_METRIC_MAX]; /* transactions/s, cores, bytes/s, bytes; NAN = not known */
    float active_sessions;        /* NAN = not known */
    float probe_ms;               /* latency of the poll; NAN = not known */
};

struct load_ring {
    struct load_sample seconds[SAMPLES_SECONDS];
    unsigned second_count, second_next;
    struct load_sample minutes[SAMPLES_MINUTES]; /* means of 60 s; at_ns = their end */
    unsigned minute_count, minute_next;
    /* of the minute being filled: the metrics, active_sessions, probe_ms */
    double sum[LOAD_METRIC_MAX + 2];
    unsigned sum_count[LOAD_METRIC_MAX + 2];
    uint64_t minute_started_ns;
};

/* A sample's number for people and documents: 0.7, not 0.699999988. */
double load_value(float value);

void load_ring_init(struct load_ring *ring);
/* A sample older than the newest is dropped. */
void load_ring_add(struct load_ring *ring, const struct load_sample *sample);
/* The n-th newest second (0 = newest), or NULL. */
const struct load_sample *load_ring_second(const struct load_ring *ring, unsigned n);
const struct load_sample *load_ring_minute(const struct load_ring *ring, unsigned n);
/*
 * Mean of a metric over the samples not older than window_ns, NAN left out; false if there is none. A window
 * above 10 minutes is answered from whole minutes and what the present one has so far.
 */
bool load_ring_mean(const struct load_ring *ring, enum load_metric m, uint64_t now_ns, uint64_t window_ns,
                    double *ret);

#endif
