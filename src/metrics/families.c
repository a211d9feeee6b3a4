#include "metrics/families.h"

const struct metric_family status_families[STATUS_FAMILIES] = {
    [STATUS_PG_UP] = {"pg_up", METRIC_GAUGE,
                      "Whether the last poll of the PostgreSQL server succeeded (1 for yes, 0 for no)."},
    [STATUS_SCRAPE_DURATION] = {"pg_exporter_last_scrape_duration_seconds", METRIC_GAUGE,
                                "Duration of the last poll of the load group."},
    [STATUS_SCRAPE_ERROR] = {"pg_exporter_last_scrape_error", METRIC_GAUGE,
                             "Whether the last poll resulted in an error (1 for error, 0 for success)."},
    [STATUS_COLLECTOR_DURATION] = {"pg_scrape_collector_duration_seconds", METRIC_GAUGE,
                                   "Time from sending the collector's query to its answer, in a pipeline."},
    [STATUS_COLLECTOR_SUCCESS] = {"pg_scrape_collector_success", METRIC_GAUGE,
                                  "Whether a collector succeeded."},
    [STATUS_UP] = {"shardherd_instance_up", METRIC_GAUGE, "Whether the last load poll succeeded."},
    [STATUS_LAST_SUCCESS] = {"shardherd_poll_last_success_timestamp_seconds", METRIC_GAUGE,
                             "When the values of a group were last polled; 0 = never. Values are served for "
                             "three periods of their group and then stop."},
    [STATUS_DURATION] = {"shardherd_poll_duration_seconds", METRIC_GAUGE,
                         "How long the last poll of a group took."},
    [STATUS_ERRORS] = {"shardherd_poll_errors_total", METRIC_COUNTER,
                       "Polls of a group in which a query failed."},
    [STATUS_SKIPPED] = {"shardherd_poll_skipped_total", METRIC_COUNTER,
                        "Polls left out because the last one of the group had not ended."},
    [STATUS_FAILURES] = {"shardherd_instance_failures_total", METRIC_COUNTER,
                         "Failed connects, lost connections and failed load polls."},
    [STATUS_CONNECTS] = {"shardherd_instance_connects_total", METRIC_COUNTER,
                         "Attempts to connect to the instance for polling."},
    [STATUS_HEALTH] = {"shard_health_status", METRIC_GAUGE,
                       "1 while the instance is taken for alive, 0 when it is taken for down."},
};

const struct metric_family value_families[VALUE_FAMILIES] = {
    [VALUE_QUERY_RATE] = {"shard_query_rate", METRIC_GAUGE,
                          "Transactions per second of the shard's database on its primary."},
    [VALUE_LAG] = {"replication_lag_seconds", METRIC_GAUGE,
                   "How far a standby is behind; grows while its WAL receiver is not connected."},
    [VALUE_LAG_BYTES] = {"shardherd_replication_lag_bytes", METRIC_GAUGE,
                         "WAL that a standby has not replayed yet."},
    [VALUE_WAL_RATE] = {"shardherd_wal_bytes_per_second", METRIC_GAUGE,
                        "WAL written (primary) or replayed (standby)."},
    [VALUE_ACTIVE] = {"shardherd_active_sessions", METRIC_GAUGE, "Client sessions that run a statement."},
    [VALUE_CONNECTIONS] = {"shardherd_connections", METRIC_GAUGE, "Client sessions."},
    [VALUE_MAX_CONNECTIONS] = {"shardherd_max_connections", METRIC_GAUGE,
                               "The setting max_connections of the instance."},
    [VALUE_SIZE] = {"shardherd_database_size_bytes", METRIC_GAUGE, "Size of the application's database."},
    [VALUE_TIMELINE] = {"shardherd_timeline", METRIC_GAUGE, "WAL timeline; grows by one at each promotion."},
};

const struct metric_family histogram_families[HISTOGRAM_FAMILIES] = {
    [HISTOGRAM_PROBE] = {"shardherd_probe_seconds", METRIC_HISTOGRAM,
                         "Latency of the load group's poll, from sending it to its answer."},
    [HISTOGRAM_QUERY_AGE] = {"shardherd_query_age_seconds", METRIC_HISTOGRAM,
                             "Ages of running statements, seen at each poll of the activity group."},
};
