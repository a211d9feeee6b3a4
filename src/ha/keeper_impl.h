/* keeper_impl: the object of a shard's keeper, and what its files call of each other. */
#ifndef HA_KEEPER_IMPL_H
#define HA_KEEPER_IMPL_H

#include "base/sm.h"
#include "ha/member_link.h"
#include "ha/shard_keeper.h"
#include "operation/standby_lag.h"

/*
 *  LOADING <--> STANDING <--> FAILING --> LOADING (somebody else wrote the record)
 *
 * LOADING  waits for the store: reading the record, or writing the first one
 * STANDING waits for statuses, its timer, a write of the record
 * FAILING  waits for what the present action of the failover waits for
 * CLOSED   final; waits for the links to close
 */
enum keeper_state { KEEPER_LOADING, KEEPER_STANDING, KEEPER_FAILING, KEEPER_CLOSED, KEEPER_STATES };

/*
 * `seq` of orders within a term: what is asked later is higher. So an agent that has begun to follow, or is
 * the primary, refuses a confirmation that was asked for before and comes late; and the config of a lower
 * epoch; and who was opened is not closed again.
 */
#define SEQ_CONFIRM 1u
#define SEQ_FOLLOW  2u /* + 1 for each time that it was cloned because it got no further */
#define SEQ_RETIRED UINT32_MAX
#define SEQ_PRIMARY 2u /* + twice the epoch, + 1 when it is open */

struct keeper_member {
    struct shard_keeper *keeper;
    char *host;
    int port;
    struct member_link *link;
    uint64_t wanted_term; /* of the order that it is to have */
    uint64_t rejoin_term; /* how it comes back under this term was decided: */
    const char *rejoin;   /* "auto", "rewind", "clone" */
    uint64_t rejoin_seq;  /* of a clone that was decided while it followed under this term, 0 = none */
    bool retiring;        /* see shard_keeper.h */
    int upstream;         /* 1 + the standby that it was told to follow, 0 = the primary */
    int upstream_rule;    /* of ha_upstream(), said last */
    uint64_t parted_ns;   /* since when it gets nothing from that standby, 0 = it does */
    uint64_t word_ns;   /* when its receiver had its last word, also after it ended; 0 = none since we look */
    uint64_t delay_ms;  /* by which it replays late, 0 = at once */
    uint64_t failed_ns; /* since when it does not get behind its upstream, 0 = it does */
    uint64_t failed_at; /* ... and which log it needs meanwhile */
    unsigned made;      /* how often it was made anew since it streamed last */
    uint64_t gone_ns;   /* since when its machine is said to be gone, 0 = it is not */
    char gone_life[24]; /* of its agent until then, "" = it was not heard of */
};

struct shard_keeper {
    struct loop *loop;
    struct store *store;
    char *name, *key;
    void (*route)(const char *primary, uint64_t term, void *data);
    void (*failing)(const struct shard_keeper_failover *failover, void *data);
    void (*settle)(const struct shard_keeper_promoted *promoted, void *data);
    void *data;
    struct sm sm;
    struct keeper_member members[HA_INSTANCES_MAX]; /* the first shard.count are in the record */
    unsigned member_count, wanted;                  /* that there are; that are to be in it */
    struct shard_record record;                     /* as it is in the store */
    int64_t revision;                               /* 0 = it is not there */
    bool loaded;
    bool proving;                   /* a read for keeper_prove() is under way */
    uint64_t proof_clock, proof_ns; /* of the primary whose term is being proved, and when we heard it */
    int proof_of;
    int64_t proof_revision;                     /* of the record when that read began */
    bool calling;                               /* a call of the store is under way */
    struct shard_record writing;                /* what is being written */
    uint64_t written_for;                       /* epoch of ... */
    struct ha_shard shard;                      /* facts, tags, policy */
    struct standby_lag beats;                   /* of the primary: when each was heard of first */
    int rule;                                   /* said last, for the log */
    struct ha_verdict waits;                    /* why commits wait while the primary is there; rule 0 = no */
    uint64_t waits_ns;                          /* since when that is known */
    uint64_t stale_for;                         /* the record's term when an agent knew a later one */
    uint64_t routed;                            /* term of the primary that was told last */
    bool maintenance_asked, maintenance_wanted; /* it is not in the record yet */
    uint64_t turned_ns;                         /* when everything was looked at last: see note_pause() */
    bool rests;                                 /* heartbeats that say nothing new are no reason for a turn */
    uint64_t lost_ns; /* when the primary was last there; 0 = it is, or nobody knows */
    struct loop_timer timer;
    struct loop_task turn;

    struct failover f;
    struct failover_driver driver;
    bool acting;
    enum failover_action action;
    uint64_t deadline_ns, action_ns;
    const char *kill_at; /* tests */
    uint64_t settling;   /* term for which settle() was called, 0 = it has answered */
    struct err settle_err;
    bool begun; /* the present action has asked for what it waits for */
    const char
        *fetch_rejoin; /* FO_FETCH, once begun: of the winner's order; NULL = it is of another database */
    bool fetch_knows;  /* the winner knows of which term the donor's timeline is */
    uint64_t fetch_failed_ns; /* since when its rewind fails, 0 = it does not */
    char before_life[24];     /* FO_CHECKPOINT: of the agent, and how many checkpoints it had made */
    uint64_t before;
    struct loop_timer wait;

    unsigned open; /* links */
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- shard_keeper.c ---- */
void keeper_turn_soon(struct shard_keeper *k);
/* Writes k->writing; keeper_written() follows. */
void keeper_write(struct shard_keeper *k);
void keeper_load(struct shard_keeper *k);
void keeper_stand(struct shard_keeper *k);
/* The record may be another by now. */
void keeper_reload(struct shard_keeper *k);

/* Of the shape of all operations' ids: people see it among them. r->kind is set. */
void keeper_new_id(struct shard_keeper *k, struct failover_record *r);

/* ---- keeper_size.c ---- */
/* A record for members that have none: of a shard that served without a keeper, or a new one. */
void keeper_record_begin(struct shard_keeper *k, const struct shard_keeper_options *o);
/* The first members are the record's, in its order. */
bool keeper_record_fits(const struct shard_keeper *k, const struct shard_record *record);
/* True: members join or leave, which is being written. */
bool keeper_resize(struct shard_keeper *k);

/* ---- keeper_person.c ---- */
/* ERRC_INVALID: its tags say that it is no primary. */
int keeper_may_lead(const struct shard_keeper *k, int member, struct err *err);
/* Its primary's agent is to end (a node is drained, a pod or a unit stopped): a switchover, if anybody can
 * take over. True: it has begun. */
bool keeper_hand_over(struct shard_keeper *k);
/* True: what a person asked for is being written. */
bool keeper_note_maintenance(struct shard_keeper *k);

/* ---- keeper_proof.c ---- */
/* What the primary's link waits for: that no later term was claimed, by the store or by every other member.
 */
void keeper_prove(struct shard_keeper *k);

/* ---- keeper_facts.c ---- */
void keeper_facts(struct shard_keeper *k);
/* NULL = not now, or it was not heard of. */
const struct member_status *keeper_status(const struct shard_keeper *k, int i);
/* It takes no orders any more. */
bool keeper_retired(const struct shard_keeper *k, int i);
/* It has carried out the order to confirm this term. */
bool keeper_receives_nothing(const struct shard_keeper *k, int i, uint64_t term);
/* It has begun to: its server was ended since, and is perhaps being started again as a standby of nobody. */
bool keeper_has_stopped(const struct shard_keeper *k, int i, uint64_t term);
/* ... and says under which term its last bytes were written: that is its confirmation. */
bool keeper_confirmed(const struct shard_keeper *k, int i, uint64_t term, struct ha_confirmation *ret);
/* The primary of this config is one, and has the config in effect: held, or open for its clients. */
bool keeper_in_effect(const struct shard_keeper *k, const struct ha_config *config, bool held);
/* As many of its standbys stream as a commit waits for. */
bool keeper_followed(const struct shard_keeper *k, const struct ha_config *config);
void keeper_look(struct shard_keeper *k);

/* ---- keeper_orders.c ---- */
void keeper_order_confirm(struct shard_keeper *k, int i, uint64_t term);
/* The primary of this config has been ordered to let clients in. */
bool keeper_opened(const struct shard_keeper *k, const struct ha_config *config);

/* held: it lets nobody in yet but shardherd. */
void keeper_order_primary(struct shard_keeper *k, const struct ha_config *config, bool held);

/* How the winner, which has confirmed, comes to what the donor has: "auto", "rewind" or "clone"; NULL =
 * never. */
const char *keeper_fetch_rejoin(const struct shard_keeper *k, const struct ha_choice *choice);
void keeper_order_fetch(struct shard_keeper *k, const struct ha_choice *choice, uint64_t term,
                        const char *rejoin);
/* All others are to follow the primary of this config, however they get there. */
void keeper_order_followers(struct shard_keeper *k, const struct ha_config *config);

/* ---- keeper_failover.c ---- */
void keeper_failover_begin(struct shard_keeper *k, const struct failover_record *record, bool resumed);
void keeper_failover_turn(struct shard_keeper *k);
void keeper_failover_written(struct shard_keeper *k, const struct err *err);
/* The failover has chosen, and what it does now relies on the record as it is. */
bool keeper_failover_leads(const struct shard_keeper *k);
/* ... which somebody else has written meanwhile. */
void keeper_failover_overtaken(struct shard_keeper *k);
/* To whoever wants to know; acknowledges: its new primary accepts writes. */
void keeper_failover_tell(struct shard_keeper *k, const struct failover_record *record, bool acknowledges);

#endif
