/* The members of a kept shard: who they are in the fleet, and making one anew that is missing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/ha_shards_impl.h"

#define AGAIN_NS (10 * ENV_NS_PER_S) /* after a member could not be made */

bool ha_shards_owner(const struct kept_shard *k, const struct fleet_instance *instance)
{
    return instance->access.agent_host != NULL && strcmp(instance->database, k->database) == 0 &&
           strcmp(instance->shard, k->shard) == 0;
}

/* ---- the fleet's instances ---- */

static int by_shard(const void *a, const void *b)
{
    const struct fleet_instance *x = *(struct fleet_instance *const *)a,
                                *y = *(struct fleet_instance *const *)b;
    int order = strcmp(x->database, y->database);
    return order != 0 ? order : strcmp(x->shard, y->shard);
}

void ha_members_index(struct ha_shards *h)
{
    unsigned capacity = 0;
    list_each(node, &h->o.fleet->instances) capacity++;
    h->index = mem_array(capacity > 0 ? capacity : 1, sizeof(struct fleet_instance *));
    h->indexed = 0;
    list_each(again, &h->o.fleet->instances)
    {
        struct fleet_instance *i = list_item(again, struct fleet_instance, node);
        if (i->access.agent_host != NULL && i->database != NULL && i->shard != NULL)
            h->index[h->indexed++] = i;
    }
    qsort((void *)h->index, h->indexed, sizeof(struct fleet_instance *), by_shard);
}

void ha_members_unindex(struct ha_shards *h)
{
    free((void *)h->index);
    h->index = NULL;
    h->indexed = 0;
}

static int place_of(const struct fleet_instance *i, const char *database, const char *shard)
{
    int order = strcmp(i->database, database);
    return order != 0 ? order : strcmp(i->shard, shard);
}

static unsigned indexed_first(const struct ha_shards *h, const char *database, const char *shard)
{
    unsigned low = 0, high = h->indexed;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (place_of(h->index[middle], database, shard) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

unsigned ha_members_instances(const struct ha_shards *h, const char *database, const char *shard,
                              struct fleet_instance *ret[HA_INSTANCES_MAX])
{
    unsigned count = 0;
    if (h->index != NULL) {
        for (unsigned at = indexed_first(h, database, shard);
             at < h->indexed && count < HA_INSTANCES_MAX && place_of(h->index[at], database, shard) == 0;
             at++)
            ret[count++] = h->index[at];
        return count;
    }
    list_each(node, &h->o.fleet->instances)
    {
        struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (count < HA_INSTANCES_MAX && i->access.agent_host != NULL && place_of(i, database, shard) == 0)
            ret[count++] = i;
    }
    return count;
}

/* ---- as the keeper has them ---- */

static int by_name(const void *a, const void *b)
{
    const struct shard_keeper_member *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int number_of(const char *name)
{
    return name[strlen(name) - 1] - '0';
}

static struct shard_keeper_tags tags_of(const struct fleet_database *db, const char *name)
{
    int number = number_of(name);
    if (db == NULL || number < 0 || number >= FLEET_TAGGED_MAX)
        return (struct shard_keeper_tags){0};
    const struct instance_tags *t = &db->tags[number];
    return (struct shard_keeper_tags){.no_failover = t->no_failover,
                                      .no_sync = t->no_sync,
                                      .priority = t->priority,
                                      .follows = t->follows,
                                      .delay_ns = t->delay_ns};
}

unsigned ha_members_of(const struct kept_shard *k, struct shard_keeper_member members[HA_INSTANCES_MAX])
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->database);
    struct fleet_instance *instances[HA_INSTANCES_MAX];
    unsigned count = ha_members_instances(k->all, k->database, k->shard, instances);
    for (unsigned n = 0; n < count; n++) {
        const struct fleet_instance *i = instances[n];
        members[n] = (struct shard_keeper_member){.name = i->name,
                                                  .host = i->access.host,
                                                  .http_port = i->access.agent_port,
                                                  .port = i->access.port,
                                                  .tags = tags_of(db, i->name),
                                                  .agent_host = i->access.agent_host,
                                                  .token = i->access.agent_token};
    }
    qsort(members, count, sizeof *members, by_name);
    for (unsigned i = 0; i < count; i++) /* who comes after one that is missing has no place yet */
        if (number_of(members[i].name) != (int)i)
            return i;
    return count;
}

void ha_members_tag(const struct kept_shard *k)
{
    struct shard_keeper_member members[HA_INSTANCES_MAX];
    unsigned count = ha_members_of(k, members);
    for (unsigned i = 0; i < count && k->keeper != NULL; i++) /* one that it does not have is another's */
        (void)shard_keeper_tag(k->keeper, members[i].name, &members[i].tags, NULL);
}

/* One that listens on loopback, where the local runtime makes agents, speaks in plain. */
bool ha_members_tls(const struct fleet_instance *instance)
{
    return strncmp(instance->access.agent_host, "127.", 4) != 0;
}

char *ha_members_text(const struct kept_shard *k, const struct shard_keeper_member *members, unsigned count,
                      unsigned wanted)
{
    struct buf text = {0};
    (void)buf_printf(&text, "%u\n", wanted);
    for (unsigned i = 0; i < count; i++)
        (void)buf_printf(&text, "%s %s %d %s %d %s\n", members[i].name, members[i].host, members[i].port,
                         members[i].agent_host, members[i].http_port,
                         members[i].token != NULL ? members[i].token : "");
    if (k->authority != NULL)
        (void)buf_add_text(&text, k->authority);
    return buf_take(&text);
}

/* ---- making ---- */

struct making {
    struct ha_shards *all;
    char *database, *shard, *name;
};

static void add(struct making *m, const struct runtime_instance *made)
{
    struct fleet_instance *instance;
    if (fleet_find_instance(m->all->o.fleet, made->name) != NULL ||
        fleet_add_instance(m->all->o.fleet, made->name, m->all->o.operations->services.runtime->backend->kind,
                           &made->access, &instance, NULL) != 0)
        return;
    free(instance->database);
    free(instance->shard);
    instance->database = mem_strdup(m->database);
    instance->shard = mem_strdup(m->shard);
}

static void on_made(const struct err *err, const struct runtime_instance *made, void *data)
{
    struct making *m = data;
    struct ha_shards *h = m->all;
    if (err != NULL)
        log_event(LOG_ERROR, "a member that is missing could not be made", "db", m->database, "shard",
                  m->shard, "instance", m->name, "err", err->message, NULL);
    else if (!h->closing)
        add(m, made);
    h->making = false;
    h->make_ns = loop_now(h->o.loop) + (err != NULL ? AGAIN_NS : 0);
    free(m->database);
    free(m->shard);
    free(m->name);
    free(m);
    ha_shards_settle(h);
}

static void make(struct kept_shard *k, const struct runtime_spec *spec)
{
    struct ha_shards *h = k->all;
    struct making *m = mem_alloc(sizeof *m);
    struct err err = {0};
    *m = (struct making){h, mem_strdup(k->database), mem_strdup(k->shard), mem_strdup(spec->name)};
    log_event(LOG_WARN, "a member of the shard is missing and is made", "db", k->database, "shard", k->shard,
              "instance", spec->name, NULL);
    h->making = true;
    h->open++;
    if (runtime_ensure(h->o.operations->services.runtime, spec, on_made, m, &err) != 0)
        on_made(&err, NULL, m);
}

/* One at a time. It comes empty: its keeper has it cloned. */
void ha_members_make(struct kept_shard *k, const struct fleet_database *db)
{
    struct ha_shards *h = k->all;
    const struct operation_services *s = &h->o.operations->services;
    for (unsigned i = 0; i < db->instances && !h->making && loop_now(h->o.loop) >= h->make_ns; i++) {
        struct runtime_spec spec = {0};
        struct err err = {0};
        if (s->runtime != NULL && s->spec_of(s->spec_data, db, k->shard, (int)i, &spec, &err) == 0 &&
            fleet_find_instance(h->o.fleet, spec.name) == NULL)
            make(k, &spec);
    }
}
