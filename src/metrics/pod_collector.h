/*
 * pod_collector: CPU and memory of the instances' pods from the agents beside them, once a second; every
 * fourth while its server takes less than a twentieth of a core, every eighth while nobody does anything
 * there.
 *
 * Writes into fleet_instance.pod (fleet/pod.h); so do the metrics API (kubernetes_usage.h) and Prometheus
 * (prometheus_source.h) through pod_collector_set(). An agent that does not answer within 900 ms is asked
 * again in the next round; nothing waits for any of them.
 */
#ifndef METRICS_POD_COLLECTOR_H
#define METRICS_POD_COLLECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "fleet/fleet.h"
#include "loop/loop.h"
#include "metrics/pod_figures.h"

#define POD_AGENT_PORT 8008

/* Texts live until control is back in the loop. */
struct pod_place {
    const char *name_space, *pod; /* pod NULL = not known */
    const char *agent;            /* address of an agent; NULL = there is none */
    int agent_port;               /* 0 = 8008 */
    uint64_t restarts;
};

struct pod_collector;

struct pod_collector_options {
    struct loop *loop;
    struct fleet *fleet;
    uint64_t period_ns; /* 0 = 1 s */
    /* Where an instance runs; false = in no pod. */
    bool (*place)(const struct fleet_instance *instance, struct pod_place *ret, void *data);
    void *data;
};

struct pod_collector *pod_collector_start(const struct pod_collector_options *options);
void pod_collector_close(struct pod_collector *collector, void (*closed)(void *data), void *data);

/* The agent of this instance said so at `at_ns` of loop_now(), to somebody else who hears it: place() then
 * tells of none. Said again with the same time it is the same word. */
void pod_collector_hear(struct pod_collector *collector, const char *instance, uint64_t at_ns,
                        const struct agent_figures *figures);

/* For each instance in this pod. */
void pod_collector_set(struct pod_collector *collector, const char *name_space, const char *pod,
                       enum pod_source source, enum pod_figure figure, double value);
/* For this instance. */
void pod_collector_set_named(struct pod_collector *collector, const char *instance, enum pod_source source,
                             enum pod_figure figure, double value);
/* For the pod that has this volume claim. */
void pod_collector_set_claim(struct pod_collector *collector, const char *name_space, const char *claim,
                             enum pod_source source, enum pod_figure figure, double value);

struct pod_collector_counts {
    uint64_t asked, answered, failed; /* agents */
};
void pod_collector_count(const struct pod_collector *collector, struct pod_collector_counts *ret);

#endif
