/*
 * split_point: what a shard's change stream (or a sample of its rows) says about where to cut it.
 *
 * A sample takes the hash of every written key and keeps, in bounded memory whatever comes, a weighted
 * summary of them and the heaviest keys, both apart for the two halves of the listening time, so that a load
 * that moves shows. Pure: time and seed come from the caller.
 *
 * Memory: 2 x (8,192 x 16 + 64 x 24) bytes, 265 KiB. Adding costs about 0.1 us; finding sorts once, some ms.
 */
#ifndef BALANCE_SPLIT_POINT_H
#define BALANCE_SPLIT_POINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet/range.h"

#define SPLIT_SUMMARY_SIZE 8192 /* hashes kept for each half */
#define SPLIT_HEAVY_SIZE   64   /* keys counted for each half: an error of at most 1/64 of the weight */
#define SPLIT_MIN_WRITES   100  /* fewer say nothing about where the load is */
#define SPLIT_POPULAR      0.25 /* one key with this share is popular: no cut spreads it */
#define SPLIT_BALANCE      0.25 /* the lighter part must carry at least this share */

struct split_sample;

/*
 * length_ns: how long will be listened; the second half begins at started_ns + length_ns / 2. A row sample
 * has no halves: length_ns = 0. The seed only decides which of two neighbouring hashes stands for both.
 */
struct split_sample *split_sample_new(uint64_t started_ns, uint64_t length_ns, uint64_t seed);
void split_sample_free(struct split_sample *sample); /* NULL is fine */

/* Tells the time; call it before each batch of additions. */
void split_sample_tick(struct split_sample *sample, uint64_t now_ns);

/* One written key (or one sampled row). weight: its share of the load, 1 if there is nothing better; 0 is 1.
 */
void split_sample_add(struct split_sample *sample, int64_t hash, uint32_t weight);

/* No more will come: the stream ended, or all sampled rows are in. */
void split_sample_close(struct split_sample *sample);

uint64_t split_sample_started(const struct split_sample *sample);
bool split_sample_closed(const struct split_sample *sample);
uint64_t split_sample_count(const struct split_sample *sample); /* additions */

enum split_verdict {
    SPLIT_FOUND,
    SPLIT_NO_DATA, /* nothing was seen within the shard's ranges */
    SPLIT_NO_CUT   /* all that was seen has one hash */
};

struct split_point {
    enum split_verdict verdict;
    uint64_t count;        /* additions seen */
    struct range moved;    /* the part to move: one contiguous piece of one of the ranges. SPLIT_FOUND only */
    int64_t at;            /* first hash of the upper one of the two parts; moved.lo if a whole range moves */
    double moved_share;    /* of the load, 0..1; the rest stays */
    int64_t popular_hash;  /* the heaviest key, when popular_share > 0 */
    double popular_share;  /* at least this share of the load; 0 if no key is repeated enough to be counted */
    bool halves;           /* both halves saw enough to be compared; the next four are set only then */
    double half_share[2];  /* what `moved` carries in each half */
    double heavy_share[2]; /* of keys with at least 5 % of that half */
    double heavy_common;   /* what the same keys carry in both halves */
    bool point_moves;      /* they differ, and one alone would call the cut unbalanced */
    bool keys_change;      /* the heavy keys of the two halves are different ones */
};

/*
 * The load-weighted median. A shard that owns several ranges gives away one contiguous piece of one of them:
 * the one whose share is nearest to a half; among about equally good ones a whole range, else the narrowest
 * (the fewest rows to copy). Something always stays. Hashes outside of ranges are ignored.
 */
void split_point_find(const struct split_sample *sample, const struct range_set *ranges,
                      struct split_point *ret);

#endif
