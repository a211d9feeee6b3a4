-- On the source: what pg_dump of one database leaves out, as one JSON object for roles_apply.sql: roles with what they may,
-- their password hashes, memberships and settings; rights on settings; settings, rights and comment of the database.
-- A secret. The role that shardherd itself uses comes without login and password: each server has its own, but this one
-- may own things.
SELECT json_build_object(
    'roles', (SELECT coalesce(json_agg(json_build_object(
        'name', r.rolname, 'super', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole,
        'createdb', r.rolcreatedb, 'login', r.rolcanlogin AND r.rolname <> current_user, 'replication', r.rolreplication,
        'bypassrls', r.rolbypassrls, 'limit', r.rolconnlimit, 'valid', r.rolvaliduntil::text,
        'password', CASE WHEN r.rolname <> current_user THEN r.rolpassword END,
        'comment', shobj_description(r.oid, 'pg_authid')) ORDER BY r.rolname), '[]')
        FROM pg_authid r WHERE r.rolname !~ '^pg_'),
    'members', (SELECT coalesce(json_agg(DISTINCT jsonb_build_object(
        'role', r.rolname, 'member', m.rolname, 'admin', a.admin_option, 'inherit', to_jsonb(a) -> 'inherit_option',
        'set', to_jsonb(a) -> 'set_option')), '[]')
        FROM pg_auth_members a JOIN pg_authid r ON r.oid = a.roleid JOIN pg_authid m ON m.oid = a.member
        WHERE m.rolname !~ '^pg_' AND current_user NOT IN (m.rolname, r.rolname)),
    'settings', (SELECT coalesce(json_agg(json_build_object(
        'role', r.rolname, 'database', s.setdatabase <> 0, 'name', split_part(c, '=', 1),
        'value', substr(c, strpos(c, '=') + 1))), '[]')
        FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c LEFT JOIN pg_authid r ON r.oid = s.setrole
        WHERE s.setdatabase IN (0, d.oid) AND r.rolname IS DISTINCT FROM current_user),
    'parameters', (SELECT coalesce(json_agg(json_build_object(
        'name', p.parname, 'right', x.privilege_type, 'role', r.rolname, 'grantable', x.is_grantable)), '[]')
        FROM pg_parameter_acl p CROSS JOIN aclexplode(p.paracl) x LEFT JOIN pg_authid r ON r.oid = x.grantee
        WHERE r.oid IS DISTINCT FROM 10),
    'rights', (SELECT coalesce(json_agg(json_build_object(
        'right', x.privilege_type, 'role', r.rolname, 'grantable', x.is_grantable)), '[]')
        FROM aclexplode(d.datacl) x LEFT JOIN pg_authid r ON r.oid = x.grantee WHERE d.datacl IS NOT NULL),
    'restricted', d.datacl IS NOT NULL,
    'limit', d.datconnlimit,
    'comment', shobj_description(d.oid, 'pg_database'))
FROM pg_database d WHERE d.datname = current_database()
