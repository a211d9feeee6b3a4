#include "fleet/samples.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/mem.h"

#define MINUTE_NS     (60 * ENV_NS_PER_S)
#define HISTORY_FIRST 64 /* places at first */
#define SECONDS_SPAN  (SAMPLES_SECONDS * ENV_NS_PER_S)

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

/* ---- a history ---- */

static void history_free(struct load_history *h)
{
    free(h->at_ns);
    free(h->minutes);
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        free(h->column[m]);
    *h = (struct load_history){0};
}

static void column_resize(struct load_history *h, int m, unsigned known)
{
    h->column[m] = mem_resize(h->column[m], h->capacity, sizeof *h->column[m]);
    for (unsigned i = known; i < h->capacity; i++)
        h->column[m][i] = (float)NAN;
}

/* While it grows it has not come round: the places in use are the first `count`. */
static void history_grow(struct load_history *h, unsigned limit, bool of_seconds)
{
    unsigned known = h->capacity;
    h->capacity = known == 0 ? HISTORY_FIRST : known * 2;
    if (h->capacity > limit)
        h->capacity = limit;
    if (of_seconds)
        h->at_ns = mem_resize(h->at_ns, h->capacity, sizeof *h->at_ns);
    else
        h->minutes = mem_resize(h->minutes, h->capacity, sizeof *h->minutes);
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        if (h->column[m] != NULL)
            column_resize(h, m, known);
}

/* Returns the place that the caller writes the time to. */
static unsigned history_add(struct load_history *h, unsigned limit, bool of_seconds, const float *values)
{
    if (h->count == h->capacity && h->capacity < limit) {
        h->next = h->count;
        history_grow(h, limit, of_seconds);
    }
    unsigned place = h->next;
    for (int m = 0; m < LOAD_METRIC_MAX; m++) {
        if (h->column[m] == NULL && !isnan(values[m]))
            column_resize(h, m, 0);
        if (h->column[m] != NULL)
            h->column[m][place] = values[m];
    }
    h->next = (place + 1) % h->capacity;
    if (h->count < h->capacity)
        h->count++;
    return place;
}

/* The place of the n-th newest, n < count. */
static unsigned history_place(const struct load_history *h, unsigned n)
{
    return (h->next + h->capacity - 1 - n) % h->capacity;
}

static void history_read(const struct load_history *h, unsigned place, struct load_sample *ret)
{
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        ret->value[m] = h->column[m] != NULL ? h->column[m][place] : (float)NAN;
    ret->active_sessions = ret->probe_ms = (float)NAN;
}

/* ---- the ring ---- */

static void minute_begin(struct load_ring *ring, uint64_t start_ns)
{
    ring->minute_started_ns = start_ns;
    memset(ring->sum, 0, sizeof ring->sum);
    memset(ring->sum_count, 0, sizeof ring->sum_count);
}

static void minute_finish(struct load_ring *ring)
{
    float means[LOAD_METRIC_MAX];
    for (int m = 0; m < LOAD_METRIC_MAX; m++) {
        unsigned n = ring->sum_count[m];
        means[m] = n > 0 ? (float)(ring->sum[m] / n) : (float)NAN;
    }
    unsigned place = history_add(&ring->minutes, SAMPLES_MINUTES, false, means);
    ring->minutes.minutes[place] = (uint32_t)((ring->minute_started_ns - ring->first_ns) / MINUTE_NS + 1);
}

void load_ring_init(struct load_ring *ring)
{
    memset(ring, 0, sizeof *ring);
}

void load_ring_fini(struct load_ring *ring)
{
    if (ring == NULL)
        return;
    history_free(&ring->seconds);
    history_free(&ring->minutes);
    load_ring_init(ring);
}

void load_ring_add(struct load_ring *ring, const struct load_sample *sample)
{
    if (ring->seconds.count > 0 && sample->at_ns < ring->newest.at_ns)
        return;
    if (ring->seconds.count == 0) {
        ring->first_ns = sample->at_ns;
        minute_begin(ring, sample->at_ns);
    } else if (sample->at_ns - ring->minute_started_ns >= MINUTE_NS) {
        minute_finish(ring);
        /* Minutes without a sample leave no entry; the grid stays. */
        uint64_t passed = (sample->at_ns - ring->minute_started_ns) / MINUTE_NS;
        minute_begin(ring, ring->minute_started_ns + passed * MINUTE_NS);
    }
    ring->newest = *sample;
    unsigned place = history_add(&ring->seconds, SAMPLES_SECONDS, true, sample->value);
    ring->seconds.at_ns[place] = sample->at_ns;
    for (int m = 0; m < LOAD_METRIC_MAX; m++) {
        if (isnan(sample->value[m]))
            continue;
        ring->sum[m] += (double)sample->value[m];
        ring->sum_count[m]++;
    }
}

bool load_ring_second(const struct load_ring *ring, unsigned n, struct load_sample *ret)
{
    if (n >= ring->seconds.count)
        return false;
    if (n == 0) {
        *ret = ring->newest;
        return true;
    }
    unsigned place = history_place(&ring->seconds, n);
    ret->at_ns = ring->seconds.at_ns[place];
    history_read(&ring->seconds, place, ret);
    return true;
}

bool load_ring_minute(const struct load_ring *ring, unsigned n, struct load_sample *ret)
{
    if (n >= ring->minutes.count)
        return false;
    unsigned place = history_place(&ring->minutes, n);
    ret->at_ns = ring->first_ns + ring->minutes.minutes[place] * MINUTE_NS;
    history_read(&ring->minutes, place, ret);
    return true;
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
    struct load_sample s;
    if (window_ns <= SECONDS_SPAN) {
        for (unsigned n = 0; load_ring_second(ring, n, &s) && within(s.at_ns, now_ns, window_ns); n++)
            mean_add(&mean, (double)s.value[m], 1);
    } else {
        /* Longer than the seconds reach: whole minutes, and what the present one has so far. */
        for (unsigned n = 0; load_ring_minute(ring, n, &s) && within(s.at_ns, now_ns, window_ns); n++)
            mean_add(&mean, (double)s.value[m], 60);
        bool fresh = load_ring_second(ring, 0, &s) && within(s.at_ns, now_ns, window_ns);
        if (fresh && ring->sum_count[m] > 0)
            mean_add(&mean, ring->sum[m] / ring->sum_count[m], ring->sum_count[m]);
    }
    if (mean.weight <= 0)
        return false;
    *ret = mean.sum / mean.weight;
    return true;
}
