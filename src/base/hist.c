#include "base/hist.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define OCTAVE (1u << HIST_SUB_BITS)

static size_t bucket_of(uint64_t us)
{
    if (us < (1u << HIST_SUB_BITS))
        return (size_t)us;
    unsigned exponent = 63u - (unsigned)__builtin_clzll(us);
    size_t bucket = ((size_t)(exponent - HIST_SUB_BITS + 1) << HIST_SUB_BITS) +
                    (size_t)((us >> (exponent - HIST_SUB_BITS)) & ((1u << HIST_SUB_BITS) - 1));
    return bucket < HIST_BUCKETS ? bucket : HIST_BUCKETS - 1;
}

/* the greatest value that falls into the bucket */
static uint64_t bucket_top(size_t bucket)
{
    if (bucket < (1u << HIST_SUB_BITS))
        return bucket;
    unsigned exponent = (unsigned)(bucket >> HIST_SUB_BITS) + HIST_SUB_BITS - 1;
    uint64_t sub = bucket & ((1u << HIST_SUB_BITS) - 1);
    return (1ull << exponent) + ((sub + 1) << (exponent - HIST_SUB_BITS)) - 1;
}

void hist_reset(struct hist *h)
{
    memset(h, 0, sizeof *h);
}

void hist_add(struct hist *h, uint64_t us)
{
    h->count++;
    h->sum_us += us;
    if (us > h->max_us)
        h->max_us = us;
    h->buckets[bucket_of(us)]++;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    into->sum_us += from->sum_us;
    if (from->max_us > into->max_us)
        into->max_us = from->max_us;
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

uint64_t hist_quantile(const struct hist *h, double q)
{
    if (h->count == 0)
        return 0;
    uint64_t wanted = (uint64_t)(q * (double)h->count);
    if (wanted >= h->count)
        return h->max_us;
    uint64_t seen = 0;
    for (size_t i = 0; i < HIST_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > wanted)
            return bucket_top(i) < h->max_us ? bucket_top(i) : h->max_us;
    }
    return h->max_us;
}

/* The first bucket that holds values above `us`. */
static size_t bucket_above(uint64_t us)
{
    size_t bucket = bucket_of(us);
    return bucket_top(bucket) <= us ? bucket + 1 : bucket;
}

void hist_cumulate(const struct hist *h, const uint64_t *us, size_t count, uint64_t *ret)
{
    uint64_t seen = 0;
    size_t bucket = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t end = bucket_above(us[i]); bucket < end && seen < h->count; bucket++)
            seen += h->buckets[bucket];
        ret[i] = seen;
    }
}

uint64_t hist_at_or_below(const struct hist *h, uint64_t us)
{
    uint64_t seen;
    hist_cumulate(h, &us, 1, &seen);
    return seen;
}

/* ---- sparse ---- */

void hist_sparse_add(struct hist_sparse *h, uint64_t us)
{
    size_t bucket = bucket_of(us);
    uint32_t **octave = &h->octaves[bucket / OCTAVE];
    if (*octave == NULL)
        *octave = mem_array(OCTAVE, sizeof **octave);
    (*octave)[bucket % OCTAVE]++;
    h->count++;
    h->sum_us += us;
    if (us > h->max_us)
        h->max_us = us;
}

void hist_sparse_copy(const struct hist_sparse *h, struct hist *ret)
{
    hist_reset(ret);
    ret->count = h->count;
    ret->sum_us = h->sum_us;
    ret->max_us = h->max_us;
    for (size_t o = 0; o < HIST_OCTAVES; o++)
        for (size_t i = 0; h->octaves[o] != NULL && i < OCTAVE; i++)
            ret->buckets[o * OCTAVE + i] = h->octaves[o][i];
}

void hist_sparse_free(struct hist_sparse *h)
{
    for (size_t o = 0; o < HIST_OCTAVES; o++)
        free(h->octaves[o]);
    memset(h, 0, sizeof *h);
}
