/*
 * range: inclusive ranges of hashes and ordered sets of them. Pure arithmetic.
 */
#ifndef FLEET_RANGE_H
#define FLEET_RANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct range {
    int64_t lo; /* inclusive */
    int64_t hi; /* inclusive; lo <= hi */
};

/* Ordered by lo, disjoint, adjacent ranges merged. Zero-initialised = empty. */
struct range_set {
    struct range *items;
    size_t count;
};

bool range_contains(const struct range *r, int64_t hash);
/* hi - lo as a count minus one, so that the whole space fits. */
uint64_t range_width_minus_one(const struct range *r);

void range_set_free(struct range_set *set);
void range_set_copy(struct range_set *dst, const struct range_set *src);
bool range_set_contains(const struct range_set *set, int64_t hash);
bool range_set_contains_range(const struct range_set *set, const struct range *r);
bool range_set_equal(const struct range_set *a, const struct range_set *b);
/* Adds r; ERRC_CONFLICT if it overlaps. */
int range_set_add(struct range_set *set, const struct range *r, struct err *err);
/* Removes r; ERRC_CONFLICT if not wholly contained. */
int range_set_remove(struct range_set *set, const struct range *r, struct err *err);

/* The whole space cut into n parts of equal width (the last takes the rest); n >= 1. */
void range_split_evenly(size_t n, struct range *out);

/* "-9223372036854775808..-1" */
#define RANGE_TEXT_SIZE 48
void range_format(const struct range *r, char out[RANGE_TEXT_SIZE]);
int range_parse(const char *text, struct range *ret, struct err *err);

#endif
