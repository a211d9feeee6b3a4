/*
 * hist: a histogram of durations with a bounded relative error of 1/32, from 1 microsecond to 137 s.
 *
 * Log-linear buckets (the layout of HdrHistogram with 5 bits): fixed size, no allocation, mergeable.
 */
#ifndef BASE_HIST_H
#define BASE_HIST_H

#include <stddef.h>
#include <stdint.h>

#define HIST_SUB_BITS 5
#define HIST_OCTAVES  (27 - HIST_SUB_BITS + 2)
#define HIST_BUCKETS  (HIST_OCTAVES << HIST_SUB_BITS)

struct hist {
    uint64_t count;
    uint64_t sum_us;
    uint64_t max_us;
    uint64_t buckets[HIST_BUCKETS];
};

void hist_reset(struct hist *h);
void hist_add(struct hist *h, uint64_t us);
void hist_merge(struct hist *into, const struct hist *from);

/* The value in microseconds at or below which the share q (0..1) lies; 0 when empty, exact max for q = 1. */
uint64_t hist_quantile(const struct hist *h, double q);

/* How many values lie at or below `us` (to within a bucket): for Prometheus buckets. */
uint64_t hist_at_or_below(const struct hist *h, uint64_t us);

/* The same for several that ascend, in one pass: ret[i] belongs to us[i]. */
void hist_cumulate(const struct hist *h, const uint64_t *us, size_t count, uint64_t *ret);

/*
 * The same for those that there are thousands of: an octave of buckets is made when the first value falls
 * into it, so that one takes 1 KB and not 6. Zero-initialised is valid and empty; at most 2^32 - 1 values in
 * a bucket. To be read it is copied into a hist.
 */
struct hist_sparse {
    uint64_t count;
    uint64_t sum_us;
    uint64_t max_us;
    uint32_t *octaves[HIST_OCTAVES]; /* of 1 << HIST_SUB_BITS buckets; NULL = all zero */
};

void hist_sparse_add(struct hist_sparse *h, uint64_t us);
void hist_sparse_copy(const struct hist_sparse *h, struct hist *ret);
void hist_sparse_free(struct hist_sparse *h); /* empty again */

#endif
