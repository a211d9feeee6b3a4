/*
 * split_sample: the inside of a sample, shared by split_sample.c (filling) and split_point.c (reading).
 */
#ifndef BALANCE_SPLIT_SAMPLE_H
#define BALANCE_SPLIT_SAMPLE_H

#include "balance/split_point.h"

struct split_item {
    int64_t hash;
    uint64_t weight;
};

/* A key of the space-saving counter: its true weight lies between weight - error and weight. */
struct split_heavy {
    int64_t hash;
    uint64_t weight, error;
};

struct split_half {
    struct split_item items[SPLIT_SUMMARY_SIZE];
    size_t item_count;
    struct split_heavy heavy[SPLIT_HEAVY_SIZE];
    size_t heavy_count;
    uint64_t count;  /* additions */
    uint64_t weight; /* their sum */
};

struct split_sample {
    uint64_t started_ns, length_ns;
    uint64_t random; /* xorshift state, never 0 */
    bool closed;
    int now; /* the half being filled */
    struct split_half half[2];
};

/* Sorts by hash and adds up equal ones; returns the new count. */
size_t split_items_sort(struct split_item *items, size_t count);

/* What is surely the weight of that key in a half. */
uint64_t split_heavy_weight(const struct split_half *half, int64_t hash);

#endif
