/*
 * ha_shards: the keepers (ha/shard_keeper.h) of all shards that have several instances.
 *
 * A shard is kept from ha_shards_drive() on, or, when its database is provisioned already, from the next
 * ha_shards_look() on, until ha_shards_release() or the end. While this manager does not lead nothing is
 * kept: whoever deposes it closes the object. The members and their agents are those of the fleet.
 *
 * When a shard has another primary its address is written into the routing table, with a new epoch, however
 * often that has to be tried; a move that publishes at the same moment tries again as well.
 */
#ifndef MANAGER_HA_SHARDS_H
#define MANAGER_HA_SHARDS_H

#include "api/api.h"
#include "base/hist.h"
#include "operation/operation.h"

struct ha_shards;
struct member_status;

struct ha_shards_options { /* all pointers outlive the object */
    struct loop *loop;
    struct store *store;
    struct fleet *fleet;
    struct operations *operations;
    /* What is known of a member (instance->member) changed; not for each byte that it is behind. */
    void (*changed)(const struct fleet_instance *instance, void *data);
    /* What its agent says of its container, again and again; heard_ns of loop_now(). May be NULL. */
    void (*heard)(const char *instance, const struct member_status *status, uint64_t heard_ns, void *data);
    /* What a member runs in is another, or is gone: how it is reached may have changed. May be NULL. */
    void (*moved)(void *data);
    void *data;
};

struct ha_shards *ha_shards_new(const struct ha_shards_options *options);
/* Every callback that is owed comes before `closed`, with ERRC_CANCELED. Servers stay as they are. Once. */
void ha_shards_close(struct ha_shards *h, void (*closed)(void *data), void *data);

/* For operation_services; data = struct ha_shards. */
int ha_shards_drive(void *data, const char *database, const char *shard, operation_driven_cb done,
                    void *done_data, struct err *err);
int ha_shards_release(void *data, const char *database, const char *shard,
                      void (*done)(const struct err *err, void *data), void *done_data, struct err *err);

/* Call it each second: begins to keep what the routing tables list, and notes in the fleet what is known. */
void ha_shards_look(struct ha_shards *h);

/*
 * Begins a switchover to this instance, or to the standby that has most (NULL). ERRC_UNSUPPORTED: it is
 * not kept, or has one instance; why: see shard_keeper_switch(); ERRC_INVALID: no such standby;
 * ERRC_CONFLICT: not now.
 */
int ha_shards_switch(struct ha_shards *h, const char *database, const char *shard, const char *to,
                     const char *why, struct err *err);

/*
 * Whether this member may be restarted now: it is a standby, and all the others of its shard stream, so that
 * no commit waits for longer because of it. ERRC_UNSUPPORTED: it is not kept; ERRC_CONFLICT: not now.
 */
int ha_shards_may_restart(const struct ha_shards *h, const struct fleet_instance *member, struct err *err);

/* Maintenance mode on or off; it is so when ha_shards_get() says it. ERRC_UNSUPPORTED: it is not kept. */
int ha_shards_maintain(struct ha_shards *h, const char *database, const char *shard, bool on,
                       struct err *err);
/* See shard_keeper_fail_over(). ERRC_UNSUPPORTED: it is not kept. */
int ha_shards_fail_over(struct ha_shards *h, const char *database, const char *shard, const char *to,
                        bool allow_loss, struct err *err);

/* For the API; false = it is not kept. Texts live until the next turn. */
bool ha_shards_get(const struct ha_shards *h, const char *database, const char *shard, struct api_kept *ret);

/* Failovers or switchovers of a database that ended under this leader. */
struct ha_shards_failovers {
    const char *database, *kind; /* "failover", "switchover" */
    uint64_t done, undone;
    const struct hist *blocked; /* how long nobody accepted writes */
};
/* The n-th; false = there are no more. Of each database with standbys there is one of either kind. */
bool ha_shards_failovers(const struct ha_shards *h, unsigned n, struct ha_shards_failovers *ret);

/* A shard whose primary is there and whose commits wait for its standbys (F28). */
struct ha_shards_wait {
    const char *database, *shard;
    uint64_t since_ns; /* that it is known */
};
/* The n-th; false = there are no more. */
bool ha_shards_wait(const struct ha_shards *h, unsigned n, struct ha_shards_wait *ret);

/* How many members the record of a shard names, 0 = it is not kept, or not read yet; see shard_keeper_size().
 */
unsigned ha_shards_size(const struct ha_shards *h, const char *database, const char *shard);

/* Whether a shard is kept and another primary is being made for it just now. */
bool ha_shards_fails_over(const struct ha_shards *h, const char *database, const char *shard);

#endif
