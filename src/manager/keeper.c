#include "manager/keeper.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/provision.h"

#define FIRST_PAUSE_NS (1 * ENV_NS_PER_S)
#define PAUSE_MAX_NS   (60 * ENV_NS_PER_S)
#define STEADY_NS      (60 * ENV_NS_PER_S) /* ran for so long: what comes now is another trouble */
#define LOOK_PAUSE_NS  (5 * ENV_NS_PER_S)  /* after it was seen to run, whatever its polls say */

/* An instance that was in trouble. */
struct kept {
    struct list node;
    struct keeper *keeper;
    char *name, *database, *shard;
    unsigned tries;      /* in a row */
    uint64_t pause_ns;   /* after the next try */
    uint64_t next_ns;    /* not before */
    uint64_t started_ns; /* the last success, 0 = none */
    bool starting;
};

struct keeper {
    struct keeper_options options;
    struct list all; /* of struct kept */
    bool listing;
    bool stopped;
};

struct keeper *keeper_new(const struct keeper_options *options)
{
    struct keeper *k = mem_zalloc(sizeof *k);
    k->options = *options;
    list_init(&k->all);
    return k;
}

void keeper_stop(struct keeper *k)
{
    if (k != NULL)
        k->stopped = true;
}

static void kept_free(struct kept *kept)
{
    list_remove(&kept->node);
    free(kept->name);
    free(kept->database);
    free(kept->shard);
    free(kept);
}

void keeper_free(struct keeper *k)
{
    if (k == NULL)
        return;
    list_each(node, &k->all)
    {
        kept_free(list_item(node, struct kept, node));
    }
    free(k);
}

static struct kept *kept_find(const struct keeper *k, const char *name)
{
    list_each(node, &k->all)
    {
        struct kept *kept = list_item(node, struct kept, node);
        if (strcmp(kept->name, name) == 0)
            return kept;
    }
    return NULL;
}

static struct kept *kept_get(struct keeper *k, const struct runtime_instance *instance)
{
    struct kept *kept = kept_find(k, instance->name);
    if (kept != NULL)
        return kept;
    kept = mem_zalloc(sizeof *kept);
    kept->keeper = k;
    kept->name = mem_strdup(instance->name);
    kept->database = mem_strdup(instance->database);
    kept->shard = mem_strdup(instance->shard);
    kept->pause_ns = FIRST_PAUSE_NS;
    list_append(&k->all, &kept->node);
    return kept;
}

/* ---- starting ---- */

static void tell(struct kept *kept, const struct err *err)
{
    struct keeper *k = kept->keeper;
    uint64_t now = loop_now(k->options.loop);
    struct keeper_event event = {
        .instance = kept->name,
        .database = kept->database,
        .shard = kept->shard,
        .err = err,
        .tries = kept->tries,
        .next_seconds = kept->next_ns > now ? (kept->next_ns - now) / ENV_NS_PER_S : 0,
    };
    k->options.event(&event, k->options.data);
}

/* The pause counts from the end of a try. */
static void try_ended(struct kept *kept, const struct err *err)
{
    uint64_t now = loop_now(kept->keeper->options.loop);
    kept->starting = false;
    kept->next_ns = now + kept->pause_ns;
    kept->pause_ns = kept->pause_ns * 2 < PAUSE_MAX_NS ? kept->pause_ns * 2 : PAUSE_MAX_NS;
    if (err == NULL)
        kept->started_ns = now;
    tell(kept, err);
}

static void on_started(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct kept *kept = data;
    (void)instance;
    kept->starting = false;
    if (kept->keeper->stopped)
        return;
    if (err != NULL && err->code == ERRC_NOT_FOUND)
        kept_free(kept); /* it was removed meanwhile, on purpose */
    else
        try_ended(kept, err);
}

static void start(struct keeper *k, struct kept *kept, const struct fleet_database *db)
{
    uint64_t now = loop_now(k->options.loop);
    struct runtime_spec spec;
    struct err err = {0};
    if (kept->started_ns != 0 && now - kept->started_ns > STEADY_NS) {
        kept->tries = 0;
        kept->pause_ns = FIRST_PAUSE_NS;
    }
    kept->tries++;
    kept->started_ns = 0;
    kept->starting = true;
    int rc = databases_spec_of(k->options.databases, db, kept->shard, 0, &spec, &err);
    spec.name = kept->name;
    spec.must_exist = true;
    if (rc == 0)
        rc = runtime_ensure(k->options.operations->services.runtime, &spec, on_started, kept, &err);
    if (rc != 0)
        try_ended(kept, &err);
}

/* ---- looking ---- */

/* The database whose shard needs this instance; NULL = nobody does, or soon nobody will. */
static const struct fleet_database *wanted_by(const struct keeper *k, const struct runtime_instance *instance)
{
    const struct fleet_database *db = fleet_find_database(k->options.fleet, instance->database);
    if (db == NULL || db->routing == NULL || routing_find_shard(db->routing, instance->shard) == NULL)
        return NULL;
    list_each(node, &k->options.operations->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && provision_is(op) && strcmp(op->database, db->name) == 0)
            return NULL; /* it is made or deleted */
    }
    return db;
}

static void look_at(struct keeper *k, const struct runtime_instance *instance)
{
    const struct fleet_database *db = wanted_by(k, instance);
    uint64_t now = loop_now(k->options.loop);
    if (db == NULL)
        return;
    struct kept *kept = kept_get(k, instance);
    if (kept->starting || now < kept->next_ns)
        return;
    if (!runtime_instance_runs(instance))
        start(k, kept, db);
    else
        kept->next_ns = now + LOOK_PAUSE_NS;
}

/* The runtimes that leave it to us to start a server again. */
static bool runs_here(const char *source)
{
    return strcmp(source, "local") == 0 || strcmp(source, "podman") == 0 || strcmp(source, "docker") == 0;
}

static bool polls_fail(const struct fleet_instance *instance)
{
    return runs_here(instance->source) && instance->facts.failed_ns > instance->facts.seen_ns;
}

static void on_list(const struct err *err, const struct runtime_instance *instances, int count, void *data)
{
    struct keeper *k = data;
    k->listing = false;
    if (k->stopped || err != NULL || k->options.operations->services.term == 0)
        return;
    for (int i = 0; i < count; i++) {
        const struct fleet_instance *found = fleet_find_instance(k->options.fleet, instances[i].name);
        if (found != NULL && polls_fail(found))
            look_at(k, &instances[i]);
    }
}

static bool is_due(const struct keeper *k, const struct fleet_instance *instance)
{
    const struct kept *kept = kept_find(k, instance->name);
    return kept == NULL || (!kept->starting && loop_now(k->options.loop) >= kept->next_ns);
}

static void forget_gone(struct keeper *k)
{
    list_each(node, &k->all)
    {
        struct kept *kept = list_item(node, struct kept, node);
        if (!kept->starting && fleet_find_instance(k->options.fleet, kept->name) == NULL)
            kept_free(kept);
    }
}

void keeper_check(struct keeper *k)
{
    struct runtime *runtime = k->options.operations->services.runtime;
    bool due = false;
    if (k->stopped || k->listing || runtime == NULL || k->options.operations->services.term == 0)
        return;
    forget_gone(k);
    list_each(node, &k->options.fleet->instances)
    {
        const struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        due = due || (polls_fail(instance) && is_due(k, instance));
    }
    k->listing = due && runtime_list(runtime, on_list, k, NULL) == 0;
}
