/*
 * throttle: how fast may a move copy, so that its source does not suffer? No I/O and no clock.
 *
 * Once a second it is told what a small commit on the source takes, how far its standbys are behind and how
 * many transactions it does, and answers with the bytes per second that the copy may take. Above a bound the
 * rate is halved, below it the rate grows by a fixed step: additive increase, multiplicative decrease, the
 * linear rule under which several copies on one disk come to fair shares (Chiu and Jain, "Analysis of the
 * Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989); half is what TCP
 * gives up (RFC 5681). The signal is a delay compared with the one from before the load, as in LEDBAT (RFC
 * 6817), which is there for transfers that give way to everybody else.
 *
 * What the application gets done is compared, too: its transactions beside the copy with those without. How
 * many it would do without is not known for long, so every so often the copy goes at its slowest for a moment
 * and they are counted again, and commits are measured again: the slowdowns of LEDBAT++
 * (draft-irtf-iccrg-ledbat-plus-plus), which take a tenth of the time. The same before a first cut, if the
 * last count is old: who does less by itself is not held against the copy. Where next to nothing happens
 * there are no lulls.
 *
 * Beside an application that is there already a copy begins slowly, as it does where nobody has counted yet,
 * and doubles its rate with every three looks, the slow start of TCP (RFC 5681, 3.1), until the next doubling
 * would pass a bound, or the copy does not use up what it may. Else an application on a machine without room
 * would suffer for the ten seconds that counting takes, and most copies be over by then.
 *
 * Constants, and why: a cut shows after two or three samples, since the median of the last three is judged
 * (one slow fsync is no reason), so there are three seconds between cuts. The step is a twentieth of the
 * fastest seen, so that a throttled copy is back at full speed within half a minute. Growth begins below 0.8
 * of the bound, so that the rate does not swing around it. A slow start is a third to a tenth of what copies
 * take of a machine; what it assumes to be the fastest is what they reach. The copy never stops: what it
 * holds on the source (a snapshot, the slot's WAL) costs more the longer it takes. It keeps a sixteenth of
 * its fastest, or 1 MiB/s.
 */
#ifndef OPERATION_THROTTLE_H
#define OPERATION_THROTTLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"

#define THROTTLE_FLOOR   ((uint64_t)1 << 20)  /* bytes/s */
#define THROTTLE_START   ((uint64_t)8 << 20)  /* the same, of a slow start */
#define THROTTLE_FASTEST ((uint64_t)64 << 20) /* taken for the fastest while nothing is known */
#define THROTTLE_RECENT  3
#define THROTTLE_BASES   9
#define THROTTLE_HOLD_NS (3 * ENV_NS_PER_S)
/* A lull: its first second does not count, servers tell of transactions late. */
#define THROTTLE_LULL_NS  (4 * ENV_NS_PER_S)
#define THROTTLE_EVERY_NS (40 * ENV_NS_PER_S) /* from one to the next */
#define THROTTLE_SURE_NS  (8 * ENV_NS_PER_S)  /* a count's age up to which it is taken for granted */
#define THROTTLE_FIRST_NS (5 * ENV_NS_PER_S)  /* of copying, when nothing was counted before it */
#define THROTTLE_BUSY     50.0                /* transactions/s; with fewer nobody is in the copy's way */

struct throttle_limits {
    uint64_t max_commit_ns; /* 0 = commits are not looked at */
    uint64_t max_lag_ns;    /* 0 = standbys are not looked at */
    double max_loss;        /* share of the transactions, 0 to 1; 0 = they are not looked at */
    uint64_t most;          /* bytes/s that nothing may exceed; 0 = no limit */
};

struct throttle_sample {
    uint64_t now_ns;
    uint64_t commit_ns;        /* what a commit took, or has been taking; 0 = not known */
    uint64_t lag_ns;           /* of the standby that is furthest behind; 0 = none */
    uint64_t bytes_per_second; /* copied since the last sample */
    double transactions;       /* per second, on the source; below 0 = not known */
};

enum throttle_cause { THROTTLE_NONE, THROTTLE_COMMIT, THROTTLE_STANDBY, THROTTLE_TRANSACTIONS };

struct throttle {
    /* commits, in rings: without the copy, and beside it */
    uint64_t bases[THROTTLE_BASES], recent[THROTTLE_RECENT];
    unsigned base_count, recent_count;
    /* transactions/s: beside the copy, a ring; without it; and what is being counted for that, a sum */
    double beside[THROTTLE_RECENT], without, counted;
    unsigned beside_count, counts;
    uint64_t without_ns;   /* when it was counted; 0 = never */
    uint64_t began_ns;     /* the copy; 0 = not yet */
    uint64_t lull_ns;      /* the lull under way; 0 = none */
    uint64_t next_lull_ns; /* when one is expected; UINT64_MAX = none is */
    uint64_t rate;         /* bytes/s; 0 = not throttled */
    uint64_t peak;         /* the fastest seen; while nothing is, assumed */
    uint64_t cut_ns;       /* the last cut */
    bool starting;         /* slowly; the rate is doubled until something speaks against it */
    /* the last time a bound was passed: which, by what; seconds, of transactions a share */
    enum throttle_cause cause;
    double seen, bound;
    bool over; /* it is passed right now */
};

void throttle_init(struct throttle *t);
/* Before the copy: what a commit takes, how many transactions there are. */
void throttle_base(struct throttle *t, uint64_t commit_ns);
void throttle_base_transactions(struct throttle *t, double per_second);
/* They were counted under other circumstances than those that follow: the greater count will stand. */
void throttle_end_count(struct throttle *t, uint64_t now_ns);
/* 0 = none was measured. */
uint64_t throttle_base_median(const struct throttle *t);
/*
 * The bound that commits are held to: `max_commit_ns`, but at least twice what they take without the copy; or
 * five times of that and 10 ms, if it is less. 0 if they are not looked at.
 */
uint64_t throttle_commit_bound(const struct throttle *t, uint64_t max_commit_ns);
/* The copy begins: its rate until the first step, as there. */
uint64_t throttle_begin(struct throttle *t, const struct throttle_limits *limits, uint64_t now_ns);
/*
 * Once a second of a copy that was begun: the rate from now on, bytes/s; 0 = as fast as it goes. Ask t->rate
 * whether it is throttled.
 */
uint64_t throttle_step(struct throttle *t, const struct throttle_limits *limits,
                       const struct throttle_sample *sample);
/*
 * Seconds that a copy of `left` bytes takes from now on, with the lulls that lie before it: `outside` and
 * `inside` are its bytes/s outside of them and in them; NAN if it never ends, or is starting: then nobody
 * knows how fast it will be.
 */
double throttle_seconds_left(const struct throttle *t, uint64_t now_ns, double left, double outside,
                             double inside);
/* The copy is over, and another may begin: what is known of before stays. */
void throttle_again(struct throttle *t);
/*
 * "copy throttled to 12.0 MiB/s: commits on s1 take 38 ms, bound 20 ms", "copy starts slowly, at 8.0 MiB/s:
 * s1 does 4812 transactions/s"; "" while it goes as fast as it can.
 */
void throttle_text(const struct throttle *t, const char *shard, const char *standby, char *out, size_t size);

#endif
