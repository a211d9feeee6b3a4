-- What the objects of the source forbid or endanger, beyond check_move() in shard.sql: the text of a query, so that a
-- dry run changes nothing, not even the functions of a shard that an older version made. Columns as in checks_server.sql.
WITH d AS ( -- distributed tables
    SELECT t.name, t.key, c.oid FROM shardherd.tables t JOIN pg_class c ON c.oid = to_regclass(t.name)
), rel AS ( -- with their partitions
    SELECT d.name, d.key, p.relid::oid AS oid FROM d, pg_partition_tree(d.oid) p
    UNION SELECT d.name, d.key, d.oid FROM d
), leaf AS (
    SELECT rel.*, c.relreplident, c.relpersistence, c.oid::regclass AS id
    FROM rel JOIN pg_class c ON c.oid = rel.oid AND c.relkind = 'r'
), other AS ( -- tables and materialized views of the application that are not distributed
    SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.oid NOT IN (SELECT rel.oid FROM rel)
    AND n.nspname NOT IN ('shardherd', 'information_schema') AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
), counted AS ( -- columns whose values a sequence gives
    SELECT rel.name, rel.oid, a.attname, dep.refobjid AS seq
    FROM rel JOIN pg_attrdef f ON f.adrelid = rel.oid
    JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum = f.adnum
    JOIN pg_depend dep ON dep.classid = 'pg_attrdef'::regclass AND dep.objid = f.oid
                      AND dep.refclassid = 'pg_class'::regclass
    JOIN pg_class q ON q.oid = dep.refobjid AND q.relkind = 'S'
    UNION
    SELECT rel.name, rel.oid, a.attname, dep.objid
    FROM rel JOIN pg_depend dep ON dep.refclassid = 'pg_class'::regclass AND dep.refobjid = rel.oid AND dep.deptype = 'i'
                               AND dep.classid = 'pg_class'::regclass AND dep.refobjsubid > 0
    JOIN pg_class q ON q.oid = dep.objid AND q.relkind = 'S'
    JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum = dep.refobjsubid
), users AS ( -- every table that takes values from a sequence, distributed or not
    SELECT DISTINCT dep.refobjid AS seq, f.adrelid::regclass::text AS name
    FROM pg_attrdef f JOIN pg_depend dep ON dep.classid = 'pg_attrdef'::regclass AND dep.objid = f.oid
                                        AND dep.refclassid = 'pg_class'::regclass
    JOIN pg_class q ON q.oid = dep.refobjid AND q.relkind = 'S'
    WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = f.adrelid) -- a partition repeats its parent's default
)
SELECT 'error', l.name, format('partition %s is unlogged', l.id), format('ALTER TABLE %s SET LOGGED', l.id)
FROM leaf l WHERE l.relpersistence = 'u' AND l.oid NOT IN (SELECT d.oid FROM d)
UNION
SELECT 'error', l.name, format('unique index %s of partition %s does not contain the shard key %I', i.indexrelid::regclass,
                               l.id, l.key),
       format('drop it, or add %I to it: what does not contain the shard key cannot be unique across shards', l.key)
FROM leaf l JOIN pg_index i ON i.indrelid = l.oid AND (i.indisunique OR i.indisexclusion)
WHERE l.oid NOT IN (SELECT d.oid FROM d)
AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid) -- the parent's is named with the parent
AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = l.oid AND a.attname = l.key
                AND a.attnum = ANY (i.indkey::int2[]))
UNION
SELECT 'error', d.name, format('shard key %I has a nondeterministic collation', d.key),
       'use a deterministic collation for the shard key: equal keys must have equal bytes'
FROM d JOIN pg_attribute a ON a.attrelid = d.oid AND a.attname = d.key
JOIN pg_collation o ON o.oid = a.attcollation AND NOT o.collisdeterministic
UNION
-- generated columns are not sent, so apply finds no row by them
SELECT 'error', l.name, format('the replica identity of %s contains the generated column %I', l.id, a.attname),
       format('ALTER TABLE %s REPLICA IDENTITY USING INDEX a unique index without it', l.id)
FROM leaf l
JOIN pg_index i ON i.indrelid = l.oid
               AND ((l.relreplident = 'd' AND i.indisprimary) OR (l.relreplident = 'i' AND i.indisreplident))
JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum = ANY (i.indkey::int2[]) AND a.attgenerated <> ''
UNION
SELECT 'error', l.name, format('%s has REPLICA IDENTITY FULL and the generated column %I', l.id, a.attname),
       format('ALTER TABLE %s REPLICA IDENTITY DEFAULT with a primary key that contains %I', l.id, l.key)
FROM leaf l JOIN pg_attribute a ON a.attrelid = l.oid AND a.attgenerated <> '' AND NOT a.attisdropped
WHERE l.relreplident = 'f' AND current_setting('server_version_num')::int >= 180000
UNION
SELECT 'warning', c.name, format('column %I takes its values from sequence %s, which every shard counts for itself',
                                 c.attname, c.seq::regclass),
       'nothing, if values need to be unique only together with the shard key; else use uuid, or give the sequence another '
       'start and an increment on each shard'
FROM counted c WHERE c.oid IN (SELECT d.oid FROM d)
UNION
SELECT 'warning', 'sequence ' || u.seq::regclass, format('it is shared by %s', string_agg(u.name, ', ' ORDER BY u.name)),
       'nothing, if no table relies on the others'' values: a new shard goes on behind the values of this one, both alike'
FROM users u WHERE u.seq IN (SELECT c.seq FROM counted c) GROUP BY u.seq HAVING count(*) > 1
UNION
SELECT 'warning', 'sequence ' || q.seqrelid::regclass, 'it cycles: values come again on every shard',
       format('ALTER SEQUENCE %s NO CYCLE', q.seqrelid::regclass)
FROM pg_sequence q WHERE q.seqcycle AND q.seqrelid IN (SELECT c.seq FROM counted c)
UNION
-- as far as shardherd.sequences() will skip
SELECT 'error', 'sequence ' || q.seqrelid::regclass, format('it ends at %s, and the move skips values beyond it',
       CASE WHEN q.seqincrement > 0 THEN q.seqmax ELSE q.seqmin END),
       format('ALTER SEQUENCE %s AS bigint NO MAXVALUE', q.seqrelid::regclass)
FROM pg_sequence q JOIN pg_class k ON k.oid = q.seqrelid JOIN pg_namespace n ON n.oid = k.relnamespace
JOIN pg_sequences p ON p.schemaname = n.nspname AND p.sequencename = k.relname
CROSS JOIN LATERAL (SELECT p.last_value + q.seqincrement::numeric * (
    1000 + q.seqcache::numeric * current_setting('max_connections')::bigint) AS next) x
WHERE NOT q.seqcycle AND n.nspname <> 'shardherd' AND (x.next >= q.seqmax OR x.next <= q.seqmin)
AND q.seqrelid IN (SELECT u.seq FROM users u UNION ALL SELECT c.seq FROM counted c)
UNION
SELECT CASE WHEN x.refers THEN 'error' ELSE 'warning' END, 'large objects',
       format('%s of them do not move%s', x.n, CASE WHEN x.refers THEN ', and distributed tables have columns of type oid' END),
       'keep them as bytea in a distributed table, or, if no moved row refers to one, leave them here'
FROM (SELECT (SELECT count(*) FROM pg_largeobject_metadata) AS n, EXISTS (
          SELECT FROM leaf l JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN pg_type t ON t.oid = a.atttypid WHERE 'oid'::regtype IN (t.oid, t.typbasetype)) AS refers) x
WHERE x.n > 0
UNION
SELECT 'warning', d.name, format('column %I has type %s: values are copied by name', a.attname,
                                 format_type(a.atttypid, a.atttypmod)),
       'see that what they name exists on the other shard under the same name'
FROM d JOIN pg_attribute a ON a.attrelid = d.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid WHERE t.oid < 16384 AND t.typname ~ '^_?reg'
UNION
SELECT 'warning', rel.name, format('trigger %I of %s is disabled', tg.tgname, rel.oid::regclass),
       format('nothing, if it is meant: it reaches a new shard as it is; else ALTER TABLE %s ENABLE TRIGGER %I',
              rel.oid::regclass, tg.tgname)
FROM rel JOIN pg_trigger tg ON tg.tgrelid = rel.oid
WHERE NOT tg.tgisinternal AND tg.tgenabled = 'D' AND tg.tgname NOT LIKE 'shardherd\_%'
UNION
-- their triggers are not dumped disabled, so the target checks what the source does not
SELECT 'warning', c.conrelid::regclass::text,
       format('foreign key %I is not enforced here: its triggers are disabled', c.conname),
       format('ALTER TABLE %s ENABLE TRIGGER ALL and see that every row keeps to it, or drop it: a new shard enforces it',
              tg.tgrelid::regclass)
FROM rel JOIN pg_trigger tg ON tg.tgrelid = rel.oid AND tg.tgisinternal AND tg.tgenabled = 'D'
JOIN pg_constraint c ON c.oid = tg.tgconstraint AND c.contype = 'f'
UNION
SELECT 'warning', 'event trigger ' || quote_ident(e.evtname),
       format('it fires on %s, also on what shardherd changes', e.evtevent),
       format('see that it lets a superuser pass, or ALTER EVENT TRIGGER %I DISABLE while the move runs', e.evtname)
FROM pg_event_trigger e WHERE e.evtenabled <> 'D' AND e.evtname NOT LIKE 'shardherd\_%'
UNION
SELECT 'warning', l.name, format('row-level security is on for %s', l.oid::regclass),
       'nothing, if its policies hold on every shard: rows are copied past them, and policies and roles reach a new shard'
FROM rel l JOIN pg_class c ON c.oid = l.oid AND c.relrowsecurity
UNION
SELECT 'warning', l.name, format('%s lies in tablespace %I', x.relation::regclass, s.spcname),
       'nothing, if the default tablespace of a new shard will do: it has no other'
FROM rel l JOIN LATERAL (SELECT l.oid AS relation UNION SELECT indexrelid FROM pg_index WHERE indrelid = l.oid) x ON true
JOIN pg_class c ON c.oid = x.relation JOIN pg_tablespace s ON s.oid = c.reltablespace
UNION
SELECT 'warning', o.oid::regclass::text,
       CASE o.relkind WHEN 'm' THEN 'the materialized view reaches a new shard unfilled'
            ELSE 'the table is not distributed: its rows do not reach a new shard' END,
       CASE o.relkind WHEN 'm' THEN format('REFRESH MATERIALIZED VIEW %s there', o.oid::regclass)
            ELSE 'copy them there if the application reads them, or distribute the table' END
FROM other o WHERE pg_relation_size(o.oid) > 0
UNION
SELECT 'warning', 'publication ' || quote_ident(p.pubname),
       format('it publishes %s, and a new shard has none', string_agg(DISTINCT l.name, ', ' ORDER BY l.name)),
       'create it there, and let its readers skip rows with an origin (origin = none): the clean-up deletes moved rows'
FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
JOIN rel l ON l.oid = to_regclass(format('%I.%I', t.schemaname, t.tablename))
WHERE p.pubname NOT LIKE 'shardherd\_%' GROUP BY p.pubname
UNION
SELECT 'warning', format('collation %s', o.oid::regcollation),
       format('its version was %s, the system''s is %s', o.collversion, pg_collation_actual_version(o.oid)),
       format('rebuild the indexes that use it, then ALTER COLLATION %s REFRESH VERSION: they may miss rows',
              o.oid::regcollation)
FROM pg_collation o WHERE o.collversion <> pg_collation_actual_version(o.oid) AND EXISTS (
    SELECT FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid WHERE a.attcollation = o.oid
    UNION ALL SELECT FROM rel JOIN pg_index i ON i.indrelid = rel.oid WHERE o.oid = ANY (i.indcollation::oid[]))
UNION
SELECT 'warning', 'server', format('commits wait for standbys (synchronous_standby_names = %L)',
                                   current_setting('synchronous_standby_names')),
       'give a new shard standbys of its own, and the same setting: it begins without'
FROM (SELECT current_setting('synchronous_standby_names')) x(names)
WHERE x.names <> '' AND current_setting('shardherd.new_target') = 'true'
