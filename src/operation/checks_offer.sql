-- On the source: what a server lacks that a move would make, by what its runtime says of it beforehand, in the setting
-- shardherd.offer: {"where", "version", "encoding", "extensions": {name: version}, "directory", "free", "needed"}. Once it
-- is made, checks_target.sql asks itself. Columns as in checks_server.sql.
WITH o AS (
    SELECT f, f ->> 'where' AS place, (f ->> 'version')::int AS version
    FROM (SELECT current_setting('shardherd.offer')::jsonb AS f) x
), s AS (
    SELECT current_setting('server_version_num')::int AS version
)
SELECT 'error', 'new shard', format('PostgreSQL %s (%s) would run it, and the source runs %s', o.version / 10000, o.place,
                                    s.version / 10000),
       'install a PostgreSQL as new as the source''s, and name its bin directory'
FROM o, s WHERE o.version / 10000 < s.version / 10000
UNION
SELECT 'error', 'new shard', format('its encoding would be %s, the source''s is %s', o.f ->> 'encoding', getdatabaseencoding()),
       'move to a server that was made with the encoding of the source'
FROM o WHERE o.f ->> 'encoding' <> getdatabaseencoding()
UNION
SELECT 'error', 'extension ' || quote_ident(e.extname), format('the new shard would not have it: %s', o.place),
       'install its files there, as on the source'
FROM o, pg_extension e WHERE e.extname <> 'plpgsql' AND NOT (o.f -> 'extensions') ? e.extname
UNION
SELECT 'warning', 'extension ' || quote_ident(e.extname),
       format('the source has version %s, the new shard gets %s', e.extversion, o.f -> 'extensions' ->> e.extname),
       format('ALTER EXTENSION %I UPDATE where it is older', e.extname)
FROM o, pg_extension e
WHERE e.extname <> 'plpgsql' AND o.f -> 'extensions' ->> e.extname <> e.extversion
UNION
SELECT 'error', 'new shard', format('%s has %s free, %s are needed', o.f ->> 'directory',
                                    pg_size_pretty((o.f ->> 'free')::bigint), pg_size_pretty((o.f ->> 'needed')::bigint)),
       'free some space, or choose another directory'
FROM o WHERE (o.f ->> 'free')::bigint < (o.f ->> 'needed')::bigint
