/*
 * routing: the routing table of one database: who owns which hashes, at which address.
 *
 * A value object: parse, check, look up, change by copying, print. The document in the store is the truth for
 * clients, the guards on the servers decide. Every document that is printed or parsed satisfies
 * routing_check(): ranges neither overlap nor leave a hole, names are unique, epochs are consistent.
 */
#ifndef FLEET_ROUTING_H
#define FLEET_ROUTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "fleet/hash.h"
#include "fleet/range.h"

#define ROUTING_DOC_MAX      (1024 * 1024) /* bytes of JSON */
#define ROUTING_SHARDS_MAX   1024
#define ROUTING_TABLES_MAX   4096
#define ROUTING_RANGES_MAX   65536 /* over all shards */
#define ROUTING_REPLICAS_MAX 64    /* of one shard */

enum shard_state { SHARD_SERVING, SHARD_MOVING, SHARD_READ_ONLY, SHARD_DOWN, SHARD_STATE_MAX };
const char *shard_state_name(enum shard_state state); /* "serving" */

struct routing_table_key {
    char *table; /* schema-qualified, "public.orders" */
    char *key;   /* column */
    enum key_type type;
};

struct routing_address {
    char *host;
    int port;
    uint64_t lag_bytes; /* replicas only */
};

struct routing_shard {
    char *name;
    uint64_t epoch;          /* of the shard's own ranges: what strict clients set shardherd.epoch to */
    struct range_set ranges; /* empty while a new shard waits for its first move */
    struct routing_address primary;
    struct routing_address *replicas;
    size_t replica_count;
    enum shard_state state;
};

struct routing {
    char *database;
    uint64_t epoch;                   /* of the document; only grows */
    uint64_t term;                    /* of the leader that wrote it; 0 = not said */
    struct routing_table_key *tables; /* ordered by name */
    size_t table_count;
    struct routing_shard *shards; /* ordered by name */
    size_t shard_count;
};

/* Epoch 1, no tables, no shards: not valid by routing_check() before a shard owns everything. */
struct routing *routing_new(const char *database);
void routing_free(struct routing *r); /* NULL is fine */
struct routing *routing_clone(const struct routing *r);

/*
 * Adds; tables and shards stay ordered by name. The returned pointer lives until the next addition. The new
 * shard owns nothing, is serving and has the document's epoch. The document's epoch stays: whoever publishes
 * a change other than routing_move() raises it. Duplicates are found by routing_check().
 */
struct routing_table_key *routing_add_table(struct routing *r, const char *table, const char *key,
                                            enum key_type type);
struct routing_shard *routing_add_shard(struct routing *r, const char *name, const char *host, int port);
/* Replaces the primary's address; adds a replica; forgets all replicas. host is copied. */
void routing_set_primary(struct routing_shard *shard, const char *host, int port);
void routing_add_replica(struct routing_shard *shard, const char *host, int port, uint64_t lag_bytes);
void routing_clear_replicas(struct routing_shard *shard);
/* Only a shard without ranges can be removed (ERRC_CONFLICT). */
int routing_remove_shard(struct routing *r, const char *name, struct err *err);

struct routing_shard *routing_find_shard(const struct routing *r, const char *name);
const struct routing_shard *routing_owner(const struct routing *r,
                                          int64_t hash); /* NULL only if not checked */
const struct routing_table_key *routing_find_table(const struct routing *r, const char *table);

/* Moves a range between two shards and raises the document's and both shards' epochs to r->epoch + 1. */
int routing_move(struct routing *r, const char *from, const char *to, const struct range *range,
                 struct err *err);

/*
 * ERRC_INVALID naming the first fault: overlap, hole, duplicate or malformed name, epoch above the
 * document's; ERRC_LIMIT naming the limit above that is passed.
 */
int routing_check(const struct routing *r, struct err *err);

int shard_state_parse(const char *name); /* -1 if unknown */

/*
 * Strict: unknown, missing and repeated members are refused. ERRC_INVALID or ERRC_LIMIT naming the place, as
 * in "shards[2].ranges[0].lo: not a 64-bit number in quotes".
 */
int routing_parse(const char *json, size_t length, struct routing **ret, struct err *err);
/* Appends compact JSON, 64-bit numbers as strings. r must satisfy routing_check(). */
void routing_print(const struct routing *r, struct buf *out);

#endif
