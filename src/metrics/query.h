/*
 * query: the statements that are polled, as data.
 *
 * A query belongs to a group, has SQL per server version, and names for each value column the metric family
 * it fills. A family is filled by one query only (a test checks it), so that its samples stand together.
 * Names, types and labels are those of postgres_exporter 0.20.
 */
#ifndef METRICS_QUERY_H
#define METRICS_QUERY_H

#include <stdbool.h>
#include <stddef.h>

#include "metrics/metric_text.h"
#include "metrics/poller.h"

enum query_id {
    QUERY_LOAD,
    QUERY_IDENTITY,
    QUERY_REPLICATION,
    QUERY_STAT_REPLICATION,
    QUERY_REPLICATION_SLOTS,
    QUERY_WAL_RECEIVER,
    QUERY_STAT_DATABASE,
    QUERY_STAT_ACTIVITY,
    QUERY_AGES,
    QUERY_LONG_TRANSACTIONS,
    QUERY_LOCKS,
    QUERY_BGWRITER,
    QUERY_CHECKPOINTER,
    QUERY_ARCHIVER,
    QUERY_PROGRESS_VACUUM,
    QUERY_PROGRESS_VACUUM_PHASE,
    QUERY_OWN_SIZE,
    QUERY_DATABASE,
    QUERY_WAL,
    QUERY_ROLES,
    QUERY_USER_TABLES,
    QUERY_STATIO_USER_TABLES,
    QUERY_TABLE_SIZES,
    QUERY_SETTINGS,
    QUERIES
};

enum query_scope { SCOPE_ANY, SCOPE_PRIMARY, SCOPE_STANDBY };

/* One column of the result, one family. */
struct query_column {
    const char *column; /* of the result; absent in a version = no samples */
    struct metric_family family;
    const char *labels; /* columns whose values are labels: "datname,state"; "" = none */
};

struct query_variant {
    int least_version; /* 0, 160000, ...; the last one that fits is used; sql NULL = not in this version */
    const char *sql;
};

#define QUERY_VARIANTS 3

struct query {
    const char *name; /* of the collector in pg_scrape_collector_*, and of the prepared statement */
    enum poll_group group;
    enum query_scope scope;
    bool once; /* only in the first run of its group on a connection: it cannot change while that lasts */
    /* The answer is one text whose lines are families themselves (pg_settings): see render_result(). */
    bool dynamic;
    struct query_variant variants[QUERY_VARIANTS];
    const struct query_column *columns;
    size_t column_count;
};

const struct query *query_get(enum query_id id);

/* The SQL for a server version, or NULL. */
const char *query_sql(const struct query *query, int server_version);

#endif
