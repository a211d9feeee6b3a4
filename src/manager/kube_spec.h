/*
 * kube_spec: what a ShardedDatabase object says, and its translation into a specification that
 * databases_apply() takes. Pure.
 */
#ifndef MANAGER_KUBE_SPEC_H
#define MANAGER_KUBE_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct yyjson_val;

#define KUBE_FINALIZER "shardherd.io/database"

enum kube_condition_type {
    KUBE_AVAILABLE, /* serves */
    KUBE_READY,     /* is as specified */
    KUBE_RECONCILING,
    KUBE_STALLED,
    KUBE_CONDITION_COUNT
};
enum kube_truth { KUBE_ABSENT, KUBE_FALSE, KUBE_TRUE, KUBE_UNKNOWN };

/* One condition. Absent ones are not written. */
struct kube_condition {
    enum kube_truth truth;
    char reason[64];
    char message[512];
    int64_t since_us; /* wall clock: when truth became what it is */
};

/* What is kept of an object: what the watch's trim makes. */
struct kube_object_kept {
    char *name, *name_space, *uid;
    char *version; /* resourceVersion */
    char *json;    /* metadata.name, .namespace, .uid and spec: what the runtime reads */
    size_t length;
    int64_t generation;
    bool deleting, suspended, finalizer;
    bool rolls;                      /* pods that are not as specified are replaced: update.strategy */
    bool own_certificates;           /* TLS with certificates that the runtime makes, also for applications */
    unsigned instances;              /* of each shard */
    int shards;                      /* spec.shards, 0 = ranges were given */
    int major;                       /* spec.postgresql.version, 0 = not said */
    char *config_map, *secret, *key; /* where the SQL is, when it is not inline */
    /* the status that is there: what an earlier manager wrote */
    int64_t observed_generation;
    int requested_shards; /* 0 = not said */
    struct kube_condition conditions[KUBE_CONDITION_COUNT];
};

/* NULL if it is not an object that can be looked after (no name or no spec). */
struct kube_object_kept *kube_kept_new(struct yyjson_val *object);
void kube_kept_free(struct kube_object_kept *kept);

/*
 * The specification as JSON. stored: the one that the store has (NULL: the database is new); its shards and
 * its schema are taken from it, since they change by other ways. schema: the SQL from the ConfigMap or
 * Secret, NULL = what is inline. members: the runtime makes several instances of a shard, and leaves it to us
 * to keep them. ERRC_INVALID names the field.
 */
int kube_spec_print(const struct kube_object_kept *kept, const char *stored, const char *schema, bool members,
                    struct buf *ret, struct err *err);

const char *kube_condition_name(enum kube_condition_type type); /* "Available" */

#endif
