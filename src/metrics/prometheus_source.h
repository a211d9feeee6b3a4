/*
 * prometheus_source: figures of the instances' pods out of a Prometheus, every 15 s.
 *
 * Series are found by their names, which exporters choose and which can be set; samples belong to an instance
 * by their labels: namespace and pod, namespace and persistentvolumeclaim, or member (the name that
 * shardherd's own /metrics gives). A figure whose query fails is told once per new error; the next round asks
 * again.
 */
#ifndef METRICS_PROMETHEUS_SOURCE_H
#define METRICS_PROMETHEUS_SOURCE_H

#include <stdint.h>

#include "base/err.h"
#include "metrics/pod_collector.h"
#include "metrics/prometheus_client.h"

enum prometheus_series {
    PROMETHEUS_CPU,         /* container_cpu_usage_seconds_total */
    PROMETHEUS_MEMORY,      /* container_memory_usage_bytes */
    PROMETHEUS_VOLUME_USED, /* kubelet_volume_stats_used_bytes */
    PROMETHEUS_VOLUME_SIZE, /* kubelet_volume_stats_capacity_bytes */
    PROMETHEUS_RECEIVED,    /* container_network_receive_bytes_total */
    PROMETHEUS_TRANSMITTED, /* container_network_transmit_bytes_total */
    PROMETHEUS_SESSIONS,    /* pg_stat_activity_count */
    PROMETHEUS_COMMITS,     /* pg_stat_database_xact_commit */
    PROMETHEUS_HITS,        /* pg_stat_database_blks_hit */
    PROMETHEUS_SERIES_MAX
};
/* The name that is usual. */
const char *prometheus_series_name(enum prometheus_series series);

struct prometheus_source;

struct prometheus_source_options {
    struct loop *loop;
    struct prometheus_client *client;         /* outlives the source */
    struct pod_collector *collector;          /* outlives the source */
    const char *names[PROMETHEUS_SERIES_MAX]; /* NULL = the usual; "none" = not asked for. Copied */
    uint64_t period_ns;                       /* 0 = 15 s */
    void (*failed)(const char *series, const struct err *err, void *data); /* may be NULL */
    void *data;
};

/* ERRC_INVALID: a name that is none. */
int prometheus_source_start(const struct prometheus_source_options *options, struct prometheus_source **ret,
                            struct err *err);
void prometheus_source_close(struct prometheus_source *source, void (*closed)(void *data), void *data);

/* The query that is sent for a series; for tests and docs. free() it. */
char *prometheus_source_query(enum prometheus_series series, const char *name);

struct prometheus_source_counts {
    uint64_t queries, failures, samples, matched;
};
void prometheus_source_count(const struct prometheus_source *source, struct prometheus_source_counts *ret);

#endif
