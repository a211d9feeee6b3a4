#include "operation/copy_estimate.h"

#include <math.h>

#define ROWS_THAT_TELL 100    /* fewer rows say nothing of the width of the others */
#define BLOCK_ROOM     8168.0 /* of 8192 bytes, without the header of the page */
#define ROW_OVERHEAD   20.0   /* heap row and its pointer, less the lengths that COPY adds, more or less */

static uint64_t at_least(double estimate, uint64_t seen)
{
    return estimate > (double)seen ? (uint64_t)estimate : seen;
}

void copy_estimate(const struct copy_heap_progress *h, struct copy_total *total)
{
    uint64_t rows_seen = h->rows_done + h->rows_now, bytes_seen = h->bytes_done + h->bytes_now;
    double rows = h->rows, bytes = h->bytes;
    if (h->over) {
        rows = bytes = 0; /* what was seen is all */
    } else if (h->blocks_done > 0) {
        double whole = (double)h->blocks / (double)h->blocks_done;
        rows = (double)h->rows_done * whole;
        bytes = (double)h->bytes_done * whole;
    } else if (h->rows_now >= ROWS_THAT_TELL) {
        double width = (double)h->bytes_now / (double)h->rows_now;
        double in_block = floor(BLOCK_ROOM / (width + ROW_OVERHEAD)); /* a row is in one block whole */
        if (rows <= 0)
            rows = (double)h->blocks * (in_block < 1 ? 1 : in_block) * h->share;
        bytes = rows * width;
    }
    total->rows += at_least(rows, rows_seen);
    total->bytes += at_least(bytes, bytes_seen);
}
