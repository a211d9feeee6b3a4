-- On the target: what it lacks of the facts of the source (checks_facts.sql), which are in the setting shardherd.facts.
-- A target that a move makes has no tables yet; then only what its programs and settings decide is looked at.
-- Columns as in checks_server.sql.
WITH given AS (
    SELECT f, current_setting('shardherd.subject') AS subject, to_regnamespace('shardherd') IS NULL AS empty
    FROM (SELECT current_setting('shardherd.facts')::jsonb AS f) x
), here AS (
    SELECT d.*, current_setting('server_version_num')::int AS version FROM pg_database d WHERE d.datname = current_database()
), ext AS (
    SELECT e ->> 'name' AS name, e ->> 'version' AS version
    FROM given, jsonb_array_elements(given.f -> 'extensions') e
), t AS (
    SELECT t ->> 'name' AS name, to_regclass(t ->> 'name') AS oid, t FROM given, jsonb_array_elements(given.f -> 'tables') t
)
SELECT 'error', g.subject, format('it runs PostgreSQL %s, the source runs %s', here.version / 10000,
                                  (g.f ->> 'version')::int / 10000),
       'upgrade it, or name another target: what a newer version dumps an older one may not understand'
FROM given g, here WHERE here.version / 10000 < (g.f ->> 'version')::int / 10000
UNION
SELECT 'error', g.subject, format('its encoding is %s, the source''s is %s', getdatabaseencoding(), g.f ->> 'encoding'),
       'make the database of the target with the encoding of the source'
FROM given g WHERE getdatabaseencoding() <> g.f ->> 'encoding'
UNION
SELECT 'warning', g.subject,
       format('it collates by %s %s, the source by %s %s', h.provider, coalesce(nullif(h.locale, ''), h.collate),
              g.f ->> 'provider', coalesce(nullif(g.f ->> 'locale', ''), g.f ->> 'collate')),
       'nothing, if the order of text may differ between shards; else make both with one locale'
FROM given g, (SELECT CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END AS provider,
               coalesce(to_jsonb(here) ->> 'datlocale', to_jsonb(here) ->> 'daticulocale', '') AS locale, datcollate AS collate,
               datctype AS ctype FROM here) h
WHERE (h.provider, h.locale, h.collate, h.ctype)
      <> (g.f ->> 'provider', g.f ->> 'locale', g.f ->> 'collate', g.f ->> 'ctype')
UNION
SELECT 'warning', g.subject, format('its collation has version %s, the source''s has %s', here.datcollversion,
                                    g.f ->> 'collversion'),
       'nothing, if the order of text may differ between shards: indexes are built anew on the target'
FROM given g, here WHERE here.datcollversion <> g.f ->> 'collversion' AND here.datcollate = g.f ->> 'collate'
UNION
SELECT 'error', 'extension ' || quote_ident(ext.name), format('%s does not have it', g.subject),
       'install its files on the target''s machine or in its image, as on the source'
FROM given g, ext WHERE ext.name NOT IN (SELECT name FROM pg_available_extensions)
UNION
SELECT 'warning', 'extension ' || quote_ident(ext.name),
       format('the source has version %s, %s %s', ext.version, g.subject, CASE WHEN g.empty
              THEN 'gets ' || a.default_version ELSE coalesce('has ' || a.installed_version, 'has not created it') END),
       format('ALTER EXTENSION %I UPDATE where it is older', ext.name)
FROM given g, ext JOIN pg_available_extensions a ON a.name = ext.name
WHERE CASE WHEN g.empty THEN a.default_version ELSE coalesce(a.installed_version, '') END <> ext.version
UNION
SELECT 'error', g.subject, 'it acknowledges commits that no standby has; the source waits for its standbys',
       'set synchronous_standby_names on the target as on the source'
FROM given g WHERE (g.f ->> 'synchronous')::boolean AND NOT g.empty AND current_setting('synchronous_standby_names') = ''
UNION
SELECT 'error', g.subject, 'synchronous_commit = off, and the source has it on',
       'set synchronous_commit on the target as on the source: it acknowledges what a crash would lose'
FROM given g WHERE NOT (g.f ->> 'lazy')::boolean
AND EXISTS (SELECT FROM pg_file_settings WHERE name = 'synchronous_commit' AND applied
            AND lower(setting) IN ('off', 'false', 'no', '0'))
UNION
-- ---- an existing shard ----
SELECT 'error', t.name, format('%s does not have the table', g.subject), 'create it there as it is on the source'
FROM given g, t WHERE NOT g.empty AND t.oid IS NULL
UNION
SELECT 'error', t.name, format('column %I has type %s on the source and %s on %s', c.key, c.value,
                               coalesce(format_type(a.atttypid, a.atttypmod), 'is missing'), g.subject),
       'let both sides have the same columns'
FROM given g, t CROSS JOIN LATERAL jsonb_each_text(t.t -> 'columns') c
LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = c.key AND a.attnum > 0 AND NOT a.attisdropped
WHERE t.oid IS NOT NULL AND NOT g.empty AND format_type(a.atttypid, a.atttypmod) IS DISTINCT FROM c.value
UNION
SELECT 'error', t.name, format('column %I of %s is NOT NULL without a default, and the source does not have it', a.attname,
                               g.subject),
       'give it a default, or let both sides have the same columns'
FROM given g, t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE NOT g.empty AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT (t.t -> 'columns') ? a.attname
UNION
SELECT CASE WHEN i.value ~ '^CREATE UNIQUE' THEN 'error' ELSE 'warning' END, t.name,
       format('%s has no index like %s', g.subject, i.key), 'create it there: ' || replace(i.value, ' INDEX ON ', ' INDEX '
           || 'CONCURRENTLY ON ')
FROM given g, t CROSS JOIN LATERAL jsonb_each_text(t.t -> 'indexes') i
WHERE t.oid IS NOT NULL AND NOT g.empty AND NOT EXISTS (
    SELECT FROM pg_index x JOIN pg_class k ON k.oid = x.indexrelid WHERE x.indrelid = t.oid
    AND regexp_replace(replace(pg_get_indexdef(x.indexrelid), format(' INDEX %I ON ', k.relname), ' INDEX ON '),
                       ' WITH \([^)]*\)', '') = i.value)
UNION
SELECT 'warning', t.name, format('trigger %I is %s on %s', r.key, CASE WHEN x.tgname IS NULL THEN 'missing'
                                 ELSE 'enabled otherwise' END, g.subject),
       'let both sides have the same triggers'
FROM given g, t CROSS JOIN LATERAL jsonb_each_text(t.t -> 'triggers') r
LEFT JOIN pg_trigger x ON x.tgrelid = t.oid AND x.tgname = r.key
WHERE t.oid IS NOT NULL AND NOT g.empty AND x.tgenabled IS DISTINCT FROM r.value::"char"
UNION
SELECT 'warning', t.name, format('policy %I is missing on %s', p, g.subject), 'let both sides have the same policies'
FROM given g, t CROSS JOIN LATERAL jsonb_array_elements_text(t.t -> 'policies') p
WHERE t.oid IS NOT NULL AND NOT g.empty AND NOT EXISTS (SELECT FROM pg_policy x WHERE x.polrelid = t.oid AND x.polname = p)
UNION
SELECT 'warning', t.name,
       format('row-level security is %s on %s', CASE WHEN c.relrowsecurity THEN 'on' ELSE 'off' END, g.subject),
       'let both sides have it alike'
FROM given g, t JOIN pg_class c ON c.oid = t.oid WHERE NOT g.empty AND c.relrowsecurity <> (t.t ->> 'secured')::boolean
UNION
SELECT 'warning', t.name, format('%s is not granted on %s', string_agg(r, ', ' ORDER BY r), g.subject),
       'GRANT there what is granted on the source'
FROM given g, t CROSS JOIN LATERAL jsonb_array_elements_text(t.t -> 'grants') r
WHERE t.oid IS NOT NULL AND NOT g.empty AND r NOT IN (
    SELECT format('%s to %s', x.privilege_type, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END)
    FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x WHERE c.oid = t.oid)
GROUP BY t.name, g.subject
UNION
SELECT 'warning', 'role ' || quote_ident(r), format('%s does not have it', g.subject), 'create it there as on the source'
FROM given g, jsonb_array_elements_text(g.f -> 'roles') r
WHERE NOT g.empty AND r NOT IN (SELECT rolname FROM pg_roles)
