/*
 * kube_ready: waits until a pod of a StatefulSet is ready as the StatefulSet now wants it (of several
 * instances: until its agent answers), and says why it is not.
 */
#ifndef RUNTIME_KUBE_READY_H
#define RUNTIME_KUBE_READY_H

#include "base/sm.h"
#include "http/http_client.h"
#include "k8s/client.h"
#include "loop/loop.h"
#include "runtime/kube_pods.h"

/* What the events of an object are asked for. */
enum kube_missing { MISSING_NOTHING, MISSING_POD, MISSING_VOLUME };

struct kube_ready;
typedef void (*kube_ready_cb)(struct kube_ready *ready, const struct err *err, void *data);

struct kube_ready {
    /* filled in by the caller; the texts live until done */
    struct k8s_client *client;
    struct kube_pods *pods;
    struct http_client *http; /* for the agents in pods that run and do not get ready */
    const char *name_space;
    const char *name;   /* of the StatefulSet */
    int number;         /* of the pod */
    bool member;        /* one of several instances: its server waits for orders */
    int64_t generation; /* the StatefulSet's, which its controller must have seen */
    uint64_t deadline_ns;
    /* Each time that the reason is another one. */
    void (*progress)(const char *reason, void *data);
    kube_ready_cb done;
    void *data;

    struct sm sm;
    struct loop_task look, over;
    struct loop_timer tick;
    struct kube_pods_user user;
    struct k8s_call *call;
    struct http_call *agent_call;
    char *pod;  /* name of the pod */
    char *path; /* of the call */
    bool canceled;
    bool plain;        /* found out: its server has no TLS */
    char revision[80]; /* what the pod is to be of, "" = whatever it is of */
    char reason[480];
    enum kube_missing missing;
    char event[400]; /* what the StatefulSet's or the claim's events said last */
    uint64_t ask_ns; /* when they are asked for again */
    uint64_t pause_ns;
    struct err err;
};

/* done comes once, later; ERRC_TIMEOUT with the reason at the deadline. */
void kube_ready_start(struct kube_ready *ready);
void kube_ready_cancel(struct kube_ready *ready); /* done comes with ERRC_CANCELED */

#endif
