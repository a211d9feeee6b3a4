/*
 * throttle: how fast may a move copy, so that its source does not suffer? No I/O and no clock.
 *
 * Once a second it is told what a small commit on the source takes and how far its standbys are behind, and
 * answers with the bytes per second that the copy may take. Above a bound the rate is halved, below it the
 * rate grows by a fixed step: additive increase, multiplicative decrease, the linear rule under which several
 * copies on one disk come to fair shares (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms
 * for Congestion Avoidance in Computer Networks", 1989); half is what TCP gives up (RFC 5681). The signal is
 * a delay compared with the one from before the load, as in LEDBAT (RFC 6817), which is there for transfers
 * that give way to everybody else.
 *
 * Constants, and why: a cut shows after about two samples, since the median of the last three is judged (one
 * slow fsync is no reason), so there are three seconds between cuts. The step is a twentieth of the fastest
 * seen, so that a throttled copy is back at full speed within half a minute. Growth begins below 0.8 of the
 * bound, so that the rate does not swing around it. The copy never stops: what it holds on the source (a
 * snapshot, the slot's WAL) costs more the longer it takes. It keeps a sixteenth of its fastest, or 1 MiB/s.
 */
#ifndef OPERATION_THROTTLE_H
#define OPERATION_THROTTLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define THROTTLE_FLOOR   ((uint64_t)1 << 20) /* bytes/s */
#define THROTTLE_RECENT  3
#define THROTTLE_BASES   9
#define THROTTLE_HOLD_NS (3 * (uint64_t)1000000000)

struct throttle_limits {
    uint64_t max_commit_ns; /* 0 = commits are not looked at */
    uint64_t max_lag_ns;    /* 0 = standbys are not looked at */
    uint64_t most;          /* bytes/s that nothing may exceed; 0 = no limit */
};

struct throttle_sample {
    uint64_t now_ns;
    uint64_t commit_ns;        /* what a commit took, or has been taking; 0 = not known */
    uint64_t lag_ns;           /* of the standby that is furthest behind; 0 = none */
    uint64_t bytes_per_second; /* copied since the last sample */
};

enum throttle_cause { THROTTLE_NONE, THROTTLE_COMMIT, THROTTLE_STANDBY };

struct throttle {
    uint64_t bases[THROTTLE_BASES]; /* commits before the copy, a ring */
    unsigned base_count;
    uint64_t recent[THROTTLE_RECENT]; /* commits since, a ring */
    unsigned recent_count;
    uint64_t rate; /* bytes/s; 0 = not throttled */
    uint64_t peak; /* fastest while not throttled */
    uint64_t cut_ns;
    enum throttle_cause cause;  /* of the last time a bound was passed */
    uint64_t seen_ns, bound_ns; /* what was measured then, and its bound */
    bool over;                  /* it is passed right now */
};

void throttle_init(struct throttle *t);
/* What a commit takes before the copy. */
void throttle_base(struct throttle *t, uint64_t commit_ns);
/* 0 = none was measured. */
uint64_t throttle_base_median(const struct throttle *t);
/*
 * The bound that commits are held to: `max_commit_ns`, but at least twice what they took before the copy; or
 * five times of that and 10 ms, if it is less. 0 if they are not looked at.
 */
uint64_t throttle_commit_bound(const struct throttle *t, uint64_t max_commit_ns);
/* The rate from now on, bytes/s; 0 = as fast as it goes. Ask t->rate whether it is throttled. */
uint64_t throttle_step(struct throttle *t, const struct throttle_limits *limits,
                       const struct throttle_sample *sample);
/* The copy is over or begins anew: as fast as it goes, the base stays. */
void throttle_release(struct throttle *t);
/* "copy throttled to 12.0 MiB/s: commits on s1 take 38 ms, bound 20 ms"; "" while it is not. */
void throttle_text(const struct throttle *t, const char *shard, const char *standby, char *out, size_t size);

#endif
