/*
 * ha_decide: what follows from the facts of a shard (ha.h). Pure: no I/O, no clock, no memory of its own;
 * each answer carries the number and the sentence of its rule, not acting included.
 *
 * Nothing here makes a primary: it is said that it should be done, whom to choose once instances have
 * confirmed, what the sync set should become, and how an instance comes back. operation/failover.h does it,
 * in an order that a crash may interrupt anywhere.
 */
#ifndef HEALTH_HA_DECIDE_H
#define HEALTH_HA_DECIDE_H

#include "health/ha.h"
#include "health/ha_rule.h"

/* ---- is the primary gone, and can anybody follow? ---- */

struct ha_verdict {
    bool fail_over;
    int rule;
    char sentence[HA_SENTENCE_SIZE];
};

/*
 * Gone means: its agent says that the server ended and did not return within restart_ns; or neither agent nor
 * server can be reached (for silent_ns; at once when both refuse connections or its pod is gone) AND every
 * other instance that is heard has lost it too. Never because only we lost sight of it. Even then nothing is
 * begun that cannot be finished: a quorum must be heard, with somebody in it who may be promoted.
 */
void ha_judge(const struct ha_shard *shard, uint64_t now_ns, struct ha_verdict *ret);

/*
 * While its primary is there: why commits wait all the same, because fewer standbys stream from it than they
 * wait for, for exclude_ns. Rule 0: they do not. Nobody is promoted for that: the old primary is reached by
 * us, and perhaps by clients, and what parts it from its standbys may come between them and the next one as
 * well.
 */
void ha_waits(const struct ha_shard *shard, uint64_t now_ns, struct ha_verdict *ret);

/* ---- whom to promote ---- */

struct ha_ballot {
    uint64_t term; /* only confirmations of this one count */
    int prefer; /* of equally advanced ones first, before the priority; -1 = none (switchover: its target) */
    int allow_loss; /* promote this one, quorum or not; -1 = no. Only ever by a person */
};

struct ha_choice {
    int winner; /* -1 = nobody, the rule says why */
    int donor;  /* the winner has to fetch from it first, and then to confirm anew; -1 = it has everything */
    struct ha_position position; /* what the winner has or gets */
    struct ha_config config;     /* the winner's: who helps it acknowledge from now on; without its epoch */
    bool lease; /* wait for lease_ns from the last confirmation on before it is promoted: nothing proves that
                   the old primary cannot acknowledge any more but that its agent has stopped it by then */
    int rule;
    char sentence[HA_SENTENCE_SIZE];
};

/* From confirmations (instances[].confirmed), which were read after the instances stopped receiving. */
void ha_choose(const struct ha_shard *shard, const struct ha_ballot *ballot, struct ha_choice *ret);

/* ---- who helps acknowledge ---- */

enum ha_sync_do {
    HA_SYNC_NONE,
    HA_SYNC_RECORD, /* write `record`, by compare-and-swap; nothing else before it is written */
    HA_SYNC_APPLY,  /* the primary's agent brings the newest config into effect, and says at which LSN it was
                     */
};

struct ha_sync_step {
    enum ha_sync_do what;
    struct ha_record record;
    int rule;
    char sentence[HA_SENTENCE_SIZE];
};

/*
 * The next step of the sync set. Any change goes: record the new config beside the old ones; bring it into
 * effect; wait until k of its members have all that was written before that moment; record it alone. So a
 * relaxed set is recorded before a commit relies on it, and a standby that comes back counts only after it
 * has caught up. It also settles the record after a failover, which leaves the same behind.
 */
void ha_sync_plan(const struct ha_shard *shard, uint64_t now_ns, struct ha_sync_step *ret);

/* ---- whom a standby follows ---- */

struct ha_upstream {
    int instance;
    int rule; /* 0 = it was not asked to follow another one than the primary */
    char sentence[HA_SENTENCE_SIZE];
};

/*
 * For a standby whose history is known to be the primary's, so that it may receive from any that streams from
 * it. The one that it was asked to follow, while that is heard and streams from the primary itself; the
 * primary when it has not for exclude_ns, and until it has again for restart_ns. Who is in a sync set follows
 * the primary: what it confirms is for that one.
 */
void ha_upstream(const struct ha_shard *shard, int instance, uint64_t now_ns, struct ha_upstream *ret);

/* ---- how an instance comes back ---- */

#define HA_TIMELINES_MAX 64

/* The timelines of an instance's data, oldest first, as in PostgreSQL's history files. */
struct ha_history {
    unsigned count;
    struct {
        uint32_t timeline;
        uint64_t term; /* under which it began, 0 = not known */
        uint64_t end;  /* LSN where the next one left it; of the last one, where the data end */
    } items[HA_TIMELINES_MAX];
};

struct ha_data {
    const char *name;
    bool there;        /* there is a data directory that was not left half made */
    uint64_t system;   /* system identifier */
    bool rewindable;   /* data checksums or wal_log_hints, and full_page_writes */
    uint64_t wal_from; /* the oldest LSN of which it keeps WAL; 0 = all of it */
    struct ha_history history;
};

enum ha_rejoin { HA_REJOIN_FOLLOW, HA_REJOIN_REWIND, HA_REJOIN_CLONE, HA_REJOIN_REFUSE };
struct ha_rejoin_verdict {
    enum ha_rejoin how;
    uint64_t fork; /* LSN up to which both histories are the same; 0 = nothing */
    int rule;
    char sentence[HA_SENTENCE_SIZE];
};

/* By ancestry, not by name or by who was the primary: the histories are compared. */
void ha_rejoin(const struct ha_data *own, const struct ha_data *primary, struct ha_rejoin_verdict *ret);

#endif
