/*
 * standby: routing tables for a manager that waits for the lease, so that applications can read them there
 * too.
 *
 * What the store has under db/<name>/routing is put into the fleet and followed by a watch; nothing else is
 * known of these databases (no instances, no health), and nothing is changed. It must be stopped before the
 * databases are loaded by one that leads: then they all leave the fleet.
 */
#ifndef MANAGER_STANDBY_H
#define MANAGER_STANDBY_H

#include "fleet/fleet.h"
#include "store/store.h"

struct standby;

struct standby_options {
    struct store *store; /* outlives it, unless standby_stop() was called */
    struct fleet *fleet;
    void (*changed)(void *data, struct fleet_database *db); /* its routing table was replaced */
    void *data;
};

/* A store that cannot be read is no reason to stop: then nothing is served. */
struct standby *standby_start(const struct standby_options *options);
/* NULL is fine. No callback of the store comes to it afterwards, but those under way. */
void standby_stop(struct standby *standby);

#endif
