/*
 * standby_lag: how long ago was what a standby has replayed the newest WAL of its primary? No I/O, no clock.
 *
 * pg_stat_replication.replay_lag is measured with the standby's answers: of one that gives none (suspended,
 * cut off) it stays what it was. So positions of the primary are remembered with the time at which they were
 * seen, and a standby is as late as the oldest of them that it has not reached. Exact to the distance between
 * two marks.
 */
#ifndef OPERATION_STANDBY_LAG_H
#define OPERATION_STANDBY_LAG_H

#include <stdint.h>

#define STANDBY_LAG_MARKS 128

struct standby_lag {
    struct {
        uint64_t at_ns, lsn;
    } marks[STANDBY_LAG_MARKS]; /* oldest first */
    unsigned count;
};

void standby_lag_init(struct standby_lag *l);
/*
 * The primary's position now; at times that grow. A position before the last one is another server's: all
 * marks go. When it is full every second mark goes.
 */
void standby_lag_mark(struct standby_lag *l, uint64_t now_ns, uint64_t lsn);
/* Nanoseconds; 0 = it has all that was marked. */
uint64_t standby_lag_of(const struct standby_lag *l, uint64_t now_ns, uint64_t replayed_lsn);

#endif
