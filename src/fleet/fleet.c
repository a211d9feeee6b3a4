#include "fleet/fleet.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/mem.h"

/* ---- names of enums ---- */

const char *instance_role_name(enum instance_role role)
{
    static const char *const names[] = {
        [ROLE_UNKNOWN] = "unknown", [ROLE_PRIMARY] = "primary", [ROLE_STANDBY] = "standby"};
    return names[role];
}

const char *instance_health_name(enum instance_health health)
{
    static const char *const names[] = {[HEALTH_UNKNOWN] = "unknown",
                                        [HEALTH_UP] = "up",
                                        [HEALTH_SUSPECT] = "suspect",
                                        [HEALTH_DOWN] = "down"};
    return names[health];
}

static const char *const auto_names[] = {
    [AUTO_OFF] = "off", [AUTO_RECOMMEND] = "recommend", [AUTO_ON] = "auto"};

const char *auto_mode_name(enum auto_mode mode)
{
    return auto_names[mode];
}

int auto_mode_parse(const char *text)
{
    for (int mode = AUTO_OFF; mode <= AUTO_ON; mode++)
        if (strcmp(auto_names[mode], text) == 0)
            return mode;
    return -1;
}

void balance_policy_defaults(struct balance_policy *policy)
{
    *policy = (struct balance_policy){
        .split = AUTO_ON,
        .merge = AUTO_RECOMMEND,
        .rebalance = AUTO_RECOMMEND,
        .objective = LOAD_QUERY_RATE,
        .threshold = 1000,
        .relative = 1.2,
        .window = 10,
        .cooldown_ns = 10 * 60 * ENV_NS_PER_S,
        .merge_after_ns = 60 * 60 * ENV_NS_PER_S,
        .max_shards = 64,
        .sample_ns = 3 * ENV_NS_PER_S,
        .bake_ns = 15 * 60 * ENV_NS_PER_S,
    };
}

/* ---- access ---- */

void instance_access_copy(struct instance_access *dst, const struct instance_access *src)
{
    *dst = (struct instance_access){
        .host = mem_strdup(src->host),
        .port = src->port,
        .user = mem_strdup(src->user),
        .password = mem_strdup(src->password),
        .dbname = mem_strdup(src->dbname),
        .sslmode = mem_strdup(src->sslmode),
        .sslrootcert = mem_strdup(src->sslrootcert),
        .sslcert = mem_strdup(src->sslcert),
        .sslkey = mem_strdup(src->sslkey),
        .peer_sslrootcert = mem_strdup(src->peer_sslrootcert),
        .peer_sslcert = mem_strdup(src->peer_sslcert),
        .peer_sslkey = mem_strdup(src->peer_sslkey),
        .lent = src->lent,
        .agent_host = mem_strdup(src->agent_host),
        .agent_port = src->agent_port,
        .agent_token = mem_strdup(src->agent_token),
    };
}

void instance_access_clear(struct instance_access *access)
{
    free(access->host);
    free(access->user);
    mem_wipe_free(access->password);
    free(access->dbname);
    free(access->sslmode);
    free(access->sslrootcert);
    free(access->sslcert);
    free(access->sslkey);
    free(access->peer_sslrootcert);
    free(access->peer_sslcert);
    free(access->peer_sslkey);
    free(access->agent_host);
    mem_wipe_free(access->agent_token);
    *access = (struct instance_access){0};
}

/* ---- the fleet ---- */

struct fleet_index {
    struct list *found; /* where the last search by a name ended: the next one mostly ends there or behind */
    uint64_t version;   /* of the fleet that these are of */
    struct place {
        struct fleet_instance *instance;
        size_t order; /* in the list */
    } * places;       /* of those that have an address, by address */
    size_t count;
};

void fleet_init(struct fleet *fleet)
{
    list_init(&fleet->databases);
    list_init(&fleet->instances);
    fleet->version = 1;
    fleet->index = mem_zalloc(sizeof *fleet->index);
}

void fleet_fini(struct fleet *fleet)
{
    struct list *node;
    while ((node = list_first(&fleet->instances)) != NULL)
        fleet_remove_instance(fleet, list_item(node, struct fleet_instance, node));
    while ((node = list_first(&fleet->databases)) != NULL)
        fleet_remove_database(fleet, list_item(node, struct fleet_database, node));
    free(fleet->index->places);
    free(fleet->index);
    fleet->index = NULL;
}

struct fleet_database *fleet_add_database(struct fleet *fleet, const char *name)
{
    struct fleet_database *db = fleet_find_database(fleet, name);
    if (db != NULL)
        return db;
    db = mem_zalloc(sizeof *db);
    db->name = mem_strdup(name);
    balance_policy_defaults(&db->policy);
    list_append(&fleet->databases, &db->node);
    fleet->version++;
    return db;
}

unsigned fleet_instances_of(const struct fleet_database *db)
{
    return db != NULL && db->instances > 1 ? db->instances : 1;
}

struct fleet_database *fleet_find_database(const struct fleet *fleet, const char *name)
{
    for (struct list *node = fleet->databases.next; node != &fleet->databases; node = node->next) {
        struct fleet_database *db = list_item(node, struct fleet_database, node);
        if (strcmp(db->name, name) == 0)
            return db;
    }
    return NULL;
}

void fleet_remove_database(struct fleet *fleet, struct fleet_database *db)
{
    list_remove(&db->node);
    fleet->version++;
    routing_free(db->routing);
    free(db->spec_json);
    free(db->name);
    free(db);
}

int fleet_add_instance(struct fleet *fleet, const char *name, const char *source,
                       const struct instance_access *access, struct fleet_instance **ret, struct err *err)
{
    if (fleet_find_instance(fleet, name) != NULL)
        return err_set(err, ERRC_EXISTS, "there is an instance %s already", name);
    struct fleet_instance *instance = mem_zalloc(sizeof *instance);
    load_ring_init(&instance->load);
    instance->name = mem_strdup(name);
    instance->database = mem_strdup("");
    instance->shard = mem_strdup("");
    instance->source = mem_strdup(source);
    instance->facts.lag_seconds = (double)NAN;
    instance_access_copy(&instance->access, access);
    list_append(&fleet->instances, &instance->node);
    fleet->version++;
    *ret = instance;
    return 0;
}

struct fleet_instance *fleet_find_instance(const struct fleet *fleet, const char *name)
{
    struct list *found = fleet->index->found;
    struct list *start = found != NULL ? found : fleet->instances.next, *node = start;
    do {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        if (node != &fleet->instances && strcmp(instance->name, name) == 0) {
            fleet->index->found = node;
            return instance;
        }
        node = node->next;
    } while (node != start);
    return NULL;
}

double fleet_lag_seconds(const struct fleet_instance *instance)
{
    const struct instance_member *m = &instance->member;
    if (instance->facts.role != ROLE_STANDBY)
        return (double)NAN;
    return m->kept && !isnan(m->lag_seconds) ? m->lag_seconds : instance->facts.lag_seconds;
}

static int place_compare(const struct fleet_instance *instance, const char *host, int port)
{
    int order = strcmp(instance->access.host, host);
    return order != 0 ? order : instance->access.port - port;
}

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    const struct instance_access *access = &y->instance->access;
    int order = place_compare(x->instance, access->host, access->port);
    return order != 0 ? order : (x->order > y->order) - (x->order < y->order);
}

static void index_renew(const struct fleet *fleet)
{
    struct fleet_index *x = fleet->index;
    size_t order = 0;
    x->version = fleet->version;
    x->count = 0;
    for (struct list *node = fleet->instances.next; node != &fleet->instances; node = node->next)
        order++;
    free(x->places);
    x->places = mem_array(order, sizeof *x->places);
    for (struct list *node = fleet->instances.next; node != &fleet->instances; node = node->next) {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        if (instance->access.host != NULL) {
            x->places[x->count] = (struct place){instance, x->count};
            x->count++;
        }
    }
    qsort(x->places, x->count, sizeof *x->places, by_place);
}

struct fleet_instance *fleet_at(const struct fleet *fleet, const char *host, int port)
{
    struct fleet_index *x = fleet->index;
    if (x->version != fleet->version)
        index_renew(fleet);
    size_t low = 0, high = x->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (place_compare(x->places[middle].instance, host, port) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    bool there = low < x->count && place_compare(x->places[low].instance, host, port) == 0;
    return there ? x->places[low].instance : NULL;
}

struct fleet_instance *fleet_primary(const struct fleet *fleet, const char *database, const char *shard)
{
    const struct fleet_database *db = fleet_find_database(fleet, database);
    const struct routing_shard *s =
        db != NULL && db->routing != NULL ? routing_find_shard(db->routing, shard) : NULL;
    if (s == NULL)
        return NULL;
    return fleet_at(fleet, s->primary.host, s->primary.port);
}

bool fleet_is_lent(const struct fleet *fleet, const char *database, const char *shard)
{
    const struct fleet_instance *primary = fleet_primary(fleet, database, shard);
    return primary != NULL && primary->access.lent;
}

void fleet_remove_instance(struct fleet *fleet, struct fleet_instance *instance)
{
    if (fleet->index->found == &instance->node)
        fleet->index->found = NULL;
    list_remove(&instance->node);
    fleet->version++;
    instance_access_clear(&instance->access);
    load_ring_fini(&instance->load);
    hist_sparse_free(&instance->probe);
    hist_sparse_free(&instance->query_age);
    free(instance->pod);
    free(instance->name);
    free(instance->database);
    free(instance->shard);
    free(instance->source);
    free(instance);
}
