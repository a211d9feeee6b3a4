/*
 * kube_operations: ShardOperation objects of a namespace: each starts one operation, as a request to the API
 * would, and shows in its status how far it is.
 *
 * Happy path: the operation is started with a reason that names the object, so that a manager that comes
 * after a crash finds it among the journals and never starts it twice. Then the status follows the journal:
 * at once when the step is another one, else every few seconds. What hinders for a moment (a move runs on
 * that shard) leaves it Pending. spec.cancel and the deletion of the object undo it, as long as that is
 * possible. An object that has ended stays as it is, and shows what came of it, until somebody deletes it.
 */
#ifndef MANAGER_KUBE_OPERATIONS_H
#define MANAGER_KUBE_OPERATIONS_H

#include "fleet/fleet.h"
#include "k8s/client.h"
#include "operation/operation.h"

struct kube_operations;

/* All pointers outlive it. */
struct kube_operations_options {
    struct k8s_client *client;
    const char *name_space;
    struct fleet *fleet;
    struct operations *operations; /* its services.term == 0: nothing is begun */
    /* As ha_shards_switch(). */
    int (*switch_over)(void *data, const char *database, const char *shard, const char *to, const char *why,
                       struct err *err);
    void *data;
};

struct kube_operations *kube_operations_start(const struct kube_operations_options *options);
/* From now on operations are started. */
void kube_operations_run(struct kube_operations *all);
/* Call it each second. */
void kube_operations_look(struct kube_operations *all);
/* The same, at the end of this turn: from anywhere, when an operation changed. */
void kube_operations_wake(struct kube_operations *all);
/* Nothing is begun any more; `closed` runs when no request of ours is under way. */
void kube_operations_close(struct kube_operations *all, void (*closed)(void *data), void *data);
void kube_operations_free(struct kube_operations *all); /* NULL is fine */

#endif
