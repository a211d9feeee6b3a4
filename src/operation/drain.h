/*
 * drain: the operation that takes everything away from a shard and lets it stand: its ranges move to other
 * shards, one after the other, each by a move of its own (move.h), which can be looked at, canceled and taken
 * back as any other. The shard stays in the routing table, without ranges, and may be given some again.
 *
 * MOVING -> DONE. What wakes it: a timer that looks several times a second, and its journal. It begins the
 * next move when the one before has ended, and waits while it may not (another operation runs on the shard,
 * balance.max_moves). A move that ends in another way than done ends the drain, FAILED; what went before it
 * stays where it is. Asked to go back it cancels the move under way, if that can still go back, begins no
 * other, and ends, UNDONE.
 *
 * A dry run plans all moves at once, has each checked (a dry run of its own), and keeps what they found:
 * DONE, or FAILED when something forbids one. It does not survive its manager.
 *
 * Which move is its own says the move's reason, and which ranges are left the routing table: its journal
 * holds what was asked for and nothing that could be behind.
 */
#ifndef OPERATION_DRAIN_H
#define OPERATION_DRAIN_H

#include "operation/operation.h"

struct drain_request {
    const char *database, *shard;
    const char *target; /* all goes there; NULL = each range to its neighbour that owns less */
    bool dry_run;       /* the moves are planned, and checked by dry runs of theirs; nothing is moved */
    bool allow_ddl;     /* of the moves */
    uint64_t bake_ns;   /* of each move */
};

/* INVALID target is the shard itself, NOT_FOUND, REFUSED it has no ranges, or nobody could take them,
 * CONFLICT it is drained already, or the target is. */
int drain_start(struct operations *ops, const struct drain_request *request, struct operation **ret,
                struct err *err);

int drain_resume(struct operations *ops, const char *json, int64_t revision, struct err *err);

bool drain_is(const struct operation *op);
/* Running, of this shard, no dry run; or NULL. */
const struct operation *drain_of(const struct operations *ops, const char *database, const char *shard);
/* "moving", or "waits" while it may not; "refused" of a dry run that found what forbids it. */
const char *drain_state_name(const struct operation *op);
double drain_progress(const struct operation *op); /* ranges that are gone, 0..1 */

#endif
