-- What one server's settings forbid or endanger: run on the source and on the target of a move, as the text of a query.
-- The setting shardherd.subject names the server. Columns: severity ('error' refuses, 'warning' is shown), subject,
-- finding, remedy. Texts that check_move() in shard.sql has as well are the same here, so that UNION makes them one.
WITH s AS (
    SELECT current_setting('shardherd.subject') AS subject
), n AS (
    SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots) AS slots,
           current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication) AS senders,
           coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))::int
               - (SELECT count(*) FROM pg_replication_origin_status) AS origins,
           current_setting('max_logical_replication_workers')::int
               - (SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker') AS appliers,
           current_setting('max_worker_processes')::int
               - (SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN (
                      'client backend', 'parallel worker', 'autovacuum launcher', 'autovacuum worker', 'background writer',
                      'checkpointer', 'walwriter', 'walsender', 'walreceiver', 'startup', 'archiver', 'walsummarizer', 'io worker',
                      'slotsync worker', 'logger', 'standalone backend')) AS workers -- parallel ones come and go
)
SELECT 'error', s.subject, format('wal_level is %s', current_setting('wal_level')),
       'set wal_level = logical in postgresql.conf and restart the server'
FROM s WHERE current_setting('wal_level') <> 'logical'
UNION
SELECT 'error', s.subject, format('%s = off', p.name), format('set %s = on: a crash would lose what was acknowledged', p.name)
FROM s, pg_settings p WHERE p.name IN ('fsync', 'full_page_writes') AND p.setting = 'off'
UNION
SELECT 'error', s.subject, 'no replication slot is free', 'raise max_replication_slots and restart the server'
FROM s, n WHERE n.slots < 4
UNION
SELECT 'error', s.subject, 'no WAL sender is free', 'raise max_wal_senders and restart the server'
FROM s, n WHERE n.senders < 3
UNION
SELECT 'error', s.subject, 'no replication origin is free',
       'raise max_active_replication_origins (before PostgreSQL 18: max_replication_slots) and restart the server'
FROM s, n WHERE n.origins < 2
UNION
SELECT 'error', s.subject, 'no logical replication worker is free',
       'raise max_logical_replication_workers and restart the server'
FROM s, n WHERE n.appliers < 1
UNION
SELECT 'error', s.subject, 'no background worker is free', 'raise max_worker_processes and restart the server'
FROM s, n WHERE n.workers < 1
UNION
SELECT 'error', s.subject, format('synchronous_standby_names is %L and no such standby is connected',
                                  current_setting('synchronous_standby_names')),
       'bring the standby back, or take its name out: every commit waits for it'
FROM s WHERE current_setting('synchronous_standby_names') <> ''
AND NOT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
UNION
-- our own session has it on
SELECT 'warning', s.subject, 'synchronous_commit = off',
       'set synchronous_commit = on: the move flushes what it commits, but the application''s last commits go with a crash'
FROM s WHERE EXISTS (SELECT FROM pg_file_settings WHERE name = 'synchronous_commit' AND applied
                     AND lower(setting) IN ('off', 'false', 'no', '0'))
OR EXISTS (SELECT FROM pg_db_role_setting r, unnest(r.setconfig) c WHERE lower(c) = 'synchronous_commit=off'
           AND r.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))
UNION
SELECT 'warning', s.subject, format('max_slot_wal_keep_size = %s', current_setting(p.name)),
       'raise it, or set it to -1: if the copy takes longer than that much WAL, its slot is lost and the copy begins anew'
FROM s, pg_settings p
WHERE p.name = 'max_slot_wal_keep_size' AND p.setting::bigint >= 0
AND p.setting::bigint * 1024 * 1024 < greatest(1024::bigint * 1024 * 1024, pg_database_size(current_database()))
UNION
SELECT 'warning', s.subject, format('idle_replication_slot_timeout = %s', current_setting(p.name)),
       'set it to 0: a slot of the move that waits for a server to come back would be invalidated'
FROM s, pg_settings p WHERE p.name = 'idle_replication_slot_timeout' AND p.setting::bigint > 0
UNION
SELECT 'warning', 'slot ' || r.slot_name,
       format('nobody reads it, and it holds %s of WAL', pg_size_pretty(pg_current_wal_lsn() - r.restart_lsn)),
       format('SELECT pg_drop_replication_slot(%L), or let its reader come back: the copy adds WAL of its own', r.slot_name)
FROM pg_replication_slots r
WHERE NOT r.active AND NOT r.temporary AND r.slot_name NOT LIKE 'shardherd\_%' AND r.restart_lsn IS NOT NULL
UNION
-- a new slot waits for every transaction of the server that may write
SELECT 'error', 'transaction ' || p.gid, 'a prepared transaction is open', format('COMMIT or ROLLBACK PREPARED %L', p.gid)
FROM pg_prepared_xacts p
UNION
SELECT 'warning', format('session %s', a.pid),
       format('user %s (%s) has a transaction open since %s', a.usename, coalesce(nullif(a.application_name, ''), 'no name'),
              to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
       format('end it, or SELECT pg_terminate_backend(%s): the move waits for it', a.pid)
FROM pg_stat_activity a
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND a.xact_start < now() - interval '10 seconds'
AND (a.backend_xid IS NOT NULL OR a.datname = current_database()) AND a.application_name NOT LIKE 'shardherd op=%'
UNION
SELECT 'warning', 'collation of the database',
       format('its version was %s, the system''s is %s', d.datcollversion, pg_database_collation_actual_version(d.oid)),
       format('REINDEX DATABASE %I, then ALTER DATABASE %I REFRESH COLLATION VERSION: indexes on text may miss rows',
              d.datname, d.datname)
FROM pg_database d WHERE d.datname = current_database()
AND d.datcollversion <> pg_database_collation_actual_version(d.oid)
