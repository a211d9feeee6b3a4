#include "fleet/samples.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"

#define MINUTE_NS    (60 * ENV_NS_PER_S)
#define FIELD_COUNT  (LOAD_METRIC_MAX + 2)
#define SECONDS_SPAN (SAMPLES_SECONDS * ENV_NS_PER_S)

static const char *const metric_names[LOAD_METRIC_MAX] = {
    [LOAD_QUERY_RATE] = "query_rate",
    [LOAD_CPU] = "cpu",
    [LOAD_WAL_RATE] = "wal_rate",
    [LOAD_SIZE] = "size",
};

const char *load_metric_name(enum load_metric m)
{
    return metric_names[m];
}

int load_metric_parse(const char *name)
{
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        if (strcmp(metric_names[m], name) == 0)
            return m;
    return -1;
}

double load_value(float value)
{
    if (!isfinite(value))
        return (double)value;
    char text[32];
    snprintf(text, sizeof text, "%.7g", (double)value);
    return strtod(text, NULL);
}

/* The metrics, then active_sessions and probe_ms: every number a minute is averaged over. */
static float *sample_field(struct load_sample *s, unsigned field)
{
    if (field < LOAD_METRIC_MAX)
        return &s->value[field];
    return field == LOAD_METRIC_MAX ? &s->active_sessions : &s->probe_ms;
}

static void minute_begin(struct load_ring *ring, uint64_t start_ns)
{
    ring->minute_started_ns = start_ns;
    memset(ring->sum, 0, sizeof ring->sum);
    memset(ring->sum_count, 0, sizeof ring->sum_count);
}

static void minute_finish(struct load_ring *ring)
{
    struct load_sample *minute = &ring->minutes[ring->minute_next];
    for (unsigned f = 0; f < FIELD_COUNT; f++) {
        unsigned n = ring->sum_count[f];
        *sample_field(minute, f) = n > 0 ? (float)(ring->sum[f] / n) : (float)NAN;
    }
    minute->at_ns = ring->minute_started_ns + MINUTE_NS;
    ring->minute_next = (ring->minute_next + 1) % SAMPLES_MINUTES;
    if (ring->minute_count < SAMPLES_MINUTES)
        ring->minute_count++;
}

void load_ring_init(struct load_ring *ring)
{
    /* The samples stay untouched: an instance costs memory as it gets a history. */
    ring->second_count = ring->second_next = 0;
    ring->minute_count = ring->minute_next = 0;
    minute_begin(ring, 0);
}

void load_ring_add(struct load_ring *ring, const struct load_sample *sample)
{
    const struct load_sample *newest = load_ring_second(ring, 0);
    if (newest != NULL && sample->at_ns < newest->at_ns)
        return;
    if (newest == NULL) {
        minute_begin(ring, sample->at_ns);
    } else if (sample->at_ns - ring->minute_started_ns >= MINUTE_NS) {
        minute_finish(ring);
        /* Minutes without a sample leave no entry; the grid stays. */
        uint64_t passed = (sample->at_ns - ring->minute_started_ns) / MINUTE_NS;
        minute_begin(ring, ring->minute_started_ns + passed * MINUTE_NS);
    }
    ring->seconds[ring->second_next] = *sample;
    ring->second_next = (ring->second_next + 1) % SAMPLES_SECONDS;
    if (ring->second_count < SAMPLES_SECONDS)
        ring->second_count++;
    for (unsigned f = 0; f < FIELD_COUNT; f++) {
        float value =
            *sample_field(&ring->seconds[(ring->second_next + SAMPLES_SECONDS - 1) % SAMPLES_SECONDS], f);
        if (isnan(value))
            continue;
        ring->sum[f] += (double)value;
        ring->sum_count[f]++;
    }
}

const struct load_sample *load_ring_second(const struct load_ring *ring, unsigned n)
{
    if (n >= ring->second_count)
        return NULL;
    return &ring->seconds[(ring->second_next + SAMPLES_SECONDS - 1 - n) % SAMPLES_SECONDS];
}

const struct load_sample *load_ring_minute(const struct load_ring *ring, unsigned n)
{
    if (n >= ring->minute_count)
        return NULL;
    return &ring->minutes[(ring->minute_next + SAMPLES_MINUTES - 1 - n) % SAMPLES_MINUTES];
}

static bool within(uint64_t at_ns, uint64_t now_ns, uint64_t window_ns)
{
    return at_ns > now_ns || now_ns - at_ns <= window_ns;
}

struct mean {
    double sum, weight;
};

static void mean_add(struct mean *mean, double value, double weight)
{
    if (isnan(value))
        return;
    mean->sum += value * weight;
    mean->weight += weight;
}

bool load_ring_mean(const struct load_ring *ring, enum load_metric m, uint64_t now_ns, uint64_t window_ns,
                    double *ret)
{
    struct mean mean = {0};
    const struct load_sample *s;
    if (window_ns <= SECONDS_SPAN) {
        for (unsigned n = 0; (s = load_ring_second(ring, n)) != NULL && within(s->at_ns, now_ns, window_ns);
             n++)
            mean_add(&mean, s->value[m], 1);
    } else {
        /* Longer than the seconds reach: whole minutes, and what the present one has so far. */
        for (unsigned n = 0; (s = load_ring_minute(ring, n)) != NULL && within(s->at_ns, now_ns, window_ns);
             n++)
            mean_add(&mean, s->value[m], 60);
        bool fresh = (s = load_ring_second(ring, 0)) != NULL && within(s->at_ns, now_ns, window_ns);
        if (fresh && ring->sum_count[m] > 0)
            mean_add(&mean, ring->sum[m] / ring->sum_count[m], ring->sum_count[m]);
    }
    if (mean.weight <= 0)
        return false;
    *ret = mean.sum / mean.weight;
    return true;
}
