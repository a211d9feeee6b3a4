/*
 * inspect: one look at a server: what it is, what it is set to, and which tables could be sharded by what.
 *
 * For pre-checks, `check-config` and `describe`; the pollers of metrics/ watch servers continuously.
 */
#ifndef DISCOVERY_INSPECT_H
#define DISCOVERY_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "fleet/fleet.h"
#include "loop/loop.h"

#define INSPECT_DATABASES_MAX 1000
#define INSPECT_COLUMNS_MAX   20000

/* A column of a type that shardherd can shard by. */
struct inspect_column {
    char *name;
    char *type; /* as in the routing table: "bigint" */
    bool usable;
    char *why; /* what is in the way when it is not usable, with the remedy; else NULL */
};

struct inspect_table {
    char *schema;
    char *name;
    bool partitioned;
    char identity;                  /* pg_class.relreplident: 'd', 'n', 'f', 'i' */
    int64_t rows;                   /* the server's estimate, -1 = never analyzed */
    uint64_t bytes;                 /* with indexes and TOAST; 0 for a partitioned table */
    struct inspect_column *columns; /* may be none: no column has a fitting type */
    int column_count;
};

struct inspect_result {
    int server_version; /* 150018 */
    enum instance_role role;
    uint32_t timeline;
    uint64_t system_identifier;
    bool superuser; /* the role that we connected as */
    bool fsync;
    char *wal_level;
    char *encoding; /* of the application's database */
    int max_connections, max_wal_senders, max_replication_slots, max_logical_replication_workers;
    int64_t started_us; /* wall clock */
    char **databases;   /* that can be connected to, without templates */
    int database_count;
    struct inspect_table *tables; /* ordinary and partitioned (not their partitions), by schema and name */
    int table_count;
    bool truncated; /* there are more databases or columns than the limits above */
};

struct inspect;
/* result is valid during the callback; NULL with err. */
typedef void (*inspect_cb)(const struct err *err, const struct inspect_result *result, void *data);

/* Connects, asks, closes. *ret (may be NULL) is valid until the callback. Copies access. */
int discovery_inspect(struct loop *loop, const struct instance_access *access, inspect_cb cb, void *data,
                      struct inspect **ret, struct err *err);
/* The callback comes with ERRC_CANCELED. */
void discovery_inspect_cancel(struct inspect *inspect);

#endif
