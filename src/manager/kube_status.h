/*
 * kube_status: the status of a ShardedDatabase, from the facts. Pure.
 */
#ifndef MANAGER_KUBE_STATUS_H
#define MANAGER_KUBE_STATUS_H

#include "base/env.h"
#include "fleet/fleet.h"
#include "manager/kube_spec.h"

/* What is known of a database when its status is made. */
struct kube_facts {
    const struct fleet *fleet;
    const struct fleet_database *db; /* NULL = not there (yet, or any more) */
    bool deleting, suspended;        /* asked for */
    bool current;                    /* the servers are as the newest specification says */
    bool resizing;                   /* not every shard was seen with so many: */
    unsigned instances;
    int wanted, requested; /* spec.shards, and the number that was reached before; 0 = not said */
    int major;             /* that shards are to move to, 0 = they need not */
    bool rolls;            /* shards that are not as specified are replaced */
    const char *progress;  /* what is waited for, "" = nothing known */
    /* What hinders; reason "" = nothing. final: it needs a person, trying again does not help. */
    const char *trouble_reason, *trouble_message;
    bool trouble_final;
    int64_t now_us;
};

/* Changes the conditions; since_us moves only when a truth does. */
void kube_status_judge(const struct kube_facts *facts,
                       struct kube_condition conditions[KUBE_CONDITION_COUNT]);

/* Shards that own keys: not one that a running split has made and not filled yet. */
int kube_shards_of(const struct fleet_database *db);
/* The first shard that owns keys and whose primary was seen to run an older major version; NULL = none.
 * count: of all of them, NULL if nobody asks. */
const struct routing_shard *kube_older_shard(const struct fleet *fleet, const struct fleet_database *db,
                                             int major, int *count);

/* since_us moves only when truth does. */
void kube_condition_set(struct kube_condition *c, int64_t now_us, enum kube_truth truth, const char *reason,
                        const char *message);
struct yyjson_mut_doc;
struct yyjson_mut_val;
/* Appends it to the list, unless it is absent. type must outlive doc. */
void kube_condition_print(struct yyjson_mut_doc *doc, struct yyjson_mut_val *list, const char *type,
                          const struct kube_condition *c, int64_t generation);

/* The whole object for server-side apply on the status subresource. */
struct kube_status {
    const char *name, *uid;
    int64_t generation; /* observed */
    int requested_shards;
    bool client_certificate; /* there is one for applications */
    const struct fleet_database *db;
    const struct kube_condition *conditions;
};
struct yyjson_mut_doc *kube_status_print(const struct kube_status *status);

#endif
