/*
 * copy_estimate: how much will there be to copy? No I/O.
 *
 * Before a heap's first row there is only what statistics and its size say; while its rows come, their width
 * is known; once pieces of it are through, so is how many rows of the range there are in a block.
 */
#ifndef OPERATION_COPY_ESTIMATE_H
#define OPERATION_COPY_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

/* One heap. */
struct copy_heap_progress {
    double rows, bytes; /* of R, expected from statistics and size; rows 0 = not known */
    double share;       /* of what the heap holds that is of R, 0..1; for heaps without statistics */
    uint64_t blocks, blocks_done; /* of the heap; in pieces that are through */
    uint64_t rows_done, bytes_done;
    uint64_t rows_now, bytes_now; /* of pieces under way */
    bool over;                    /* no piece is left */
};

struct copy_total {
    uint64_t rows, bytes; /* what there will have been at the end */
};

/* Never less than what has come. Adds to *total. */
void copy_estimate(const struct copy_heap_progress *heap, struct copy_total *total);

#endif
