/*
 * watch: a reflector on the wire.
 *
 * The socket is read as fast as the server writes (rule K25: it cuts off slow readers): what the user does in
 * the callback must be short, or go to a queue of his own.
 */
#ifndef K8S_WATCH_H
#define K8S_WATCH_H

#include <stdbool.h>

#include "base/err.h"
#include "k8s/client.h"
#include "k8s/reflector.h"

struct k8s_watch;

struct k8s_watch_options {
    const char *path;     /* "/api/v1/pods", "/apis/apps/v1/namespaces/x/statefulsets" */
    const char *selector; /* query part, encoded: "labelSelector=app%3Dx"; NULL = all */
    bool metadata_only;   /* ask for PartialObjectMetadata */
    const struct k8s_trim *trim;
    k8s_changed_cb changed;
    /* The store is complete for the first time. May be NULL. */
    void (*synced)(struct k8s_watch *watch, void *data);
    void *data;
};

/* Starts at once. The client must outlive the watch. */
struct k8s_watch *k8s_watch_start(struct k8s_client *client, const struct k8s_watch_options *options);
/* No callback but `closed` follows. */
void k8s_watch_close(struct k8s_watch *watch, void (*closed)(void *data), void *data);

const struct reflector *k8s_watch_reflector(const struct k8s_watch *watch);

#endif
