/*
 * pod: what a cluster says of the pod that an instance runs in, by who said it. No I/O.
 *
 * The same figure may come from several: the agent beside the server, the metrics API, Prometheus. The best
 * source that spoke lately counts. What nobody said is NAN.
 */
#ifndef FLEET_POD_H
#define FLEET_POD_H

#include <stdbool.h>
#include <stdint.h>

/* The best first. */
enum pod_source { POD_AGENT, POD_METRICS_API, POD_PROMETHEUS, POD_SOURCE_MAX };
const char *pod_source_name(enum pod_source source); /* "agent", "metrics.k8s.io", "prometheus" */

enum pod_figure {
    POD_CPU,       /* cores */
    POD_CPU_LIMIT, /* cores */
    POD_MEMORY,    /* bytes */
    POD_MEMORY_LIMIT,
    POD_VOLUME_USED, /* bytes, of its data volume */
    POD_VOLUME_SIZE,
    POD_RECEIVED, /* bytes/s */
    POD_TRANSMITTED,
    POD_SESSIONS, /* client sessions that exporters count */
    POD_COMMITS,  /* per second, by exporters */
    POD_HITS,     /* blocks found in the buffer cache per second, by exporters */
    POD_FIGURE_MAX
};
const char *pod_figure_name(enum pod_figure figure); /* "cpu_cores" */

struct pod_report {
    uint64_t at_ns; /* 0 = never */
    double value[POD_FIGURE_MAX];
};

struct instance_pod {
    uint64_t restarts; /* of its containers */
    struct pod_report reports[POD_SOURCE_MAX];
};

struct instance_pod *instance_pod_new(void);
/* A figure that one source has now; others of the same report stay. */
void instance_pod_set(struct instance_pod *pod, enum pod_source source, enum pod_figure figure, double value,
                      uint64_t now_ns);
/* From the best source that spoke within POD_FRESH_NS; NAN. pod may be NULL. *ret_source may be NULL. */
#define POD_FRESH_NS       (60ull * 1000000000)
#define POD_AGENT_FRESH_NS (10ull * 1000000000)
double instance_pod_get(const struct instance_pod *pod, enum pod_figure figure, uint64_t now_ns,
                        enum pod_source *ret_source);

#endif
