/*
 * migrate: the operation that runs a script of DDL on all shards of a database, one after the other.
 *
 * PLANNED -> APPLYING -> DONE. On each shard the script is one transaction, which also writes the operation's
 * id into shardherd.migration: however often a shard is asked, it runs the script once. What time can mend (a
 * lock that was not to be had, a server that restarts) is tried again, with pauses that grow. What it cannot:
 *   - if no shard has it yet, the operation ends in FAILED, and nothing was changed anywhere;
 *   - if some have it, it becomes STOPPED. It has not ended: no move of this database begins meanwhile, and
 *     `resume` goes on at the shard that failed; `cancel` gives it up (FAILED, the error names who has it).
 * A dry run asks every shard, rolls back everywhere, and tells what each said.
 */
#ifndef OPERATION_MIGRATE_H
#define OPERATION_MIGRATE_H

#include "operation/operation.h"

#define MIGRATE_SCRIPT_MAX      (256 * 1024) /* bytes: the journal holds it */
#define MIGRATE_LOCK_TIMEOUT_MS 2000
#define MIGRATE_ATTEMPTS        20

struct migrate_request {
    const char *database;
    const char *script;       /* SQL; copied */
    unsigned lock_timeout_ms; /* for each lock; 0 = MIGRATE_LOCK_TIMEOUT_MS */
    unsigned attempts;        /* per shard, of what time can mend; 0 = MIGRATE_ATTEMPTS */
    bool dry_run;
};

/* INVALID empty or too long a script, NOT_FOUND, CONFLICT another operation runs on the database (named). */
int migrate_start(struct operations *ops, const struct migrate_request *request, struct operation **ret,
                  struct err *err);

/* Goes on after STOPPED. CONFLICT: it is not stopped. UNSUPPORTED: no migration. */
int migrate_continue(struct operation *op, struct err *err);

int migrate_resume(struct operations *ops, const char *json, int64_t revision, struct err *err);

bool migrate_is(const struct operation *op);
const char *migrate_state_name(const struct operation *op); /* "applying" */
double migrate_progress(const struct operation *op);        /* shards that have it, 0..1 */

#endif
