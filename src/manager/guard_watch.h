/*
 * guard_watch: looks, shard after shard, for what the guards cannot see themselves: triggers that somebody
 * switched off or dropped, partitions that were attached with foreign rows, or detached.
 *
 * Each shard is asked over the connection of its polls whether there is anything to look at. Where there is,
 * or that cannot be said, it is looked at over a connection of its own, one at a time: that look writes down
 * new partitions and may read their rows. (A login for each shard and minute cost more CPU than all else that
 * an idle fleet does.) What it finds stands until a later look no longer finds it; each finding is logged
 * once. A shard that cannot be reached keeps what was found before.
 */
#ifndef MANAGER_GUARD_WATCH_H
#define MANAGER_GUARD_WATCH_H

#include "fleet/fleet.h"
#include "loop/loop.h"
#include "metrics/poller.h"

struct guard_watch;

struct guard_state {
    int64_t checked_us; /* wall clock of the last look that got an answer */
    unsigned count;
    const char *findings; /* JSON array of {subject, finding, remedy}; at most 50 */
};

/* The first round begins after a second, further ones every period_ns (0: never). */
struct guard_watch *guard_watch_start(struct loop *loop, struct fleet *fleet, struct pollers *pollers,
                                      uint64_t period_ns);
/* Before the pollers are closed. `closed` (may be NULL) runs when its last connection is gone. */
void guard_watch_stop(struct guard_watch *w, void (*closed)(void *data), void *data);

/* What is known of a shard; false = it was not looked at yet. Texts live until control is back in the loop.
 */
bool guard_watch_get(const struct guard_watch *w, const char *database, const char *shard,
                     struct guard_state *ret);

#endif
