/*
 * discovery: keeps the instances of the fleet in step with the static list and the local runtime.
 *
 * Happy path: every period the secrets of the static list are read and the runtime is listed, on workers;
 * what came is added to the fleet, what changed its address, its secret or its place gets it in place, what
 * is gone is removed. A static entry is gone only when the configuration no longer has it; a local instance
 * when the runtime no longer lists it. A server that is down stays: whether it answers is a fact, and facts
 * belong to the pollers; discovery never touches them. When a source cannot be read, what it gave before
 * stays, and `failed` is told once per new error. Sources that learn of changes themselves
 * (kubernetes_source.h) give what they have with discovery_give(), at any time.
 */
#ifndef DISCOVERY_DISCOVERY_H
#define DISCOVERY_DISCOVERY_H

#include <stdint.h>

#include "base/err.h"
#include "fleet/fleet.h"
#include "loop/loop.h"
#include "runtime/runtime.h"

#define DISCOVERY_STATIC_MAX 10000

/* One server of the static list. NULL and 0 mean "not given". */
struct discovery_entry {
    const char *name;     /* unique; of the instance */
    const char *database; /* what it belongs to; NULL = free */
    const char *shard;
    /*
     * "postgresql://user@host:port/db?sslmode=require" or "host=... port=...": where the fields below are
     * not given. It must not hold a password, and names one host.
     */
    const char *dsn;
    const char *host;
    int port;           /* default 5432 */
    const char *dbname; /* default: `database`, else the user's name */
    const char *user;
    const char *sslmode;
    const char *sslrootcert;
    const char *sslcert, *sslkey; /* of our client certificate: both or none */
    /* At most one source of the password; without any the server must not ask for one. */
    const char *password_env;  /* name of an environment variable */
    const char *password_file; /* its first line; mode 0600 or less */
    const char *passfile;      /* in the format of ~/.pgpass; mode 0600 or less */
};

enum discovery_event {
    DISCOVERY_ADDED,   /* it is in the fleet */
    DISCOVERY_CHANGED, /* access, database or shard are new: connections to the old ones are to be closed */
    DISCOVERY_REMOVED  /* it is still in the fleet, and leaves it (its memory goes) when the call returns */
};
const char *discovery_event_name(enum discovery_event event);

struct discovery_options {
    struct fleet *fleet; /* must outlive the discovery */
    const struct discovery_entry *entries;
    int entry_count;
    struct runtime *runtime; /* NULL = no local instances */
    uint64_t period_ns;      /* 0 = 5 s */
    void (*event)(enum discovery_event event, struct fleet_instance *instance, void *data); /* may be NULL */
    /* `what` is the name of an entry, or "local". May be NULL. */
    void (*failed)(const char *what, const struct err *err, void *data);
    void *data;
};

struct discovery;

/*
 * ERRC_INVALID names the entry and what is wrong with it. The first round starts in the next turn; events
 * come from callbacks of later turns only.
 */
int discovery_start(struct loop *loop, const struct discovery_options *options, struct discovery **ret,
                    struct err *err);
/* A new static list, all or nothing: with an error the old one stays. Takes effect with a round at once. */
int discovery_set_entries(struct discovery *d, const struct discovery_entry *entries, int count,
                          struct err *err);
void discovery_set_period(struct discovery *d, uint64_t period_ns);
/* A round now, or right after the one that runs: after an instance was made or removed. */
void discovery_poll(struct discovery *d);
/*
 * All that a source of its own (the cluster) has now: `found` is borrowed for the call and not changed.
 * Takes effect at once: events come from inside. What is `pending` is neither new nor gone yet, one with an
 * error is told by `failed`. The source must be neither "static" nor the runtime's kind: what one does not
 * give is removed.
 */
struct found;
void discovery_give(struct discovery *d, const char *source, const struct found *found, int count);
/* Rounds that ended, for metrics and tests. */
uint64_t discovery_rounds(const struct discovery *d);
/* No event comes any more; instances stay in the fleet. `closed` (may be NULL) comes later. */
void discovery_close(struct discovery *d, void (*closed)(void *data), void *data);

#endif
