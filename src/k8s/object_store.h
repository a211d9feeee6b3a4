/*
 * object_store: what is known of the objects of one kind, by namespace and name.
 *
 * An entry is a few hundred bytes: key, UID, resource version, and what the user's trim function kept of the
 * object. Two stores make an atomic replacement: the second is filled aside, then object_store_replace()
 * swaps and reports what differs, deletes of vanished keys included (rule K16).
 */
#ifndef K8S_OBJECT_STORE_H
#define K8S_OBJECT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct yyjson_val;

struct k8s_object {
    const char *key; /* "namespace/name", or "name" for what has no namespace */
    const char *uid;
    const char *version; /* resourceVersion */
    void *value;         /* of k8s_trim.make, NULL without one */
};

enum k8s_change { K8S_ADDED, K8S_MODIFIED, K8S_DELETED };

/* now is NULL for DELETED, before for ADDED; both are valid during the call only. The store holds the state
 * after all changes that are being reported. */
typedef void (*k8s_changed_cb)(enum k8s_change change, const struct k8s_object *now,
                               const struct k8s_object *before, void *data);

/* What is kept of an object. The JSON is gone when make returns. */
struct k8s_trim {
    void *(*make)(struct yyjson_val *object, void *data);
    void (*release)(void *value);
    void *data;
};

struct object_store {
    struct store_entry **slots; /* open addressing */
    size_t capacity;            /* a power of two, or 0 */
    size_t count;
};

/* Zero-initialised is an empty store. trim may be NULL. */
void object_store_free(struct object_store *store, const struct k8s_trim *trim);

const struct k8s_object *object_store_find(const struct object_store *store, const char *key);

/* Calls for each object, in no order; the store must not change meanwhile. */
void object_store_each(const struct object_store *store,
                       void (*cb)(const struct k8s_object *object, void *data), void *data);

/*
 * Adds or replaces one; the value passes to the store. With cb, the change is reported: MODIFIED, or DELETED
 * and ADDED when the UID is another one. An object with the same UID and version as before is no change.
 */
void object_store_put(struct object_store *store, const struct k8s_object *object,
                      const struct k8s_trim *trim, k8s_changed_cb cb, void *data);

/* Removes one, and reports it if it was there. */
void object_store_remove(struct object_store *store, const char *key, const struct k8s_trim *trim,
                         k8s_changed_cb cb, void *data);

/* store takes over everything from `next`, which is empty afterwards; then the differences are reported. */
void object_store_replace(struct object_store *store, struct object_store *next, const struct k8s_trim *trim,
                          k8s_changed_cb cb, void *data);

#endif
