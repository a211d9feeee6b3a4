/*
 * The statements. Each reads views and functions that take no lock on a user's table, but for
 * QUERY_TABLE_SIZES, which leaves out tables that are locked and has the session's lock_timeout behind it.
 * Every result is bounded: by LIMIT, or by what the server itself bounds (backends, slots).
 */
#include "metrics/query.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define GAUGE(column, name, labels, help)                                                                    \
    {                                                                                                        \
        column, {name, METRIC_GAUGE, help}, labels                                                           \
    }
#define COUNTER(column, name, labels, help)                                                                  \
    {                                                                                                        \
        column, {name, METRIC_COUNTER, help}, labels                                                         \
    }

#define TABLES_MAX "500"

/* ---- load: the model's facts, no families of its own ---- */

static const char load_sql[] =
    "SELECT r.recovering,"
    " pg_stat_get_db_xact_commit(d.oid) + pg_stat_get_db_xact_rollback(d.oid),"
    " ((CASE WHEN r.recovering THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)"
    "  - '0/0'::pg_lsn)::bigint,"
    " CASE WHEN r.recovering THEN coalesce((SELECT received_tli FROM pg_stat_get_wal_receiver()),"
    "                                      (SELECT timeline_id FROM pg_control_checkpoint()))"
    "  ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END,"
    " (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,"
    " a.connections, a.active"
    " FROM (SELECT pg_is_in_recovery() AS recovering) r,"
    " (SELECT oid FROM pg_database WHERE datname = current_database()) d,"
    " (SELECT count(*) AS connections, count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid())"
    "   AS active FROM pg_stat_get_activity(NULL) WHERE backend_type = 'client backend') a";

/* ---- replication ---- */

/*
 * P16: no lag is claimed only while the receiver is connected and was heard of within half its timeout (it
 * asks for a sign of life by then). Without it the lag is the age of the last replayed commit, which grows.
 */
static const char replication_sql[] =
    "SELECT CASE WHEN NOT s.recovering THEN 0"
    " WHEN w.status = 'streaming' AND s.received = s.replayed"
    "  AND now() - w.last_msg_receipt_time < s.silence THEN 0"
    " ELSE greatest(0.001, extract(epoch FROM now() - coalesce(s.replayed_at, s.started))) END AS lag,"
    " s.recovering AS is_replica,"
    " coalesce(greatest(0, extract(epoch FROM now() - s.replayed_at)), 0) AS last_replay,"
    " CASE WHEN w.status = 'streaming' THEN greatest(0, w.latest_end_lsn - s.replayed)::bigint END AS behind"
    " FROM (SELECT pg_is_in_recovery() AS recovering, pg_last_wal_receive_lsn() AS received,"
    "  pg_last_wal_replay_lsn() AS replayed, pg_last_xact_replay_timestamp() AS replayed_at,"
    "  pg_postmaster_start_time() AS started, interval '5 s' +"
    "  coalesce(nullif(current_setting('wal_receiver_timeout')::interval, interval '0'), interval '60 s') / 2"
    "  AS silence) s"
    " LEFT JOIN pg_stat_get_wal_receiver() w ON true";

static const struct query_column replication_columns[] = {
    GAUGE("lag", "pg_replication_lag_seconds", "", "Replication lag behind master in seconds"),
    GAUGE("is_replica", "pg_replication_is_replica", "", "Indicates if the server is a replica"),
    GAUGE("last_replay", "pg_replication_last_replay_seconds", "", "Age of last replay in seconds"),
};

static const char stat_replication_sql[] =
    "SELECT a.application_name, a.client_addr::text, w.state, s.slot_name, w.pid,"
    " (p.position - '0/0'::pg_lsn)::bigint AS lsn, (p.position - w.replay_lsn)::bigint AS behind"
    " FROM pg_stat_get_wal_senders() w"
    " JOIN pg_stat_get_activity(NULL) a ON a.pid = w.pid"
    " LEFT JOIN pg_get_replication_slots() s ON s.active_pid = w.pid"
    " CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()"
    "  ELSE pg_current_wal_lsn() END AS position) p LIMIT 200";

#define SENDER "application_name,client_addr,state,slot_name,pid"
static const struct query_column stat_replication_columns[] = {
    GAUGE("lsn", "pg_stat_replication_pg_current_wal_lsn_bytes", SENDER, "WAL position in bytes"),
    GAUGE("behind", "pg_stat_replication_pg_wal_lsn_diff", SENDER, "Lag in bytes between master and slave"),
};

static const char replication_slots_sql[] =
    "SELECT s.slot_name, s.slot_type, d.datname AS database, s.active, s.active AS is_active, s.wal_status,"
    " (p.position - s.restart_lsn)::bigint AS behind, (p.position - '0/0'::pg_lsn)::bigint AS lsn,"
    " (coalesce(s.confirmed_flush_lsn, '0/0') - '0/0'::pg_lsn)::bigint AS flushed, s.safe_wal_size,"
    " 1 AS one FROM pg_get_replication_slots() s LEFT JOIN pg_database d ON d.oid = s.datoid"
    " CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()"
    "  ELSE pg_current_wal_lsn() END AS position) p LIMIT 500";

static const struct query_column replication_slots_columns[] = {
    GAUGE("active", "pg_replication_slots_active", "slot_name,database",
          "Flag indicating if the slot is active"),
    GAUGE("behind", "pg_replication_slots_pg_wal_lsn_diff", "slot_name,database", "Replication lag in bytes"),
    GAUGE("lsn", "pg_replication_slots_slot_current_wal_lsn", "slot_name,slot_type", "current wal lsn value"),
    GAUGE("flushed", "pg_replication_slots_slot_confirmed_flush_lsn", "slot_name,slot_type",
          "last lsn confirmed flushed to the replication slot"),
    GAUGE("is_active", "pg_replication_slots_slot_is_active", "slot_name,slot_type",
          "whether the replication slot is active or not"),
    GAUGE("safe_wal_size", "pg_replication_slots_safe_wal_size_bytes", "slot_name,slot_type",
          "number of bytes that can be written to WAL such that this slot is not in danger of getting in "
          "state lost"),
    GAUGE("one", "pg_replication_slots_wal_status", "slot_name,slot_type,wal_status",
          "availability of WAL files claimed by this slot"),
};

static const char wal_receiver_sql[] =
    "SELECT sender_host AS upstream_host, slot_name, status,"
    " (receive_start_lsn - '0/0'::pg_lsn)::bigint AS receive_start_lsn,"
    " (flushed_lsn - '0/0'::pg_lsn)::bigint AS flushed_lsn, receive_start_tli, received_tli,"
    " extract(epoch FROM last_msg_send_time) AS last_msg_send_time,"
    " extract(epoch FROM last_msg_receipt_time) AS last_msg_receipt_time,"
    " (latest_end_lsn - '0/0'::pg_lsn)::bigint AS latest_end_lsn,"
    " extract(epoch FROM latest_end_time) AS latest_end_time"
    " FROM pg_stat_get_wal_receiver() WHERE pid IS NOT NULL";

#define RECEIVER "upstream_host,slot_name,status"
static const struct query_column wal_receiver_columns[] = {
    COUNTER("receive_start_lsn", "pg_stat_walreceiver_receive_start_lsn", RECEIVER,
            "First write-ahead log location used when WAL receiver is started represented as a decimal"),
    GAUGE("receive_start_tli", "pg_stat_walreceiver_receive_start_tli", RECEIVER,
          "First timeline number used when WAL receiver is started"),
    COUNTER("flushed_lsn", "pg_stat_walreceiver_flushed_lsn", RECEIVER,
            "Last write-ahead log location already received and flushed to disk, represented as a decimal"),
    GAUGE("received_tli", "pg_stat_walreceiver_received_tli", RECEIVER,
          "Timeline number of last write-ahead log location received and flushed to disk"),
    COUNTER("last_msg_send_time", "pg_stat_walreceiver_last_msg_send_time", RECEIVER,
            "Send time of last message received from origin WAL sender"),
    COUNTER("last_msg_receipt_time", "pg_stat_walreceiver_last_msg_receipt_time", RECEIVER,
            "Receipt time of last message received from origin WAL sender"),
    COUNTER("latest_end_lsn", "pg_stat_walreceiver_latest_end_lsn", RECEIVER,
            "Last write-ahead log location reported to origin WAL sender as integer"),
    COUNTER("latest_end_time", "pg_stat_walreceiver_latest_end_time", RECEIVER,
            "Time of last write-ahead log location reported to origin WAL sender"),
};

/* ---- activity ---- */

static const char stat_database_sql[] =
    "SELECT datid, coalesce(datname, '') AS datname, numbackends, xact_commit, xact_rollback, blks_read,"
    " blks_hit, tup_returned, tup_fetched, tup_inserted, tup_updated, tup_deleted, conflicts, temp_files,"
    " temp_bytes, deadlocks, blk_read_time, blk_write_time, active_time / 1000.0 AS active_time,"
    " coalesce(extract(epoch FROM stats_reset), 0) AS stats_reset"
    " FROM pg_stat_database WHERE datname IS NOT NULL OR datid = 0 LIMIT 500";

#define DATABASE "datid,datname"
static const struct query_column stat_database_columns[] = {
    GAUGE("numbackends", "pg_stat_database_numbackends", DATABASE,
          "Number of backends currently connected to this database. This is the only column in this view "
          "that returns a value reflecting current state; all other columns return the accumulated values "
          "since the last reset."),
    COUNTER("xact_commit", "pg_stat_database_xact_commit", DATABASE,
            "Number of transactions in this database that have been committed"),
    COUNTER("xact_rollback", "pg_stat_database_xact_rollback", DATABASE,
            "Number of transactions in this database that have been rolled back"),
    COUNTER("blks_read", "pg_stat_database_blks_read", DATABASE,
            "Number of disk blocks read in this database"),
    COUNTER("blks_hit", "pg_stat_database_blks_hit", DATABASE,
            "Number of times disk blocks were found already in the buffer cache, so that a read was not "
            "necessary (this only includes hits in the PostgreSQL buffer cache, not the operating system's "
            "file system cache)"),
    COUNTER("tup_returned", "pg_stat_database_tup_returned", DATABASE,
            "Number of rows returned by queries in this database"),
    COUNTER("tup_fetched", "pg_stat_database_tup_fetched", DATABASE,
            "Number of rows fetched by queries in this database"),
    COUNTER("tup_inserted", "pg_stat_database_tup_inserted", DATABASE,
            "Number of rows inserted by queries in this database"),
    COUNTER("tup_updated", "pg_stat_database_tup_updated", DATABASE,
            "Number of rows updated by queries in this database"),
    COUNTER("tup_deleted", "pg_stat_database_tup_deleted", DATABASE,
            "Number of rows deleted by queries in this database"),
    COUNTER("conflicts", "pg_stat_database_conflicts", DATABASE,
            "Number of queries canceled due to conflicts with recovery in this database. (Conflicts occur "
            "only on standby servers; see pg_stat_database_conflicts for details.)"),
    COUNTER("temp_files", "pg_stat_database_temp_files", DATABASE,
            "Number of temporary files created by queries in this database. All temporary files are counted, "
            "regardless of why the temporary file was created (e.g., sorting or hashing), and regardless of "
            "the log_temp_files setting."),
    COUNTER("temp_bytes", "pg_stat_database_temp_bytes", DATABASE,
            "Total amount of data written to temporary files by queries in this database. All temporary "
            "files are counted, regardless of why the temporary file was created, and regardless of the "
            "log_temp_files setting."),
    COUNTER("deadlocks", "pg_stat_database_deadlocks", DATABASE,
            "Number of deadlocks detected in this database"),
    COUNTER("blk_read_time", "pg_stat_database_blk_read_time", DATABASE,
            "Time spent reading data file blocks by backends in this database, in milliseconds"),
    COUNTER("blk_write_time", "pg_stat_database_blk_write_time", DATABASE,
            "Time spent writing data file blocks by backends in this database, in milliseconds"),
    COUNTER("stats_reset", "pg_stat_database_stats_reset", DATABASE,
            "Time at which these statistics were last reset"),
    COUNTER("active_time", "pg_stat_database_active_time_seconds_total", DATABASE,
            "Time spent executing SQL statements in this database, in seconds"),
};

static const char stat_activity_sql[] =
    "SELECT d.datname, s.state, coalesce(a.count, 0) AS count, coalesce(a.duration, 0) AS duration"
    " FROM (VALUES ('active'), ('idle'), ('idle in transaction'), ('idle in transaction (aborted)'),"
    "  ('fastpath function call'), ('disabled')) AS s(state)"
    " CROSS JOIN (SELECT oid, datname FROM pg_database WHERE datallowconn ORDER BY oid LIMIT 200) d"
    " LEFT JOIN (SELECT datid, state, count(*) AS count,"
    "   max(extract(epoch FROM now() - xact_start)) AS duration FROM pg_stat_get_activity(NULL)"
    "   WHERE pid <> pg_backend_pid() GROUP BY datid, state) a ON a.datid = d.oid AND a.state = s.state";

static const struct query_column stat_activity_columns[] = {
    GAUGE("count", "pg_stat_activity_count", "datname,state", "number of connections in this state"),
    GAUGE("duration", "pg_stat_activity_max_tx_duration", "datname,state",
          "max duration in seconds any active transaction has been running"),
};

static const char ages_sql[] =
    "SELECT greatest(0, extract(epoch FROM clock_timestamp() - query_start))"
    " FROM pg_stat_get_activity(NULL) WHERE state = 'active' AND backend_type = 'client backend'"
    " AND pid <> pg_backend_pid() AND query_start IS NOT NULL LIMIT 1000";

static const char long_transactions_sql[] =
    "SELECT count(*) AS transactions,"
    " coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) AS oldest"
    " FROM pg_stat_get_activity(NULL) WHERE state IS DISTINCT FROM 'idle'"
    " AND query NOT LIKE 'autovacuum:%' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";

static const struct query_column long_transactions_columns[] = {
    GAUGE("transactions", "pg_long_running_transactions", "", "Current number of long running transactions"),
    GAUGE("oldest", "pg_long_running_transactions_oldest_timestamp_seconds", "",
          "The current maximum transaction age in seconds"),
};

static const char locks_sql[] =
    "SELECT d.datname, m.mode, coalesce(l.count, 0) AS count"
    " FROM (VALUES ('accesssharelock'), ('rowsharelock'), ('rowexclusivelock'),"
    "  ('shareupdateexclusivelock'), ('sharelock'), ('sharerowexclusivelock'), ('exclusivelock'),"
    "  ('accessexclusivelock'), ('sireadlock')) AS m(mode)"
    " CROSS JOIN (SELECT oid, datname FROM pg_database WHERE datallowconn ORDER BY oid LIMIT 200) d"
    " LEFT JOIN (SELECT database, lower(mode) AS mode, count(*) AS count FROM pg_lock_status()"
    "   WHERE database IS NOT NULL GROUP BY 1, 2) l ON l.database = d.oid AND l.mode = m.mode";

static const struct query_column locks_columns[] = {
    GAUGE("count", "pg_locks_count", "datname,mode", "Number of locks"),
};

static const char bgwriter_sql_15[] =
    "SELECT checkpoints_timed, checkpoints_req, checkpoint_write_time, checkpoint_sync_time,"
    " buffers_checkpoint, buffers_clean, maxwritten_clean, buffers_backend, buffers_backend_fsync,"
    " buffers_alloc, coalesce(extract(epoch FROM stats_reset), 0) AS stats_reset FROM pg_stat_bgwriter";
static const char bgwriter_sql_17[] =
    "SELECT buffers_clean, maxwritten_clean, buffers_alloc,"
    " coalesce(extract(epoch FROM stats_reset), 0) AS stats_reset FROM pg_stat_bgwriter";

static const struct query_column bgwriter_columns[] = {
    COUNTER("checkpoints_timed", "pg_stat_bgwriter_checkpoints_timed_total", "",
            "Number of scheduled checkpoints that have been performed"),
    COUNTER("checkpoints_req", "pg_stat_bgwriter_checkpoints_req_total", "",
            "Number of requested checkpoints that have been performed"),
    COUNTER(
        "checkpoint_write_time", "pg_stat_bgwriter_checkpoint_write_time_total", "",
        "Total amount of time that has been spent in the portion of checkpoint processing where files are "
        "written to disk, in milliseconds"),
    COUNTER(
        "checkpoint_sync_time", "pg_stat_bgwriter_checkpoint_sync_time_total", "",
        "Total amount of time that has been spent in the portion of checkpoint processing where files are "
        "synchronized to disk, in milliseconds"),
    COUNTER("buffers_checkpoint", "pg_stat_bgwriter_buffers_checkpoint_total", "",
            "Number of buffers written during checkpoints"),
    COUNTER("buffers_clean", "pg_stat_bgwriter_buffers_clean_total", "",
            "Number of buffers written by the background writer"),
    COUNTER("maxwritten_clean", "pg_stat_bgwriter_maxwritten_clean_total", "",
            "Number of times the background writer stopped a cleaning scan because it had written too many "
            "buffers"),
    COUNTER("buffers_backend", "pg_stat_bgwriter_buffers_backend_total", "",
            "Number of buffers written directly by a backend"),
    COUNTER("buffers_backend_fsync", "pg_stat_bgwriter_buffers_backend_fsync_total", "",
            "Number of times a backend had to execute its own fsync call (normally the background writer "
            "handles those even when the backend does its own write)"),
    COUNTER("buffers_alloc", "pg_stat_bgwriter_buffers_alloc_total", "", "Number of buffers allocated"),
    COUNTER("stats_reset", "pg_stat_bgwriter_stats_reset_total", "",
            "Time at which these statistics were last reset"),
};

static const char checkpointer_sql[] =
    "SELECT num_timed, num_requested, restartpoints_timed, restartpoints_req, restartpoints_done, write_time,"
    " sync_time, buffers_written, coalesce(extract(epoch FROM stats_reset), 0) AS stats_reset"
    " FROM pg_stat_checkpointer";

static const struct query_column checkpointer_columns[] = {
    COUNTER("num_timed", "pg_stat_checkpointer_num_timed_total", "",
            "Number of scheduled checkpoints due to timeout"),
    COUNTER("num_requested", "pg_stat_checkpointer_num_requested_total", "",
            "Number of requested checkpoints that have been performed"),
    COUNTER("restartpoints_timed", "pg_stat_checkpointer_restartpoints_timed_total", "",
            "Number of scheduled restartpoints due to timeout or after a failed attempt to perform it"),
    COUNTER("restartpoints_req", "pg_stat_checkpointer_restartpoints_req_total", "",
            "Number of requested restartpoints"),
    COUNTER("restartpoints_done", "pg_stat_checkpointer_restartpoints_done_total", "",
            "Number of restartpoints that have been performed"),
    COUNTER("write_time", "pg_stat_checkpointer_write_time_total", "",
            "Total amount of time that has been spent in the portion of processing checkpoints and "
            "restartpoints where files are written to disk, in milliseconds"),
    COUNTER("sync_time", "pg_stat_checkpointer_sync_time_total", "",
            "Total amount of time that has been spent in the portion of processing checkpoints and "
            "restartpoints where files are synchronized to disk, in milliseconds"),
    COUNTER("buffers_written", "pg_stat_checkpointer_buffers_written_total", "",
            "Number of buffers written during checkpoints and restartpoints"),
    COUNTER("stats_reset", "pg_stat_checkpointer_stats_reset_total", "",
            "Time at which these statistics were last reset"),
};

static const char archiver_sql[] =
    "SELECT archived_count, failed_count,"
    " extract(epoch FROM now() - last_archived_time) AS last_archive_age FROM pg_stat_archiver";

static const struct query_column archiver_columns[] = {
    COUNTER("archived_count", "pg_stat_archiver_archived_count", "",
            "Number of WAL files that have been successfully archived"),
    COUNTER("failed_count", "pg_stat_archiver_failed_count", "",
            "Number of failed attempts for archiving WAL files"),
    GAUGE("last_archive_age", "pg_stat_archiver_last_archive_age", "",
          "Time in seconds since last WAL segment was successfully archived"),
};

/* Columns by position: their names changed with 17, their places did not. */
#define VACUUMS                                                                                              \
    "(SELECT d.datname, coalesce(c.relname, s.relid::text) AS relname, s.* FROM"                             \
    " pg_stat_get_progress_info('VACUUM') s LEFT JOIN pg_database d ON d.oid = s.datid"                      \
    " LEFT JOIN pg_class c ON c.oid = s.relid AND d.datname = current_database() LIMIT 100) v"
static const char progress_vacuum_sql[] =
    "SELECT datname, relname, param2 AS heap_blks, param3 AS scanned, param4 AS vacuumed,"
    " param5 AS index_vacuums, param6 AS max_dead, param7 AS dead FROM " VACUUMS;
static const char progress_vacuum_phase_sql[] =
    "SELECT datname, relname, p.phase, (v.param1 = p.number) AS active FROM " VACUUMS
    " CROSS JOIN (VALUES (0, 'initializing'), (1, 'scanning heap'), (2, 'vacuuming indexes'),"
    "  (3, 'vacuuming heap'), (4, 'cleaning up indexes'), (5, 'truncating heap'),"
    "  (6, 'performing final cleanup')) AS p(number, phase)";

#define VACUUM "datname,relname"
static const struct query_column progress_vacuum_columns[] = {
    GAUGE("heap_blks", "pg_stat_progress_vacuum_heap_blks", VACUUM,
          "Total number of heap blocks in the table being vacuumed."),
    GAUGE("scanned", "pg_stat_progress_vacuum_heap_blks_scanned", VACUUM,
          "Number of heap blocks scanned so far."),
    GAUGE("vacuumed", "pg_stat_progress_vacuum_heap_blks_vacuumed", VACUUM,
          "Number of heap blocks vacuumed so far."),
    GAUGE("index_vacuums", "pg_stat_progress_vacuum_index_vacuums", VACUUM,
          "Number of completed index vacuum cycles."),
    GAUGE("max_dead", "pg_stat_progress_vacuum_max_dead_tuples", VACUUM,
          "Maximum number of dead tuples that can be stored before cleanup is performed."),
    GAUGE("dead", "pg_stat_progress_vacuum_num_dead_tuples", VACUUM,
          "Current number of dead tuples found so far."),
};
static const struct query_column progress_vacuum_phase_columns[] = {
    GAUGE("active", "pg_stat_progress_vacuum_phase", "datname,relname,phase",
          "Current vacuum phase (1 = active, 0 = inactive). Label 'phase' is human-readable."),
};

/* ---- sizes ---- */

static const char own_size_sql[] = "SELECT pg_database_size(current_database())";

static const char database_sql[] =
    "SELECT datname, datconnlimit, pg_database_size(oid) AS size FROM pg_database"
    " WHERE datname <> '' ORDER BY oid LIMIT 200";

static const struct query_column database_columns[] = {
    GAUGE("size", "pg_database_size_bytes", "datname", "Disk space used by the database"),
    GAUGE("datconnlimit", "pg_database_connection_limit", "datname", "Connection limit set for the database"),
};

static const char wal_sql[] =
    "SELECT count(*) AS segments, coalesce(sum(size), 0) AS size FROM pg_ls_waldir()"
    " WHERE name ~ '^[0-9A-F]{24}$'";

static const struct query_column wal_columns[] = {
    GAUGE("segments", "pg_wal_segments", "", "Number of WAL segments"),
    GAUGE("size", "pg_wal_size_bytes", "", "Total size of WAL segments"),
};

static const char roles_sql[] = "SELECT rolname, rolconnlimit FROM pg_roles ORDER BY oid LIMIT 500";

static const struct query_column roles_columns[] = {
    GAUGE("rolconnlimit", "pg_roles_connection_limit", "rolname", "Connection limit set for the role"),
};

static const char user_tables_sql[] =
    "SELECT current_database() AS datname, schemaname, relname, seq_scan, seq_tup_read, idx_scan,"
    " idx_tup_fetch, n_tup_ins, n_tup_upd, n_tup_del, n_tup_hot_upd, n_live_tup, n_dead_tup,"
    " n_mod_since_analyze, coalesce(extract(epoch FROM last_vacuum), 0) AS last_vacuum,"
    " coalesce(extract(epoch FROM last_autovacuum), 0) AS last_autovacuum,"
    " coalesce(extract(epoch FROM last_analyze), 0) AS last_analyze,"
    " coalesce(extract(epoch FROM last_autoanalyze), 0) AS last_autoanalyze,"
    " vacuum_count, autovacuum_count, analyze_count, autoanalyze_count"
    " FROM pg_stat_user_tables ORDER BY relid LIMIT " TABLES_MAX;

#define TABLE "datname,schemaname,relname"
static const struct query_column user_tables_columns[] = {
    COUNTER("seq_scan", "pg_stat_user_tables_seq_scan", TABLE,
            "Number of sequential scans initiated on this table"),
    COUNTER("seq_tup_read", "pg_stat_user_tables_seq_tup_read", TABLE,
            "Number of live rows fetched by sequential scans"),
    COUNTER("idx_scan", "pg_stat_user_tables_idx_scan", TABLE,
            "Number of index scans initiated on this table"),
    COUNTER("idx_tup_fetch", "pg_stat_user_tables_idx_tup_fetch", TABLE,
            "Number of live rows fetched by index scans"),
    COUNTER("n_tup_ins", "pg_stat_user_tables_n_tup_ins", TABLE, "Number of rows inserted"),
    COUNTER("n_tup_upd", "pg_stat_user_tables_n_tup_upd", TABLE, "Number of rows updated"),
    COUNTER("n_tup_del", "pg_stat_user_tables_n_tup_del", TABLE, "Number of rows deleted"),
    COUNTER("n_tup_hot_upd", "pg_stat_user_tables_n_tup_hot_upd", TABLE,
            "Number of rows HOT updated (i.e., with no separate index update required)"),
    GAUGE("n_live_tup", "pg_stat_user_tables_n_live_tup", TABLE, "Estimated number of live rows"),
    GAUGE("n_dead_tup", "pg_stat_user_tables_n_dead_tup", TABLE, "Estimated number of dead rows"),
    GAUGE("n_mod_since_analyze", "pg_stat_user_tables_n_mod_since_analyze", TABLE,
          "Estimated number of rows changed since last analyze"),
    GAUGE("last_vacuum", "pg_stat_user_tables_last_vacuum", TABLE,
          "Last time at which this table was manually vacuumed (not counting VACUUM FULL)"),
    GAUGE("last_autovacuum", "pg_stat_user_tables_last_autovacuum", TABLE,
          "Last time at which this table was vacuumed by the autovacuum daemon"),
    GAUGE("last_analyze", "pg_stat_user_tables_last_analyze", TABLE,
          "Last time at which this table was manually analyzed"),
    GAUGE("last_autoanalyze", "pg_stat_user_tables_last_autoanalyze", TABLE,
          "Last time at which this table was analyzed by the autovacuum daemon"),
    COUNTER("vacuum_count", "pg_stat_user_tables_vacuum_count", TABLE,
            "Number of times this table has been manually vacuumed (not counting VACUUM FULL)"),
    COUNTER("autovacuum_count", "pg_stat_user_tables_autovacuum_count", TABLE,
            "Number of times this table has been vacuumed by the autovacuum daemon"),
    COUNTER("analyze_count", "pg_stat_user_tables_analyze_count", TABLE,
            "Number of times this table has been manually analyzed"),
    COUNTER("autoanalyze_count", "pg_stat_user_tables_autoanalyze_count", TABLE,
            "Number of times this table has been analyzed by the autovacuum daemon"),
};

static const char statio_user_tables_sql[] =
    "SELECT current_database() AS datname, schemaname, relname, heap_blks_read, heap_blks_hit, idx_blks_read,"
    " idx_blks_hit, toast_blks_read, toast_blks_hit, tidx_blks_read, tidx_blks_hit"
    " FROM pg_statio_user_tables ORDER BY relid LIMIT " TABLES_MAX;

static const struct query_column statio_user_tables_columns[] = {
    COUNTER("heap_blks_read", "pg_statio_user_tables_heap_blocks_read", TABLE,
            "Number of disk blocks read from this table"),
    COUNTER("heap_blks_hit", "pg_statio_user_tables_heap_blocks_hit", TABLE,
            "Number of buffer hits in this table"),
    COUNTER("idx_blks_read", "pg_statio_user_tables_idx_blocks_read", TABLE,
            "Number of disk blocks read from all indexes on this table"),
    COUNTER("idx_blks_hit", "pg_statio_user_tables_idx_blocks_hit", TABLE,
            "Number of buffer hits in all indexes on this table"),
    COUNTER("toast_blks_read", "pg_statio_user_tables_toast_blocks_read", TABLE,
            "Number of disk blocks read from this table's TOAST table (if any)"),
    COUNTER("toast_blks_hit", "pg_statio_user_tables_toast_blocks_hit", TABLE,
            "Number of buffer hits in this table's TOAST table (if any)"),
    COUNTER("tidx_blks_read", "pg_statio_user_tables_tidx_blocks_read", TABLE,
            "Number of disk blocks read from this table's TOAST table indexes (if any)"),
    COUNTER("tidx_blks_hit", "pg_statio_user_tables_tidx_blocks_hit", TABLE,
            "Number of buffer hits in this table's TOAST table indexes (if any)"),
};

/* The size functions open the table: one that is locked is left out now, and comes back at the next poll. */
static const char table_sizes_sql[] =
    "WITH locked AS MATERIALIZED (SELECT relation FROM pg_lock_status()"
    "  WHERE mode = 'AccessExclusiveLock' AND database = (SELECT oid FROM pg_database"
    "   WHERE datname = current_database())),"
    " tables AS MATERIALIZED (SELECT c.oid, n.nspname, c.relname, c.reltoastrelid FROM pg_class c"
    "  JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE c.relkind IN ('r', 't', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    "  AND n.nspname !~ '^pg_toast' ORDER BY c.oid LIMIT " TABLES_MAX "),"
    " free AS MATERIALIZED (SELECT * FROM tables t WHERE NOT EXISTS (SELECT FROM locked l"
    "  WHERE l.relation = t.oid OR l.relation = t.reltoastrelid OR l.relation IN"
    "   (SELECT indexrelid FROM pg_index i WHERE i.indrelid = t.oid)))"
    " SELECT current_database() AS datname, nspname AS schemaname, relname,"
    " pg_indexes_size(oid) AS indexes_size, pg_table_size(oid) AS table_size FROM free";

static const struct query_column table_sizes_columns[] = {
    GAUGE("indexes_size", "pg_stat_user_tables_index_size_bytes", TABLE,
          "Total disk space used by this index, in bytes"),
    GAUGE("table_size", "pg_stat_user_tables_table_size_bytes", TABLE,
          "Total disk space used by this table, in bytes"),
};

/* ---- settings ---- */

static const char identity_sql[] =
    "SELECT version() AS version, current_setting('server_version') AS short_version,"
    " (SELECT system_identifier FROM pg_control_system()), current_setting('max_connections')::int,"
    " extract(epoch FROM pg_postmaster_start_time()) AS started, 1 AS one";

static const struct query_column identity_columns[] = {
    GAUGE("started", "pg_postmaster_start_time_seconds", "", "Time at which postmaster started"),
    {"one", {"pg_static", METRIC_UNTYPED, "Version string as reported by postgres"}, "version,short_version"},
};

/*
 * Units as in postgres_exporter: seconds and bytes; -1 stays. All in one text (render_result): three hundred
 * rows that hardly ever change cost us more than all other answers together.
 */
static const char settings_sql[] =
    "SELECT string_agg(line, E'\\n') FROM (SELECT name || E'\\t' || coalesce(u.kind, '') || E'\\t' ||"
    " CASE vartype WHEN 'bool' THEN (setting = 'on')::int::float8"
    "  ELSE setting::float8 * CASE WHEN setting = '-1' THEN 1 ELSE coalesce(u.factor, 1) END END AS line"
    " FROM pg_settings LEFT JOIN (VALUES ('ms', 'seconds', 0.001), ('s', 'seconds', 1),"
    "  ('min', 'seconds', 60), ('h', 'seconds', 3600), ('d', 'seconds', 86400), ('B', 'bytes', 1),"
    "  ('kB', 'bytes', 1024), ('MB', 'bytes', 1048576), ('GB', 'bytes', 1073741824),"
    "  ('TB', 'bytes', 1099511627776), ('1kB', 'bytes', 1024), ('2kB', 'bytes', 2048),"
    "  ('4kB', 'bytes', 4096), ('8kB', 'bytes', 8192), ('16kB', 'bytes', 16384),"
    "  ('32kB', 'bytes', 32768), ('64kB', 'bytes', 65536), ('16MB', 'bytes', 16777216),"
    "  ('32MB', 'bytes', 33554432), ('64MB', 'bytes', 67108864)) AS u(unit, kind, factor) USING (unit)"
    " WHERE vartype IN ('bool', 'integer', 'real') AND name <> 'sync_commit_cancel_wait'"
    " AND (unit IS NULL OR u.kind IS NOT NULL) ORDER BY name LIMIT 1000) s";

/* ---- the table ---- */

#define COLUMNS(name) .columns = name##_columns, .column_count = COUNT(name##_columns)

static const struct query queries[QUERIES] = {
    [QUERY_LOAD] = {.name = "load", .group = POLL_LOAD, .variants = {{0, load_sql}}},
    [QUERY_REPLICATION] = {.name = "replication",
                           .group = POLL_REPLICATION,
                           .variants = {{0, replication_sql}},
                           COLUMNS(replication)},
    [QUERY_STAT_REPLICATION] = {.name = "stat_replication",
                                .group = POLL_REPLICATION,
                                .variants = {{0, stat_replication_sql}},
                                COLUMNS(stat_replication)},
    [QUERY_REPLICATION_SLOTS] = {.name = "replication_slots",
                                 .group = POLL_REPLICATION,
                                 .variants = {{0, replication_slots_sql}},
                                 COLUMNS(replication_slots)},
    [QUERY_WAL_RECEIVER] = {.name = "stat_wal_receiver",
                            .group = POLL_REPLICATION,
                            .scope = SCOPE_STANDBY,
                            .variants = {{0, wal_receiver_sql}},
                            COLUMNS(wal_receiver)},
    [QUERY_STAT_DATABASE] = {.name = "stat_database",
                             .group = POLL_ACTIVITY,
                             .variants = {{0, stat_database_sql}},
                             COLUMNS(stat_database)},
    [QUERY_STAT_ACTIVITY] = {.name = "stat_activity",
                             .group = POLL_ACTIVITY,
                             .variants = {{0, stat_activity_sql}},
                             COLUMNS(stat_activity)},
    [QUERY_AGES] = {.name = "query_ages", .group = POLL_ACTIVITY, .variants = {{0, ages_sql}}},
    [QUERY_LONG_TRANSACTIONS] = {.name = "long_running_transactions",
                                 .group = POLL_ACTIVITY,
                                 .variants = {{0, long_transactions_sql}},
                                 COLUMNS(long_transactions)},
    [QUERY_LOCKS] = {.name = "locks", .group = POLL_ACTIVITY, .variants = {{0, locks_sql}}, COLUMNS(locks)},
    [QUERY_BGWRITER] = {.name = "stat_bgwriter",
                        .group = POLL_ACTIVITY,
                        .variants = {{0, bgwriter_sql_15}, {170000, bgwriter_sql_17}},
                        COLUMNS(bgwriter)},
    [QUERY_CHECKPOINTER] = {.name = "stat_checkpointer",
                            .group = POLL_ACTIVITY,
                            .variants = {{170000, checkpointer_sql}},
                            COLUMNS(checkpointer)},
    [QUERY_ARCHIVER] = {.name = "stat_archiver",
                        .group = POLL_ACTIVITY,
                        .variants = {{0, archiver_sql}},
                        COLUMNS(archiver)},
    [QUERY_PROGRESS_VACUUM] = {.name = "stat_progress_vacuum",
                               .group = POLL_ACTIVITY,
                               .variants = {{0, progress_vacuum_sql}},
                               COLUMNS(progress_vacuum)},
    [QUERY_PROGRESS_VACUUM_PHASE] = {.name = "stat_progress_vacuum_phase",
                                     .group = POLL_ACTIVITY,
                                     .variants = {{0, progress_vacuum_phase_sql}},
                                     COLUMNS(progress_vacuum_phase)},
    [QUERY_OWN_SIZE] = {.name = "own_size", .group = POLL_SIZES, .variants = {{0, own_size_sql}}},
    [QUERY_DATABASE] = {.name = "database",
                        .group = POLL_SIZES,
                        .variants = {{0, database_sql}},
                        COLUMNS(database)},
    [QUERY_WAL] = {.name = "wal", .group = POLL_SIZES, .variants = {{0, wal_sql}}, COLUMNS(wal)},
    [QUERY_ROLES] = {.name = "roles", .group = POLL_SIZES, .variants = {{0, roles_sql}}, COLUMNS(roles)},
    [QUERY_USER_TABLES] = {.name = "stat_user_tables",
                           .group = POLL_SIZES,
                           .variants = {{0, user_tables_sql}},
                           COLUMNS(user_tables)},
    [QUERY_STATIO_USER_TABLES] = {.name = "statio_user_tables",
                                  .group = POLL_SIZES,
                                  .variants = {{0, statio_user_tables_sql}},
                                  COLUMNS(statio_user_tables)},
    [QUERY_TABLE_SIZES] = {.name = "table_sizes",
                           .group = POLL_SIZES,
                           .variants = {{0, table_sizes_sql}},
                           COLUMNS(table_sizes)},
    [QUERY_IDENTITY] = {.name = "identity",
                        .group = POLL_LOAD,
                        .once = true,
                        .variants = {{0, identity_sql}},
                        COLUMNS(identity)},
    [QUERY_SETTINGS] = {.name = "settings",
                        .group = POLL_SETTINGS,
                        .dynamic = true,
                        .variants = {{0, settings_sql}}},
};

const struct query *query_get(enum query_id id)
{
    return &queries[id];
}

const char *query_sql(const struct query *query, int server_version)
{
    const char *sql = NULL;
    for (int v = 0; v < QUERY_VARIANTS; v++)
        if (query->variants[v].sql != NULL && server_version >= query->variants[v].least_version)
            sql = query->variants[v].sql;
    return sql;
}
