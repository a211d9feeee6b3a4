/*
 * calm: is this a good moment for the fence? No I/O.
 *
 * The commits of the fence wait for the same disks and processors as everybody's. A target that has just
 * taken in a copy is behind by some tens of milliseconds and gets better with every marker; a disk that
 * writes back makes one commit after the other wait. Markers measure both: a round trip is a commit on the
 * source, one on the target, and the way between. The fence begins when the last few were about as short as
 * the shortest; when that does not come within CALM_PATIENCE_NS, when they were at least short enough for the
 * fence's bound.
 */
#ifndef OPERATION_CALM_H
#define OPERATION_CALM_H

#include <stdint.h>

#include "base/env.h"

#define CALM_PATIENCE_NS (3 * ENV_NS_PER_S)
#define CALM_SLOW_NS     (50 * ENV_NS_PER_MS) /* the fence's bound has no room for more (B5) */
#define CALM_LAST        4

struct calm {
    uint64_t began_ns;
    uint64_t best_ns;            /* shortest trip so far, 0 = none */
    uint64_t last_ns[CALM_LAST]; /* the last trips, a ring */
    unsigned trips;              /* so far */
};

enum calm_answer {
    CALM_AGAIN, /* make another trip */
    CALM_GO,
    CALM_BUSY, /* patience is over, and the last trips were too slow */
};

void calm_begin(struct calm *c, uint64_t now_ns);
/* trip_ns: how long the marker took that came now. */
enum calm_answer calm_add(struct calm *c, uint64_t trip_ns, uint64_t now_ns);

#endif
