/*
 * manager_figures: CPU, memory and what else is said of the instances' pods: by agents and metrics.k8s.io in
 * a cluster, by Prometheus anywhere. Nothing waits for any of them.
 */
#ifndef MANAGER_MANAGER_FIGURES_H
#define MANAGER_MANAGER_FIGURES_H

#include <stdbool.h>
#include <stdint.h>

struct k8s_client;
struct kubernetes_source;
struct manager;
struct member_status;

/* After manager_cluster_start(). */
void manager_figures_start(struct manager *m);
/* True: `closed` will be called. Before manager_cluster_close(). */
bool manager_figures_close(struct manager *m, void (*closed)(void *data), void *data);
/* For ha_shards_options; data = struct manager: what members' agents say of their containers. */
void manager_figures_hear(const char *instance, const struct member_status *status, uint64_t heard_ns,
                          void *data);
/* "http://prometheus:9090", or what was wrong last; "not used". Valid until the next call. */
const char *manager_figures_text(const struct manager *m);

#endif
