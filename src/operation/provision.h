/*
 * provision: the operation that makes the shards of a new database, and the one that takes a database away.
 *
 * PLANNED -> INSTANCES (all shards' instances at once) -> PRIMARIES (with several instances for each shard:
 * whoever drives shards makes one of them the primary, which then gets role and database) -> SCHEMA
 * (shardherd's schema, the initial SQL, the distributed tables and guards, shard by shard) -> ROUTING (epoch
 * 1 is published) -> DONE. Every step is idempotent: after a crash the whole is run again from INSTANCES. A
 * failure that retrying cannot mend (the initial SQL is wrong) ends in FAILED with the instances left for
 * inspection; deleting the database removes them. Retire: PLANNED -> INSTANCES (removed) -> ROUTING
 * (documents removed) -> DONE.
 */
#ifndef OPERATION_PROVISION_H
#define OPERATION_PROVISION_H

#include "operation/operation.h"

struct provision_table {
    const char *name; /* "public.orders" */
    const char *key;
};

struct provision_shard {
    const char *name;
    struct range range;
    const char *instance; /* name of a known instance to use instead of making one; NULL = make */
};

struct provision_request {
    const char *database;
    const struct provision_shard *shards;
    int shard_count;
    const struct provision_table *tables;
    int table_count;
    const char *schema; /* SQL run once on each new shard as the application's owner role; NULL = none */
    const char *owner;  /* role that owns the tables */
};

/* CONFLICT if the database has a routing table or an operation already. Everything is copied. */
int provision_start(struct operations *ops, const struct provision_request *request, struct operation **ret,
                    struct err *err);
/* Removes every instance that the runtime made for this database and its documents; keeps servers it only
 * used, taking shardherd's schema and triggers off them. */
int retire_start(struct operations *ops, const char *database, struct operation **ret, struct err *err);

/* Also true of a retire operation. */
bool provision_is(const struct operation *op);
const char *provision_state_name(const struct operation *op); /* "schema" */
/*
 * Whether its present step has failed and is tried again: op->error says of what. ret_since_us: wall clock of
 * the first failure in a row.
 */
bool provision_fails(const struct operation *op, int64_t *ret_since_us);

int provision_resume(struct operations *ops, const char *json, int64_t revision, struct err *err);

#endif
