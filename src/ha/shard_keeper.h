/*
 * shard_keeper: keeps one shard with standbys. It reads the shard's record from the store (and makes it when
 * there is none), talks with the agents of its members, and lets health/ha_decide.h say what follows:
 *
 *   standing   each member has the order that the record means for it; leases are renewed; the sync set is
 *              changed step by step (recorded before it is relied on); who comes back follows, is rewound or
 *              made anew
 *   failing    operation/failover.h gives the shard another primary; its actions are carried out here
 *
 * Every write of the record is a compare-and-swap. Who finds that another one wrote it, or that an agent
 * knows a later term, reads it anew and goes on from what it says. Nothing but the record is remembered over
 * a restart; orders are given again, which changes nothing.
 *
 * Not here yet: guards of a promoted instance are settled by options->settle, and there is no interval
 * between promotion and settling in which the instance refuses clients (docs/high-availability.md).
 */
#ifndef HA_SHARD_KEEPER_H
#define HA_SHARD_KEEPER_H

#include "ha/shard_record.h"
#include "loop/loop.h"
#include "store/store.h"

struct shard_keeper;

struct shard_keeper_member {
    const char *name, *host;
    int http_port, port;
    const char *agent_host; /* NULL = host */
    const char *token;      /* secret, of its agent; NULL = options->token */
};

struct shard_keeper_options {                  /* texts and members are copied */
    const char *name;                          /* of the shard */
    const char *key;                           /* of its record in the store */
    struct store *store;                       /* outlives the keeper */
    const struct shard_keeper_member *members; /* a new record makes the first the primary */
    unsigned count;
    const char *token; /* secret, of all agents that have none of their own */
    const struct ha_policy *policy;
    /* The members' clients are to go to this one. Called for each primary that was opened, also once after a
     * start; NULL = nobody wants to know. */
    void (*route)(const char *primary, uint64_t term, void *data);
    void *data;
};

struct shard_keeper *shard_keeper_new(struct loop *loop, const struct shard_keeper_options *options);
/* Stops, leaving the servers as they are. `closed` runs last. Once. */
void shard_keeper_close(struct shard_keeper *keeper, void (*closed)(void *data), void *data);

/* A switchover to this member, or to the one that streams and has most (NULL). ERRC_INVALID: there is none.
 * ERRC_CONFLICT: the keeper does not stand. */
int shard_keeper_switch(struct shard_keeper *keeper, const char *to, struct err *err);

/* The record as last read or written; NULL before. */
const struct shard_record *shard_keeper_record(const struct shard_keeper *keeper);
/* "loading", "standing", "failing" */
const char *shard_keeper_state(const struct shard_keeper *keeper);

/* One member, as it is known now; texts live until the next turn. */
struct shard_keeper_view {
    const struct member_status *status; /* NULL = its agent was not heard of, or is gone */
    uint64_t heard_ns;
    bool primary; /* of the newest sync set in the record */
    bool sync;    /* it is in that set: commits may wait for it */
    bool streams; /* from that primary, as the primary says */
    bool lag_known;
    uint64_t lag_bytes; /* what it has not on its disk yet */
};
/* False = no member is named so. */
bool shard_keeper_view(const struct shard_keeper *keeper, const char *member, struct shard_keeper_view *ret);
/* It stands, its primary has its sync set in effect, and as many standbys stream as a commit waits for. */
bool shard_keeper_writable(const struct shard_keeper *keeper);

#endif
