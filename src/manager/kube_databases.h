/*
 * kube_databases: the ShardedDatabase objects of a namespace, brought about, and their status.
 *
 * Happy path of an object: a finalizer is put on it, its specification goes to databases_apply(), which
 * provisions the shards; then every shard is ensured again whenever the object changes. A higher spec.shards
 * asks for splits, `suspended` scales to zero, a deletion retires the database as deletionPolicy says and
 * lets the object go. One thing at a time for each object; what fails for a moment is tried again with
 * growing pauses, what needs a person is shown as Stalled and tried again when the object changes, or after
 * five minutes.
 *
 * The status is written by server-side apply (field manager "shardherd-status") when it says something new,
 * never in a steady state.
 */
#ifndef MANAGER_KUBE_DATABASES_H
#define MANAGER_KUBE_DATABASES_H

#include "k8s/client.h"
#include "k8s/event.h"
#include "manager/databases.h"
#include "runtime/kubernetes.h"

struct kube_databases;

/* All pointers outlive it. */
struct kube_databases_options {
    struct k8s_client *client;
    const char *name_space;
    struct fleet *fleet;
    struct databases *databases;
    struct operations
        *operations; /* its services.term == 0: nothing is begun; services.runtime makes shards */
    struct k8s_events *events;
    const struct balance_policy *defaults;
    void (*synced)(void *data); /* all objects are known for the first time */
    /* Another instance of the shard is to become the primary. ERRC_CONFLICT: not now. */
    int (*switch_over)(void *data, const char *database, const char *shard, const char *to, const char *why,
                       struct err *err);
    /* How many members the shard's record names, 0 = not known; those after them may go. */
    unsigned (*size_of)(void *data, const char *database, const char *shard);
    void *data;
};

struct kube_databases *kube_databases_start(const struct kube_databases_options *options);
/* From now on objects are brought about. */
void kube_databases_run(struct kube_databases *all);
/* Call it each second. */
void kube_databases_look(struct kube_databases *all);
/* The same, at the end of this turn: from anywhere, when something about a database changed. */
void kube_databases_wake(struct kube_databases *all);
/* Nothing is begun any more; answers may still come. */
void kube_databases_stop(struct kube_databases *all);
/* The watch and our requests end. Calls to runtime and databases may still answer: free it after those. */
void kube_databases_close(struct kube_databases *all, void (*closed)(void *data), void *data);

void kube_databases_free(struct kube_databases *all); /* NULL is fine */

/* For runtime_kubernetes_options; data = struct kube_databases. */
int kube_databases_get(void *data, const char *database, struct kube_database *ret, struct err *err);
const struct fleet *kube_databases_fleet(const struct kube_databases *all);
void kube_databases_progress(void *data, const char *instance, const char *message);

/* An Event about a database; nothing if it has no object. */
void kube_databases_tell(struct kube_databases *all, const char *database, bool warning, const char *reason,
                         const char *action, const char *note);

/* "watching 3 objects" or the trouble of the watch, for /readyz. */
void kube_databases_text(const struct kube_databases *all, char *out, size_t size);

#endif
