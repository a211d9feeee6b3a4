/*
 * application_source: the applications of a cluster, kept up to date.
 *
 * Watches Deployments, StatefulSets and CronJobs of some namespaces, trimmed as they arrive to the variables
 * that may say where a server is (application_object.h), and reads the ConfigMaps and Secrets they refer to,
 * each by its name. Values of Secrets are cut to host, port, database and user before they are kept
 * (application_env.h). The list is made again 200 ms after anything changed.
 */
#ifndef DISCOVERY_APPLICATION_SOURCE_H
#define DISCOVERY_APPLICATION_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "discovery/application.h"

struct application_source;
struct k8s_client;
struct kubernetes_source;

struct application_source_options {
    struct k8s_client *client; /* outlives the source */
    const struct fleet *fleet; /* outlives the source */
    const struct kubernetes_source
        *servers;                  /* more names of the instances; may be NULL; outlives the source */
    const char *name_space;        /* copied, as all texts */
    const char *const *namespaces; /* as in kubernetes_source.h */
    int namespace_count;
    uint64_t value_period_ns; /* how often ConfigMaps and Secrets are read again; 0 = 1 min */
};

struct application_source *application_source_start(const struct application_source_options *options);
/* `closed` runs later. */
void application_source_close(struct application_source *source, void (*closed)(void *data), void *data);

/* Instances, or their names, have changed. */
void application_source_poke(struct application_source *source);

/* By id. Valid until the loop's next turn. Those without a connection are not among them. */
const struct application *application_source_list(const struct application_source *source, size_t *ret_count);
/* All watches were complete once. */
bool application_source_ready(const struct application_source *source);

#endif
