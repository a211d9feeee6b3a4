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
#define AGE_MAX       (UINT32_MAX / 2 * ENV_NS_PER_MS) /* of a second that is kept: 24 days */

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

/* ---- packed values ---- */

/*
 * Sixteen bits, all of them exponent and fraction: 6 bits of exponent e, 10 of fraction f, 2^(e - 14) times
 * 1.f. The first is zero, the last NAN.
 */
#define PACK_FRACTION 10
#define PACK_BIAS     14
#define PACK_NAN      UINT16_MAX

uint16_t load_pack(float value)
{
    if (isnan(value))
        return PACK_NAN;
    if (!(value > 0))
        return 0;
    if (isinf(value))
        return PACK_NAN - 1;
    int exponent;
    double fraction = frexp((double)value, &exponent); /* 0.5 <= fraction < 1 */
    long packed = ((long)exponent - 1 + PACK_BIAS) * (1 << PACK_FRACTION) +
                  lround((fraction * 2 - 1) * (1 << PACK_FRACTION)); /* rounding up carries over */
    if (packed >= PACK_NAN)
        return PACK_NAN - 1;
    return packed > 0 ? (uint16_t)packed : 0;
}

float load_unpack(uint16_t packed)
{
    if (packed == PACK_NAN)
        return (float)NAN;
    if (packed == 0)
        return 0;
    int exponent = (packed >> PACK_FRACTION) - PACK_BIAS;
    double fraction = packed & ((1 << PACK_FRACTION) - 1);
    return (float)ldexp(1 + fraction / (1 << PACK_FRACTION), exponent);
}

static unsigned grown(unsigned capacity, unsigned limit)
{
    unsigned more = capacity == 0 ? HISTORY_FIRST : capacity * 2;
    return more < limit ? more : limit;
}

/* ---- seconds ---- */

static void seconds_free(struct load_seconds *h)
{
    free(h->at_ms);
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        free(h->column[m]);
}

static void seconds_column(struct load_seconds *h, int m, unsigned known)
{
    h->column[m] = mem_resize(h->column[m], h->capacity, sizeof *h->column[m]);
    for (unsigned i = known; i < h->capacity; i++)
        h->column[m][i] = (float)NAN;
}

/* While it grows it has not come round: the places in use are the first `count`. */
static void seconds_grow(struct load_seconds *h)
{
    unsigned known = h->capacity;
    h->capacity = grown(known, SAMPLES_SECONDS);
    h->at_ms = mem_resize(h->at_ms, h->capacity, sizeof *h->at_ms);
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        if (h->column[m] != NULL)
            seconds_column(h, m, known);
}

/* The place of the n-th newest, n < count. */
static unsigned seconds_place(const struct load_seconds *h, unsigned n)
{
    return (h->next + h->capacity - 1 - n) % h->capacity;
}

/* How long before the newest sample. */
static uint64_t seconds_age_ns(const struct load_seconds *h, unsigned n)
{
    uint32_t age_ms = h->at_ms[seconds_place(h, 0)] - h->at_ms[seconds_place(h, n)]; /* modulo 2^32 */
    return age_ms * ENV_NS_PER_MS;
}

static void seconds_add(struct load_seconds *h, uint32_t at_ms, const float *values)
{
    if (h->count == h->capacity && h->capacity < SAMPLES_SECONDS) {
        h->next = h->count;
        seconds_grow(h);
    }
    unsigned place = h->next;
    for (int m = 0; m < LOAD_METRIC_MAX; m++) {
        if (h->column[m] == NULL && !isnan(values[m]))
            seconds_column(h, m, 0);
        if (h->column[m] != NULL)
            h->column[m][place] = values[m];
    }
    h->at_ms[place] = at_ms;
    h->next = (place + 1) % h->capacity;
    if (h->count < h->capacity)
        h->count++;
}

/* ---- minutes ---- */

static void minutes_column(struct load_minutes *h, int m, unsigned known)
{
    h->column[m] = mem_resize(h->column[m], h->capacity, sizeof *h->column[m]);
    for (unsigned i = known; i < h->capacity; i++)
        h->column[m][i] = PACK_NAN;
}

/* Room for a place; nothing has come round before all places are there. */
static void minutes_grow(struct load_minutes *h, unsigned place)
{
    unsigned known = h->capacity;
    while (h->capacity <= place)
        h->capacity = grown(h->capacity, SAMPLES_MINUTES);
    for (int m = 0; m < LOAD_METRIC_MAX && h->capacity > known; m++)
        if (h->column[m] != NULL)
            minutes_column(h, m, known);
}

/* Those in between are no longer what they were a day ago. */
static void minutes_skip(struct load_minutes *h, uint32_t number)
{
    uint32_t missing = h->newest > 0 ? number - h->newest - 1 : 0;
    for (uint32_t i = 1; i <= missing && i <= SAMPLES_MINUTES; i++) {
        unsigned place = (h->newest + i) % SAMPLES_MINUTES;
        h->present[place / 64] &= ~(UINT64_C(1) << place % 64);
    }
}

static void minutes_add(struct load_minutes *h, uint32_t number, const float *values)
{
    unsigned place = number % SAMPLES_MINUTES;
    minutes_skip(h, number);
    minutes_grow(h, number < SAMPLES_MINUTES ? place : SAMPLES_MINUTES - 1);
    for (int m = 0; m < LOAD_METRIC_MAX; m++) {
        if (h->column[m] == NULL && !isnan(values[m]))
            minutes_column(h, m, 0);
        if (h->column[m] != NULL)
            h->column[m][place] = load_pack(values[m]);
    }
    h->present[place / 64] |= UINT64_C(1) << place % 64;
    h->newest = number;
}

/* How many minutes before the newest the n-th newest is; false if there is none. */
static bool minutes_find(const struct load_minutes *h, unsigned n, unsigned *ret)
{
    unsigned newest = h->newest % SAMPLES_MINUTES;
    for (unsigned back = 0; h->newest > 0 && back < SAMPLES_MINUTES;) {
        unsigned place = (newest + SAMPLES_MINUTES - back) % SAMPLES_MINUTES, bits = place % 64 + 1;
        if (bits > SAMPLES_MINUTES - back)
            bits = SAMPLES_MINUTES - back; /* come round: the rest was seen */
        /* the highest bit is `place`, those below go back from it */
        uint64_t word = h->present[place / 64] << (63 - place % 64) & UINT64_MAX << (64 - bits);
        unsigned found = (unsigned)__builtin_popcountll(word);
        if (n >= found) {
            n -= found;
            back += bits;
            continue;
        }
        for (; n > 0; n--)
            word &= ~(UINT64_C(1) << (63 - __builtin_clzll(word)));
        *ret = back + (unsigned)__builtin_clzll(word);
        return true;
    }
    return false;
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
    minutes_add(&ring->minutes, (uint32_t)((ring->minute_started_ns - ring->first_ns) / MINUTE_NS + 1),
                means);
}

void load_ring_init(struct load_ring *ring)
{
    memset(ring, 0, sizeof *ring);
}

void load_ring_fini(struct load_ring *ring)
{
    if (ring == NULL)
        return;
    seconds_free(&ring->seconds);
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        free(ring->minutes.column[m]);
    load_ring_init(ring);
}

static uint64_t age_of_oldest(const struct load_ring *ring)
{
    return seconds_age_ns(&ring->seconds, ring->seconds.count - 1);
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
    if (ring->seconds.count > 0 && age_of_oldest(ring) + (sample->at_ns - ring->newest.at_ns) > AGE_MAX)
        ring->seconds.count = ring->seconds.next = 0;
    ring->newest = *sample;
    seconds_add(&ring->seconds, (uint32_t)((sample->at_ns - ring->first_ns) / ENV_NS_PER_MS), sample->value);
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
    unsigned place = seconds_place(&ring->seconds, n);
    ret->at_ns = ring->newest.at_ns - seconds_age_ns(&ring->seconds, n);
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        ret->value[m] = ring->seconds.column[m] != NULL ? ring->seconds.column[m][place] : (float)NAN;
    ret->active_sessions = ret->probe_ms = (float)NAN;
    return true;
}

bool load_ring_minute(const struct load_ring *ring, unsigned n, struct load_sample *ret)
{
    const struct load_minutes *h = &ring->minutes;
    unsigned back;
    if (!minutes_find(h, n, &back))
        return false;
    uint32_t number = h->newest - back;
    unsigned place = number % SAMPLES_MINUTES;
    ret->at_ns = ring->first_ns + number * MINUTE_NS;
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        ret->value[m] = h->column[m] != NULL ? load_unpack(h->column[m][place]) : (float)NAN;
    ret->active_sessions = ret->probe_ms = (float)NAN;
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
