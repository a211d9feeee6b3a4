/*
 * event: tells people what happened to an object, by events.k8s.io/v1.
 *
 * Fire and forget: k8s_events_emit() only queues, never blocks and never fails. The same thing said again
 * becomes a series of one Event (its count grows) and not another Event; an object that has too much to say
 * is cut short (25 Events at once, then one each 5 minutes, as client-go's spam filter), and so is a queue
 * that the server does not take. What was dropped is counted. An Event that the server refuses is dropped and
 * logged once.
 */
#ifndef K8S_EVENT_H
#define K8S_EVENT_H

#include <stddef.h>
#include <stdint.h>

struct k8s_client;
struct k8s_events;

struct k8s_reporter {
    const char
        *controller;      /* "shardherd.io/manager": a qualified name, at most 63 characters behind the '/' */
    const char *instance; /* of this process, such as its pod's name; at most 128 characters */
};

/* The object it is about. The Event is made in its namespace, or in "default" for what has none. */
struct k8s_reference {
    const char *api_version; /* "shardherd.io/v1alpha1" */
    const char *kind;
    const char *name_space; /* NULL or "" = none */
    const char *name;
    const char *uid; /* NULL = not known; `kubectl describe` then does not show it */
};

enum k8s_event_type { K8S_EVENT_NORMAL, K8S_EVENT_WARNING };

struct k8s_events_facts {
    uint64_t emitted; /* calls of k8s_events_emit() */
    uint64_t sent;    /* requests that were accepted: Events made and series brought up to date */
    uint64_t dropped; /* by the limits */
    uint64_t refused; /* by the server */
    size_t waiting;   /* that want a request now */
};

/* The client must outlive it. Everything is copied. */
struct k8s_events *k8s_events_new(struct k8s_client *client, const struct k8s_reporter *reporter);

/* Sends what waits for up to 2 s, then `closed` (may be NULL), once. */
void k8s_events_close(struct k8s_events *events, void (*closed)(void *data), void *data);

/*
 * reason: why, one word for machines ("ShardSplit"), at most 128 characters. action: what was done or tried,
 * one word ("Split"), at most 128. note: for people, cut at 1 kB; no secrets. From the loop's thread.
 */
void k8s_events_emit(struct k8s_events *events, const struct k8s_reference *regarding,
                     enum k8s_event_type type, const char *reason, const char *action, const char *note);

void k8s_events_facts(const struct k8s_events *events, struct k8s_events_facts *ret);

#endif
