/*
 * kube_objects: the Kubernetes objects of one shard, from the specification of its database. Pure: the same
 * input gives the same bytes, so that applying them again changes nothing, and `shardherd render` prints
 * exactly what a manager applies.
 *
 * Everything is named DATABASE-SHARD (the read-only service DATABASE-SHARD-ro, the headless one
 * DATABASE-SHARD-pods) and labelled shardherd.io/database and shardherd.io/shard. Pods satisfy the
 * "restricted" pod security standard.
 *
 * With spec.instances above 1 the pods' agents are members (docs/agent.md): the StatefulSet has an annotation
 * that says how many there are and replaces no pod by itself, and the services select by the label that says
 * who is the primary (runtime_mark()). With 1 there is nothing of this.
 */
#ifndef RUNTIME_KUBE_OBJECTS_H
#define RUNTIME_KUBE_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define KUBE_DATA                 "/var/lib/postgresql/data/pgdata" /* the data directory, in the pods */
#define KUBE_AGENT_PORT           8008
#define KUBE_TOKEN_KEY            "agent-token"            /* of the credentials, with several instances */
#define KUBE_NEXT_KEY             "next-password"          /* the same: what the servers are about to get, */
#define KUBE_NEXT_MARK_KEY        "next-password-mark"     /* and its name; agents look for both */
#define KUBE_INSTANCES_ANNOTATION "shardherd.io/instances" /* of a StatefulSet; without it there is one */
#define KUBE_PLAIN_ANNOTATION     "shardherd.io/plain"     /* the same: servers without TLS, if it is there */
#define KUBE_STANDBY_ANNOTATION                                                                              \
    "shardherd.io/standby-settings"              /* of a StatefulSet: kube_settings_standby() */
#define KUBE_ROLE_LABEL      "shardherd.io/role" /* of a pod: "primary", "standby" */
#define KUBE_TERM_ANNOTATION "shardherd.io/term" /* of a pod: whose label it is */
/* For watches and lists: what belongs to a shard of a database, whichever. */
#define KUBE_OF_SHARDS "labelSelector=shardherd.io%2Fdatabase%2Cshardherd.io%2Fshard"

struct yyjson_val;
struct yyjson_mut_doc;
struct yyjson_mut_val;

struct kube_shard {
    const char *database;
    const char *name_space;
    const char *shard;
    struct yyjson_val *spec; /* of the ShardedDatabase, defaults filled in or not */
    const char *image;       /* used when the spec names none */
    const char *owner_uid;   /* of the ShardedDatabase, NULL = rendered for humans: no ownerReferences */
    bool members;            /* the agents take orders, also with one instance; with several in any case */
    int instances;           /* 0 = as the specification says */
    bool owns_data;          /* deletionPolicy delete: volumes go with the StatefulSet */
};

/* One object, in the order in which they are to be applied. The path is that of its collection. */
struct kube_object {
    const char *collection; /* "/apis/apps/v1/namespaces/x/statefulsets" */
    const char *name;
    struct yyjson_mut_doc *doc;
    struct yyjson_mut_val *root;
};

/* Non-zero stops and is returned. What the object points to is gone after the call. */
typedef int (*kube_object_cb)(const struct kube_object *object, void *data, struct err *err);

/* ERRC_INVALID names the field of the spec that cannot be used. Passwords and certificates are not among the
 * objects: Secrets are made once and never from a specification. */
int kube_objects_each(const struct kube_shard *shard, kube_object_cb cb, void *data, struct err *err);

/* "shop-s1" */
char *kube_shard_name(const struct kube_shard *shard);

/* Bytes of a Kubernetes quantity ("1Gi", "500M", "1.5Gi", 1000); false if it is none. */
bool kube_quantity(const char *text, uint64_t *ret_bytes);

/*
 * The settings that follow from the memory, as postgresql.conf lines: a quarter of it for shared_buffers,
 * three quarters as effective_cache_size (PostgreSQL's manual, 20.4), work_mem so that max_connections sorts
 * at once take at most a quarter.
 */
struct buf;
void kube_settings(struct buf *out, uint64_t memory_bytes, uint64_t wal_bytes, struct yyjson_val *parameters);
/* A checksum of those lines that need a restart: the pod template carries it. */
#define KUBE_SETTINGS_SUM 17
void kube_settings_sum(const char *settings, char ret[KUBE_SETTINGS_SUM]);
/*
 * The settings of which PostgreSQL lets no standby start with less than its primary has, as numbers in a
 * fixed order. free() it.
 */
char *kube_settings_standby(struct yyjson_val *parameters);
/* ERRC_UNSUPPORTED names the one that is lower than before: whoever restarts first would not come back. */
int kube_settings_lowered(const char *before, const char *now, struct err *err);

#endif
