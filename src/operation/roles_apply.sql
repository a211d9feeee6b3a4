-- On a target that a move makes, before its schema: what roles.sql told, from the setting shardherd.roles. What is there
-- already - the application's role, which the runtime made - keeps its password. Doing it again changes nothing. An error
-- never tells a statement: one of them holds a password hash.
DO $apply$
DECLARE
    given jsonb := current_setting('shardherd.roles')::jsonb;
    x jsonb;
    there boolean;
    value text;
    version int := current_setting('server_version_num')::int;
BEGIN
    FOR x IN SELECT * FROM jsonb_array_elements(given -> 'roles') LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_authid WHERE rolname = x ->> 'name' AND (oid = 10 OR rolname = current_user));
        there := EXISTS (SELECT FROM pg_authid WHERE rolname = x ->> 'name');
        EXECUTE format('%s ROLE %I WITH %s %s %s %s %s %s %s CONNECTION LIMIT %s',
                       CASE WHEN there THEN 'ALTER' ELSE 'CREATE' END, x ->> 'name',
                       CASE WHEN (x ->> 'super')::boolean THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
                       CASE WHEN (x ->> 'inherit')::boolean THEN 'INHERIT' ELSE 'NOINHERIT' END,
                       CASE WHEN (x ->> 'createrole')::boolean THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
                       CASE WHEN (x ->> 'createdb')::boolean THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                       CASE WHEN there THEN '' WHEN (x ->> 'login')::boolean THEN 'LOGIN' ELSE 'NOLOGIN' END,
                       CASE WHEN (x ->> 'replication')::boolean THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                       CASE WHEN (x ->> 'bypassrls')::boolean THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, x ->> 'limit');
        IF NOT there AND x ->> 'password' IS NOT NULL THEN
            BEGIN
                EXECUTE format('ALTER ROLE %I PASSWORD %L', x ->> 'name', x ->> 'password');
            EXCEPTION WHEN OTHERS THEN
                RAISE EXCEPTION 'the password hash of role % cannot be set (%)', x ->> 'name', SQLSTATE;
            END;
        END IF;
        IF x ->> 'valid' IS NOT NULL THEN
            EXECUTE format('ALTER ROLE %I VALID UNTIL %L', x ->> 'name', x ->> 'valid');
        END IF;
        IF x ->> 'comment' IS NOT NULL THEN
            EXECUTE format('COMMENT ON ROLE %I IS %L', x ->> 'name', x ->> 'comment');
        END IF;
    END LOOP;
    FOR x IN SELECT * FROM jsonb_array_elements(given -> 'members') LOOP
        EXECUTE format('GRANT %I TO %I', x ->> 'role', x ->> 'member') || CASE
            WHEN version < 160000 AND (x ->> 'admin')::boolean THEN ' WITH ADMIN OPTION'
            WHEN version < 160000 THEN ''
            WHEN x ->> 'set' IS NULL THEN format(' WITH ADMIN %s', x ->> 'admin') -- from 15: the member's own INHERIT decides
            ELSE format(' WITH ADMIN %s, INHERIT %s, SET %s', x ->> 'admin', x ->> 'inherit', x ->> 'set') END;
    END LOOP;
    FOR x IN SELECT * FROM jsonb_array_elements(given -> 'settings') LOOP
        -- lists are kept quoted already
        value := CASE WHEN lower(x ->> 'name') IN ('search_path', 'temp_tablespaces', 'local_preload_libraries',
                                                   'session_preload_libraries') AND x ->> 'value' <> ''
                      THEN x ->> 'value' ELSE quote_literal(x ->> 'value') END;
        EXECUTE CASE
            WHEN x ->> 'role' IS NULL THEN
                CASE WHEN (x ->> 'database')::boolean THEN format('ALTER DATABASE %I', current_database())
                     ELSE 'ALTER ROLE ALL' END
            ELSE format('ALTER ROLE %I', x ->> 'role') || CASE WHEN (x ->> 'database')::boolean
                THEN format(' IN DATABASE %I', current_database()) ELSE '' END
            END || format(' SET %I TO %s', x ->> 'name', value);
    END LOOP;
    FOR x IN SELECT * FROM jsonb_array_elements(given -> 'parameters') LOOP
        EXECUTE format('GRANT %s ON PARAMETER %I TO %s', x ->> 'right', x ->> 'name',
                       coalesce(quote_ident(x ->> 'role'), 'PUBLIC'))
                || CASE WHEN (x ->> 'grantable')::boolean AND x ->> 'role' IS NOT NULL THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
    IF (given ->> 'restricted')::boolean THEN
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
    FOR x IN SELECT * FROM jsonb_array_elements(given -> 'rights') LOOP
        EXECUTE format('GRANT %s ON DATABASE %I TO %s', x ->> 'right', current_database(),
                       coalesce(quote_ident(x ->> 'role'), 'PUBLIC'))
                || CASE WHEN (x ->> 'grantable')::boolean AND x ->> 'role' IS NOT NULL THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
    EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT %s', current_database(), given ->> 'limit');
    IF given ->> 'comment' IS NOT NULL THEN
        EXECUTE format('COMMENT ON DATABASE %I IS %L', current_database(), given ->> 'comment');
    END IF;
END $apply$
