#include "runtime/kube_known.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "k8s/watch.h"
#include "runtime/kube_objects.h"

#define THEIRS_NS (600 * ENV_NS_PER_S)

static void sets_changed(enum k8s_change change, const struct k8s_object *now,
                         const struct k8s_object *before, void *data)
{
    struct kubernetes *k = data;
    (void)change;
    (void)now;
    (void)before;
    k->changed = true;
}

static void sets_synced(struct k8s_watch *watch, void *data)
{
    struct kubernetes *k = data;
    (void)watch;
    k->changed = true;
}

void kube_known_start(struct kubernetes *k)
{
    if (k->sets != NULL || k->closing)
        return;
    char *path = KUBE_SETS(k, NULL);
    const struct k8s_watch_options options = {
        .path = path,
        .selector = KUBE_OF_SHARDS,
        .metadata_only = true,
        .changed = sets_changed,
        .synced = sets_synced,
        .data = k,
    };
    k->sets = k8s_watch_start(k->options.client, &options);
    free(path);
}

/* FNV-1a of the text, which ends with its length. */
uint64_t kube_known_sum(const struct kubernetes *k, const char *database)
{
    struct kube_database object = {0};
    uint64_t sum = 14695981039346656037ull;
    if (k->options.database(k->options.data, database, &object, NULL) != 0)
        return 0;
    for (size_t i = 0; i < object.length; i++)
        sum = (sum ^ (unsigned char)object.json[i]) * 1099511628211ull;
    return sum;
}

static bool is_fresh(const struct kubernetes *k, const struct kube_known_entry *e, uint64_t sum)
{
    bool doubted = k->options.doubted != NULL && k->options.doubted(k->options.data, e->name);
    bool old = e->theirs && loop_now(k->loop) - e->read_ns > THEIRS_NS;
    return e->version[0] != '\0' && !doubted && !old && e->spec_sum == sum;
}

bool kube_known_holds(const struct kubernetes *k)
{
    if (k->sets == NULL || !reflector_synced(k8s_watch_reflector(k->sets)) || k->changed)
        return false;
    const char *database = "";
    uint64_t sum = 0;
    for (int i = 0; i < k->known_count; i++) {
        const struct kube_known_entry *e = &k->known[i];
        if (strcmp(database, e->database) != 0) /* they come sorted by name, so by database */
            sum = kube_known_sum(k, e->database);
        database = e->database;
        if (!is_fresh(k, e, sum))
            return false;
    }
    return true;
}

void kube_known_begin(struct kubernetes *k)
{
    k->changed = false;
}

const struct kube_known_entry *kube_known_find(const struct kubernetes *k, const char *name,
                                               const char *version)
{
    for (int i = 0; i < k->known_count; i++) {
        const struct kube_known_entry *e = &k->known[i];
        if (strcmp(e->name, name) == 0)
            return strcmp(e->version, version) == 0 && is_fresh(k, e, kube_known_sum(k, e->database)) ? e
                                                                                                      : NULL;
    }
    return NULL;
}

static void entries_free(struct kube_known_entry *entries, int count)
{
    for (int i = 0; i < count; i++) {
        free(entries[i].name);
        free(entries[i].database);
        free(entries[i].shard);
        free(entries[i].version);
        instance_access_clear(&entries[i].access);
    }
    free(entries);
}

void kube_known_replace(struct kubernetes *k, struct kube_known_entry *entries, int count)
{
    entries_free(k->known, k->known_count);
    k->known = entries;
    k->known_count = count;
}

void kube_known_forget(struct kubernetes *k, const char *name)
{
    k->changed = true;
    for (int i = 0; i < k->known_count; i++)
        if (strcmp(k->known[i].name, name) == 0)
            k->known[i].version[0] = '\0';
}

void kube_known_close(struct kubernetes *k, void (*closed)(void *data), void *data)
{
    struct k8s_watch *sets = k->sets;
    kube_known_replace(k, NULL, 0);
    k->sets = NULL;
    if (sets != NULL)
        k8s_watch_close(sets, closed, data);
    else
        closed(data);
}
