/*
 * families: the metric families of an instance that do not come from a query's columns.
 */
#ifndef METRICS_FAMILIES_H
#define METRICS_FAMILIES_H

#include "metrics/metric_text.h"

/* About the polling itself and what it means; never stale: they say that the rest is. */
enum status_family {
    STATUS_PG_UP,
    STATUS_SCRAPE_DURATION,
    STATUS_SCRAPE_ERROR,
    STATUS_COLLECTOR_DURATION,
    STATUS_COLLECTOR_SUCCESS,
    STATUS_UP,
    STATUS_LAST_SUCCESS,
    STATUS_DURATION,
    STATUS_ERRORS,
    STATUS_SKIPPED,
    STATUS_FAILURES,
    STATUS_CONNECTS,
    STATUS_HEALTH,
    STATUS_FAMILIES
};
extern const struct metric_family status_families[STATUS_FAMILIES];

/* The model's facts, by each load poll. */
enum value_family {
    VALUE_QUERY_RATE,
    VALUE_LAG,
    VALUE_LAG_BYTES,
    VALUE_WAL_RATE,
    VALUE_ACTIVE,
    VALUE_CONNECTIONS,
    VALUE_MAX_CONNECTIONS,
    VALUE_SIZE,
    VALUE_TIMELINE,
    VALUE_CPU,
    VALUE_CPU_LIMIT,
    VALUE_MEMORY,
    VALUE_MEMORY_LIMIT,
    VALUE_RESTARTS,
    VALUE_VOLUME_USED,
    VALUE_VOLUME_SIZE,
    VALUE_RECEIVED,
    VALUE_TRANSMITTED,
    VALUE_FAMILIES
};
extern const struct metric_family value_families[VALUE_FAMILIES];

enum histogram_family { HISTOGRAM_PROBE, HISTOGRAM_QUERY_AGE, HISTOGRAM_FAMILIES };
extern const struct metric_family histogram_families[HISTOGRAM_FAMILIES];

#endif
