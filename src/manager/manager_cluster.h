/*
 * manager_cluster: what the manager does with a cluster besides running shards in it: finds servers and
 * applications, and keeps routing tables where their pods are.
 */
#ifndef MANAGER_MANAGER_CLUSTER_H
#define MANAGER_MANAGER_CLUSTER_H

#include <stdbool.h>

struct api_application;
struct err;
struct manager;
struct manager_cluster;

/* Whether the configuration wants it: there is no sense in a client otherwise. */
bool manager_cluster_wanted(const struct manager *m);
/* After the discovery has begun; does nothing without a client (m->kube) or when it is switched off. */
void manager_cluster_start(struct manager *m);
/* True: `closed` will be called. */
bool manager_cluster_close(struct manager *m, void (*closed)(void *data), void *data);

/* The servers that were there at the start are known, or there is nothing to wait for. */
bool manager_cluster_ready(const struct manager *m);
/* "7 watches, 12 objects", or what is wrong; "not used". Valid until the next call. */
const char *manager_cluster_text(const struct manager *m);
/* An instance or a routing table has changed. */
void manager_cluster_poke(struct manager *m);

/* NULL = nobody looks. */
struct kubernetes_source;
const struct kubernetes_source *manager_cluster_servers(const struct manager *m);

/* For the API: the n-th application; false = no more. */
bool manager_cluster_application(void *data, unsigned n, struct api_application *ret);
bool manager_cluster_looks_for_applications(void *data);

#endif
