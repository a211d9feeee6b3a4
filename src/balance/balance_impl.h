/*
 * balance_impl: what the parts of balance_decide() share: one round over one snapshot.
 */
#ifndef BALANCE_BALANCE_IMPL_H
#define BALANCE_BALANCE_IMPL_H

#include "balance/balance.h"
#include "balance/heat.h"
#include "base/env.h"
#include "base/sm.h"

#define BALANCE_START_NS                                                                                     \
    (30 * ENV_NS_PER_S) /* a decision whose operation has not shown by then is forgotten */
#define BALANCE_LISTEN_NS   (10 * ENV_NS_PER_S) /* a stream that has not begun by then will not: take rows */
#define BALANCE_ROWS_NS     (15 * ENV_NS_PER_S) /* how long to wait for rows */
#define BALANCE_RETRY_NS    (60 * ENV_NS_PER_S) /* after a refusal that took a sample; doubles up to 8 times */
#define BALANCE_SILENCE_NS  (60 * ENV_NS_PER_S)  /* the same refusal again within this is not said again */
#define BALANCE_FLAP_NS     (300 * ENV_NS_PER_S) /* after R14: sample only once the row is full */
#define BALANCE_REPEAT_NS   (600 * ENV_NS_PER_S) /* another popular key within this: the load moves */
#define BALANCE_RECEIVE_MAX 0.8                  /* x threshold: what a rebalance may load its target with */
#define BALANCE_WHY_SIZE    96
#define BALANCE_MERGE_MAX   0.5 /* x threshold: what two neighbours may carry together */

struct shard_notes {
    struct balance_shard_state show;
    struct sm sm;                    /* its state is show.phase */
    bool present;                    /* in this snapshot */
    bool wants_rows;                 /* SAMPLING: rows were asked for */
    bool rows_only;                  /* SAMPLING: and no stream */
    char rows_why[BALANCE_WHY_SIZE]; /* and why */
    uint64_t sampling_ns;            /* SAMPLING: since when */
    uint64_t rows_ns;                /* SAMPLING: rows wanted since */
    uint64_t retry_ns;               /* REFUSED: no sample before */
    unsigned retries;                /* refusals after a sample in this hot period */
    uint64_t fell_ns;                /* last R14, 0 = never */
    bool operation_seen;             /* DECIDED: it has shown */
    uint64_t reserved_ns;            /* named as target of a change; 0 = never */
    int64_t popular_hash;            /* of the last R7 */
    uint64_t popular_ns;             /* its time; 0 = never */
};

struct balance_state {
    struct shard_notes *items; /* ordered as they came */
    size_t count;
    struct balance_refusal merge_refusal;
    char merge_why[BALANCE_WHY_SIZE]; /* of merge_refusal */
    uint64_t merged_ns;               /* last merge decided or recommended; 0 = never */
};

/* One call of balance_decide(): what it has given away already counts for the shards that come later. */
struct round {
    const struct balance_facts *facts;
    struct balance_state *state;
    struct balance_changes *changes;
    unsigned new_shards, new_operations;
    bool hot; /* a shard is at least warm: no merge now */
};

/* One shard at its turn. */
struct turn {
    struct round *round;
    const struct balance_shard_facts *shard;
    size_t index;
    struct shard_notes *state;
    struct heat heat;
    struct words words;
};

/* Of a shard of the snapshot. */
struct shard_notes *balance_notes(const struct round *round, size_t shard);
struct balance_change *balance_changes_add(struct balance_changes *changes);

bool balance_elapsed(const struct balance_facts *facts, uint64_t since_ns, uint64_t span_ns);
/* An operation runs on it, or was decided and has not shown yet. */
bool balance_busy(const struct round *round, size_t shard);
/* Its last move ended less than the cool-down ago. */
bool balance_cooling(const struct round *round, size_t shard);

void balance_set_load(struct turn *t, const char *key, double value);
void balance_set_share(struct turn *t, const char *key, double share);
void balance_phase_set(struct shard_notes *state, enum balance_phase phase);
/* Keeps the refusal and adds it to the changes if it is news. */
void balance_refuse(struct turn *t, int rule);
/* Adds a change with the turn's sentence; marks what it takes. */
struct balance_change *balance_change_make(struct turn *t, enum balance_kind kind, int rule, bool act);

/* "3 s", "10 min", "2 h" */
#define BALANCE_TIME_SIZE 32
void balance_format_time(uint64_t ns, char out[BALANCE_TIME_SIZE]);
/* "2143 tx/s", "1.72 cores", "12.4 MB/s", "3.1 GB" */
#define BALANCE_LOAD_SIZE 40
void balance_format_load(enum load_metric metric, double value, char out[BALANCE_LOAD_SIZE]);

/* The parts of balance_decide(). */
void balance_hot_step(struct turn *t);                                            /* balance_hot.c */
void balance_judge(struct turn *t, const struct split_sample *sample, bool rows); /* balance_judge.c */
/* Whether a new shard may be made now, else the rule that forbids it, with its words set. */
int balance_room(struct turn *t);
/* The coolest existing shard that could take that much more; shard_count if none. */
size_t balance_find_target(const struct turn *t, double received);
void balance_merge_step(struct round *round); /* balance_merge.c */

#endif
