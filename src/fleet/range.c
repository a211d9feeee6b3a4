#include "fleet/range.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"

bool range_contains(const struct range *r, int64_t hash)
{
    return hash >= r->lo && hash <= r->hi;
}

uint64_t range_width_minus_one(const struct range *r)
{
    return (uint64_t)r->hi - (uint64_t)r->lo;
}

void range_set_free(struct range_set *set)
{
    free(set->items);
    *set = (struct range_set){0};
}

void range_set_copy(struct range_set *dst, const struct range_set *src)
{
    *dst = (struct range_set){.items = mem_array(src->count, sizeof *src->items), .count = src->count};
    if (src->count > 0)
        memcpy(dst->items, src->items, src->count * sizeof *src->items);
}

/* The first item that ends at or after `hash`, or count. */
static size_t set_find(const struct range_set *set, int64_t hash)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->items[middle].hi < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool range_set_contains(const struct range_set *set, int64_t hash)
{
    size_t i = set_find(set, hash);
    return i < set->count && set->items[i].lo <= hash;
}

bool range_set_contains_range(const struct range_set *set, const struct range *r)
{
    size_t i = set_find(set, r->lo);
    return i < set->count && set->items[i].lo <= r->lo && set->items[i].hi >= r->hi;
}

bool range_set_equal(const struct range_set *a, const struct range_set *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (a->items[i].lo != b->items[i].lo || a->items[i].hi != b->items[i].hi)
            return false;
    return true;
}

static void set_insert(struct range_set *set, size_t at, const struct range *r)
{
    set->items = mem_resize(set->items, set->count + 1, sizeof *set->items);
    memmove(set->items + at + 1, set->items + at, (set->count - at) * sizeof *set->items);
    set->items[at] = *r;
    set->count++;
}

static void set_erase(struct range_set *set, size_t at)
{
    set->count--;
    memmove(set->items + at, set->items + at + 1, (set->count - at) * sizeof *set->items);
}

static int set_conflict(const struct range *r, const char *what, struct err *err)
{
    char text[RANGE_TEXT_SIZE];
    range_format(r, text);
    return err_set(err, ERRC_CONFLICT, "range %s %s", text, what);
}

static int range_valid(const struct range *r, struct err *err)
{
    if (r->lo <= r->hi)
        return 0;
    return err_set(err, ERRC_INVALID, "range %" PRId64 "..%" PRId64 " ends before it begins", r->lo, r->hi);
}

int range_set_add(struct range_set *set, const struct range *r, struct err *err)
{
    if (range_valid(r, err) != 0)
        return ERRC_INVALID;
    size_t i = set_find(set, r->lo);
    if (i < set->count && set->items[i].lo <= r->hi)
        return set_conflict(r, "overlaps one that is there already", err);
    /* i is where r belongs; items before end below r->lo, so +1 cannot overflow, nor r->hi + 1 before an
     * item. */
    bool joins_left = i > 0 && set->items[i - 1].hi + 1 == r->lo;
    bool joins_right = i < set->count && r->hi + 1 == set->items[i].lo;
    if (joins_left && joins_right) {
        set->items[i - 1].hi = set->items[i].hi;
        set_erase(set, i);
    } else if (joins_left) {
        set->items[i - 1].hi = r->hi;
    } else if (joins_right) {
        set->items[i].lo = r->lo;
    } else {
        set_insert(set, i, r);
    }
    return 0;
}

int range_set_remove(struct range_set *set, const struct range *r, struct err *err)
{
    if (range_valid(r, err) != 0)
        return ERRC_INVALID;
    if (!range_set_contains_range(set, r))
        return set_conflict(r, "is not wholly contained", err);
    size_t i = set_find(set, r->lo);
    struct range whole = set->items[i];
    if (whole.lo == r->lo && whole.hi == r->hi) {
        set_erase(set, i);
    } else if (whole.lo == r->lo) {
        set->items[i].lo = r->hi + 1;
    } else {
        set->items[i].hi = r->lo - 1;
        if (whole.hi > r->hi)
            set_insert(set, i + 1, &(struct range){r->hi + 1, whole.hi});
    }
    return 0;
}

void range_split_evenly(size_t n, struct range *out)
{
    /* 2^64 / n without 128-bit numbers; for n = 1 it wraps to 0, which nothing uses. */
    uint64_t width = UINT64_MAX / n + (UINT64_MAX % n == n - 1 ? 1 : 0);
    for (size_t i = 0; i < n; i++) {
        out[i].lo = (int64_t)((uint64_t)INT64_MIN + width * i);
        out[i].hi = i + 1 < n ? (int64_t)((uint64_t)out[i].lo + width - 1) : INT64_MAX;
    }
}

void range_format(const struct range *r, char out[RANGE_TEXT_SIZE])
{
    snprintf(out, RANGE_TEXT_SIZE, "%" PRId64 "..%" PRId64, r->lo, r->hi);
}

int range_parse(const char *text, struct range *ret, struct err *err)
{
    char low[24];
    struct range r;
    const char *dots = strstr(text, "..");
    size_t n = dots != NULL ? (size_t)(dots - text) : sizeof low;
    if (n < sizeof low) {
        memcpy(low, text, n);
        low[n] = '\0';
        if (text_to_int64(low, &r.lo) && text_to_int64(dots + 2, &r.hi)) {
            if (range_valid(&r, err) != 0)
                return ERRC_INVALID;
            *ret = r;
            return 0;
        }
    }
    return err_set(err, ERRC_INVALID, "\"%.64s\" is not a range: write it as LO..HI, both inclusive", text);
}
