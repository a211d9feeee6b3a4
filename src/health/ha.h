/*
 * ha: one shard with standbys, as its failover sees it: what was agreed on (the record, which the store
 * keeps), what is known of each instance (facts), and what was asked for (policy). Data only; ha_decide.h
 * decides from it.
 *
 * Words:
 *   term      number of a primaryship of this shard. It only grows: who wants to make a primary claims the
 * next one in the record, by compare-and-swap, before anything else. Each command to an agent carries it, and
 * an agent that has confirmed a term refuses commands of a lower one, also after a restart. confirm   an
 * instance's answer to "confirm term t": it receives nothing any more from whom it followed and, if it was
 * the primary, accepts nothing; it says how far its WAL on disk reaches. config    under whom and by whose
 * help commits are acknowledged: `primary` acknowledges a commit when `k` of `members` have it on disk
 * (synchronous_standby_names = ANY k (members)). record    the configs that may have acknowledged something
 * that only they keep. One in calm times. A change of the sync set or of the primary first adds a config,
 * then brings it about, and drops the older ones when all they acknowledged is on k members of the new one.
 * Whoever wants to promote must satisfy every config in it.
 *
 * A config is satisfied by confirmations when its primary confirmed, or R of its N members with R + k > N:
 * then one of them has each commit that was acknowledged, and so has the most advanced of them; and no commit
 * can be acknowledged under it any more, because fewer than k members are left that receive. An instance that
 * is in no config of the record counts for nothing and is never promoted: that is what excluding a standby
 * means.
 *
 * Instances are meant by index: an instance keeps its own for the life of its shard. Times are of the
 * monotonic clock, in nanoseconds; 0 = never.
 */
#ifndef HEALTH_HA_H
#define HEALTH_HA_H

#include <stdbool.h>
#include <stdint.h>

#define HA_INSTANCES_MAX 16
#define HA_CONFIGS_MAX   8
#define HA_NAME_SIZE     64

typedef uint32_t ha_set; /* of instances: bit i = instance i */
#define HA_BIT(i) ((ha_set)1 << (i))
unsigned ha_size(ha_set set);

enum ha_durability {
    HA_REQUIRED,  /* a commit waits for k >= 1 standbys, however long; the default from three instances on */
    HA_PREFERRED, /* it waits, until the standby's exclusion is recorded; the default with two */
    HA_ASYNC,     /* it waits for nobody: a failover may lose what was not received yet */
};
const char *ha_durability_name(enum ha_durability durability);

/* How far an instance's WAL reaches on its disk. */
struct ha_position {
    uint64_t
        term; /* under which its last bytes were written: timelines of two primaries may have one number */
    uint32_t timeline; /* for people, and for ancestry */
    uint64_t lsn;
};
/* <0, 0, >0: the later term has more, within a term the higher LSN. */
int ha_compare(const struct ha_position *a, const struct ha_position *b);

/* ---- the record ---- */

struct ha_config {
    uint64_t epoch; /* its number; grows */
    uint64_t term;
    int primary;
    ha_set members;
    unsigned k;
};

struct ha_record {
    uint64_t term; /* the highest that was claimed; above the newest config's while a primary is being made */
    uint64_t epoch; /* the highest given to a config */
    enum ha_durability durability;
    unsigned count;                           /* of configs: at least one */
    struct ha_config configs[HA_CONFIGS_MAX]; /* newest last */
};
const struct ha_config *ha_newest(const struct ha_record *record);
/* Everybody who is a primary or member in it. */
ha_set ha_involved(const struct ha_record *record);
/* Confirmations of these instances prove that what was acknowledged is among them. See above. */
bool ha_satisfied(const struct ha_config *config, ha_set confirmed);
/* ... of every config; else *ret (may be NULL) is one that is not satisfied. */
bool ha_all_satisfied(const struct ha_record *record, ha_set confirmed, const struct ha_config **ret);
/*
 * How many members have to confirm when its primary does not; 0 = no number is enough. With k = 0 and members
 * (async) it is all of them, which proves nothing of what was acknowledged, but leaves nobody whom the old
 * primary could reach; with k = 0 and none (it goes on alone) there is no number.
 */
unsigned ha_needed(const struct ha_config *config);

/* ---- facts ---- */

enum ha_server { /* what an agent says of its server */
                 HA_SERVER_UNKNOWN,
                 HA_SERVER_PRIMARY,
                 HA_SERVER_STANDBY,
                 HA_SERVER_STARTING,
                 HA_SERVER_DOWN, /* it ended, or never was there */
};

enum ha_pod {
    HA_POD_UNKNOWN,
    HA_POD_RUNS,
    HA_POD_GONE /* it or its node was deleted or said to be out of service */
};

struct ha_confirmation {
    uint64_t term; /* 0 = none */
    struct ha_position position;
};

struct ha_instance {
    char name[HA_NAME_SIZE];
    /* asked for */
    bool no_failover; /* it counts for the quorum, but is not promoted */
    bool no_sync;     /* it is in no sync set */
    bool delayed;     /* it replays late on purpose: not promoted */
    int priority;     /* of equally advanced ones the higher */
    int follows;  /* 1 + the standby that it is to receive from, 0 = the primary; who has one is no_sync and
                     no_failover */
    int upstream; /* 1 + the standby that it receives from, or was told to, 0 = the primary or nobody */
    uint64_t unserved_ns; /* when it was found last that this one does not give it what it needs, 0 = never */
    /* its agent */
    uint64_t heard_ns; /* last heartbeat */
    bool closed; /* its connection ended since, and a new one was refused: the agent is not there any more */
    enum ha_server server; /* as of that heartbeat */
    uint64_t ended_ns; /* HA_SERVER_DOWN, STARTING: when it found its server ended; 0 = its server is up */
    bool gave_up;      /* it does not try to start it any more */
    uint64_t config_epoch; /* primary: of the config that is in effect (and on its disk) */
    uint64_t config_lsn;   /* primary: its WAL's end when that came into effect */
    struct ha_confirmation confirmed;
    /* our own connections to its server */
    uint64_t reached_ns; /* last success */
    bool refused;        /* the last try was refused: nobody listens */
    /* a standby's receiver, as its agent says */
    bool receives;        /* it is connected to the primary of the newest config */
    uint64_t received_ns; /* last word from it, keepalives included */
    /* a standby as the primary sees it */
    bool streams;
    uint64_t streams_ns; /* since when it does, or does not */
    uint64_t flushed;    /* LSN */
    /* Kubernetes */
    enum ha_pod pod;
};

struct ha_policy {
    enum ha_durability durability;
    unsigned k; /* standbys that a commit waits for */
    uint64_t
        silent_ns; /* an agent that says nothing for so long, and whose server cannot be reached, is gone */
    uint64_t quiet_ns; /* a receiver that is connected, but heard nothing for so long, has lost its primary */
    uint64_t restart_ns;  /* a server that ended may be back on its own for so long */
    uint64_t lease_ns;    /* an isolated agent has stopped its server after so long */
    uint64_t exclude_ns;  /* a standby that does not stream for so long leaves the sync set */
    uint64_t admit_bytes; /* a standby enters the sync set when it is not further behind */
};
/* k = 1; required from three instances on, with two preferred. */
void ha_policy_defaults(struct ha_policy *policy, unsigned instances);

struct ha_shard {
    char name[HA_NAME_SIZE];
    struct ha_policy policy;
    struct ha_record record;
    bool maintenance; /* of the shard or of the fleet: nothing is decided */
    uint64_t
        awake_ns; /* since when we look without a pause of our own: who was silent before, we did not hear */
    uint64_t lsn; /* the primary's WAL end as last seen */
    unsigned count;
    struct ha_instance instances[HA_INSTANCES_MAX];
};

/*
 * Drops what the rest implies: a config that is satisfied whenever all the others are adds nothing to them.
 * The newest stays. So a weaker set takes the place of the stronger one at once, and repeated failovers do
 * not pile up.
 */
void ha_record_prune(struct ha_record *record);

/* The record of a new shard: term 1, this primary, and the sync set that the policy wants of these standbys.
 */
void ha_record_init(struct ha_record *record, const struct ha_policy *policy, int primary, ha_set standbys);

#endif
