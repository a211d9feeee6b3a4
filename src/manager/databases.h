/*
 * databases: the specifications of databases: applied, kept in the store, read again at the start, deleted.
 *
 * Each database has a secret: the password of the role that owns its tables, made once, in
 * <state>/secrets/<database>.pgpass (mode 0600, the format of ~/.pgpass, so that psql and `shardherd load`
 * can use the file as it is). File work is done on worker jobs.
 */
#ifndef MANAGER_DATABASES_H
#define MANAGER_DATABASES_H

#include "fleet/fleet.h"
#include "manager/config.h"
#include "operation/operation.h"

struct databases;

/* All pointers outlive it. state_directory NULL: the runtime makes and keeps the passwords. */
struct databases *databases_new(struct loop *loop, const char *state_directory, struct store *store,
                                struct fleet *fleet, struct operations *operations);
/* True: `stopped` runs when its last job has ended. False: none is under way, and it does not run. */
bool databases_stop(struct databases *d, void (*stopped)(void *data), void *data);
/* After databases_stop() and the end of the store. NULL is fine. */
void databases_free(struct databases *d);

/* Reads everything under db/ into the fleet. Documents that are not understood are reported and left alone.
 */
int databases_load(struct databases *d, const struct balance_policy *defaults,
                   void (*done)(const struct err *err, void *data), void *data, struct err *err);

/* New defaults, at once for every database, except where its specification says otherwise. */
void databases_set_defaults(struct databases *d, const struct balance_policy *defaults);

struct databases_answer {
    const struct err *err; /* NULL = accepted */
    bool created;          /* else it existed and was changed, or nothing had to change */
    const char *operation; /* id of the provision or retire operation that began, or NULL */
};
typedef void (*databases_cb)(const struct databases_answer *answer, void *data);

/*
 * A new database is written and provisioned. Of one that exists only `balance` may change; anything else is
 * ERRC_CONFLICT naming it. The text is read on a worker, so everything it lacks is told by the answer. name:
 * must equal metadata.name when not NULL. dry_run: only checked.
 */
int databases_apply(struct databases *d, const char *name, const char *text, size_t length,
                    const struct balance_policy *defaults, bool dry_run, databases_cb cb, void *data,
                    struct err *err);
int databases_delete(struct databases *d, const char *name, databases_cb cb, void *data, struct err *err);

/* The database was deleted: its secret goes, file and memory, what there is of them. */
void databases_forget(struct databases *d, const char *name);

/* For operation_services.spec_of; data = struct databases. */
int databases_spec_of(void *data, const struct fleet_database *db, const char *shard, int number,
                      struct runtime_spec *ret, struct err *err);

#endif
