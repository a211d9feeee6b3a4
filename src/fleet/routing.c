#include "fleet/routing.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"

static const char *const state_names[SHARD_STATE_MAX] = {
    [SHARD_SERVING] = "serving",
    [SHARD_MOVING] = "moving",
    [SHARD_READ_ONLY] = "read_only",
    [SHARD_DOWN] = "down",
};

const char *shard_state_name(enum shard_state state)
{
    return state_names[state];
}

int shard_state_parse(const char *name)
{
    for (int i = 0; i < SHARD_STATE_MAX; i++)
        if (strcmp(state_names[i], name) == 0)
            return i;
    return -1;
}

/* ---- life ---- */

struct routing *routing_new(const char *database)
{
    struct routing *r = mem_zalloc(sizeof *r);
    r->database = mem_strdup(database);
    r->epoch = 1;
    return r;
}

static void shard_clear(struct routing_shard *shard)
{
    routing_clear_replicas(shard);
    range_set_free(&shard->ranges);
    free(shard->primary.host);
    free(shard->name);
}

void routing_free(struct routing *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->table_count; i++) {
        free(r->tables[i].table);
        free(r->tables[i].key);
    }
    for (size_t i = 0; i < r->shard_count; i++)
        shard_clear(&r->shards[i]);
    free(r->tables);
    free(r->shards);
    free(r->database);
    free(r);
}

struct routing *routing_clone(const struct routing *r)
{
    struct routing *copy = routing_new(r->database);
    copy->epoch = r->epoch;
    copy->term = r->term;
    for (size_t i = 0; i < r->table_count; i++)
        routing_add_table(copy, r->tables[i].table, r->tables[i].key, r->tables[i].type);
    for (size_t i = 0; i < r->shard_count; i++) {
        const struct routing_shard *from = &r->shards[i];
        struct routing_shard *to =
            routing_add_shard(copy, from->name, from->primary.host, from->primary.port);
        to->epoch = from->epoch;
        to->state = from->state;
        to->primary.lag_bytes = from->primary.lag_bytes;
        range_set_copy(&to->ranges, &from->ranges);
        for (size_t n = 0; n < from->replica_count; n++)
            routing_add_replica(to, from->replicas[n].host, from->replicas[n].port,
                                from->replicas[n].lag_bytes);
    }
    return copy;
}

/* ---- change ---- */

struct routing_table_key *routing_add_table(struct routing *r, const char *table, const char *key,
                                            enum key_type type)
{
    size_t at = r->table_count;
    while (at > 0 && strcmp(r->tables[at - 1].table, table) > 0)
        at--;
    r->tables = mem_resize(r->tables, r->table_count + 1, sizeof *r->tables);
    memmove(r->tables + at + 1, r->tables + at, (r->table_count - at) * sizeof *r->tables);
    r->table_count++;
    r->tables[at] = (struct routing_table_key){mem_strdup(table), mem_strdup(key), type};
    return &r->tables[at];
}

struct routing_shard *routing_add_shard(struct routing *r, const char *name, const char *host, int port)
{
    size_t at = r->shard_count;
    while (at > 0 && strcmp(r->shards[at - 1].name, name) > 0)
        at--;
    r->shards = mem_resize(r->shards, r->shard_count + 1, sizeof *r->shards);
    memmove(r->shards + at + 1, r->shards + at, (r->shard_count - at) * sizeof *r->shards);
    r->shard_count++;
    r->shards[at] =
        (struct routing_shard){.name = mem_strdup(name), .epoch = r->epoch, .state = SHARD_SERVING};
    routing_set_primary(&r->shards[at], host, port);
    return &r->shards[at];
}

void routing_set_primary(struct routing_shard *shard, const char *host, int port)
{
    char *copy = mem_strdup(host); /* before the old one goes: host may be it */
    free(shard->primary.host);
    shard->primary = (struct routing_address){.host = copy, .port = port};
}

void routing_add_replica(struct routing_shard *shard, const char *host, int port, uint64_t lag_bytes)
{
    shard->replicas = mem_resize(shard->replicas, shard->replica_count + 1, sizeof *shard->replicas);
    shard->replicas[shard->replica_count++] = (struct routing_address){mem_strdup(host), port, lag_bytes};
}

void routing_clear_replicas(struct routing_shard *shard)
{
    for (size_t i = 0; i < shard->replica_count; i++)
        free(shard->replicas[i].host);
    free(shard->replicas);
    shard->replicas = NULL;
    shard->replica_count = 0;
}

int routing_remove_shard(struct routing *r, const char *name, struct err *err)
{
    struct routing_shard *shard = routing_find_shard(r, name);
    if (shard == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s", r->database, name);
    if (shard->ranges.count > 0)
        return err_set(err, ERRC_CONFLICT, "shard %s still owns %zu range(s)", name, shard->ranges.count);
    shard_clear(shard);
    size_t at = (size_t)(shard - r->shards);
    r->shard_count--;
    memmove(r->shards + at, r->shards + at + 1, (r->shard_count - at) * sizeof *r->shards);
    return 0;
}

int routing_move(struct routing *r, const char *from, const char *to, const struct range *range,
                 struct err *err)
{
    struct routing_shard *source = routing_find_shard(r, from), *target = routing_find_shard(r, to);
    if (source == NULL || target == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s", r->database,
                       source == NULL ? from : to);
    if (source == target)
        return err_set(err, ERRC_INVALID, "source and target are the same shard, %s", from);
    if (r->epoch == UINT64_MAX)
        return err_set(err, ERRC_LIMIT, "database %s has used up its epochs", r->database);
    int rc = range_set_remove(&source->ranges, range, err);
    if (rc != 0) {
        err_wrap(err, "shard %s", from);
        return rc;
    }
    rc = range_set_add(&target->ranges, range, err);
    if (rc != 0) {
        range_set_add(&source->ranges, range, NULL);
        err_wrap(err, "shard %s", to);
        return rc;
    }
    r->epoch++;
    source->epoch = target->epoch = r->epoch;
    return 0;
}

/* ---- look up ---- */

struct routing_shard *routing_find_shard(const struct routing *r, const char *name)
{
    size_t low = 0, high = r->shard_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(r->shards[middle].name, name);
        if (order == 0)
            return &r->shards[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const struct routing_shard *routing_owner(const struct routing *r, int64_t hash)
{
    for (size_t i = 0; i < r->shard_count; i++)
        if (range_set_contains(&r->shards[i].ranges, hash))
            return &r->shards[i];
    return NULL;
}

const struct routing_table_key *routing_find_table(const struct routing *r, const char *table)
{
    size_t low = 0, high = r->table_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(r->tables[middle].table, table);
        if (order == 0)
            return &r->tables[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
