/*
 * kube_pods: the pods of the shards, for whoever waits for one (kube_ready.h): one watch for all of them, so
 * that a hundred shards that are made at the same time need one connection to the API server and not a
 * hundred. It lasts while somebody waits, and half a minute longer.
 *
 * What it says may be some moments old, also for somebody who has just come: whoever concludes that a pod is
 * as it is to be asks for that pod first.
 */
#ifndef RUNTIME_KUBE_PODS_H
#define RUNTIME_KUBE_PODS_H

#include <stdbool.h>

#include "base/list.h"
#include "k8s/client.h"
#include "runtime/kube_pod.h"

struct kube_pods;

/* One that waits for a pod. */
struct kube_pods_user {
    /* filled in by the caller */
    void (*changed)(void *data); /* the pod, or all are known now; must not use this header */
    void *data;

    struct list node;
    struct kube_pods *pods; /* NULL: has not joined */
    char *key;
};

/* name_space is copied. Asks for nothing before somebody joins. */
struct kube_pods *kube_pods_new(struct k8s_client *client, const char *name_space);
/* Nobody waits any more; `closed` later, or at once if there is nothing to end. */
void kube_pods_close(struct kube_pods *pods, void (*closed)(void *data), void *data);

void kube_pods_join(struct kube_pods *pods, struct kube_pods_user *user, const char *pod);
/* No `changed` follows. Nothing if it has not joined. */
void kube_pods_leave(struct kube_pods_user *user);

/* Whether all are known; if not, *why is what the API server said last (code NONE: nothing). */
bool kube_pods_synced(const struct kube_pods_user *user, struct err *why);
/* The user's pod, NULL = there is none that is known of; until control is back in the loop. */
const struct kube_pod *kube_pods_find(const struct kube_pods_user *user);

#endif
