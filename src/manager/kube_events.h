/*
 * kube_events: Events (events.k8s.io/v1) about objects, for people who look with kubectl.
 *
 * The same sentence about the same object is written once in five minutes; beyond 25 Events at once, and one
 * each five seconds, they are dropped and counted. A failure to write one is logged once. Never a secret.
 */
#ifndef MANAGER_KUBE_EVENTS_H
#define MANAGER_KUBE_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "k8s/client.h"

struct kube_events;

struct kube_event {
    const char *kind; /* "ShardedDatabase" */
    const char *name, *uid;
    bool warning;
    const char *reason; /* "SplitStarted" */
    const char *action; /* "Split" */
    const char *note;   /* a sentence */
};

/* holder: who reports. */
struct kube_events *kube_events_new(struct k8s_client *client, const char *name_space, const char *holder);
void kube_events_tell(struct kube_events *e, const struct kube_event *event);
/* `closed` runs when no request of it is under way. */
void kube_events_close(struct kube_events *e, void (*closed)(void *data), void *data);

#endif
