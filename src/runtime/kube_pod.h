/*
 * kube_pod: what a pod's status says about why it does not run. Pure.
 */
#ifndef RUNTIME_KUBE_POD_H
#define RUNTIME_KUBE_POD_H

#include <stdbool.h>

struct yyjson_val;

/* Of the agent, whose server has TLS then; and asks for certificates of clients. */
#define KUBE_TLS_ARGUMENT     "--tls=/etc/shardherd/tls"
#define KUBE_CLIENTS_ARGUMENT "--client-certificates"

enum kube_tls { KUBE_TLS_UNKNOWN, KUBE_TLS_OFF, KUBE_TLS_ON, KUBE_TLS_MUTUAL };
/* What the server of a pod is made with, by the pod's spec or its template's; never UNKNOWN. */
enum kube_tls kube_pod_tls(struct yyjson_val *spec);

struct kube_pod {
    bool ready;
    bool deleting;
    bool unscheduled;  /* has no node yet */
    bool running;      /* but not ready: its agent can be asked */
    bool started;      /* its startup probe has succeeded: a member's agent answers */
    bool plain;        /* its server has no TLS */
    char address[48];  /* of the pod, "" = none yet */
    char revision[80]; /* label controller-revision-hash */
    char trouble[400]; /* "pod shop-s1-0 is not scheduled: ...", "" when ready */
};

void kube_pod_read(struct yyjson_val *pod, struct kube_pod *ret);

/* The message of the newest event of an EventList, "reason: message"; false when there is none. */
bool kube_event_newest(struct yyjson_val *list, char *ret, unsigned long size);

#endif
