-- On the source: what a target must have as well, as one JSON object for checks_target.sql.
SELECT json_build_object(
    'version', current_setting('server_version_num')::int,
    'encoding', getdatabaseencoding(),
    'collate', d.datcollate, 'ctype', d.datctype,
    'provider', CASE d.datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', ''), -- 17, before
    'collversion', d.datcollversion,
    'synchronous', current_setting('synchronous_standby_names') <> '',
    'lazy', EXISTS (SELECT FROM pg_file_settings WHERE name = 'synchronous_commit' AND applied
                    AND lower(setting) IN ('off', 'false', 'no', '0')),
    'extensions', (SELECT coalesce(json_agg(json_build_object('name', extname, 'version', extversion) ORDER BY extname), '[]')
                   FROM pg_extension WHERE extname <> 'plpgsql'),
    'roles', (SELECT coalesce(json_agg(rolname ORDER BY rolname), '[]') FROM pg_roles
              WHERE rolname !~ '^pg_' AND rolname <> current_user),
    'tables', (SELECT coalesce(json_agg(json_build_object(
        'name', t.name,
        'secured', c.relrowsecurity,
        'columns', (SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        'generated', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped),
        'indexes', (SELECT coalesce(json_object_agg(i.indexrelid::regclass::text,
                        regexp_replace(replace(pg_get_indexdef(i.indexrelid), format(' INDEX %I ON ', k.relname), ' INDEX ON '),
                                       ' WITH \([^)]*\)', '')), '{}')
                    FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid WHERE i.indrelid = c.oid),
        'triggers', (SELECT coalesce(json_object_agg(g.tgname, g.tgenabled), '{}') FROM pg_trigger g
                     WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgname NOT LIKE 'shardherd\_%'),
        'policies', (SELECT coalesce(json_agg(p.polname), '[]') FROM pg_policy p WHERE p.polrelid = c.oid),
        'grants', (SELECT coalesce(json_agg(DISTINCT format('%s to %s', x.privilege_type,
                       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END)), '[]')
                   FROM aclexplode(c.relacl) x)) ORDER BY t.name), '[]')
        FROM shardherd.tables t JOIN pg_class c ON c.oid = to_regclass(t.name)))
FROM pg_database d WHERE d.datname = current_database()
