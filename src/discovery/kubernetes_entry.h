/*
 * kubernetes_entry: which PostgreSQL servers the cluster's objects are. Pure.
 *
 *   source      what                                             name             address
 *   kubernetes  a pod of a StatefulSet that shardherd made       the pod's        primary: the shard's
 * service, standby: the pod's DNS name cnpg        a pod of a CloudNativePG cluster                 the pod's
 * primary: the cluster's read-write service, standby: the pod's address label       a labelled Service with a
 * cluster IP             the service's    the service
 *               ... a headless one: each endpoint                the pod's        its DNS name, else address
 *               a labelled StatefulSet: each pod of it           the pod's        its DNS name
 *               a labelled Pod                                   the pod's        the pod's address
 *   image       a Pod recognised by image and port, when asked   the pod's        the pod's address
 *
 * DNS names are stable: a pod that is made again keeps them, and neither the instance nor a routing table
 * changes. Addresses are taken where there is no name, and followed. An instance in another namespace than
 * the manager's is called NAME.NAMESPACE.
 */
#ifndef DISCOVERY_KUBERNETES_ENTRY_H
#define DISCOVERY_KUBERNETES_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "discovery/kubernetes_object.h"

struct cluster_view {
    const struct cluster_object *const *objects; /* of all kinds, in any order */
    size_t count;
    const char *name_space; /* the manager's own */
    bool by_image;
};

struct kubernetes_entry {
    const char *source; /* one of the above; a constant */
    char *name, *name_space;
    char *database, *shard; /* NULL = free */
    char *host;
    int port;
    char *dbname, *user, *sslmode;      /* NULL = not said */
    char *secret, *user_key, *pass_key; /* secret NULL: there is no password; the keys never NULL with it */
    char *group;                        /* the StatefulSet, cluster or service it is of; NULL = none */
    char *service_address;              /* of a service with a cluster IP; NULL = none */
    char *pod;                          /* NULL = not known */
    char *pod_address;                  /* NULL = not known */
    bool managed;                       /* made by shardherd */
    bool own;                           /* ... with its own agent, which answers on the pod's address */
    uint64_t restarts;                  /* of the pod's containers */
    const char *clash;                  /* what else has this name: not to be used; a constant */
};

struct kubernetes_entries {
    struct kubernetes_entry
        *items; /* in an order that depends on the objects only, names ascending per source */
    size_t count;
};

struct kubernetes_entries kubernetes_entries_make(const struct cluster_view *view);
void kubernetes_entries_free(struct kubernetes_entries *entries);

#endif
