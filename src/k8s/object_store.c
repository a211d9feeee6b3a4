#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "k8s/object_store.h"

struct store_entry {
    struct k8s_object object;
    uint32_t hash;
    char text[]; /* key, UID, version */
};

/* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ : names in a cluster are not chosen against us, and a
 * full table of equal hashes is still only slow. */
static uint32_t hash_of(const char *key)
{
    uint32_t h = 2166136261u;
    for (; *key != '\0'; key++)
        h = (h ^ (unsigned char)*key) * 16777619u;
    return h;
}

static struct store_entry *entry_new(const struct k8s_object *object)
{
    size_t key = strlen(object->key) + 1, uid = strlen(object->uid) + 1,
           version = strlen(object->version) + 1;
    struct store_entry *e = mem_alloc(sizeof *e + key + uid + version);
    memcpy(e->text, object->key, key);
    memcpy(e->text + key, object->uid, uid);
    memcpy(e->text + key + uid, object->version, version);
    e->object = (struct k8s_object){e->text, e->text + key, e->text + key + uid, object->value};
    e->hash = hash_of(object->key);
    return e;
}

static void entry_free(struct store_entry *e, const struct k8s_trim *trim)
{
    if (trim != NULL && e->object.value != NULL)
        trim->release(e->object.value);
    free(e);
}

/* The slot of the key, or the empty one where it would go. capacity > 0. */
static size_t slot_of(const struct object_store *store, const char *key, uint32_t hash)
{
    size_t i = hash & (store->capacity - 1);
    while (store->slots[i] != NULL &&
           (store->slots[i]->hash != hash || strcmp(store->slots[i]->object.key, key) != 0))
        i = (i + 1) & (store->capacity - 1);
    return i;
}

static void grow(struct object_store *store)
{
    struct object_store old = *store;
    if (store->count * 4 < store->capacity * 3)
        return;
    store->capacity = old.capacity > 0 ? old.capacity * 2 : 16;
    store->slots = mem_array(store->capacity, sizeof *store->slots);
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i] != NULL)
            store->slots[slot_of(store, old.slots[i]->object.key, old.slots[i]->hash)] = old.slots[i];
    }
    free(old.slots);
}

/* Closes the gap: entries behind it that would not be found any more move up. */
static void vacate(struct object_store *store, size_t gap)
{
    size_t mask = store->capacity - 1;
    for (size_t i = (gap + 1) & mask; store->slots[i] != NULL; i = (i + 1) & mask) {
        size_t home = store->slots[i]->hash & mask;
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            store->slots[gap] = store->slots[i];
            gap = i;
        }
    }
    store->slots[gap] = NULL;
    store->count--;
}

static struct store_entry *entry_find(const struct object_store *store, const char *key)
{
    return store->capacity > 0 ? store->slots[slot_of(store, key, hash_of(key))] : NULL;
}

const struct k8s_object *object_store_find(const struct object_store *store, const char *key)
{
    const struct store_entry *e = entry_find(store, key);
    return e != NULL ? &e->object : NULL;
}

void object_store_each(const struct object_store *store,
                       void (*cb)(const struct k8s_object *object, void *data), void *data)
{
    for (size_t i = 0; i < store->capacity; i++) {
        if (store->slots[i] != NULL)
            cb(&store->slots[i]->object, data);
    }
}

static void report(const struct k8s_object *now, const struct k8s_object *before, k8s_changed_cb cb,
                   void *data)
{
    if (cb == NULL)
        return;
    if (now == NULL || before == NULL) {
        cb(now == NULL ? K8S_DELETED : K8S_ADDED, now, before, data);
    } else if (strcmp(now->uid, before->uid) != 0) {
        cb(K8S_DELETED, NULL, before, data);
        cb(K8S_ADDED, now, NULL, data);
    } else if (strcmp(now->version, before->version) != 0) {
        cb(K8S_MODIFIED, now, before, data);
    }
}

void object_store_put(struct object_store *store, const struct k8s_object *object,
                      const struct k8s_trim *trim, k8s_changed_cb cb, void *data)
{
    struct store_entry *entry = entry_new(object);
    grow(store);
    size_t i = slot_of(store, object->key, entry->hash);
    struct store_entry *before = store->slots[i];
    store->slots[i] = entry;
    store->count += before == NULL;
    report(&entry->object, before != NULL ? &before->object : NULL, cb, data);
    if (before != NULL)
        entry_free(before, trim);
}

void object_store_remove(struct object_store *store, const char *key, const struct k8s_trim *trim,
                         k8s_changed_cb cb, void *data)
{
    if (store->capacity == 0)
        return;
    size_t i = slot_of(store, key, hash_of(key));
    struct store_entry *before = store->slots[i];
    if (before == NULL)
        return;
    vacate(store, i);
    report(NULL, &before->object, cb, data);
    entry_free(before, trim);
}

void object_store_replace(struct object_store *store, struct object_store *next, const struct k8s_trim *trim,
                          k8s_changed_cb cb, void *data)
{
    struct object_store old = *store;
    *store = *next;
    memset(next, 0, sizeof *next);
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i] != NULL && entry_find(store, old.slots[i]->object.key) == NULL)
            report(NULL, &old.slots[i]->object, cb, data);
    }
    for (size_t i = 0; i < store->capacity; i++) {
        if (store->slots[i] != NULL)
            report(&store->slots[i]->object, object_store_find(&old, store->slots[i]->object.key), cb, data);
    }
    object_store_free(&old, trim);
}

void object_store_free(struct object_store *store, const struct k8s_trim *trim)
{
    for (size_t i = 0; i < store->capacity; i++) {
        if (store->slots[i] != NULL)
            entry_free(store->slots[i], trim);
    }
    free(store->slots);
    memset(store, 0, sizeof *store);
}
