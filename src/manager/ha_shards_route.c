/*
 * What follows from what keepers know: addresses in the routing tables, facts in the fleet.
 *
 * A new primary is written at once. Standbys are where reads may go that need not be fresh: those that
 * stream, each with a bound of what it is behind, so that a table is not written anew for each byte. That
 * waits for calm: no operation of the database, whose next step may be a table of its own, and not often.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ha/member_status.h"
#include "manager/ha_shards_impl.h"
#include "operation/move_op.h"

#define REPLICAS_NS (10 * ENV_NS_PER_S) /* between two tables that differ by a shard's standbys alone */
#define BOUND_LEAST (1024u * 1024)
#define BOUND_STEP  16 /* from one bound to the next */

/* ---- routing tables ---- */

struct publication {
    struct ha_shards *all;
    char *database;
};

/* Those of its shards whose primary is where it was find nothing to do. */
static void moves_follow(struct ha_shards *h, const char *database)
{
    list_each(node, &h->shards)
    {
        const struct kept_shard *k = list_item(node, struct kept_shard, node);
        if (strcmp(k->database, database) == 0)
            move_op_follow_primary(h->o.operations, database, k->shard);
    }
}

static void on_published(const struct err *err, void *data)
{
    struct publication *p = data;
    struct ha_shards *h = p->all;
    if (err == NULL && !h->closing)
        moves_follow(h, p->database);
    else if (err != NULL && !h->closing)
        log_event(LOG_WARN, "a routing table could not follow its primary, trying again", "db", p->database,
                  "err", err->message, NULL);
    free(p->database);
    free(p);
    h->publishing--;
    ha_shards_turn_soon(h);
    ha_shards_settle(h);
}

static bool names(const struct routing_shard *shard, const struct instance_access *access)
{
    return strcmp(shard->primary.host, access->host) == 0 && shard->primary.port == access->port;
}

/* The least of 1 MiB, 16 MiB, 256 MiB, ... that is not below it. */
static uint64_t bound_of(uint64_t bytes)
{
    uint64_t bound = BOUND_LEAST;
    while (bound < bytes && bound <= UINT64_MAX / BOUND_STEP)
        bound *= BOUND_STEP;
    return bound;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct fleet_instance *const *)a)->name, (*(struct fleet_instance *const *)b)->name);
}

/* The standbys that stream. What has not come to the disk of one cannot be read there, nor what waits for its
 * replay. */
static void replicas_of(const struct kept_shard *k, struct routing_shard *ret)
{
    struct fleet_instance *instances[HA_INSTANCES_MAX];
    unsigned count = ha_members_instances(k->all, k->database, k->shard, instances);
    routing_clear_replicas(ret);
    qsort((void *)instances, count, sizeof *instances, by_name);
    for (unsigned n = 0; n < count; n++) {
        const struct fleet_instance *i = instances[n];
        struct shard_keeper_view view;
        if (!shard_keeper_view(k->keeper, i->name, &view) || !view.lag_known || view.status == NULL ||
            strcmp(view.status->reported, "standby") != 0)
            continue;
        uint64_t replay = isnan(i->facts.lag_seconds) ? 0 : i->facts.lag_bytes;
        routing_add_replica(ret, i->access.host, i->access.port,
                            bound_of(replay > view.lag_bytes ? replay : view.lag_bytes));
    }
}

/* A bound that is one step too high is good enough. */
static bool replicas_hold(const struct routing_shard *listed, const struct routing_shard *now)
{
    bool hold = listed->replica_count == now->replica_count;
    for (size_t n = 0; hold && n < now->replica_count; n++) {
        const struct routing_address *a = &listed->replicas[n], *b = &now->replicas[n];
        hold = strcmp(a->host, b->host) == 0 && a->port == b->port && b->lag_bytes <= a->lag_bytes &&
               a->lag_bytes / BOUND_STEP <= b->lag_bytes;
    }
    return hold;
}

static bool is_calm(const struct kept_shard *k)
{
    const struct ha_shards *h = k->all;
    return strcmp(shard_keeper_state(k->keeper), "standing") == 0 &&
           (k->replicas_ns == 0 || loop_now(h->o.loop) - k->replicas_ns >= REPLICAS_NS) &&
           operations_running_on(h->o.operations, k->database, NULL) == NULL;
}

/* The table with the address of this shard's primary, and its standbys; NULL = it has them, or has no such
 * shard (yet). */
static void correct(struct kept_shard *k, const struct fleet_database *db, struct routing **next)
{
    const struct fleet_instance *i =
        k->primary != NULL ? fleet_find_instance(k->all->o.fleet, k->primary) : NULL;
    const struct routing_shard *shard = i != NULL ? routing_find_shard(db->routing, k->shard) : NULL;
    struct routing_shard now = {0};
    if (shard == NULL || k->keeper == NULL)
        return;
    bool follows = names(shard, &i->access);
    replicas_of(k, &now);
    if (!follows || (is_calm(k) && !replicas_hold(shard, &now))) {
        if (*next == NULL) {
            *next = routing_clone(db->routing);
            (*next)->epoch++;
        }
        log_event(LOG_INFO,
                  follows ? "the routing table follows the standbys"
                          : "the routing table follows the primary",
                  "db", db->name, "shard", k->shard, "instance", k->primary, "replicas",
                  log_num((long long)now.replica_count), "epoch", log_num((long long)(*next)->epoch), NULL);
        struct routing_shard *to = routing_find_shard(*next, k->shard);
        routing_set_primary(to, i->access.host, i->access.port);
        replicas_of(k, to);
        k->replicas_ns = loop_now(k->all->o.loop);
    }
    routing_clear_replicas(&now);
}

/* All shards of a database at once: a node that dies takes the primaries of several. */
static struct routing *corrected(const struct ha_shards *h, const struct fleet_database *db)
{
    struct routing *next = NULL;
    list_each(node, &h->shards)
    {
        struct kept_shard *k = list_item(node, struct kept_shard, node);
        if (!k->closing && strcmp(k->database, db->name) == 0)
            correct(k, db, &next);
    }
    return next;
}

static void publish(struct ha_shards *h, struct fleet_database *db, struct routing *next)
{
    struct publication *p = mem_alloc(sizeof *p);
    struct err err = {0};
    *p = (struct publication){h, mem_strdup(db->name)};
    h->publishing++;
    h->open++;
    if (operation_publish(h->o.operations, db, next, on_published, p, &err) == 0)
        return;
    log_event(LOG_ERROR, "a routing table could not follow its primary, trying again", "db", db->name, "err",
              err.message, NULL);
    h->publishing--;
    h->open--;
    free(p->database);
    free(p);
}

bool ha_shards_follow(struct ha_shards *h)
{
    bool behind = false;
    if (h->publishing > 0 || h->o.operations->services.term == 0)
        return h->publishing > 0;
    list_each(node, &h->o.fleet->databases)
    {
        struct fleet_database *db = list_item(node, struct fleet_database, node);
        ha_members_index(h);
        struct routing *next = db->routing != NULL ? corrected(h, db) : NULL;
        ha_members_unindex(h);
        if (next == NULL)
            continue;
        behind = true;
        publish(h, db, next);
    }
    return behind;
}

/* ---- facts ---- */

static bool differ(const struct instance_member *a, const struct instance_member *b)
{
    return a->kept != b->kept || a->primary != b->primary || a->sync != b->sync || a->streams != b->streams ||
           a->term != b->term || strcmp(a->assigned, b->assigned) != 0 ||
           strcmp(a->reported, b->reported) != 0;
}

void ha_shards_place(const struct kept_shard *k, const char *instance)
{
    struct runtime *runtime = k->all->o.operations->services.runtime;
    enum runtime_place place = runtime != NULL ? runtime_place(runtime, instance) : RUNTIME_PLACE_UNKNOWN;
    if (k->keeper != NULL && place != RUNTIME_PLACE_UNKNOWN)
        shard_keeper_pod(k->keeper, instance, place == RUNTIME_PLACE_GONE);
}

/* The primary is marked when its server is one: a new pod in its place, which may never become it again,
 * would only stand in the way of the next. */
static void mark(const struct kept_shard *k, const char *name, const struct member_status *s)
{
    bool primary = k->primary != NULL && strcmp(k->primary, name) == 0;
    if (k->primary != NULL && (!primary || (s != NULL && s->known && s->primary)))
        runtime_mark(k->all->o.operations->services.runtime, name, primary, k->term);
}

static void note(const struct kept_shard *k, struct fleet_instance *instance)
{
    struct shard_keeper_view view = {0};
    struct instance_member *m = &instance->member;
    if (k->keeper == NULL)
        return;
    ha_shards_place(k, instance->name);
    if (!shard_keeper_view(k->keeper, instance->name, &view)) {
        *m = (struct instance_member){0}; /* it has left, or did not join yet */
        return;
    }
    const struct member_status *s = view.status;
    mark(k, instance->name, s);
    const struct instance_member old = *m;
    if (s != NULL && k->all->o.heard != NULL)
        k->all->o.heard(instance->name, s, view.heard_ns, k->all->o.data);
    *m = (struct instance_member){.kept = true,
                                  .primary = view.primary,
                                  .unseen = view.unseen,
                                  .sync = view.sync,
                                  .streams = view.streams,
                                  .lag_known = view.lag_known,
                                  .lag_bytes = view.lag_bytes,
                                  .lag_seconds = view.lag_seconds,
                                  .heard_ns = view.heard_ns,
                                  .term = s != NULL ? s->term : 0};
    snprintf(m->upstream, sizeof m->upstream, "%s", view.upstream != NULL ? view.upstream : "");
    snprintf(m->assigned, sizeof m->assigned, "%s", s != NULL ? s->assigned : "");
    snprintf(m->reported, sizeof m->reported, "%s", s != NULL ? s->reported : "");
    snprintf(m->next_password, sizeof m->next_password, "%s", s != NULL ? s->next_password : "");
    snprintf(m->error, sizeof m->error, "%s", s != NULL ? s->error : "");
    if (differ(&old, m) && k->all->o.changed != NULL)
        k->all->o.changed(instance, k->all->o.data);
}

void ha_shards_note(const struct kept_shard *k)
{
    struct fleet_instance *instances[HA_INSTANCES_MAX];
    unsigned count = ha_members_instances(k->all, k->database, k->shard, instances);
    for (unsigned n = 0; n < count; n++)
        note(k, instances[n]);
}
