#include "balance/split_point.h"

#include <stdlib.h>
#include <string.h>

#include "balance/split_sample.h"
#include "base/mem.h"

#define HEAVY_SHARE      0.05 /* a key with this share of a half is heavy */
#define HEAVY_MIN_COUNT  5    /* and seen this often: else chance makes keys heavy */
#define HEAVY_MIN_SUM    0.25 /* heavy keys matter when they carry this share of both halves */
#define HEAVY_MIN_COMMON 0.5  /* they are the same when this share of their load is common */
#define HALF_DRIFT       0.25 /* what the halves must differ by: a cut near 25:75 must not flicker */
#define HALF_MIN_COUNT   50   /* fewer additions say nothing about a half */
#define WIDTH_PRICE      0.005
#define WHOLE_GAIN       0.01

/* Both halves in one sorted run. */
struct merged {
    struct split_item *items;
    size_t count;
};

static double ratio(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

static double off_centre(double share)
{
    return share > 0.5 ? share - 0.5 : 0.5 - share;
}

static struct merged merge_halves(const struct split_sample *sample)
{
    size_t a = sample->half[0].item_count, b = sample->half[1].item_count;
    struct merged all = {.items = mem_array(a + b + 1, sizeof *all.items)};
    memcpy(all.items, sample->half[0].items, a * sizeof *all.items);
    memcpy(all.items + a, sample->half[1].items, b * sizeof *all.items);
    all.count = split_items_sort(all.items, a + b);
    return all;
}

static uint64_t range_weight(const struct split_item *items, size_t count, const struct range *r)
{
    uint64_t weight = 0;
    for (size_t i = 0; i < count; i++)
        if (range_contains(r, items[i].hash))
            weight += items[i].weight;
    return weight;
}

static uint64_t set_weight(const struct split_item *items, size_t count, const struct range_set *set)
{
    uint64_t weight = 0;
    for (size_t i = 0; i < count; i++)
        if (range_set_contains(set, items[i].hash))
            weight += items[i].weight;
    return weight;
}

/*
 * The cut with the lowest score: how far its part is from a half, a little for its width (of two even parts
 * the narrow one has the fewer rows), a little less for a whole range (it leaves no fragment).
 */
struct chooser {
    double width; /* of all ranges together */
    double score; /* of the best so far */
    struct split_point *best;
};

static void consider(struct chooser *c, const struct range *moved, int64_t at, double share, bool whole)
{
    double score = off_centre(share) + WIDTH_PRICE * (double)range_width_minus_one(moved) / c->width -
                   (whole ? WHOLE_GAIN : 0);
    struct split_point *best = c->best;
    if (best->verdict == SPLIT_FOUND && score >= c->score)
        return;
    c->score = score;
    best->verdict = SPLIT_FOUND;
    best->moved = *moved;
    best->at = at;
    best->moved_share = share;
}

/* The hash half way from a to b, above a: nothing was seen between the two. */
static int64_t between(int64_t a, int64_t b)
{
    uint64_t gap = (uint64_t)b - (uint64_t)a;
    return (int64_t)((uint64_t)a + 1 + (gap - 1) / 2);
}

static void cut_range(const struct merged *all, const struct range *r, uint64_t total, struct chooser *c)
{
    uint64_t inside = range_weight(all->items, all->count, r), below = 0;
    const struct split_item *last = NULL;
    for (size_t i = 0; i < all->count; i++) {
        const struct split_item *item = &all->items[i];
        if (!range_contains(r, item->hash))
            continue;
        if (last != NULL) {
            int64_t at = between(last->hash, item->hash);
            struct range lower = {r->lo, at - 1}, upper = {at, r->hi};
            consider(c, &lower, at, ratio(below, total), false);
            consider(c, &upper, at, ratio(inside - below, total), false);
        }
        below += item->weight;
        last = item;
    }
    if (inside > 0 && inside < total)
        consider(c, r, r->lo, ratio(inside, total), true);
}

static void find_cut(const struct merged *all, const struct range_set *ranges, struct split_point *ret)
{
    uint64_t total = set_weight(all->items, all->count, ranges);
    ret->verdict = total > 0 ? SPLIT_NO_CUT : SPLIT_NO_DATA;
    struct chooser c = {.width = 1, .best = ret};
    for (size_t i = 0; i < ranges->count; i++)
        c.width += (double)range_width_minus_one(&ranges->items[i]);
    for (size_t i = 0; i < ranges->count; i++)
        cut_range(all, &ranges->items[i], total, &c);
}

static void find_popular(const struct split_sample *sample, const struct range_set *ranges,
                         struct split_point *ret)
{
    uint64_t total = sample->half[0].weight + sample->half[1].weight;
    for (int h = 0; h < 2; h++) {
        const struct split_half *half = &sample->half[h];
        for (size_t i = 0; i < half->heavy_count; i++) {
            int64_t hash = half->heavy[i].hash;
            uint64_t weight =
                split_heavy_weight(&sample->half[0], hash) + split_heavy_weight(&sample->half[1], hash);
            double share = ratio(weight, total);
            if (share > ret->popular_share && range_set_contains(ranges, hash)) {
                ret->popular_share = share;
                ret->popular_hash = hash;
            }
        }
    }
}

/* Share of the half's heavy keys, and how much of it the same keys carry in the other half. */
static double heavy_sum(const struct split_half *half, const struct split_half *other, double *common)
{
    double sum = 0;
    *common = 0;
    for (size_t i = 0; i < half->heavy_count; i++) {
        uint64_t weight = half->heavy[i].weight - half->heavy[i].error;
        double share = ratio(weight, half->weight);
        bool often = ratio(weight, half->weight) * (double)half->count >= HEAVY_MIN_COUNT;
        if (share < HEAVY_SHARE || !often)
            continue;
        double there = ratio(split_heavy_weight(other, half->heavy[i].hash), other->weight);
        sum += share;
        *common += there < share ? there : share;
    }
    return sum;
}

static bool unbalanced(double share)
{
    return share < SPLIT_BALANCE || share > 1 - SPLIT_BALANCE;
}

static void compare_halves(const struct split_sample *sample, const struct range_set *ranges,
                           struct split_point *ret)
{
    const struct split_half *half = sample->half;
    if (half[0].count < HALF_MIN_COUNT || half[1].count < HALF_MIN_COUNT)
        return;
    ret->halves = true;
    double common[2];
    for (int h = 0; h < 2; h++)
        ret->heavy_share[h] = heavy_sum(&half[h], &half[1 - h], &common[h]);
    double least = ret->heavy_share[0] < ret->heavy_share[1] ? ret->heavy_share[0] : ret->heavy_share[1];
    ret->heavy_common = common[0] < common[1] ? common[0] : common[1];
    ret->keys_change = least >= HEAVY_MIN_SUM && ret->heavy_common < HEAVY_MIN_COMMON * least;
    if (ret->verdict != SPLIT_FOUND)
        return;
    for (int h = 0; h < 2; h++)
        ret->half_share[h] = ratio(range_weight(half[h].items, half[h].item_count, &ret->moved),
                                   set_weight(half[h].items, half[h].item_count, ranges));
    double drift = ret->half_share[0] - ret->half_share[1];
    ret->point_moves = (drift > HALF_DRIFT || drift < -HALF_DRIFT) && !unbalanced(ret->moved_share) &&
                       (unbalanced(ret->half_share[0]) || unbalanced(ret->half_share[1]));
}

void split_point_find(const struct split_sample *sample, const struct range_set *ranges,
                      struct split_point *ret)
{
    *ret = (struct split_point){.count = split_sample_count(sample)};
    struct merged all = merge_halves(sample);
    find_cut(&all, ranges, ret);
    free(all.items);
    find_popular(sample, ranges, ret);
    compare_halves(sample, ranges, ret);
}
