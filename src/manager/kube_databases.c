#include "manager/kube_databases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/kube_databases_impl.h"

/* ---- the watch ---- */

static void *trim_make(struct yyjson_val *object, void *data)
{
    (void)data;
    return kube_kept_new(object);
}

static void trim_release(void *value)
{
    kube_kept_free(value);
}

static const struct k8s_trim trim = {trim_make, trim_release, NULL};

/* The store is looked at in a task of its own: it must not be read while it changes. */
static void changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                    void *data)
{
    struct kube_databases *all = data;
    (void)change;
    (void)now;
    (void)before;
    if (!all->closing)
        loop_defer(all->loop, &all->look);
}

static void on_synced(struct k8s_watch *watch, void *data)
{
    struct kube_databases *all = data;
    (void)watch;
    if (all->closing)
        return;
    loop_defer(all->loop, &all->look);
    all->o.synced(all->o.data);
}

static const struct kube_object_kept *find_kept(const struct kube_databases *all, const char *name)
{
    char key[512];
    snprintf(key, sizeof key, "%s/%s", all->o.name_space, name);
    const struct object_store *store = reflector_store(k8s_watch_reflector(all->watch));
    const struct k8s_object *object = object_store_find(store, key);
    return object != NULL ? object->value : NULL;
}

const struct kube_object_kept *kdb_kept(const struct kdb *k)
{
    const struct kube_object_kept *kept =
        k->all->watch != NULL && !k->all->closing ? find_kept(k->all, k->name) : NULL;
    return kept != NULL && strcmp(kept->uid, k->uid) == 0 ? kept : NULL;
}

static struct kdb *find(const struct kube_databases *all, const char *name)
{
    list_each(node, &all->list)
    {
        struct kdb *k = list_item(node, struct kdb, node);
        if (strcmp(k->name, name) == 0)
            return k;
    }
    return NULL;
}

static void know(const struct k8s_object *object, void *data)
{
    struct kube_databases *all = data;
    const struct kube_object_kept *kept = object->value;
    if (kept != NULL && find(all, kept->name) == NULL)
        kdb_new(all, kept);
}

/* An object that went without us having let it go: someone took the finalizer off. */
static void forget(struct kdb *k)
{
    const struct kube_databases *all = k->all;
    if ((enum kdb_state)sm_now(&k->sm) != KDB_IDLE || k->walks > 0 || k->writing != NULL)
        return; /* an answer is to come */
    if (fleet_find_database(all->o.fleet, k->name) != NULL)
        log_event(LOG_WARN, "the object of a database is gone, its shards stay", "db", k->name, NULL);
    kdb_free(k);
}

static void look(struct loop_task *task, void *data)
{
    struct kube_databases *all = data;
    (void)task;
    if (!all->closing)
        kube_databases_look(all);
}

void kube_databases_look(struct kube_databases *all)
{
    if (all->closing || !all->running || !reflector_synced(k8s_watch_reflector(all->watch)))
        return;
    list_each(node, &all->list)
    {
        struct kdb *k = list_item(node, struct kdb, node);
        if (kdb_kept(k) == NULL)
            forget(k);
    }
    object_store_each(reflector_store(k8s_watch_reflector(all->watch)), know, all);
    list_each(again, &all->list)
    {
        kdb_look(list_item(again, struct kdb, node));
    }
}

void kube_databases_wake(struct kube_databases *all)
{
    if (!all->closing)
        loop_defer(all->loop, &all->look);
}

/* ---- life ---- */

struct kube_databases *kube_databases_start(const struct kube_databases_options *options)
{
    struct kube_databases *all = mem_zalloc(sizeof *all);
    all->o = *options;
    all->loop = k8s_client_loop(options->client);
    all->path = mem_printf(KUBE_API "/namespaces/%s/shardeddatabases", options->name_space);
    list_init(&all->list);
    all->look = (struct loop_task){.run = look, .data = all};
    const struct k8s_watch_options watch = {
        .path = all->path, .trim = &trim, .changed = changed, .synced = on_synced, .data = all};
    all->watch = k8s_watch_start(options->client, &watch);
    return all;
}

void kube_databases_run(struct kube_databases *all)
{
    all->running = true;
    loop_defer(all->loop, &all->look);
}

static void maybe_closed(struct kube_databases *all)
{
    if (!all->closing || !all->watch_closed || all->calls > 0 || all->reported)
        return;
    all->reported = true;
    all->closed(all->closed_data);
}

void kube_databases_call_ended(struct kube_databases *all)
{
    all->calls--;
    maybe_closed(all);
}

static void on_watch_closed(void *data)
{
    struct kube_databases *all = data;
    all->watch_closed = true;
    all->watch = NULL;
    maybe_closed(all);
}

void kube_databases_stop(struct kube_databases *all)
{
    all->running = false;
}

void kube_databases_close(struct kube_databases *all, void (*closed)(void *data), void *data)
{
    all->closing = true;
    all->running = false;
    all->closed = closed;
    all->closed_data = data;
    loop_task_cancel(&all->look);
    list_each(node, &all->list)
    {
        struct kdb *k = list_item(node, struct kdb, node);
        if (k->call != NULL)
            k8s_call_cancel(k->call);
        if (k->status_call != NULL)
            k8s_call_cancel(k->status_call);
    }
    k8s_watch_close(all->watch, on_watch_closed, all);
}

void kube_databases_free(struct kube_databases *all)
{
    if (all == NULL)
        return;
    loop_task_cancel(&all->look);
    list_each(node, &all->list)
    {
        kdb_free(list_item(node, struct kdb, node));
    }
    free(all->path);
    free(all);
}

/* ---- what others ask ---- */

int kube_databases_get(void *data, const char *database, struct kube_database *ret, struct err *err)
{
    struct kube_databases *all = data;
    const struct kube_object_kept *kept = all->watch != NULL ? find_kept(all, database) : NULL;
    if (kept == NULL)
        return err_set(err, ERRC_NOT_FOUND, "namespace %s has no ShardedDatabase %s", all->o.name_space,
                       database);
    *ret = (struct kube_database){kept->json, kept->length};
    return 0;
}

const struct fleet *kube_databases_fleet(const struct kube_databases *all)
{
    return all->o.fleet;
}

/* "shop-s1-0" is of database "shop"; the longest name that fits. */
static struct kdb *of_instance(const struct kube_databases *all, const char *instance)
{
    struct kdb *best = NULL;
    list_each(node, &all->list)
    {
        struct kdb *k = list_item(node, struct kdb, node);
        size_t length = strlen(k->name);
        if (strncmp(instance, k->name, length) == 0 && instance[length] == '-' &&
            (best == NULL || length > strlen(best->name)))
            best = k;
    }
    return best;
}

void kube_databases_progress(void *data, const char *instance, const char *message)
{
    struct kube_databases *all = data;
    struct kdb *k = of_instance(all, instance);
    if (k == NULL || all->closing)
        return;
    snprintf(k->progress, sizeof k->progress, "%s", message);
    loop_defer(all->loop, &all->look);
}

void kube_databases_tell(struct kube_databases *all, const char *database, bool warning, const char *reason,
                         const char *action, const char *note)
{
    struct kdb *k = find(all, database);
    if (k != NULL)
        kdb_tell(k, warning, reason, action, note);
}

void kube_databases_text(const struct kube_databases *all, char *out, size_t size)
{
    struct reflector_facts facts;
    if (all->watch == NULL) {
        snprintf(out, size, "closed");
        return;
    }
    reflector_facts(k8s_watch_reflector(all->watch), &facts);
    size_t count = reflector_store(k8s_watch_reflector(all->watch))->count;
    if (facts.last_error.code != ERRC_NONE)
        snprintf(out, size, "%zu databases known, the watch fails: %s", count, facts.last_error.message);
    else
        snprintf(out, size, "%zu databases, watch %s, begun anew %llu times", count, facts.state,
                 (unsigned long long)facts.relists);
}
