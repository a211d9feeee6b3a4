/*
 * ha_settle: before a promoted instance lets clients in, its control row, ranges, guards and gates become
 * those that the store holds for certain (shardherd.settle_promoted() in operation/shard.sql).
 *
 * The routing table says what a shard owns, except while a move of it is at its fence, when the table is
 * written before the fence is committed. Then the shard is given what it owned before the move, which is
 * right unless the target was opened: a promoted source asks the target. An instance that knows a later epoch
 * than what it is given is left as it is, and the move finds out from it how things stand.
 */
#ifndef MANAGER_HA_SETTLE_H
#define MANAGER_HA_SETTLE_H

#include "operation/move_op.h"
#include "operation/operation.h"

struct ha_settle;

struct ha_settle_options { /* outlives all of them */
    struct loop *loop;
    struct fleet *fleet;
    struct operations *operations;
};

struct ha_settle_done {
    /* At most once, not from inside ha_settle_begin(); err NULL = it may be opened. */
    void (*settled)(uint64_t term, const struct err *err, void *data);
    /* Once, last, later: no connection is left. Never from inside another call. */
    void (*closed)(void *data);
    void *data;
};

/* primary is an instance of the fleet; texts and *done are copied. It closes itself after settled(). */
struct ha_settle *ha_settle_begin(const struct ha_settle_options *options, const char *database,
                                  const char *shard, const char *primary, uint64_t term,
                                  const struct ha_settle_done *done);
/* Without settled() from now on; closed() follows. Twice is harmless until closed() has run. */
void ha_settle_close(struct ha_settle *settle);

/*
 * What this shard owns for certain, of which the table says `shard`. claim NULL: no move of it is at its
 * fence; other_has: the claim's target accepts the range. *ret (empty before) is to be freed. ERRC_CONFLICT:
 * table and servers contradict each other.
 */
int ha_settle_owned(const struct routing_shard *shard, const struct move_claim *claim, bool other_has,
                    struct range_set *ret, uint64_t *ret_epoch, struct err *err);

#endif
