/*
 * kubernetes_source: finds PostgreSQL servers in a cluster, and gives them to the discovery as they change.
 *
 * What is asked for, in each namespace: StatefulSets, Pods and EndpointSlices that shardherd made (by label);
 * what is labelled shardherd.io/discover; CloudNativePG clusters and what carries their label, where the API
 * server has that API (it is asked every 5 minutes); and all Pods only when they are to be recognised by
 * image. Nothing else is ever read, Secrets only by name. What is kept of each object:
 * kubernetes_object.h; what follows from them: kubernetes_entry.h.
 *
 * Happy path: the watches fill their stores; once each is complete (or has failed, or 10 s are over) and
 * again 20 ms after every change, entries are made of all objects, their Secrets are read, and the whole is
 * given to the discovery. While the API server is away, everything stays as it was.
 */
#ifndef DISCOVERY_KUBERNETES_SOURCE_H
#define DISCOVERY_KUBERNETES_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "discovery/kubernetes_entry.h"

struct discovery;
struct k8s_client;
struct kubernetes_source;

#define KUBERNETES_NAMESPACES_MAX 32

struct kubernetes_source_options {
    struct k8s_client *client;   /* outlives the source */
    struct discovery *discovery; /* outlives the source */
    const char *name_space;      /* the manager's own; copied, as all texts */
    /* Which to look into; none: the own one. One that is "*": all of the cluster. */
    const char *const *namespaces;
    int namespace_count;
    bool by_image;
    /* The kind of the runtime that lists what shardherd makes ("kubernetes", "cnpg"): that is left to it. */
    const char *runtime_kind;  /* NULL = none of them; a constant */
    uint64_t secret_period_ns; /* how often a Secret is read again; 0 = 1 min */
    /* What is known has changed; kubernetes_source_entries() has it. May be NULL. */
    void (*changed)(void *data);
    /* A kind of object cannot be read; once per new error. May be NULL. */
    void (*failed)(const char *what, const struct err *err, void *data);
    void *data;
};

struct kubernetes_source *kubernetes_source_start(const struct kubernetes_source_options *options);
/* No callback any more but `closed`, which runs later. */
void kubernetes_source_close(struct kubernetes_source *source, void (*closed)(void *data), void *data);

/* All watches were complete once, or are known to fail, and their servers were given. */
bool kubernetes_source_ready(const struct kubernetes_source *source);
/* Valid until the loop's next turn. */
const struct kubernetes_entries *kubernetes_source_entries(const struct kubernetes_source *source);
/* By the name of an instance, else by where it is reached; NULL = not in this cluster. */
const struct kubernetes_entry *kubernetes_source_find(const struct kubernetes_source *source,
                                                      const char *name, const char *host, int port);

struct kubernetes_source_facts {
    unsigned watches, failing;
    uint64_t objects, bytes; /* kept, by what was allocated for them */
    uint64_t rounds;         /* how often entries were made */
    char error[256];         /* of a failing watch, "" = none */
};
void kubernetes_source_count(const struct kubernetes_source *source, struct kubernetes_source_facts *ret);

#endif
