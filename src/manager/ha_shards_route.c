/* What follows from what keepers know: addresses in the routing tables, facts in the fleet. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ha/member_status.h"
#include "manager/ha_shards_impl.h"
#include "operation/move_op.h"

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

/* The table with the address of this shard's primary; NULL = it has it, or has no such shard (yet). */
static void correct(const struct kept_shard *k, const struct fleet_database *db, struct routing **next)
{
    const struct fleet_instance *i =
        k->primary != NULL ? fleet_find_instance(k->all->o.fleet, k->primary) : NULL;
    struct routing_shard *shard = i != NULL ? routing_find_shard(db->routing, k->shard) : NULL;
    if (shard == NULL || names(shard, &i->access))
        return;
    if (*next == NULL) {
        *next = routing_clone(db->routing);
        (*next)->epoch++;
    }
    log_event(LOG_INFO, "the routing table follows the primary", "db", db->name, "shard", k->shard,
              "instance", k->primary, "epoch", log_num((long long)(*next)->epoch), NULL);
    routing_set_primary(routing_find_shard(*next, k->shard), i->access.host, i->access.port);
}

/* All shards of a database at once: a node that dies takes the primaries of several. */
static struct routing *corrected(const struct ha_shards *h, const struct fleet_database *db)
{
    struct routing *next = NULL;
    list_each(node, &h->shards)
    {
        const struct kept_shard *k = list_item(node, struct kept_shard, node);
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
        struct routing *next = db->routing != NULL ? corrected(h, db) : NULL;
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
    if (!shard_keeper_view(k->keeper, instance->name, &view))
        return;
    const struct member_status *s = view.status;
    mark(k, instance->name, s);
    const struct instance_member old = *m;
    if (s != NULL && k->all->o.heard != NULL)
        k->all->o.heard(instance->name, s, view.heard_ns, k->all->o.data);
    *m = (struct instance_member){.kept = true,
                                  .primary = view.primary,
                                  .sync = view.sync,
                                  .streams = view.streams,
                                  .lag_known = view.lag_known,
                                  .lag_bytes = view.lag_bytes,
                                  .heard_ns = view.heard_ns,
                                  .term = s != NULL ? s->term : 0};
    snprintf(m->assigned, sizeof m->assigned, "%s", s != NULL ? s->assigned : "");
    snprintf(m->reported, sizeof m->reported, "%s", s != NULL ? s->reported : "");
    snprintf(m->error, sizeof m->error, "%s", s != NULL ? s->error : "");
    if (differ(&old, m) && k->all->o.changed != NULL)
        k->all->o.changed(instance, k->all->o.data);
}

void ha_shards_note(const struct kept_shard *k)
{
    list_each(node, &k->all->o.fleet->instances)
    {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        if (ha_shards_owner(k, instance))
            note(k, instance);
    }
}
