/*
 * announcer: the routing table into shardherd.routing of every shard, with NOTIFY, for clients that prefer
 * SQL.
 *
 * A change is written to all shards of its database a moment later (changes that come together go together,
 * and nothing is added to the work of a cutover; the move itself tells source and target at once). A shard
 * that cannot be reached is tried again until it has the newest table or is no longer part of it.
 */
#ifndef MANAGER_ANNOUNCER_H
#define MANAGER_ANNOUNCER_H

#include "fleet/fleet.h"
#include "loop/loop.h"

struct announcer;

struct announcer *announcer_start(struct loop *loop, struct fleet *fleet);
/* `closed` (may be NULL) runs when its last connection is gone. */
void announcer_stop(struct announcer *a, void (*closed)(void *data), void *data);

/* The routing table of this database changed, or the manager has just started. */
void announcer_changed(struct announcer *a, const char *database);

#endif
