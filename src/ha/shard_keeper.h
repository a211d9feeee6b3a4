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
 * With options->settle a promoted instance is held: it lets nobody in but shardherd's own role until its
 * guards are said to be settled. A promoted instance may lack a fence or an opening that its predecessor had,
 * so what it owns has to be compared with the store before it accepts a write.
 */
#ifndef HA_SHARD_KEEPER_H
#define HA_SHARD_KEEPER_H

#include "ha/shard_record.h"
#include "loop/loop.h"
#include "store/store.h"

struct shard_keeper;
struct tls_context;

struct shard_keeper_promoted { /* a new primary that lets nobody in but shardherd itself */
    const char *primary, *host;
    int port;
    uint64_t term;
};

struct shard_keeper_failover { /* a failover or switchover; texts live until the next turn */
    const struct failover_record *record;
    const char *from, *to; /* NULL = not known (any more), or not yet */
    uint64_t lost_ns;      /* when its primary was last there; 0 = not known, or it is still */
    bool acknowledges;     /* the new primary accepts writes */
};

struct shard_keeper_tags {
    bool no_failover; /* it counts for the quorum, but is not promoted */
    bool no_sync;     /* it is in no sync set */
    bool retiring;    /* it is to go: in no sync set, not promoted; then stopped, and its agent takes no order
                         any more */
    int priority;     /* of equally advanced ones the higher is promoted */
    int follows;      /* 1 + the number of the member whose standby it is to be: in no sync set, not promoted;
                         0 = the primary's */
    uint64_t delay_ns; /* it replays so late on purpose: in no sync set, not promoted; 0 = at once */
};

struct shard_keeper_member {
    const char *name, *host;
    int http_port, port;
    struct shard_keeper_tags tags;
    const char *agent_host; /* NULL = host */
    const char *token;      /* secret, of its agent; NULL = options->token */
};

struct shard_keeper_options {                  /* texts and members are copied */
    const char *name;                          /* of the shard */
    const char *key;                           /* of its record in the store */
    struct store *store;                       /* outlives the keeper */
    const struct shard_keeper_member *members; /* a new record makes the first the primary */
    unsigned count;
    /* So many of them, from the first on, are to make up the shard; 0 = all. One of these that the record
     * does not name yet joins it; one after them that it names leaves the sync set, and then the record, see
     * shard_keeper_size(). */
    unsigned wanted;
    /* The shard has been served without a keeper, by its first member: a new record relies on nobody else,
     * and no data directory is made. */
    bool adopts;
    const char *token;       /* secret, of all agents that have none of their own */
    struct tls_context *tls; /* for their interfaces: who signs them, and our certificate; NULL = plain, on
                                loopback. Gets more references */
    const struct ha_policy *policy;
    /* The members' clients are to go to this one. Called for each primary that was opened, also once after a
     * start; NULL = nobody wants to know. */
    void (*route)(const char *primary, uint64_t term, void *data);
    /* Where the last failover or switchover is: after a start, with each state and each error, and when its
     * end is in the record. To tell people; NULL = nobody wants to know. */
    void (*failing)(const struct shard_keeper_failover *failover, void *data);
    /* Guards, gate and control row of this new primary are to become those of the store
     * (shardherd.settle_promoted() in operation/shard.sql), by sessions of the role shardherd that set
     * default_transaction_read_only = off and, as nobody follows yet, synchronous_commit = local; then
     * shard_keeper_settled() is to be called, also when it failed. Comes again for the same term after a
     * failure, 30 s without an answer, or a restart. NULL = there is nothing to settle, and promoted
     * instances are not held. */
    void (*settle)(const struct shard_keeper_promoted *promoted, void *data);
    void *data;
    /* Tests: as in operation/operation.h. Places are "failover:before:A" and "failover:after:A" (A has
     * succeeded or failed, which nobody was told yet), "switchover:..." likewise; A is an action of
     * operation/failover.h, or the state whose record is written. "resize:before:record" and
     * "resize:after:record": the record that names other members is written, and was. */
    const char *kill_at;
};

struct shard_keeper *shard_keeper_new(struct loop *loop, const struct shard_keeper_options *options);
/* Stops, leaving the servers as they are. `closed` runs last. Once. */
void shard_keeper_close(struct shard_keeper *keeper, void (*closed)(void *data), void *data);

/* A switchover to this member, or to the one that streams and has most (NULL). why: for the record; NULL = a
 * person asked for it. ERRC_INVALID: there is none. ERRC_CONFLICT: the keeper does not stand. */
int shard_keeper_switch(struct shard_keeper *keeper, const char *to, const char *why, struct err *err);

/* What settle() was called for is done; err (copied) says why not, NULL = it is. Of another term: nothing
 * happens. Not from inside settle(). */
void shard_keeper_settled(struct shard_keeper *keeper, uint64_t term, const struct err *err);

/* From now on; not remembered over a restart. ERRC_NOT_FOUND: there is no such member. */
int shard_keeper_tag(struct shard_keeper *keeper, const char *member, const struct shard_keeper_tags *tags,
                     struct err *err);
/* A retiring member has stopped and takes no orders any more: it can be removed. What was acknowledged does
 * not rely on it. A primary does not retire: switch over first. */
bool shard_keeper_retired(const struct shard_keeper *keeper, const char *member);
/* While it is on nothing is decided (F2): no failover, no change of the sync set. Orders and leases go on,
 * and so does a failover that has begun; a switchover or a failover may be asked for. It is so from when the
 * record says it (record->maintenance), which is when the keeper stands; until then a restart forgets it. */
void shard_keeper_maintenance(struct shard_keeper *keeper, bool on);

/*
 * A failover because a person says so, to this member. ERRC_REFUSED: no quorum of those who helped
 * acknowledge is heard, and the message says what would be lost; with allow_loss it begins all the same, or
 * the one that waits for that quorum goes on with this member. Nothing is lost where a quorum is heard,
 * allowed or not. ERRC_CONFLICT: the primary is there, or not now; ERRC_UNAVAILABLE: the member is not heard.
 */
int shard_keeper_fail_over(struct shard_keeper *keeper, const char *to, bool allow_loss, struct err *err);

/*
 * Whoever runs the member's machine says that it, or the node below it, is there no more (gone), or that one
 * runs. Again and again, or when it changes. A primary that is gone is not waited for: it is failed over as
 * soon as no standby that is heard receives from it (F12). Who is heard again is there, whatever is said: its
 * agent was started anew, or speaks for GONE_NS (keeper_facts.c) since.
 */
void shard_keeper_pod(struct shard_keeper *keeper, const char *member, bool gone);

/* The record as last read or written; NULL before. */
const struct shard_record *shard_keeper_record(const struct shard_keeper *keeper);
/* How many members the record names, 0 = it was not read yet. Those after them can be removed: nothing that
 * was acknowledged relies on them, and nobody makes one of them the primary. */
unsigned shard_keeper_size(const struct shard_keeper *keeper);
/* The primary is one that is to leave: it has to hand over first. */
bool shard_keeper_hands_over(const struct shard_keeper *keeper);
/* "loading", "standing", "failing" */
const char *shard_keeper_state(const struct shard_keeper *keeper);
/* Why commits wait although its primary is there (F28), until the next turn, and since when that is known;
 * NULL = they do not. */
const char *shard_keeper_waits(const struct shard_keeper *keeper, uint64_t *since_ns);

/* One member, as it is known now; texts live until the next turn. */
struct shard_keeper_view {
    const struct member_status *status; /* NULL = its agent was not heard of, or is gone */
    uint64_t heard_ns;
    bool primary;         /* of the newest sync set in the record */
    bool unseen;          /* ... and was not seen as one yet: a shard that was adopted */
    bool sync;            /* it is in that set: commits may wait for it */
    bool streams;         /* from that primary, as the primary says, or from its upstream, as that one says */
    const char *upstream; /* the standby that it follows; NULL = the primary */
    /* Standby: by the heartbeat, since when it lacks something; 0 = less than 2 s. Without a receiver at
     * least as long as that is so, never 0. NAN = not known. */
    double lag_seconds;
    bool lag_known;
    uint64_t lag_bytes; /* what it has not on its disk yet */
};
/* False = no member is named so. */
bool shard_keeper_view(const struct shard_keeper *keeper, const char *member, struct shard_keeper_view *ret);
/* It stands, its primary has its sync set in effect, and as many standbys stream as a commit waits for. */
bool shard_keeper_writable(const struct shard_keeper *keeper);

#endif
