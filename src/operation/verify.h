/*
 * verify: the bookkeeping of a comparison of two sides that are being written: counts and order-free
 * checksums of many items (buckets of the range, parts of a bucket, single rows), read again and again. No
 * I/O.
 *
 * Both sides are read at the same moment, but not at the same point of the stream of changes, so an item that
 * is being written may differ. It is read again, after a marker has made the round trip, as long as it does.
 * An item that differs while neither side changes from one round to the next is a difference of the data; one
 * that changes all the time cannot be judged as it is: a bucket is then looked at row by row.
 */
#ifndef OPERATION_VERIFY_H
#define OPERATION_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

/* Rounds beside the first in which a difference may not change before it counts. */
#define VERIFY_STABLE   2
#define VERIFY_BUCKETS  1024
#define VERIFY_SUM_SIZE 40

/* What one side has of an item; zeroed = no rows. */
struct verify_sum {
    int64_t rows;
    char checksum[VERIFY_SUM_SIZE]; /* a decimal number, "" without rows */
};

struct verify_item {
    struct verify_sum owner, copy;               /* of this round */
    struct verify_sum owner_before, copy_before; /* of the last one */
    unsigned rounds, stable;                     /* judged so far; in a row with the same difference */
    bool wanted;                                 /* not equal yet */
};

bool verify_same(const struct verify_sum *a, const struct verify_sum *b);

/* Every item is wanted, nothing is known of it. */
void verify_begin(struct verify_item *items, int count);

/* Before the sums of a round are entered: wanted items have no rows on either side (empty ones are not told).
 */
void verify_clear(struct verify_item *items, int count);

/*
 * Ends a round: items that are equal are not wanted any more. Returns how many still differ. *ret_stable: the
 * first whose difference stood still for VERIFY_STABLE rounds, -1 if there is none.
 */
int verify_judge(struct verify_item *items, int count, int *ret_stable);

/* Whether a wanted item's difference stood still long enough. */
bool verify_is_stable(const struct verify_item *item);

/* A row of one side; identity is owned. */
struct verify_row {
    char *identity;
    struct verify_sum sum;
};

/*
 * From two lists in the order of strcmp(), of `counts` rows: an item and an identity (a copy; free() them,
 * and both arrays) for each row that is not the same on both. At most `most`. Lists that were cut at `limit`
 * rows say nothing of what follows the end of the shorter one.
 */
int verify_merge(struct verify_row *const lists[2], const int counts[2], int limit, int most,
                 struct verify_item **ret_items, char ***ret_identities);

/* "is missing on s3", "is on s3, but not on s2", "is not the same on s2 and s3", "is there 2 times on s2,
 * ..." */
void verify_describe(const struct verify_item *item, const char *owner, const char *copy, char *out,
                     unsigned size);

#endif
