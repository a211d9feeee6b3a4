/*
 * balance: which shard to split, relieve, merge, and why not. Pure: facts and a state in, changes out.
 *
 * The caller takes a snapshot of one database each second, calls balance_decide(), and then
 *  - starts the operations asked for by changes whose `act` is true; what it accepted must show in the next
 *    snapshot (shard.operation on every shard it touches, pending_shards, free_instances,
 * running_operations);
 *  - listens to the change streams, and samples the rows, of exactly those shards for which
 *    balance_wants_stream() and balance_wants_rows() are true (level, not edge: what is no longer wanted is
 *    stopped and thrown away);
 *  - keeps, shows and counts every change, refusals included.
 *
 * Hot = for each of the newest `policy.window` samples, none of them missing: above policy.threshold, and
 * above policy.relative x the mean of the database's OTHER shards at that moment. The others, not all: the
 * mean over all holds the shard itself, so that with two shards a ratio of 2 could never be reached, and with
 * one shard not even 1; with the others the same factor means the same in a fleet of any size. A single shard
 * has nothing to be compared with: only the threshold counts. Others without a figure are left out of the
 * mean; if all of them lack one, the sample counts as missing.
 *
 * Timing: listening starts when the row lacks only the samples that the listening takes, so that the decision
 * falls with the sample that fills the row: 10 to 11 s after the onset by the defaults.
 */
#ifndef BALANCE_BALANCE_H
#define BALANCE_BALANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "balance/rule.h"
#include "balance/split_point.h"
#include "fleet/fleet.h"
#include "fleet/range.h"
#include "fleet/samples.h"

#define BALANCE_NAME_SIZE 64

/* Nothing is owned; everything must stay unchanged during the call. */
struct balance_shard_facts {
    const char *name;
    const struct range_set *ranges; /* empty: a new shard that waits for its first range; it is left alone */
    const struct load_ring *load;   /* of its primary; NULL = not watched, every sample missing */
    uint64_t period_ns;    /* so long the newest sample may have to wait for the next; 0 = as all others */
    uint64_t last_move_ns; /* end of the last split, merge or move of this shard, done or failed; 0 = never */
    const char *operation; /* runs on it, of any kind; NULL = none. A move that only bakes may be left out */
    bool may_receive;      /* primary up, disk has room: may be the target of a move */
    const char *merge_hold; /* why it must not be merged ("pinned by its owner"); NULL = it may */
    const struct split_sample
        *sample;                     /* the listening that balance_wants_stream() asked for; NULL = not yet */
    const char *sample_error;        /* why there will be none; NULL = no error */
    const struct split_sample *rows; /* the same for balance_wants_rows(); looked at once it is closed */
    const char *rows_error;
};

struct balance_facts {
    uint64_t now_ns;
    uint64_t period_ns; /* between samples; 0 = 1 s */
    const char *database;
    const struct balance_policy *policy;
    const struct balance_shard_facts *shards;
    size_t shard_count;
    unsigned pending_shards;     /* being made by a running operation and not in shards yet */
    unsigned min_shards;         /* never merged below this; 0 = 1 */
    unsigned free_instances;     /* how many more shards the runtime could make now */
    const char *capacity_why;    /* why not more, for R12: "disk 94 % full"; NULL = "no free instance" */
    unsigned running_operations; /* of the whole fleet */
    unsigned max_operations;     /* at a time, 0 = no limit */
    /*
     * Rule 13 by the letter (false) refuses every shard above twice the threshold for ever. True: such a
     * split is allowed as the first of several, if there is room for as many shards as the load needs.
     */
    bool stepwise;
};

enum balance_kind {
    BALANCE_SAMPLE,      /* listen to the change stream of `shard` (R20) */
    BALANCE_SAMPLE_ROWS, /* sample the rows of `shard` (R20) */
    BALANCE_SPLIT,       /* move `range` of `shard` to a new shard (R1, R15) */
    BALANCE_ISOLATE,     /* the same for one key; always an offer, never act (R8) */
    BALANCE_REBALANCE,   /* move `range` of `shard` to `target` (R17) */
    BALANCE_MERGE,       /* move all ranges of `shard` to `target`, retire `shard` (R18) */
    BALANCE_REFUSE,      /* `shard` (and `target`, for a merge) stay as they are; `rule` says why */
    BALANCE_KIND_MAX
};
const char *balance_kind_name(enum balance_kind kind); /* "split" */

struct balance_change {
    enum balance_kind kind;
    int rule; /* enum balance_rule */
    bool act; /* false: a recommendation, an offer or a refusal */
    char shard[BALANCE_NAME_SIZE];
    char target[BALANCE_NAME_SIZE]; /* "" = a new shard, or none */
    struct range range;             /* to move; of a merge only the first one */
    int64_t split_at;               /* first hash of the upper part */
    double load;                    /* of the shard, mean of the row, in the objective's unit */
    double kept, moved;             /* projected: what stays on shard; what the target carries afterwards */
    char sentence[BALANCE_SENTENCE_SIZE];
};

/* Zero-initialised = empty. */
struct balance_changes {
    struct balance_change *items;
    size_t count, capacity;
};
void balance_changes_reset(struct balance_changes *changes); /* count 0, keeps the memory */
void balance_changes_free(struct balance_changes *changes);

enum balance_phase {
    BALANCE_COOL,     /* the newest sample is not hot */
    BALANCE_WARM,     /* a row has begun */
    BALANCE_SAMPLING, /* waits for the stream or the rows, and for the row to fill */
    BALANCE_REFUSED,  /* hot; `refusal` says why nothing is done */
    BALANCE_DECIDED,  /* waits for the operation to show and to end; a recommendation: for the cool-down */
    BALANCE_PHASE_MAX
};
const char *balance_phase_name(enum balance_phase phase);

/* The refusal that stands. It is put into the changes once, and again only when the rule changes. */
struct balance_refusal {
    int rule;    /* 0 = there was none */
    bool active; /* false: history */
    uint64_t since_ns, last_ns;
    char sentence[BALANCE_SENTENCE_SIZE]; /* as first said */
};

/* What is remembered of one shard; for display. */
struct balance_shard_state {
    char name[BALANCE_NAME_SIZE];
    enum balance_phase phase;
    unsigned row;          /* hot samples in a row at the last call, at most policy.window */
    double load;           /* mean of that row, or the newest sample; NAN = not known */
    uint64_t hot_since_ns; /* of the present row; 0 = not hot */
    struct balance_refusal refusal;
    struct balance_change decision; /* the last one that was not a refusal; kind BALANCE_KIND_MAX = none */
    uint64_t decided_ns;
};

struct balance_state;
struct balance_state *balance_state_new(void); /* one for each database */
void balance_state_free(struct balance_state *state);
/* NULL if the shard was never in a snapshot. The pointer lives until the next balance_decide(). */
const struct balance_shard_state *balance_state_find(const struct balance_state *state, const char *shard);
/* The refusal of a merge (R19) that stands; rule 0 = none. */
const struct balance_refusal *balance_state_merge_refusal(const struct balance_state *state);
/* `place`: where it is looked for first, counted in the order in which the shards of the last snapshot came.
 */
bool balance_wants_stream(const struct balance_state *state, const char *shard, size_t place);
bool balance_wants_rows(const struct balance_state *state, const char *shard, size_t place);

/* Appends to changes. Time must not go back between calls. */
void balance_decide(const struct balance_facts *facts, struct balance_state *state,
                    struct balance_changes *changes);

#endif
