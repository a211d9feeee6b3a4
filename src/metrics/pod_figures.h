/*
 * pod_figures: figures of pods out of what others answer. Pure.
 */
#ifndef METRICS_POD_FIGURES_H
#define METRICS_POD_FIGURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the agent's /v1/status says of its container; what it does not say is NAN. */
struct agent_figures {
    double cpu_us; /* used since the container began */
    double cpu_limit, memory_bytes, memory_limit_bytes;
};
/* False: it is no status, or says nothing of a container. */
bool agent_figures_parse(const char *json, size_t length, struct agent_figures *ret);

/* Whether a volume claim ("data-shop-s1-0") is one of this pod's ("shop-s1-0"). */
bool claim_is_of_pod(const char *claim, const char *pod);

#endif
