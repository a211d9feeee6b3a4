/*
 * kubernetes_usage: CPU and memory of pods from metrics.k8s.io, each asked for by its name.
 *
 * One after the other, all of them in each period; where the API is not there, again after 5 minutes.
 */
#ifndef DISCOVERY_KUBERNETES_USAGE_H
#define DISCOVERY_KUBERNETES_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct k8s_client;
struct kubernetes_source;
struct kubernetes_usage;

struct kubernetes_usage_options {
    struct k8s_client *client;               /* outlives it */
    const struct kubernetes_source *servers; /* whose pods; outlives it */
    uint64_t period_ns;                      /* 0 = 15 s */
    /* NAN = not said. */
    void (*usage)(const char *name_space, const char *pod, double cpu_cores, double memory_bytes, void *data);
    /* Whether an instance's figures are known from a better source: then its pod is not asked for. May be
     * NULL. */
    bool (*known)(const char *instance, void *data);
    void *data;
};

struct kubernetes_usage *kubernetes_usage_start(const struct kubernetes_usage_options *options);
void kubernetes_usage_close(struct kubernetes_usage *usage, void (*closed)(void *data), void *data);

/* Parts, for tests: the number in a quantity ("250m", "1Gi", "12345n"); false if it is none. */
bool kubernetes_quantity(const char *text, double *ret);
/* Sums over the containers of a PodMetrics; false if it is none. */
bool kubernetes_usage_parse(const char *json, size_t length, double *ret_cpu, double *ret_memory);

#endif
