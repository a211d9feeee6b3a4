-- What shardherd keeps on every shard, in a schema of its own: no extension, plain SQL and PL/pgSQL.
-- Installed by the operations as the superuser role of shardherd, in one transaction; running it again on a
-- shard that has it changes nothing but the text of the functions.
--
--   control   the term of the leader: every change below first locks this row (check_term)
--   shard     what this shard owns; the text of the guards is computed from it
--   tables    the distributed tables and their keys
--   parts     these tables and their partitions, as last looked at
--   pure      those that were proved to hold nothing foreign: their guards may be light
--   gate      one row per move into this shard, never used twice; a row that is not visible is closed
--   opening   the position of the opening of each move into this shard that has not ended
--   prepared_fence  the fence whose guards are there already and wait for its COMMIT
--   fenced    the transaction of the last fence that had such guards
--   migration  the scripts that migrate() ran here
--   routing   the routing table, for clients that prefer SQL to HTTP
--
-- SQLSTATEs: SHR01 wrong shard (re-read the routing table), SHR02 not during a move, SHR03 an older leader.

CREATE SCHEMA IF NOT EXISTS shardherd;
GRANT USAGE ON SCHEMA shardherd TO PUBLIC;
-- The guards' WHEN clauses ask it in everybody's name. It tells whether the own session has an origin, which only a
-- superuser can give it.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_replication_origin_session_is_setup() TO PUBLIC;

CREATE TABLE IF NOT EXISTS shardherd.control (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    term bigint NOT NULL
);
INSERT INTO shardherd.control (term) VALUES (0) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS shardherd.shard (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    database text NOT NULL,
    name text NOT NULL,
    epoch bigint NOT NULL,
    los bigint[] NOT NULL,
    his bigint[] NOT NULL,
    CHECK (cardinality(los) = cardinality(his))
);

CREATE TABLE IF NOT EXISTS shardherd.tables (
    name text PRIMARY KEY,          -- quoted and qualified: public.orders, public."Odd Name"
    key text NOT NULL,
    type text NOT NULL
);

-- Relations of the distributed tables as check_guards() last saw them, so that it notices what was attached since, or
-- detached.
CREATE TABLE IF NOT EXISTS shardherd.parts (
    relation oid PRIMARY KEY,
    root text NOT NULL              -- shardherd.tables.name
);

-- Distributed tables in which no row was found that is neither owned nor of a move that has frozen them. Whoever brings
-- rows or takes ranges away says so by freeze(); whatever else could make it untrue takes the table out.
CREATE TABLE IF NOT EXISTS shardherd.pure (
    relation oid PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS shardherd.gate (
    move text PRIMARY KEY,
    lo bigint NOT NULL,
    hi bigint NOT NULL,
    open boolean NOT NULL DEFAULT false,
    opened_lsn pg_lsn,
    opened_at timestamptz
);

-- Where in this server's WAL a move opened its range: what its source follows from there. Gone with the move.
CREATE TABLE IF NOT EXISTS shardherd.opening (
    move text PRIMARY KEY,
    lsn pg_lsn NOT NULL
);

CREATE TABLE IF NOT EXISTS shardherd.prepared_fence (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    move text NOT NULL,
    lo bigint NOT NULL,
    hi bigint NOT NULL,
    epoch bigint NOT NULL           -- that the fence will give the shard
);

-- Which transaction the last prepared fence was: see fenced(). Its value only grows.
CREATE SEQUENCE IF NOT EXISTS shardherd.fenced;
SELECT setval('shardherd.fenced', 1) WHERE pg_sequence_last_value('shardherd.fenced') IS NULL;
GRANT SELECT ON SEQUENCE shardherd.fenced TO PUBLIC; -- for the guards' WHEN clauses

CREATE TABLE IF NOT EXISTS shardherd.routing (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL,
    document jsonb NOT NULL
);
GRANT SELECT ON shardherd.routing TO PUBLIC;

-- ---- leadership ----

-- Locks the control row for the rest of the transaction and fails if a newer leader was here (design: term).
CREATE OR REPLACE FUNCTION shardherd.check_term(my_term bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen bigint;
BEGIN
    SELECT term INTO seen FROM shardherd.control FOR UPDATE;
    IF seen IS NULL OR seen > my_term THEN
        RAISE EXCEPTION USING ERRCODE = 'SHR03',
            MESSAGE = format('shardherd: term %s is over, term %s leads', my_term, coalesce(seen::text, '?'));
    END IF;
END $$;

-- The same for what runs side by side: locks the control row against a newer leader, but not against each other.
CREATE OR REPLACE FUNCTION shardherd.share_term(my_term bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen bigint;
BEGIN
    SELECT term INTO seen FROM shardherd.control FOR SHARE;
    IF seen IS NULL OR seen > my_term THEN
        RAISE EXCEPTION USING ERRCODE = 'SHR03',
            MESSAGE = format('shardherd: term %s is over, term %s leads', my_term, coalesce(seen::text, '?'));
    END IF;
END $$;

-- Makes every leader with a lower term fail from now on; waits for its transactions in flight.
CREATE OR REPLACE FUNCTION shardherd.raise_term(my_term bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.check_term(my_term);
    UPDATE shardherd.control SET term = my_term WHERE term < my_term;
END $$;

-- ---- hashes ----

-- The SQL text of the hash of a column reference, by type of the key. '0', not 0: that is an integer, which every statement
-- that reads a WHEN clause would make a bigint.
CREATE OR REPLACE FUNCTION shardherd.hash_expression(type text, reference text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE type
        WHEN 'smallint' THEN 'pg_catalog.hashint2extended(%s, ''0'')'
        WHEN 'integer' THEN 'pg_catalog.hashint4extended(%s, ''0'')'
        WHEN 'bigint' THEN 'pg_catalog.hashint8extended(%s, ''0'')'
        WHEN 'text' THEN 'pg_catalog.hashtextextended(%s, ''0'')'
        WHEN 'varchar' THEN 'pg_catalog.hashtextextended(%s, ''0'')'
        WHEN 'uuid' THEN 'pg_catalog.uuid_hash_extended(%s, ''0'')'
    END, reference)
$$;

-- The same hash of a value given as text.
CREATE OR REPLACE FUNCTION shardherd.hash_value(type text, value text) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN type IN ('smallint', 'integer', 'bigint') THEN hashint8extended(value::bigint, 0)
        WHEN type IN ('text', 'varchar') THEN hashtextextended(value COLLATE "C", 0)
        WHEN type = 'uuid' THEN uuid_hash_extended(value::uuid, 0)
    END
$$;

-- The condition "h lies in one of the ranges", without comparisons that the ends of the space make needless;
-- 'false' for no range.
CREATE OR REPLACE FUNCTION shardherd.inside(hash text, los bigint[], his bigint[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg(CASE
        WHEN lo = -9223372036854775808 AND hi = 9223372036854775807 THEN 'true'
        WHEN lo = -9223372036854775808 THEN format('%s <= %L::bigint', hash, hi)
        WHEN hi = 9223372036854775807 THEN format('%s >= %L::bigint', hash, lo)
        ELSE format('%s BETWEEN %L::bigint AND %L::bigint', hash, lo, hi) END, ' OR '), 'false')
    FROM unnest(los, his) AS r(lo, hi)
$$;

-- The contrary for a WHEN clause. A server reads its text, and makes it ready, for every statement, whatever becomes of it:
-- what is long costs more there than the statement, what is slow hardly shows. So it is one comparison for all ranges.
DROP FUNCTION IF EXISTS shardherd.inside_briefly(text, bigint[], bigint[]); -- an older one
CREATE OR REPLACE FUNCTION shardherd.outside_briefly(hash text, los bigint[], his bigint[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN isempty(m) THEN 'false'
        WHEN m <> multirange(range_merge(m)) THEN format('%s <@ %L::int8multirange', hash, m)
        WHEN lower_inf(m) AND upper_inf(m) THEN 'true'
        WHEN lower_inf(m) THEN format('%s < %L::bigint', hash, upper(m))
        WHEN upper_inf(m) THEN format('%s >= %L::bigint', hash, lower(m))
        ELSE format('%s <@ %L::int8range', hash, range_merge(m)) END
    FROM (SELECT '{(,)}'::int8multirange - coalesce(range_agg(
              int8range(nullif(lo, -9223372036854775808), nullif(hi, 9223372036854775807), '[]')), '{}')
          FROM unnest(los, his) AS r(lo, hi)) AS c(m)
$$;

-- True if this shard owns all of [range_lo, range_hi] by its shard row (gates not counted).
CREATE OR REPLACE FUNCTION shardherd.owns(range_lo bigint, range_hi bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM shardherd.shard s, unnest(s.los, s.his) AS r(lo, hi)
                   WHERE range_lo >= r.lo AND range_hi <= r.hi)
$$;

-- ---- guards ----

-- Runs only for rows outside of what the trigger's WHEN clause knows as owned, and for those whose key was changed.
-- Arguments: key, type, epoch, move, lo, hi, owned los, owned his; move is '' unless a gate stands for R. Triggers of an
-- older version have the first three only without a gate, and their WHEN clause has decided it all.
-- STABLE: the gate is read under the statement's snapshot, so a statement older than the opening is refused.
-- Sessions with a replication origin (apply workers, our own clean-up) pass.
CREATE OR REPLACE FUNCTION shardherd.guard() RETURNS trigger
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashes bigint[] := '{}';
    h bigint;
    gate_open boolean := false;
BEGIN
    IF pg_replication_origin_session_is_setup() THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        hashes := hashes || shardherd.hash_value(TG_ARGV[1], to_jsonb(OLD) ->> TG_ARGV[0]);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        hashes := hashes || shardherd.hash_value(TG_ARGV[1], to_jsonb(NEW) ->> TG_ARGV[0]);
    END IF;
    IF TG_NARGS > 3 AND TG_ARGV[3] <> '' THEN
        SELECT g.open INTO gate_open FROM shardherd.gate g WHERE g.move = TG_ARGV[3];
    END IF;
    IF TG_NARGS > 3 THEN
        SELECT x INTO h FROM unnest(hashes) AS x
        WHERE (NOT coalesce(gate_open, false) OR x NOT BETWEEN TG_ARGV[4]::bigint AND TG_ARGV[5]::bigint)
        AND NOT EXISTS (SELECT FROM unnest(TG_ARGV[6]::bigint[], TG_ARGV[7]::bigint[]) AS r(lo, hi)
                        WHERE x BETWEEN r.lo AND r.hi) LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    ELSE
        -- The WHEN clause has decided: one of the hashes is outside. shardherd.shard may be read under an older
        -- snapshot than the trigger's text, so it serves to name the hash in the message and for nothing else.
        SELECT x INTO h FROM unnest(hashes) AS x
        WHERE NOT EXISTS (SELECT FROM shardherd.shard s, unnest(s.los, s.his) AS r(lo, hi) WHERE x BETWEEN r.lo AND r.hi)
        LIMIT 1;
        h := coalesce(h, hashes[1]);
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'SHR01',
        MESSAGE = format('shardherd: hash %s of %I.%I is not owned by this shard (epoch %s)',
                         coalesce(h::text, 'null'), TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[2]),
        HINT = 'Read the routing table again and send the statement to the owner.';
END $$;

-- The same where nothing foreign is in the table: then only what an INSERT brings, or an UPDATE makes of a key, can be foreign.
-- Nobody passes, since no move is here and who else has a replication origin would bring what this guard relies on not to
-- be there. One argument, an array of key, type, epoch, owned los, owned his: a server copies each of them for every statement.
CREATE OR REPLACE FUNCTION shardherd.light_guard() RETURNS trigger
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told text[] := TG_ARGV[0];
    h bigint := shardherd.hash_value(told[2], to_jsonb(NEW) ->> told[1]);
BEGIN
    IF EXISTS (SELECT FROM unnest(told[4]::bigint[], told[5]::bigint[]) AS r(lo, hi) WHERE h BETWEEN r.lo AND r.hi) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'SHR01',
        MESSAGE = format('shardherd: hash %s of %I.%I is not owned by this shard (epoch %s)',
                         coalesce(h::text, 'null'), TG_TABLE_SCHEMA, TG_TABLE_NAME, told[3]),
        HINT = 'Read the routing table again and send the statement to the owner.';
END $$;

-- Strict clients set shardherd.epoch to the epoch of the shard they routed to; an answer of 0 rows from a
-- shard that changed meanwhile is then an error instead. Arguments: epoch [, move, ...] - the latter while a gate
-- stands.
-- It runs for every statement of everybody, and few are strict: a call costs half of what it takes to read a WHEN clause that
-- asks the same. So it sets nothing, looks no name up but where it says, and leaves the rest to another function.
CREATE OR REPLACE FUNCTION shardherd.stale_epoch() RETURNS trigger
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pg_catalog.current_setting('shardherd.epoch', true) IS NULL THEN
        RETURN NULL;
    ELSIF pg_catalog.current_setting('shardherd.epoch', true) OPERATOR(pg_catalog.=) TG_ARGV[0] THEN
        RETURN NULL;
    END IF;
    PERFORM shardherd.refuse_stale(TG_ARGV[0], TG_ARGV[1]);
    RETURN NULL;
END $$;

-- While a gate stands, others than those of the shard's own epoch come by a table that is published already: before the gate
-- is open rows that were acknowledged on the source may be missing here, afterwards every answer is right. STABLE: a
-- snapshot from before the opening may be from before the copy as well.
CREATE OR REPLACE FUNCTION shardherd.refuse_stale(wanted text, gate_move text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('shardherd.epoch', true) IN ('', wanted) -- '': it was set once, and reset
        OR EXISTS (SELECT FROM shardherd.gate g WHERE g.move = gate_move AND g.open) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'SHR01',
        MESSAGE = format('shardherd: routed with epoch %s, this shard is at epoch %s',
                         current_setting('shardherd.epoch', true), wanted),
        HINT = 'Read the routing table again and send the statement to the owner.';
END $$;
GRANT EXECUTE ON FUNCTION shardherd.refuse_stale(text, text) TO PUBLIC; -- called in everybody's name

-- Whether a fence that was prepared in transaction `after` is committed. Its guards are awake before it, so that the fence
-- has no trigger to touch, and all of them have to learn at the same moment that it is committed: in transactions of any
-- age, whose snapshots may be older, and with nothing to take back should it be rolled back, or its server or manager
-- end. So the fence, which has all tables locked, writes the number of its own transaction into a sequence, whose value is no
-- matter of snapshots, and what became of that transaction is asked where the server itself looks for it. A number that
-- is not above `after` is an earlier fence's. Whatever is not known to be rolled back counts as committed.
CREATE OR REPLACE FUNCTION shardherd.fenced(after bigint) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(f.last > after AND pg_xact_status(f.last::text::xid8) IS DISTINCT FROM 'aborted', true)
    FROM pg_sequence_last_value('shardherd.fenced'::regclass) AS f(last)
$$;

-- The SQL text of "perhaps": cheap enough for a WHEN clause, where it runs in everybody's name; who may not read the
-- sequence asks fenced().
CREATE OR REPLACE FUNCTION shardherd.perhaps_fenced(after bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('coalesce(pg_catalog.pg_sequence_last_value(''shardherd.fenced''::pg_catalog.regclass) > %L::bigint, true)', after)
$$;

-- Refuses rows of [lo, hi] once the fence is committed that was prepared in transaction `after`.
-- Arguments: key, type, epoch, after, lo, hi.
CREATE OR REPLACE FUNCTION shardherd.fence_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashes bigint[] := '{}';
    h bigint;
BEGIN
    IF pg_replication_origin_session_is_setup() OR NOT shardherd.fenced(TG_ARGV[3]::bigint) THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        hashes := hashes || shardherd.hash_value(TG_ARGV[1], to_jsonb(OLD) ->> TG_ARGV[0]);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        hashes := hashes || shardherd.hash_value(TG_ARGV[1], to_jsonb(NEW) ->> TG_ARGV[0]);
    END IF;
    SELECT x INTO h FROM unnest(hashes) AS x WHERE x BETWEEN TG_ARGV[4]::bigint AND TG_ARGV[5]::bigint LIMIT 1;
    RAISE EXCEPTION USING ERRCODE = 'SHR01',
        MESSAGE = format('shardherd: hash %s of %I.%I is not owned by this shard (epoch %s)',
                         coalesce(h, hashes[1]), TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[2]),
        HINT = 'Read the routing table again and send the statement to the owner.';
END $$;

-- The epoch of strict clients while a fence is prepared: the shard's until its COMMIT, then the fence's.
-- Arguments: the one, the other, after. Like stale_epoch(), it does next to nothing for who is not strict.
CREATE OR REPLACE FUNCTION shardherd.stale_fence() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('shardherd.epoch', true) IS NOT NULL THEN
        PERFORM shardherd.refuse_stale_fence(TG_ARGV[0], TG_ARGV[1], TG_ARGV[2]);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION shardherd.refuse_stale_fence(before text, afterwards text, prepared text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.refuse_stale(CASE WHEN shardherd.fenced(prepared::bigint) THEN afterwards ELSE before END, NULL);
END $$;
GRANT EXECUTE ON FUNCTION shardherd.refuse_stale_fence(text, text, text) TO PUBLIC;

-- (Re)writes row triggers of one table named prefix_insert, _update and _delete that call for what the three conditions
-- name, and a statement trigger for strict clients, which stays off where somebody who has none has switched it off. CREATE OR
-- REPLACE lets them fire for sessions in the ordinary replication role only; triggers are replaced and never dropped: dropping
-- would wait for readers.
DROP FUNCTION IF EXISTS shardherd.make_triggers(text, text, text, text, text, text, text, bigint); -- older ones
DROP FUNCTION IF EXISTS shardherd.make_triggers(text, text, text, text, text, text, text, text);
DROP FUNCTION IF EXISTS shardherd.make_triggers(text, text, text, text, text, text, text, text, text);
DROP FUNCTION IF EXISTS shardherd.stale(bigint);
CREATE OR REPLACE FUNCTION shardherd.make_triggers(name text, prefix text, on_insert text, on_update text, on_delete text,
                                                   call text, strict_call text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nobody_strict boolean := EXISTS (SELECT FROM pg_trigger WHERE tgrelid = name::regclass AND tgname = 'shardherd_strict'
                                     AND tgenabled = 'D');
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER %s_insert AFTER INSERT ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s',
                   prefix, name, on_insert, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER %s_update AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s',
                   prefix, name, on_update, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER %s_delete AFTER DELETE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s',
                   prefix, name, on_delete, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_strict BEFORE INSERT OR UPDATE OR DELETE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION %s', name, strict_call);
    IF nobody_strict THEN
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER shardherd_strict', name);
    END IF;
END $$;

-- What lets sessions with a replication origin pass before the function does.
CREATE OR REPLACE FUNCTION shardherd.of_client() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'NOT pg_catalog.pg_replication_origin_session_is_setup()'
$$;

-- The guards of one table. Those of a fence sleep again: these say it all. Apply workers and our own copying and clean-up are in
-- the replication role "replica": so the fourth, for that role only, asks who it is and leaves the rows to the function, and
-- the others need not ask.
CREATE OR REPLACE FUNCTION shardherd.guard_table(name text, key text, type text, owned_los bigint[],
                                                 owned_his bigint[], guard_epoch bigint, move_arguments text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_outside text := shardherd.outside_briefly(shardherd.hash_expression(type, format('NEW.%I', key)), owned_los, owned_his);
    old_outside text := shardherd.outside_briefly(shardherd.hash_expression(type, format('OLD.%I', key)), owned_los, owned_his);
    decides text := coalesce(nullif(move_arguments, ''), format(', %L, 1, 0, %L, %L', '', owned_los, owned_his));
    call text := format('shardherd.guard(%L, %L, %L%s)', key, type, guard_epoch, decides);
BEGIN
    -- an update that leaves the key is judged by NEW, since OLD has the same
    PERFORM shardherd.make_triggers(name, 'shardherd_guard', new_outside, CASE new_outside WHEN 'false' THEN 'false'
                                    ELSE format('%s OR OLD.%I IS DISTINCT FROM NEW.%I', new_outside, key, key) END,
                                    old_outside, call, format('shardherd.stale_epoch(%L%s)', guard_epoch, move_arguments));
    EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_guard_replica AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW '
                   'WHEN (%s) EXECUTE FUNCTION %s', name, shardherd.of_client(), call);
    EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER shardherd_guard_replica', name);
    PERFORM shardherd.sleep_fence(name);
END $$;

-- Whether a trigger of the table can change a row of an UPDATE whose SET clause does not name the column.
CREATE OR REPLACE FUNCTION shardherd.rewrites_rows(relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgtype & 19 = 19) -- BEFORE, UPDATE, EACH ROW
$$;

-- Light guards of a table without foreign rows (see light_guard). An UPDATE that does not name the key cannot change it, unless a
-- trigger does: CREATE TRIGGER is watched (trigger_made). Nothing foreign is there to be deleted.
CREATE OR REPLACE FUNCTION shardherd.light_table(name text, key text, type text, owned_los bigint[], owned_his bigint[],
                                                 guard_epoch bigint)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    call text := format('shardherd.light_guard(%L)', ARRAY[key, type, guard_epoch::text, owned_los::text, owned_his::text]);
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_guard_insert AFTER INSERT ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s',
                   name, shardherd.outside_briefly(shardherd.hash_expression(type, format('NEW.%I', key)), owned_los, owned_his),
                   call);
    EXECUTE format(CASE WHEN shardherd.rewrites_rows(name::regclass)
                   THEN 'CREATE OR REPLACE TRIGGER shardherd_guard_update AFTER UPDATE ON %1$s FOR EACH ROW '
                        'WHEN (OLD.%2$I IS DISTINCT FROM NEW.%2$I) EXECUTE FUNCTION %3$s'
                   ELSE 'CREATE OR REPLACE TRIGGER shardherd_guard_update AFTER UPDATE OF %2$I ON %1$s FOR EACH ROW '
                        'EXECUTE FUNCTION %3$s' END, name, key, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_guard_delete AFTER DELETE ON %s FOR EACH ROW WHEN (false) '
                   'EXECUTE FUNCTION shardherd.guard()', name);
    EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_guard_replica AFTER INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION %s',
                   name, call);
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER shardherd_guard_delete, ENABLE REPLICA TRIGGER shardherd_guard_replica', name);
END $$;

-- Whether the guards of a relation are these.
CREATE OR REPLACE FUNCTION shardherd.is_light(relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'shardherd_guard_update'
                   AND tgfoid = 'shardherd.light_guard()'::regprocedure)
$$;

-- In the transaction of who makes a trigger that may change the key. Its CREATE TRIGGER holds the lock that ours needs.
CREATE OR REPLACE FUNCTION shardherd.trigger_made() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t shardherd.tables;
BEGIN
    FOR t IN SELECT d.* FROM shardherd.tables d WHERE to_regclass(d.name) IN (
                 SELECT g.tgrelid FROM pg_event_trigger_ddl_commands() c
                 JOIN pg_trigger g ON c.classid = 'pg_trigger'::regclass AND g.oid = c.objid AND g.tgtype & 19 = 19)
             AND shardherd.is_light(to_regclass(d.name)) LOOP
        PERFORM shardherd.light_table(t.name, t.key, t.type, s.los, s.his, s.epoch) FROM shardherd.shard s;
    END LOOP;
END $$;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'shardherd_trigger_made') THEN
        CREATE EVENT TRIGGER shardherd_trigger_made ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER')
            EXECUTE FUNCTION shardherd.trigger_made();
        ALTER EVENT TRIGGER shardherd_trigger_made ENABLE ALWAYS;
    END IF;
END $$;

-- All of them, also those that an older version has made. They are made short as well, since a server copies what a table's
-- triggers say for every statement, also of those that sleep, and harmless, should somebody wake them.
CREATE OR REPLACE FUNCTION shardherd.sleep_fence(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    awake text[];
    t text;
BEGIN
    awake := ARRAY(SELECT tgname FROM pg_trigger WHERE tgrelid = name::regclass AND tgenabled <> 'D'
                   AND tgname IN ('shardherd_fence_insert', 'shardherd_fence_update', 'shardherd_fence_delete',
                                  'shardherd_fence_strict'));
    IF cardinality(awake) = 0 THEN
        RETURN;
    END IF;
    FOREACH t IN ARRAY array_remove(awake, 'shardherd_fence_strict') LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER %s ON %s FOR EACH ROW WHEN (false) '
                       'EXECUTE FUNCTION shardherd.fence_guard()', t, split_part(t, '_', 3), name);
    END LOOP;
    EXECUTE format('ALTER TABLE %s %s', name, (SELECT string_agg(format('DISABLE TRIGGER %I', a), ', ') FROM unnest(awake) AS a));
END $$;

-- Beside the guards, which let [lo, hi] pass, these refuse it as soon as a fence after `after` is committed; and strict
-- clients are then held to its epoch.
DROP FUNCTION IF EXISTS shardherd.wake_fence(text); -- older ones
DROP FUNCTION IF EXISTS shardherd.fence_table(text, text, text, bigint, bigint, bigint);
CREATE OR REPLACE FUNCTION shardherd.fence_table(name text, key text, type text, lo bigint, hi bigint, shard_epoch bigint,
                                                 fence_epoch bigint, after bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fenced text := shardherd.perhaps_fenced(after) || ' AND ' || shardherd.of_client();
    new_inside text := shardherd.inside(shardherd.hash_expression(type, format('NEW.%I', key)), ARRAY[lo], ARRAY[hi]);
    old_inside text := shardherd.inside(shardherd.hash_expression(type, format('OLD.%I', key)), ARRAY[lo], ARRAY[hi]);
BEGIN
    PERFORM shardherd.make_triggers(
        name, 'shardherd_fence', format('%s AND %s', new_inside, fenced),
        format('(%s OR %s) AND %s', new_inside, old_inside, fenced), format('%s AND %s', old_inside, fenced),
        format('shardherd.fence_guard(%L, %L, %L, %L, %L, %L)', key, type, fence_epoch, after, lo, hi),
        format('shardherd.stale_fence(%L, %L, %L)', shard_epoch, fence_epoch, after));
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER shardherd_fence_insert, '
                   'ENABLE ALWAYS TRIGGER shardherd_fence_update, ENABLE ALWAYS TRIGGER shardherd_fence_delete', name);
END $$;

-- Whether those of one table are there and awake, and of a fence of that range and epoch (no epoch is given twice). What they
-- were made for is what they were told (see fence_table).
CREATE OR REPLACE FUNCTION shardherd.is_prepared(name text, range_lo bigint, range_hi bigint, fence_epoch bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_trigger,
                    LATERAL string_to_array(encode(tgargs, 'escape'), '\000') AS a(told),
                    LATERAL (SELECT cardinality(a.told) AS n) AS l -- the last one is empty; the key, the first, may be anything
        WHERE tgrelid = name::regclass AND tgenabled = 'A'
        AND tgname IN ('shardherd_fence_insert', 'shardherd_fence_update', 'shardherd_fence_delete')
        AND (told[n - 4], told[n - 2], told[n - 1]) = (fence_epoch::text, range_lo::text, range_hi::text)
        GROUP BY tgargs HAVING count(*) = 3)
$$;

-- Distributed tables on which any of them is awake.
CREATE OR REPLACE FUNCTION shardherd.awake_tables() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.name FROM shardherd.tables d WHERE EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = d.name::regclass AND tgenabled <> 'D'
        AND tgname IN ('shardherd_fence_insert', 'shardherd_fence_update', 'shardherd_fence_delete'))
$$;

-- Whether they are there and awake on every distributed table.
CREATE OR REPLACE FUNCTION shardherd.fence_is_ready() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM shardherd.tables d WHERE 3 <> (
        SELECT count(*) FROM pg_trigger WHERE tgrelid = d.name::regclass AND tgenabled = 'A'
        AND tgname IN ('shardherd_fence_insert', 'shardherd_fence_update', 'shardherd_fence_delete')))
$$;

-- What guards are told of a gate whose row decides on its range; '' without one. NULL: of the one that stands here, if any; not of
-- one whose range is owned already, which is being settled.
CREATE OR REPLACE FUNCTION shardherd.gate_arguments(gate_move text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    g shardherd.gate;
BEGIN
    SELECT * INTO g FROM shardherd.gate WHERE move = gate_move OR (gate_move IS NULL AND NOT shardherd.owns(lo, hi)) LIMIT 1;
    IF FOUND THEN
        RETURN (SELECT format(', %L, %L, %L, %L, %L', g.move, g.lo, g.hi, s.los, s.his) FROM shardherd.shard s);
    ELSIF gate_move IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('move %s has no gate here', gate_move);
    END IF;
    RETURN '';
END $$;

-- Guards of some distributed tables, or of all, from shardherd.shard, which the caller has locked or we lock here.
DROP FUNCTION IF EXISTS shardherd.install_guards(text); -- an older one
CREATE OR REPLACE FUNCTION shardherd.install_guards(gate_move text DEFAULT NULL, names text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
    t shardherd.tables;
    move_arguments text;
BEGIN
    SELECT * INTO STRICT s FROM shardherd.shard FOR UPDATE;
    move_arguments := shardherd.gate_arguments(gate_move);
    FOR t IN SELECT * FROM shardherd.tables WHERE names IS NULL OR name = ANY (names) ORDER BY name LOOP
        PERFORM shardherd.guard_table(t.name, t.key, t.type, s.los, s.his, s.epoch, move_arguments);
    END LOOP;
    DELETE FROM shardherd.prepared_fence; -- its guards sleep now
END $$;

-- Locks distributed tables (LOCK descends to partitions) as CREATE TRIGGER will, before any of them is touched,
-- or fails soon: waiting writers queue behind us, and a transaction that writes several tables may hold one and
-- want another. Below the default deadlock_timeout (1 s), so that the one who gives way is us, never the client; ours
-- is short, which also makes autovacuum give way. The caller tries again.
DROP FUNCTION IF EXISTS shardherd.lock_tables(); -- an older one
CREATE OR REPLACE FUNCTION shardherd.lock_tables(names text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    started timestamptz := clock_timestamp();
    t text;
BEGIN
    PERFORM set_config('deadlock_timeout', '5ms', true);
    FOR t IN SELECT name FROM shardherd.tables WHERE names IS NULL OR name = ANY (names) ORDER BY name LOOP
        PERFORM set_config('lock_timeout', greatest(10, 250 - extract(epoch FROM clock_timestamp() - started) * 1000)::int || 'ms',
                           true);
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', t);
    END LOOP;
END $$;

-- The first `most` of these tables, all for NULL, locked.
CREATE OR REPLACE FUNCTION shardherd.lock_first(names text[], most bigint) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    names := names[:coalesce(most::int, cardinality(names))];
    PERFORM shardherd.lock_tables(names);
    RETURN names;
END $$;

-- Looks through the next distributed table after `last` that is not known to hold nothing foreign, and answers its name; NULL after
-- the last one. The control row comes after the long part: who has overtaken us in it has another opinion of this shard.
-- Partitions are left out: ATTACH brings rows that no guard has seen.
CREATE OR REPLACE FUNCTION shardherd.prove_pure(my_term bigint, last text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t shardherd.tables;
    strangers boolean;
BEGIN
    SELECT d.* INTO t FROM shardherd.tables d JOIN pg_class c ON c.oid = to_regclass(d.name) AND c.relkind = 'r'
    WHERE d.name > last AND c.oid NOT IN (SELECT relation FROM shardherd.pure)
    AND NOT EXISTS (SELECT FROM shardherd.guard_findings() g WHERE g.subject = d.name) ORDER BY d.name LIMIT 1;
    IF FOUND THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %s x WHERE %s)', t.name, (SELECT shardherd.outside_briefly(
            shardherd.hash_expression(t.type, format('x.%I', t.key)), s.los, s.his) FROM shardherd.shard s)) INTO strangers;
        PERFORM shardherd.check_term(my_term);
        IF NOT strangers THEN
            INSERT INTO shardherd.pure VALUES (t.name::regclass) ON CONFLICT DO NOTHING;
        END IF;
    END IF;
    RETURN t.name;
END $$;

-- Light guards for the tables that are proved, on `most` at a time: called again until it answers true. Not while a move is here.
CREATE OR REPLACE FUNCTION shardherd.lighten(my_term bigint, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    heavy text[];
    names text[];
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', 'lighten', true);
    IF EXISTS (SELECT FROM shardherd.freeze) OR EXISTS (SELECT FROM shardherd.gate)
       OR EXISTS (SELECT FROM shardherd.awake_tables()) THEN
        RETURN true;
    END IF;
    heavy := ARRAY(SELECT d.name FROM shardherd.tables d JOIN shardherd.pure p ON p.relation = to_regclass(d.name)
                   WHERE NOT shardherd.is_light(p.relation)
                   AND NOT EXISTS (SELECT FROM shardherd.guard_findings() g WHERE g.subject = d.name) ORDER BY d.name);
    names := shardherd.lock_first(heavy, most);
    PERFORM shardherd.light_table(d.name, d.key, d.type, s.los, s.his, s.epoch)
    FROM shardherd.tables d, shardherd.shard s WHERE d.name = ANY (names);
    RETURN cardinality(names) = cardinality(heavy);
END $$;

-- Sets what this shard is and owns; used when a shard is provisioned.
CREATE OR REPLACE FUNCTION shardherd.set_shard(my_term bigint, new_database text, new_name text, new_epoch bigint,
                                               new_los bigint[], new_his bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.check_term(my_term);
    INSERT INTO shardherd.shard (database, name, epoch, los, his)
    VALUES (new_database, new_name, new_epoch, new_los, new_his)
    ON CONFLICT (one) DO UPDATE SET database = excluded.database, name = excluded.name, epoch = excluded.epoch,
                                    los = excluded.los, his = excluded.his;
    DELETE FROM shardherd.pure;
    PERFORM shardherd.install_guards();
END $$;

-- Distributed tables of this shard; the type is read from the catalog. Refuses what guards cannot hold.
CREATE OR REPLACE FUNCTION shardherd.add_table(my_term bigint, table_name text, key_column text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := to_regclass(table_name);
    column_type text;
    a pg_attribute;
BEGIN
    PERFORM shardherd.check_term(my_term);
    IF relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE = format('table %s does not exist', table_name);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = relation AND relkind IN ('r', 'p') AND relpersistence <> 't') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('%s is not an ordinary table', table_name),
            HINT = 'Views, foreign and temporary tables cannot be distributed.';
    END IF;
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND (c.relispartition OR (c.relkind = 'r' AND EXISTS (
                   SELECT FROM pg_inherits i WHERE relation IN (i.inhparent, i.inhrelid))))) THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s is a partition, or inherits or is inherited', table_name),
            HINT = 'Name the partitioned table itself; use declarative partitions instead of inheritance.';
    END IF;
    SELECT * INTO a FROM pg_attribute
    WHERE attrelid = relation AND attname = key_column AND attnum > 0 AND NOT attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column',
            MESSAGE = format('table %s has no column %I to shard by', table_name, key_column);
    END IF;
    column_type := CASE a.atttypid WHEN 'int2'::regtype THEN 'smallint' WHEN 'int4'::regtype THEN 'integer'
        WHEN 'int8'::regtype THEN 'bigint' WHEN 'text'::regtype THEN 'text' WHEN 'varchar'::regtype THEN 'varchar'
        WHEN 'uuid'::regtype THEN 'uuid' END;
    IF column_type IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s.%I has type %s', table_name, key_column, format_type(a.atttypid, a.atttypmod)),
            HINT = 'A shard key is smallint, integer, bigint, text, varchar or uuid.';
    END IF;
    IF NOT a.attnotnull THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s.%I may be null', table_name, key_column),
            HINT = 'Declare the shard key NOT NULL: a null has no hash and no shard.';
    END IF;
    IF a.attgenerated <> '' THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s.%I is a generated column', table_name, key_column),
            HINT = 'Shard by the column it is generated from.';
    END IF;
    IF EXISTS (SELECT FROM pg_collation WHERE oid = a.attcollation AND NOT collisdeterministic) THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s.%I has a nondeterministic collation', table_name, key_column),
            HINT = 'Equal keys must have equal bytes: use a deterministic collation for the shard key.';
    END IF;
    DELETE FROM shardherd.pure p USING shardherd.tables t
    WHERE p.relation = to_regclass(table_name) AND to_regclass(t.name) = p.relation AND (t.key, t.type) <> (key_column, column_type);
    INSERT INTO shardherd.tables (name, key, type)
    SELECT format('%I.%I', n.nspname, c.relname), key_column, column_type
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
    ON CONFLICT (name) DO UPDATE SET key = excluded.key, type = excluded.type;
    INSERT INTO shardherd.parts SELECT r.relation, r.root FROM shardherd.leaves() r ON CONFLICT DO NOTHING;
END $$;

-- Distributed tables that hold rows of their own, and leaf partitions of the others.
CREATE OR REPLACE FUNCTION shardherd.leaves() RETURNS TABLE (relation oid, root text, key text, type text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, t.name, t.key, t.type
    FROM shardherd.tables t
    JOIN LATERAL (SELECT relid::oid FROM pg_partition_tree(to_regclass(t.name))
                  UNION SELECT to_regclass(t.name)::oid) p ON true
    JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'r'
$$;

-- Fails if a table holds a row that this shard does not own: a server that is lent with data of its own. So it proves that
-- nothing foreign is there.
CREATE OR REPLACE FUNCTION shardherd.refuse_misplaced() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
    t shardherd.tables;
    strangers bigint;
BEGIN
    SELECT * INTO STRICT s FROM shardherd.shard;
    FOR t IN SELECT * FROM shardherd.tables ORDER BY name LOOP
        EXECUTE format('SELECT count(*) FROM %s x WHERE NOT (%s)', t.name, shardherd.inside(
            shardherd.hash_expression(t.type, format('x.%I', t.key)), s.los, s.his)) INTO strangers;
        IF strangers > 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('%s holds %s rows that shard %s does not own', t.name, strangers, s.name),
                HINT = 'Load rows through the routing table after the database is provisioned.';
        END IF;
    END LOOP;
    INSERT INTO shardherd.pure SELECT c.oid FROM shardherd.tables d JOIN pg_class c ON c.oid = d.name::regclass AND c.relkind = 'r'
    ON CONFLICT DO NOTHING;
END $$;

-- Fails unless this server is that shard, with that one range, as it was provisioned.
CREATE OR REPLACE FUNCTION shardherd.refuse_other(wanted_database text, wanted_name text, lo bigint, hi bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
BEGIN
    SELECT * INTO s FROM shardherd.shard;
    IF s.database IS DISTINCT FROM wanted_database OR s.name IS DISTINCT FROM wanted_name
       OR s.los <> ARRAY[lo] OR s.his <> ARRAY[hi] THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the server is shard %s of database %s already', s.name, s.database),
            HINT = 'Delete that database first, or DROP SCHEMA shardherd CASCADE if nobody uses it any more.';
    END IF;
END $$;

-- ---- a move: freeze ----

CREATE OR REPLACE FUNCTION shardherd.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'SHR02',
        MESSAGE = format('shardherd: TRUNCATE of %I.%I is refused while operation %s moves rows',
                         TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]),
        HINT = 'Wait for the operation to end, or cancel it.';
END $$;

-- An UPDATE that carries a row across the boundary of R would lose an unchanged TOASTed column on the other side.
CREATE OR REPLACE FUNCTION shardherd.refuse_crossing() RETURNS trigger
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_replication_origin_session_is_setup() THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'SHR02',
        MESSAGE = format('shardherd: an UPDATE that changes the shard key of %I.%I across the moving range is refused '
                         'while operation %s runs', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]),
        HINT = 'Delete the row and insert it anew, or wait for the operation to end.';
END $$;

CREATE OR REPLACE FUNCTION shardherd.refuse_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moving text := (SELECT move FROM shardherd.freeze ORDER BY gives_way, move LIMIT 1);
    used text;
BEGIN
    IF moving IS NULL OR (current_setting('shardherd.operation', true) <> ''
                          AND (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)) THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'sql_drop' THEN -- columns are dropped under the oid of their table
        SELECT d.object_identity INTO used FROM pg_event_trigger_dropped_objects() d
        JOIN shardherd.frozen f ON f.class = d.classid AND f.object = d.objid LIMIT 1;
    ELSE
        SELECT c.object_identity INTO used FROM pg_event_trigger_ddl_commands() c
        WHERE c.command_tag NOT IN ('COMMENT', 'REINDEX', 'GRANT', 'REVOKE', 'SECURITY LABEL')
        AND (EXISTS (SELECT FROM shardherd.frozen f WHERE f.class = c.classid AND f.object = c.objid)
             -- new things that would belong to a distributed relation
             OR EXISTS (SELECT FROM shardherd.frozen f WHERE f.class = 'pg_class'::regclass AND f.object IN (
                SELECT indrelid FROM pg_index WHERE c.classid = 'pg_class'::regclass AND indexrelid = c.objid
                UNION ALL SELECT inhparent FROM pg_inherits WHERE c.classid = 'pg_class'::regclass AND inhrelid = c.objid
                UNION ALL SELECT confrelid FROM pg_constraint WHERE c.classid = 'pg_class'::regclass AND conrelid = c.objid
                UNION ALL SELECT tgrelid FROM pg_trigger WHERE c.classid = 'pg_trigger'::regclass AND oid = c.objid
                UNION ALL SELECT polrelid FROM pg_policy WHERE c.classid = 'pg_policy'::regclass AND oid = c.objid
                UNION ALL SELECT ev_class FROM pg_rewrite WHERE c.classid = 'pg_rewrite'::regclass AND oid = c.objid)))
        LIMIT 1;
    END IF;
    IF used IS NULL THEN
        RETURN;
    END IF;
    -- waits for insist(), after which nothing is to be found here
    UPDATE shardherd.freeze SET ddl = coalesce(ddl, format('%s on %s', TG_TAG, used)) WHERE gives_way;
    IF EXISTS (SELECT FROM shardherd.freeze WHERE NOT gives_way) THEN
        RAISE EXCEPTION USING ERRCODE = 'SHR02',
            MESSAGE = format('shardherd: %s on %s is refused while operation %s moves rows', TG_TAG, used, moving),
            HINT = 'Wait for the operation to end, or cancel it.';
    END IF;
END $$;

-- A move that gives way does not refuse DDL, until its rehearsal: it goes back when it finds `ddl`, the first of it.
CREATE TABLE IF NOT EXISTS shardherd.freeze (
    move text PRIMARY KEY
);
ALTER TABLE shardherd.freeze ADD COLUMN IF NOT EXISTS gives_way boolean NOT NULL DEFAULT false;
ALTER TABLE shardherd.freeze ADD COLUMN IF NOT EXISTS ddl text;
ALTER TABLE shardherd.freeze ADD COLUMN IF NOT EXISTS lo bigint; -- the range; NULL: frozen by an older version
ALTER TABLE shardherd.freeze ADD COLUMN IF NOT EXISTS hi bigint;

-- From here on the move refuses DDL like any other. What was done before is seen by who reads `ddl` afterwards: DDL that
-- is not committed yet holds the row.
CREATE OR REPLACE FUNCTION shardherd.insist(my_term bigint, move_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.check_term(my_term);
    UPDATE shardherd.freeze SET gives_way = false WHERE move = move_id AND gives_way;
END $$;

-- Distributed tables with all of their partitions.
CREATE OR REPLACE FUNCTION shardherd.distributed_relations() RETURNS TABLE (relation oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT coalesce(p.relid, t.name::regclass)::oid
    FROM shardherd.tables t LEFT JOIN LATERAL pg_partition_tree(t.name::regclass) p ON true
$$;

-- What DDL may not touch during a move: the distributed relations, what belongs to them, and the types, domains and
-- functions they use (bodies of functions are text: what they use is not known). sql_drop sees only what is gone
-- already, so it is noted here.
CREATE TABLE IF NOT EXISTS shardherd.frozen (
    class oid,
    object oid,
    PRIMARY KEY (class, object)
);

CREATE OR REPLACE FUNCTION shardherd.used_objects() RETURNS TABLE (class oid, object oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE r AS (
        SELECT relation FROM shardherd.distributed_relations()
    ), used (class, object) AS (
        (SELECT 'pg_class'::regclass::oid, relation FROM r
         UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid IN (SELECT relation FROM r)
         UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
               WHERE conrelid IN (SELECT relation FROM r) OR confrelid IN (SELECT relation FROM r)
         UNION SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid IN (SELECT relation FROM r)
         UNION SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT relation FROM r)
         UNION SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT relation FROM r)
         UNION SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT relation FROM r))
        UNION
        SELECT x.class, x.object FROM used u CROSS JOIN LATERAL (
            SELECT d.refclassid AS class, d.refobjid AS object FROM pg_depend d
            WHERE d.classid = u.class AND d.objid = u.object AND d.refobjid >= 16384
            AND d.refclassid IN ('pg_type'::regclass, 'pg_proc'::regclass)
            UNION ALL
            SELECT 'pg_class'::regclass, t.typrelid FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            WHERE u.class = 'pg_type'::regclass AND t.oid = u.object
            UNION ALL
            SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c
            WHERE u.class = 'pg_type'::regclass AND c.contypid = u.object
        ) x
    )
    SELECT u.class, u.object FROM used u
    WHERE NOT (u.class = 'pg_proc'::regclass
               AND EXISTS (SELECT FROM pg_proc p WHERE p.oid = u.object AND p.pronamespace = 'shardherd'::regnamespace))
$$;

-- Whether the move has frozen a table: what its trigger was told.
CREATE OR REPLACE FUNCTION shardherd.is_frozen(name text, move_id text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = name::regclass AND tgname = 'shardherd_crossing' AND tgenabled = 'A'
                   AND tgargs = convert_to(move_id, getdatabaseencoding()) || '\x00')
$$;

DROP FUNCTION IF EXISTS shardherd.freeze(bigint, text, bigint, bigint); -- older ones
DROP FUNCTION IF EXISTS shardherd.freeze(bigint, text, bigint, bigint, boolean);
-- From check to clean-up: no DDL, no TRUNCATE, no key change across [lo, hi]. Idempotent. On `most` tables at a time, since nobody
-- writes them meanwhile: called again until it answers true. DDL is refused on all of them from the first time on.
CREATE OR REPLACE FUNCTION shardherd.freeze(my_term bigint, move_id text, lo bigint, hi bigint,
                                            gives_way boolean DEFAULT false, most bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t shardherd.tables;
    p oid;
    old_inside text;
    new_inside text;
    missing text[];
    names text[];
    light text[];
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    missing := ARRAY(SELECT d.name FROM shardherd.tables d WHERE most IS NULL OR NOT shardherd.is_frozen(d.name, move_id)
                     ORDER BY d.name);
    names := shardherd.lock_first(missing, most);
    INSERT INTO shardherd.freeze (move, gives_way, lo, hi) VALUES (move_id, gives_way, "freeze".lo, "freeze".hi)
    ON CONFLICT DO NOTHING;
    light := ARRAY(SELECT n FROM unnest(names) AS n WHERE shardherd.is_light(n::regclass));
    IF cardinality(light) > 0 THEN -- foreign rows are to come, or owned ones to become foreign
        PERFORM shardherd.install_guards(NULL, light);
    END IF;
    FOR t IN SELECT * FROM shardherd.tables WHERE name = ANY (names) ORDER BY name LOOP
        old_inside := shardherd.inside(shardherd.hash_expression(t.type, format('OLD.%I', t.key)), ARRAY[lo], ARRAY[hi]);
        new_inside := shardherd.inside(shardherd.hash_expression(t.type, format('NEW.%I', t.key)), ARRAY[lo], ARRAY[hi]);
        EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_crossing AFTER UPDATE ON %s FOR EACH ROW '
                       'WHEN (OLD.%I IS DISTINCT FROM NEW.%I AND (%s) <> (%s)) '
                       'EXECUTE FUNCTION shardherd.refuse_crossing(%L)',
                       t.name, t.key, t.key, old_inside, new_inside, move_id);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER shardherd_crossing', t.name);
        FOR p IN SELECT coalesce(relid, t.name::regclass) FROM pg_partition_tree(t.name::regclass)
                 UNION SELECT t.name::regclass LOOP
            EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT '
                           'EXECUTE FUNCTION shardherd.refuse_truncate(%L)', p::regclass, move_id);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER shardherd_truncate', p::regclass);
        END LOOP;
    END LOOP;
    INSERT INTO shardherd.frozen SELECT u.class, u.object FROM shardherd.used_objects() u ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'shardherd_ddl') THEN
        CREATE EVENT TRIGGER shardherd_ddl ON ddl_command_end EXECUTE FUNCTION shardherd.refuse_ddl();
        CREATE EVENT TRIGGER shardherd_drop ON sql_drop EXECUTE FUNCTION shardherd.refuse_ddl();
    END IF;
    RETURN cardinality(names) = cardinality(missing);
END $$;

-- The relations of a table that triggers of freeze() are awake on; without a name those of all, also of what was detached since.
CREATE OR REPLACE FUNCTION shardherd.frozen_relations(table_name text DEFAULT NULL) RETURNS TABLE (relation oid, trigger name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT tgrelid, tgname FROM pg_trigger
    WHERE tgname IN ('shardherd_crossing', 'shardherd_truncate') AND tgparentid = 0 AND tgenabled <> 'D'
    AND (table_name IS NULL OR tgrelid = table_name::regclass
         OR tgrelid IN (SELECT relid FROM pg_partition_tree(table_name::regclass)))
$$;

-- Ends what freeze() began, unless another move needs it. Dropping the triggers takes ACCESS EXCLUSIVE for a
-- moment, so they are made harmless by replacement, and disabled, since even WHEN (false) would have to be read. On `most` tables
-- at a time, as they were frozen: called again until it answers true.
DROP FUNCTION IF EXISTS shardherd.unfreeze(bigint, text); -- an older one
CREATE OR REPLACE FUNCTION shardherd.unfreeze(my_term bigint, move_id text, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    alone boolean := NOT EXISTS (SELECT FROM shardherd.freeze f WHERE f.move <> move_id);
    awake text[] := '{}';
    names text[];
    p record;
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    IF NOT shardherd.settle_fence(my_term, move_id, most) THEN -- one that was prepared in vain
        RETURN false;
    END IF;
    IF alone THEN
        awake := ARRAY(SELECT d.name FROM shardherd.tables d WHERE EXISTS (SELECT FROM shardherd.frozen_relations(d.name))
                       ORDER BY d.name);
        names := shardherd.lock_first(awake, most);
        FOR p IN SELECT r.* FROM shardherd.tables d, shardherd.frozen_relations(d.name) r WHERE d.name = ANY (names) LOOP
            PERFORM shardherd.thaw(p.relation, p.trigger);
        END LOOP;
        IF cardinality(names) < cardinality(awake) THEN
            RETURN false;
        END IF;
        PERFORM shardherd.thaw(r.relation, r.trigger) FROM shardherd.frozen_relations() r;
        DELETE FROM shardherd.frozen;
        DROP EVENT TRIGGER IF EXISTS shardherd_ddl;
        DROP EVENT TRIGGER IF EXISTS shardherd_drop;
    END IF;
    DELETE FROM shardherd.opening WHERE move = move_id;
    -- what it brought or left is taken away by now; whoever says so has looked (prove_pure)
    DELETE FROM shardherd.pure WHERE EXISTS (SELECT FROM shardherd.freeze f WHERE f.move = move_id
                                             AND NOT coalesce(shardherd.owns(f.lo, f.hi), false));
    DELETE FROM shardherd.freeze WHERE move = move_id;
    RETURN true;
END $$;

-- One trigger of one relation that freeze() made.
CREATE OR REPLACE FUNCTION shardherd.thaw(relation oid, trigger name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF trigger = 'shardherd_crossing' THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_crossing AFTER UPDATE ON %s FOR EACH ROW WHEN (false) '
                       'EXECUTE FUNCTION shardherd.refuse_crossing()', relation::regclass);
    ELSE
        EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT '
                       'WHEN (false) EXECUTE FUNCTION shardherd.refuse_truncate()', relation::regclass);
    END IF;
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', relation::regclass, trigger);
END $$;

-- ---- a move: publication, gate, fence, opening, settling ----

-- Row filter of one distributed table for [lo, hi].
CREATE OR REPLACE FUNCTION shardherd.range_filter(type text, key text, lo bigint, hi bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT shardherd.inside(shardherd.hash_expression(type, quote_ident(key)), ARRAY[lo], ARRAY[hi])
$$;

-- On the source: marker table and publication of the rows of [lo, hi]. Never re-made under a living slot.
CREATE OR REPLACE FUNCTION shardherd.publish_range(my_term bigint, move_id text, name text, lo bigint, hi bigint)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    list text;
    found bigint;
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    SELECT oid INTO found FROM pg_publication WHERE pubname = name;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    IF EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = name) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('slot %s lives but its publication is gone', name);
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS shardherd.%I (n bigint PRIMARY KEY)', name);
    SELECT string_agg(format('TABLE %s WHERE (%s)', t.name, shardherd.range_filter(t.type, t.key, lo, hi)), ', '
                      ORDER BY t.name) INTO STRICT list FROM shardherd.tables t;
    EXECUTE format('CREATE PUBLICATION %I FOR %s, TABLE shardherd.%I '
                   'WITH (publish = ''insert,update,delete'', publish_via_partition_root = true)', name, list, name);
    SELECT oid INTO STRICT found FROM pg_publication WHERE pubname = name;
    RETURN found;
END $$;

-- Of the server's own log, not of its last checkpoint.
CREATE OR REPLACE FUNCTION shardherd.timeline() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
$$;

-- Fails on a server that was promoted since markers are awaited (A7): the slot may have forgotten what its predecessor had, and this
-- one has not; nothing else would show that. A trigger of an older version says nothing of a timeline.
CREATE OR REPLACE FUNCTION shardherd.refuse_promoted(marker_table text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    followed text := (SELECT split_part(encode(tgargs, 'escape'), '\000', 1) FROM pg_trigger WHERE tgname = 'shardherd_marker'
                      AND tgrelid = to_regclass(format('shardherd.%I', marker_table)));
BEGIN
    IF followed <> '' AND followed <> shardherd.timeline()::text THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('this server was promoted since it follows (timeline %s, now %s): rows that its predecessor had may be missing',
                             followed, shardherd.timeline()),
            HINT = 'Begin the move again: its rows are copied anew.';
    END IF;
END $$;

-- On the target, in the apply worker: tells the manager that waits for a marker, which is named by its channel. Subscriptions
-- do not wait for the disk, else a target could never catch up with a source whose clients share their flushes; so whoever sees a
-- marker must be able to rely on it, and on all that came before: its own transaction waits, for the standbys as well.
CREATE OR REPLACE FUNCTION shardherd.marker_came() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.refuse_promoted(TG_TABLE_NAME);
    PERFORM set_config('synchronous_commit', 'on', true);
    PERFORM pg_notify(TG_TABLE_NAME, NEW.n::text);
    RETURN NULL;
END $$;

-- On the target: the table that markers arrive in. Its trigger is made once: it was told the timeline of then.
CREATE OR REPLACE FUNCTION shardherd.await_markers(my_term bigint, move_id text, name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    EXECUTE format('CREATE TABLE IF NOT EXISTS shardherd.%I (n bigint PRIMARY KEY)', name);
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = format('shardherd.%I', name)::regclass AND tgname = 'shardherd_marker'
                   AND tgnargs = 1) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER shardherd_marker AFTER INSERT ON shardherd.%I FOR EACH ROW '
                       'EXECUTE FUNCTION shardherd.marker_came(%L)', name, shardherd.timeline());
        EXECUTE format('ALTER TABLE shardherd.%I ENABLE ALWAYS TRIGGER shardherd_marker', name);
    END IF;
END $$;

-- Whether the guards of one table ask the gate of that move: what they were told (see guard_table).
CREATE OR REPLACE FUNCTION shardherd.asks_gate(name text, gate_move text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 4 = (SELECT count(*) FROM pg_trigger,
                       LATERAL string_to_array(encode(tgargs, 'escape'), '\000') AS a(told)
                WHERE tgrelid = name::regclass
                AND tgname IN ('shardherd_guard_insert', 'shardherd_guard_update', 'shardherd_guard_delete', 'shardherd_guard_replica')
                AND told[cardinality(told) - 5] = gate_move) -- the last one is empty; the key, the first, may be anything
$$;

-- On the target, before the fence: this move's closed gate, and guards that ask it. On `most` tables at a time: called again
-- until it answers true. What does not ask the gate yet refuses the range, which is not owned, as one that asks a closed one.
DROP FUNCTION IF EXISTS shardherd.close_gate(bigint, text, bigint, bigint); -- an older one
CREATE OR REPLACE FUNCTION shardherd.close_gate(my_term bigint, move_id text, gate_lo bigint, gate_hi bigint,
                                                most bigint DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text[];
    names text[];
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    IF EXISTS (SELECT FROM shardherd.gate WHERE move = move_id AND open) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the gate of move %s is open: it cannot be closed again', move_id);
    END IF;
    missing := ARRAY(SELECT d.name FROM shardherd.tables d WHERE most IS NULL OR NOT shardherd.asks_gate(d.name, move_id)
                     ORDER BY d.name);
    names := shardherd.lock_first(missing, most);
    INSERT INTO shardherd.gate (move, lo, hi) VALUES (move_id, gate_lo, gate_hi) ON CONFLICT DO NOTHING;
    PERFORM shardherd.install_guards(move_id, names);
    RETURN cardinality(names) = cardinality(missing);
END $$;

-- On the source, before the fence: its guards, so that the fence has none to make (0.7 ms for each table, and more under
-- load). Nothing is done when they are there; beside a gate the fence makes its own. On `most` tables at a time, since
-- nobody writes them meanwhile: called again until it answers true. Guards that are awake may be of a fence that is
-- committed, or of one that was prepared in vain: what the shard owns says it all before they are replaced.
DROP FUNCTION IF EXISTS shardherd.prepare_fence(bigint, text, bigint, bigint, bigint); -- an older one
CREATE OR REPLACE FUNCTION shardherd.prepare_fence(my_term bigint, move_id text, range_lo bigint, range_hi bigint,
                                                   new_epoch bigint, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t shardherd.tables;
    shard_epoch bigint;
    after bigint := pg_current_xact_id()::text::bigint;
    missing text[];
    names text[];
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    PERFORM FROM shardherd.prepared_fence
    WHERE move = move_id AND lo = range_lo AND hi = range_hi AND epoch = new_epoch AND shardherd.fence_is_ready();
    IF FOUND OR EXISTS (SELECT FROM shardherd.gate) THEN
        RETURN true;
    END IF;
    missing := ARRAY(SELECT d.name FROM shardherd.tables d
                     WHERE NOT shardherd.is_prepared(d.name, range_lo, range_hi, new_epoch) ORDER BY d.name);
    names := shardherd.lock_first(missing, most);
    -- also when there is none: no fence is prepared any more
    PERFORM shardherd.install_guards(NULL, ARRAY(SELECT a FROM shardherd.awake_tables() a WHERE a = ANY (names)));
    SELECT epoch INTO STRICT shard_epoch FROM shardherd.shard;
    FOR t IN SELECT * FROM shardherd.tables WHERE name = ANY (names) ORDER BY name LOOP
        PERFORM shardherd.fence_table(t.name, t.key, t.type, range_lo, range_hi, shard_epoch, new_epoch, after);
    END LOOP;
    IF cardinality(names) < cardinality(missing) THEN
        RETURN false;
    END IF;
    INSERT INTO shardherd.prepared_fence (move, lo, hi, epoch) VALUES (move_id, range_lo, range_hi, new_epoch);
    RETURN true;
END $$;

-- The rows of fence(). True if its guards were prepared.
CREATE OR REPLACE FUNCTION shardherd.give_away(move_id text, lo bigint, hi bigint, expected_epoch bigint, new_epoch bigint)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
    new_los bigint[] := '{}';
    new_his bigint[] := '{}';
    owned boolean := false;
BEGIN
    SELECT * INTO STRICT s FROM shardherd.shard FOR UPDATE;
    IF s.epoch <> expected_epoch THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shard %s is at epoch %s, not %s', s.name, s.epoch, expected_epoch);
    END IF;
    FOR i IN 1 .. cardinality(s.los) LOOP
        IF lo >= s.los[i] AND hi <= s.his[i] THEN
            owned := true;
            IF lo > s.los[i] THEN
                new_los := new_los || s.los[i];
                new_his := new_his || (lo - 1);
            END IF;
            IF hi < s.his[i] THEN
                new_los := new_los || (hi + 1);
                new_his := new_his || s.his[i];
            END IF;
        ELSE
            new_los := new_los || s.los[i];
            new_his := new_his || s.his[i];
        END IF;
    END LOOP;
    IF NOT owned THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shard %s does not own %s..%s', s.name, lo, hi);
    END IF;
    UPDATE shardherd.shard SET epoch = new_epoch, los = new_los, his = new_his;
    DELETE FROM shardherd.prepared_fence p
    WHERE p.move = move_id AND p.lo = give_away.lo AND p.hi = give_away.hi AND p.epoch = new_epoch;
    RETURN FOUND AND shardherd.fence_is_ready();
END $$;

-- On the source, inside the fence transaction: give [lo, hi] away. The caller holds the table locks.
CREATE OR REPLACE FUNCTION shardherd.fence(move_id text, lo bigint, hi bigint, expected_epoch bigint, new_epoch bigint)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('shardherd.operation', move_id, true);
    IF shardherd.give_away(move_id, lo, hi, expected_epoch, new_epoch) THEN
        PERFORM setval('shardherd.fenced', pg_current_xact_id()::text::bigint);
    ELSE
        PERFORM shardherd.install_guards();
    END IF;
END $$;

-- On the source, after the opening: plain guards in place of a fence's, if there are any. On `most` tables at a time, as
-- they were prepared: called again until it answers true.
DROP FUNCTION IF EXISTS shardherd.settle_fence(bigint, text); -- an older one
CREATE OR REPLACE FUNCTION shardherd.settle_fence(my_term bigint, move_id text, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    awake text[];
    names text[];
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    awake := ARRAY(SELECT a FROM shardherd.awake_tables() a ORDER BY a);
    IF cardinality(awake) = 0 THEN
        RETURN true;
    END IF;
    names := shardherd.lock_first(awake, most);
    PERFORM shardherd.install_guards(NULL, names);
    RETURN cardinality(names) = cardinality(awake);
END $$;

-- On an instance that was promoted, before it lets clients in: the leader's term, and what the store says for certain
-- that this shard owns since new_epoch. One that lagged behind its predecessor may lack a fence (the range was given
-- away: two would accept it) or an opening (its target would refuse it for ever). An instance that knows of a later epoch has a fence or
-- opening that the store does not know of yet: the operation that made it goes on from there. Answers what it found. Its
-- commit waits for no standby: none follows yet, and whoever is promoted next is settled anew.
CREATE OR REPLACE FUNCTION shardherd.settle_promoted(my_term bigint, new_epoch bigint, new_los bigint[], new_his bigint[])
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
BEGIN
    PERFORM shardherd.raise_term(my_term);
    PERFORM set_config('shardherd.operation', 'promoted', true), set_config('synchronous_commit', 'local', true);
    SELECT * INTO STRICT s FROM shardherd.shard FOR UPDATE;
    IF s.epoch > new_epoch THEN
        RETURN 'later';
    END IF;
    IF s.epoch = new_epoch AND s.los = new_los AND s.his = new_his AND NOT EXISTS (
        SELECT FROM shardherd.gate g WHERE shardherd.owns(g.lo, g.hi)) THEN
        RETURN 'same';
    END IF;
    PERFORM shardherd.lock_tables();
    UPDATE shardherd.shard SET epoch = new_epoch, los = new_los, his = new_his;
    DELETE FROM shardherd.pure; -- the predecessor may have given away what is here
    -- a gate is for a range that is not owned yet; an open one was settled by the predecessor, or given away again
    DELETE FROM shardherd.gate g WHERE g.open OR shardherd.owns(g.lo, g.hi);
    PERFORM shardherd.install_guards();
    RETURN 'settled';
END $$;

-- Sequences of the database (ours left out) with the value up to which others may not be handed out again.
CREATE OR REPLACE FUNCTION shardherd.sequences(gap bigint) RETURNS TABLE (name text, value bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%I', s.schemaname, s.sequencename),
           CASE WHEN s.increment_by > 0
                THEN least(s.max_value, s.last_value + ahead)::bigint
                ELSE greatest(s.min_value, s.last_value + ahead)::bigint END
    FROM pg_sequences s, LATERAL (SELECT s.increment_by::numeric * (
        gap + s.cache_size::numeric * current_setting('max_connections')::bigint) AS ahead) a
    WHERE s.schemaname <> 'shardherd' AND s.last_value IS NOT NULL
$$;

-- On the target: what was used on the source is not handed out again. Never lower; what is not here is left out.
CREATE OR REPLACE FUNCTION shardherd.raise_sequences(names text[], wanted bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_at bigint;
    step bigint;
BEGIN
    FOR i IN 1 .. coalesce(cardinality(names), 0) LOOP
        CONTINUE WHEN to_regclass(names[i]) IS NULL;
        SELECT s.last_value, s.increment_by INTO now_at, step FROM pg_sequences s
        WHERE format('%I.%I', s.schemaname, s.sequencename) = names[i];
        IF now_at IS NULL OR (step > 0 AND now_at < wanted[i]) OR (step < 0 AND now_at > wanted[i]) THEN
            PERFORM setval(names[i]::regclass, wanted[i]);
        END IF;
    END LOOP;
END $$;

-- On the target: the point of no return. Sequences first, never lower. Returns the opening's WAL position; a shard
-- that owns the range already (the opening was settled before a crash) answers with its present position.
-- Called before the fence on the source, in a transaction that is committed only after its COMMIT, with opened().
CREATE OR REPLACE FUNCTION shardherd.open_gate(my_term bigint, move_id text, range_lo bigint, range_hi bigint,
                                               names text[], wanted bigint[])
RETURNS pg_lsn LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    result pg_lsn;
BEGIN
    PERFORM shardherd.check_term(my_term);
    IF shardherd.owns(range_lo, range_hi) THEN
        RETURN pg_current_wal_insert_lsn();
    END IF;
    PERFORM shardherd.raise_sequences(names, wanted);
    UPDATE shardherd.gate SET open = true, opened_lsn = pg_current_wal_insert_lsn(), opened_at = clock_timestamp()
    WHERE move = move_id AND NOT open;
    SELECT opened_lsn INTO result FROM shardherd.gate WHERE move = move_id AND open;
    IF result IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('move %s has no gate here', move_id);
    END IF;
    RETURN result;
END $$;

-- In the transaction of an opening that was begun before the target had all changes of the source: its position is now.
CREATE OR REPLACE FUNCTION shardherd.opened(move_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE shardherd.gate SET opened_lsn = pg_current_wal_insert_lsn(), opened_at = clock_timestamp()
    WHERE move = move_id AND open AND xmin = pg_current_xact_id()::xid; -- one that was committed keeps its own
END $$;

-- On the target, after the opening: the range becomes part of what the shard owns, then plain guards again, on `most` tables at a
-- time: called again until it answers true. Those that still ask the gate find it open, and its row, which is never used
-- twice, goes last.
DROP FUNCTION IF EXISTS shardherd.settle(bigint, text, bigint, bigint, bigint); -- an older one
CREATE OR REPLACE FUNCTION shardherd.settle(my_term bigint, move_id text, range_lo bigint, range_hi bigint,
                                            new_epoch bigint, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asking text[];
    names text[];
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    PERFORM FROM shardherd.shard FOR UPDATE;
    IF NOT shardherd.owns(range_lo, range_hi) THEN
        PERFORM shardherd.take_over(move_id, range_lo, range_hi, new_epoch);
    END IF;
    asking := ARRAY(SELECT d.name FROM shardherd.tables d WHERE shardherd.asks_gate(d.name, move_id) ORDER BY d.name);
    names := shardherd.lock_first(asking, most);
    IF cardinality(names) > 0 THEN
        PERFORM shardherd.install_guards(NULL, names);
    END IF;
    IF cardinality(names) < cardinality(asking) THEN
        RETURN false;
    END IF;
    DELETE FROM shardherd.gate WHERE move = move_id;
    RETURN true;
END $$;

-- The row of settle(): what an open gate stands for is owned.
CREATE OR REPLACE FUNCTION shardherd.take_over(move_id text, range_lo bigint, range_hi bigint, new_epoch bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
BEGIN
    SELECT * INTO STRICT s FROM shardherd.shard;
    INSERT INTO shardherd.opening (move, lsn) SELECT g.move, g.opened_lsn FROM shardherd.gate g WHERE g.move = move_id AND g.open
    ON CONFLICT (move) DO UPDATE SET move = excluded.move;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('move %s has no open gate here', move_id);
    END IF;
    -- neighbours become one range, so that guards stay short
    WITH pieces AS (
        SELECT lo, hi FROM unnest(s.los || range_lo, s.his || range_hi) AS r(lo, hi)
    ), marked AS (
        SELECT lo, hi, CASE WHEN lag(hi::numeric) OVER (ORDER BY lo) = lo::numeric - 1 THEN 0 ELSE 1 END AS starts
        FROM pieces -- numeric: the least bigint has no predecessor
    ), grouped AS (
        SELECT lo, hi, sum(starts) OVER (ORDER BY lo) AS part FROM marked
    ), merged AS (
        SELECT min(lo) AS lo, max(hi) AS hi FROM grouped GROUP BY part
    )
    UPDATE shardherd.shard SET epoch = new_epoch,
        los = (SELECT array_agg(lo ORDER BY lo) FROM merged),
        his = (SELECT array_agg(hi ORDER BY lo) FROM merged);
END $$;

-- A session plans and compiles at its first call of a function, and reads the catalogs it needs: 2 to 3 ms that
-- would be spent inside the fence. The sessions that fence and open do it here, in the rehearsal: a fence that is rolled
-- back before it says so in the sequence, which would stay, guards on a temporary table, and an opening of a gate that
-- does not exist.
CREATE OR REPLACE FUNCTION shardherd.warm_up_fence() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('shardherd.operation', 'warm-up', true);
    CREATE TEMPORARY TABLE shardherd_warm_up (k bigint NOT NULL) ON COMMIT DROP;
    PERFORM shardherd.guard_table('pg_temp.shardherd_warm_up', 'k', 'bigint', '{0}', '{1}', 0, '');
    PERFORM shardherd.fence_is_ready(), pg_sequence_last_value('shardherd.fenced');
    PERFORM shardherd.give_away('', s.los[1], s.his[1], s.epoch, s.epoch + 1) FROM shardherd.shard s WHERE s.los <> '{}';
    PERFORM shardherd.fence('', 0, 0, -1, -1); -- no shard is at epoch -1: this ends it
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    NULL; -- nothing of it is left
END $$;

CREATE OR REPLACE FUNCTION shardherd.warm_up_opening(my_term bigint, range_lo bigint, range_hi bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.opened('');
    PERFORM shardherd.open_gate(my_term, '', range_lo, range_hi, '{}', '{}');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    NULL; -- no gate has an empty name
END $$;

-- On the target, going back: burns the gate (an opening in flight makes us wait) and puts plain guards back.
-- Fails if the gate was opened: then there is no way back.
CREATE OR REPLACE FUNCTION shardherd.burn_gate(my_term bigint, move_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM set_config('shardherd.operation', move_id, true);
    PERFORM FROM shardherd.gate WHERE move = move_id AND open;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('move %s was opened: it can only go forward', move_id);
    END IF;
    PERFORM shardherd.lock_tables();
    DELETE FROM shardherd.gate WHERE move = move_id;
    PERFORM shardherd.install_guards();
END $$;

-- Fails while this move, in that direction, still replicates from here or to here: two that follow each other send the
-- same changes round for ever, and lose some (A10).
CREATE OR REPLACE FUNCTION shardherd.refuse_replication(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = name)
       OR EXISTS (SELECT FROM pg_subscription WHERE subname = name
                  AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = format('%s still replicates', name);
    END IF;
END $$;

-- On the source, after the move: its subscription, not enabled yet, begins at the target's opening. What lies before
-- that came from here. Never backward: what was applied is not applied again. The position is durable only with the
-- next commit that is flushed: ENABLE is in the same transaction.
CREATE OR REPLACE FUNCTION shardherd.follow_from(my_term bigint, name text, opened pg_lsn) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s pg_subscription;
    origin text;
BEGIN
    PERFORM shardherd.check_term(my_term);
    SELECT * INTO STRICT s FROM pg_subscription
    WHERE subname = name AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database());
    IF s.subenabled THEN
        RETURN;
    END IF;
    origin := 'pg_' || s.oid;
    IF EXISTS (SELECT FROM pg_stat_subscription WHERE subid = s.oid AND pid IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = format('the worker of %s is not gone yet', name);
    END IF;
    IF coalesce(pg_replication_origin_progress(origin, false) < opened, true) THEN
        PERFORM pg_replication_origin_advance(origin, opened);
    END IF;
END $$;

-- The routing table for SQL clients; an older document never replaces a newer one.
CREATE OR REPLACE FUNCTION shardherd.announce(new_epoch bigint, new_document jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO shardherd.routing (epoch, document) VALUES (new_epoch, new_document)
    ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, document = excluded.document
    WHERE shardherd.routing.epoch <= excluded.epoch;
    PERFORM pg_notify('shardherd_routing', new_epoch::text);
END $$;

-- ---- copying ----

-- On a target that a move makes: the indexes, constraints and triggers of its tables, which come after the rows, in
-- parts (post_data.h). Each is gone once it is there. A part with a relation may be built beside others, unless it is to
-- be alone on that table.
CREATE TABLE IF NOT EXISTS shardherd.post_data (
    script text NOT NULL
);
ALTER TABLE shardherd.post_data ADD COLUMN IF NOT EXISTS number bigint NOT NULL DEFAULT 0;
ALTER TABLE shardherd.post_data ADD COLUMN IF NOT EXISTS relation text;
ALTER TABLE shardherd.post_data ADD COLUMN IF NOT EXISTS alone boolean NOT NULL DEFAULT false;

-- Of heaps only: the index of a partitioned table comes with the rest, after those of its partitions.
CREATE OR REPLACE FUNCTION shardherd.parts_to_build()
RETURNS TABLE (number bigint, relation text, alone boolean, bytes bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.number, p.relation, p.alone, pg_relation_size(l.relation)
    FROM shardherd.post_data p JOIN shardherd.leaves() l ON l.relation = to_regclass(p.relation)
$$;

-- Who comes second, since the answer to the first was lost, waits for it and finds nothing to do.
CREATE OR REPLACE FUNCTION shardherd.build_part(my_term bigint, part bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what text;
BEGIN
    PERFORM shardherd.share_term(my_term);
    DELETE FROM shardherd.post_data p WHERE p.number = part RETURNING p.script INTO what;
    IF FOUND THEN
        EXECUTE what;
    END IF;
END $$;

-- Whether values of this type mean the same on another server in their binary format: no oid of this one is in it.
CREATE OR REPLACE FUNCTION shardherd.binary_travels(type oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE t.typtype
        WHEN 'e' THEN true
        WHEN 'd' THEN b.oid < 16384 AND b.typtype = 'b' AND b.typname !~ '^_?reg'
        ELSE t.oid < 16384 AND t.typtype IN ('b', 'r', 'm') AND t.typname !~ '^_?reg' AND t.typname NOT IN ('oid', '_oid')
    END
    FROM pg_type t LEFT JOIN pg_type b ON b.oid = t.typbasetype WHERE t.oid = type
$$;

-- The heaps of the distributed tables and how rows of [lo, hi] are read from each.
CREATE OR REPLACE FUNCTION shardherd.copy_heaps(lo bigint, hi bigint)
RETURNS TABLE (relation text, root text, columns text, filter text, blocks bigint, is_binary boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.relation::regclass::text, l.root, a.columns, shardherd.range_filter(l.type, l.key, lo, hi),
           pg_relation_size(l.relation) / current_setting('block_size')::bigint, a.travels
    FROM shardherd.leaves() l, LATERAL (
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS columns,
               bool_and(shardherd.binary_travels(atttypid)) AS travels
        FROM pg_attribute WHERE attrelid = l.relation AND attnum > 0 AND NOT attisdropped AND attgenerated = '') a
    ORDER BY 5 DESC, 1
$$;

-- ---- taking away what a move left ----

-- On the source or an undone target: deletes the rows of [range_lo, range_hi] in `blocks` blocks of one relation
-- from `first_block`. Every batch proves in its own transaction that the shard neither owns the range nor has an
-- open gate for it (attack A8), and that no slot or subscription of the move is left (A9). Foreign keys do not fire
-- under session_replication_role = replica, which the caller set. Returns the number of rows.
CREATE OR REPLACE FUNCTION shardherd.delete_batch(my_term bigint, slot name, relation regclass, key text, type text,
                                                  range_lo bigint, range_hi bigint, first_block bigint, blocks bigint)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done bigint;
BEGIN
    PERFORM shardherd.check_term(my_term);
    PERFORM FROM shardherd.shard FOR SHARE;
    IF EXISTS (SELECT FROM shardherd.shard s, unnest(s.los, s.his) AS r(lo, hi)
               WHERE r.lo <= range_hi AND r.hi >= range_lo)
       OR EXISTS (SELECT FROM shardherd.gate g WHERE g.open AND g.lo <= range_hi AND g.hi >= range_lo) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('this shard owns rows of %s..%s: nothing is deleted', range_lo, range_hi);
    END IF;
    -- of either direction
    IF EXISTS (SELECT FROM pg_replication_slots WHERE slot_name IN (slot, left(slot, -1) || 'f', left(slot, -1) || 'r'))
       OR EXISTS (SELECT FROM pg_subscription WHERE subname IN (slot, left(slot, -1) || 'f', left(slot, -1) || 'r')) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s still replicates: nothing is deleted', slot);
    END IF;
    EXECUTE format('DELETE FROM ONLY %s WHERE ctid >= ''(%s,0)'' AND ctid < ''(%s,0)'' AND (%s)', relation,
                   first_block, first_block + blocks, shardherd.range_filter(type, key, range_lo, range_hi));
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END $$;

-- The relations that hold rows of distributed tables, with their sizes in blocks: what clean-up walks through.
CREATE OR REPLACE FUNCTION shardherd.heaps() RETURNS TABLE (relation text, key text, type text, blocks bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass::text, t.key, t.type,
           pg_relation_size(c.oid) / current_setting('block_size')::bigint
    FROM shardherd.tables t
    JOIN LATERAL (SELECT relid::oid FROM pg_partition_tree(t.name::regclass) UNION SELECT t.name::regclass::oid) p ON true
    JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'r'
$$;

-- ---- checks and comparison ----

-- Writes that nothing would refuse: tables that are gone, guards that are missing or switched off.
CREATE OR REPLACE FUNCTION shardherd.guard_findings() RETURNS TABLE (subject text, finding text, remedy text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH leaves AS (
        SELECT t.name, p.relid::oid AS oid FROM shardherd.tables t, pg_partition_tree(to_regclass(t.name)) p
        UNION SELECT t.name, to_regclass(t.name)::oid FROM shardherd.tables t
    )
    SELECT t.name, 'the table is gone', 'create it again, or take it out of the specification'
    FROM shardherd.tables t WHERE to_regclass(t.name) IS NULL
    UNION ALL
    SELECT l.name, format('guard %I is missing or disabled', g.name), 'as a superuser: SELECT shardherd.install_guards()'
    FROM leaves l, (VALUES ('shardherd_guard_insert', 'O'), ('shardherd_guard_update', 'O'), ('shardherd_guard_delete', 'O'),
                           ('shardherd_guard_replica', 'R')) AS g(name, fires)
    WHERE l.oid IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_trigger tg WHERE tg.tgrelid = l.oid AND tg.tgname = g.name
                    AND tg.tgenabled IN ('A', g.fires::"char"))
    AND NOT (g.name = 'shardherd_guard_delete' AND shardherd.is_light(l.oid))
    -- an older version has made three that always fire, and no fourth
    AND NOT (g.fires = 'R' AND 3 = (SELECT count(*) FROM pg_trigger tg WHERE tg.tgrelid = l.oid AND tg.tgenabled = 'A'
             AND tg.tgname IN ('shardherd_guard_insert', 'shardherd_guard_update', 'shardherd_guard_delete')))
$$;

-- The periodic look: guard_findings(), and what the catalog says of subscriptions and partitions. Apply workers pass
-- the guards by their origin, also those of somebody else's subscription. ATTACH PARTITION brings rows that no
-- guard has seen: a new partition is looked through (its first million rows), and known from then on if all of them
-- belong here. DETACH leaves rows behind that no move takes along.
CREATE OR REPLACE FUNCTION shardherd.check_guards() RETURNS TABLE (subject text, finding text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s shardherd.shard;
    part record;
    strangers boolean;
BEGIN
    RETURN QUERY SELECT DISTINCT g.subject, g.finding, g.remedy FROM shardherd.guard_findings() g;
    DELETE FROM shardherd.pure WHERE relation IN (SELECT to_regclass(g.subject) FROM shardherd.guard_findings() g)
        OR relation NOT IN (SELECT oid FROM pg_class);
    RETURN QUERY
        SELECT DISTINCT d.name, format('subscription %I writes to the table, past its guards', sub.subname),
               'drop the subscription, or leave the table out of it'::text
        FROM pg_subscription_rel r JOIN pg_subscription sub ON sub.oid = r.srsubid
        JOIN (SELECT t.name, coalesce(p.relid, to_regclass(t.name))::oid AS relation FROM shardherd.tables t
              LEFT JOIN LATERAL pg_partition_tree(to_regclass(t.name)) p ON true) d ON d.relation = r.srrelid
        WHERE sub.subname NOT LIKE 'shardherd\_%';
    DELETE FROM shardherd.parts p WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = p.relation);
    RETURN QUERY
        SELECT p.root, format('partition %s was detached: its rows stay here when their range moves', p.relation::regclass),
               format('attach it again; if it was meant: DELETE FROM shardherd.parts WHERE relation = %L::regclass',
                      p.relation::regclass)
        FROM shardherd.parts p
        WHERE to_regclass(p.root) IS NOT NULL AND p.relation NOT IN (SELECT l.relation FROM shardherd.leaves() l);
    SELECT * INTO s FROM shardherd.shard;
    FOR part IN SELECT * FROM shardherd.leaves() l WHERE l.relation NOT IN (SELECT p.relation FROM shardherd.parts p) LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM (SELECT %I AS k FROM ONLY %s LIMIT 1000000) x WHERE NOT (%s))', part.key,
                       part.relation::regclass,
                       shardherd.inside(shardherd.hash_expression(part.type, 'x.k'), s.los, s.his)) INTO strangers;
        IF strangers THEN
            RETURN QUERY SELECT part.root,
                format('partition %s was attached and holds rows that this shard does not own', part.relation::regclass),
                'detach it, and insert its rows again through the routing table'::text;
        ELSE
            INSERT INTO shardherd.parts (relation, root) VALUES (part.relation, part.root) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
END $$;

-- Whether check_guards() would find something or write something. It reads the catalogs and changes nothing: what
-- is asked every minute over the connection of the polls.
CREATE OR REPLACE FUNCTION shardherd.guards_differ() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH leaves AS MATERIALIZED (SELECT l.relation FROM shardherd.leaves() l)
    SELECT EXISTS (SELECT FROM shardherd.guard_findings())
        OR EXISTS (SELECT FROM leaves WHERE relation NOT IN (SELECT p.relation FROM shardherd.parts p))
        OR EXISTS (SELECT FROM shardherd.parts p WHERE p.relation NOT IN (SELECT relation FROM leaves))
        OR EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription sub ON sub.oid = r.srsubid
                   WHERE sub.subname NOT LIKE 'shardherd\_%' AND r.srrelid IN (
                       SELECT coalesce(p.relid, to_regclass(t.name))::oid FROM shardherd.tables t
                       LEFT JOIN LATERAL pg_partition_tree(to_regclass(t.name)) p ON true))
$$;

-- ---- migrations ----

CREATE TABLE IF NOT EXISTS shardherd.migration (
    id text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Runs a script of DDL once, as the owner of the distributed tables; false: it ran here before. EXECUTE takes several
-- statements and refuses those that would end the transaction. What the guards could not hold afterwards is refused
-- as a whole.
CREATE OR REPLACE FUNCTION shardherd.migrate(my_term bigint, migration_id text, script text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t shardherd.tables;
    owner name := (SELECT pg_get_userbyid(c.relowner) FROM shardherd.tables d JOIN pg_class c ON c.oid = to_regclass(d.name)
                   ORDER BY d.name LIMIT 1);
    wrong record;
BEGIN
    PERFORM shardherd.raise_term(my_term);
    IF EXISTS (SELECT FROM shardherd.migration m WHERE m.id = migration_id) THEN
        RETURN false;
    END IF;
    PERFORM set_config('role', coalesce(owner, 'none'), true), set_config('search_path', 'public', true);
    EXECUTE script;
    PERFORM set_config('role', 'none', true), set_config('search_path', 'pg_catalog, pg_temp', true);
    FOR t IN SELECT * FROM shardherd.tables ORDER BY name LOOP
        PERFORM shardherd.add_table(my_term, t.name, t.key);
        IF NOT EXISTS (SELECT FROM shardherd.tables n WHERE n.name = t.name AND n.type = t.type) THEN
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                MESSAGE = format('the script changes the type of the shard key %s.%I', t.name, t.key),
                HINT = 'Rows are found by the hash of the key, which depends on its type.';
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM shardherd.guard_findings()) THEN -- a table was made anew, or its triggers switched off
        PERFORM shardherd.install_guards();
        PERFORM shardherd.lighten(my_term); -- those that were
    END IF;
    FOR wrong IN SELECT * FROM shardherd.check_guards() LOOP
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('after the script, of %s: %s', wrong.subject, wrong.finding), HINT = wrong.remedy;
    END LOOP;
    INSERT INTO shardherd.migration (id) VALUES (migration_id);
    RETURN true;
END $$;

-- Everything that would make a move fail or lose data, at once: one row per finding with its remedy.
CREATE OR REPLACE FUNCTION shardherd.check_move() RETURNS TABLE (subject text, finding text, remedy text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH d AS (
        SELECT t.name, t.key, c.oid, c.relkind, c.relpersistence, c.relreplident, a.attnum, a.attnotnull, a.attgenerated
        FROM shardherd.tables t
        JOIN pg_class c ON c.oid = to_regclass(t.name)
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = t.key AND NOT a.attisdropped
    ), leaves AS (
        SELECT d.name, d.key, l.relid::oid AS oid FROM d, pg_partition_tree(d.oid) l WHERE d.relkind = 'p'
        UNION SELECT name, key, oid FROM d
    )
    SELECT g.subject, g.finding, g.remedy FROM shardherd.guard_findings() g
    UNION ALL
    SELECT 'server', format('wal_level is %s', current_setting('wal_level')),
           'set wal_level = logical in postgresql.conf and restart the server'
    WHERE current_setting('wal_level') <> 'logical'
    UNION ALL
    SELECT 'server', format('%s = off', s.name), format('set %s = on: a crash would lose what was acknowledged', s.name)
    FROM pg_settings s WHERE s.name IN ('fsync', 'full_page_writes') AND s.setting = 'off'
    UNION ALL
    SELECT 'server', 'no replication slot is free', 'raise max_replication_slots and restart the server'
    WHERE (SELECT count(*) FROM pg_replication_slots) + 4 > current_setting('max_replication_slots')::int
    UNION ALL
    SELECT 'server', 'no WAL sender is free', 'raise max_wal_senders and restart the server'
    WHERE (SELECT count(*) FROM pg_stat_replication) + 3 > current_setting('max_wal_senders')::int
    UNION ALL
    SELECT d.name, format('column %I is gone', d.key), 'name the shard key anew in the specification of the database'
    FROM d WHERE d.attnum IS NULL
    UNION ALL
    SELECT d.name, format('shard key %I may be null', d.key), 'declare it NOT NULL'
    FROM d WHERE NOT d.attnotnull
    UNION ALL
    SELECT d.name, format('shard key %I is a generated column', d.key), 'shard by the column it is generated from'
    FROM d WHERE d.attgenerated <> ''
    UNION ALL
    SELECT d.name, 'the table is unlogged', format('ALTER TABLE %s SET LOGGED', d.name)
    FROM d WHERE d.relpersistence = 'u'
    UNION ALL
    SELECT d.name, 'the table has inheritance children', 'use declarative partitions instead'
    FROM d WHERE d.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = d.oid)
    UNION ALL
    SELECT l.name, format('partition %s is a foreign table', l.oid::regclass), 'detach it: its rows are not on this shard'
    FROM leaves l JOIN pg_class c ON c.oid = l.oid AND c.relkind = 'f'
    UNION ALL
    -- apply compares whole rows then, and stops where a type has no equality (B11)
    SELECT l.name, format('column %I of %s has type %s, which REPLICA IDENTITY FULL cannot compare', a.attname,
                          l.oid::regclass, format_type(a.atttypid, a.atttypmod)),
           format('ALTER TABLE %s REPLICA IDENTITY DEFAULT with a primary key that contains %I', l.oid::regclass, l.key)
    FROM leaves l JOIN pg_class c ON c.oid = l.oid AND c.relreplident = 'f'
    JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE a.atttypid IN ('json'::regtype, 'xml'::regtype, 'point'::regtype, 'line'::regtype, 'lseg'::regtype, 'box'::regtype,
                         'path'::regtype, 'polygon'::regtype, 'circle'::regtype)
    UNION ALL
    -- the identity must contain the key, or UPDATE and DELETE fail on the publisher (B11)
    SELECT l.name, format('the replica identity of %s does not contain the shard key %I', l.oid::regclass, l.key),
           format('make the primary key contain %I, or ALTER TABLE %s REPLICA IDENTITY USING INDEX a unique index that does',
                  l.key, l.oid::regclass)
    FROM leaves l JOIN pg_class c ON c.oid = l.oid
    WHERE c.relkind IN ('r', 'p') AND c.relreplident <> 'f' AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
        WHERE i.indrelid = l.oid AND i.indisvalid AND i.indimmediate AND a.attname = l.key
        AND ((c.relreplident = 'd' AND i.indisprimary) OR (c.relreplident = 'i' AND i.indisreplident)))
    UNION ALL
    SELECT d.name, format('unique index %s does not contain the shard key %I', i.indexrelid::regclass, d.key),
           format('drop it, or add %I to it: what does not contain the shard key cannot be unique across shards', d.key)
    FROM d JOIN pg_index i ON i.indrelid = d.oid AND (i.indisunique OR i.indisexclusion)
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = d.oid AND a.attname = d.key
                      AND a.attnum = ANY (i.indkey::int2[]))
    UNION ALL
    SELECT d.name, format('foreign key %I does not join shard key to shard key', c.conname),
           'let the foreign key contain both tables'' shard keys, in the same place, or drop it'
    FROM d JOIN pg_constraint c ON c.contype = 'f' AND c.conparentid = 0 AND (c.conrelid = d.oid OR c.confrelid = d.oid)
    WHERE NOT EXISTS (
        SELECT FROM d AS a, d AS b, generate_subscripts(c.conkey, 1) AS k
        WHERE a.oid = c.conrelid AND b.oid = c.confrelid AND c.conkey[k] = a.attnum AND c.confkey[k] = b.attnum)
    UNION ALL
    SELECT l.name, format('trigger %I fires in apply workers (ENABLE ALWAYS or REPLICA)', tg.tgname),
           format('ALTER TABLE %s ENABLE TRIGGER %I', l.oid::regclass, tg.tgname)
    FROM leaves l JOIN pg_trigger tg ON tg.tgrelid = l.oid
    WHERE NOT tg.tgisinternal AND tg.tgenabled IN ('A', 'R') AND tg.tgname NOT LIKE 'shardherd\_%'
    UNION ALL
    SELECT d.name, 'another subscription writes to the table', 'drop the subscription, or leave the table out of it'
    FROM d WHERE EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
                         JOIN leaves l ON l.oid = r.srrelid WHERE l.name = d.name AND s.subname NOT LIKE 'shardherd\_%')
    UNION ALL
    SELECT 'transaction ' || p.gid, 'a prepared transaction is open', format('COMMIT or ROLLBACK PREPARED %L', p.gid)
    FROM pg_prepared_xacts p WHERE p.database = current_database()
$$;

-- ---- verification: the same rows on both sides of a move? ----
--
-- A row becomes one 64-bit hash, the same on every server and version: of the values of its columns in the order of
-- their names (the order of the columns, and what was dropped, may differ), without generated ones, which each side
-- makes for itself. Sums of these hashes need no order. There are two forms:
--   fast   hashes of what is stored, column by column; no value becomes text. The seeded hashes of the columns are the
--          seed of the shard key's hash, so what two rows exchange among each other does not cancel in the sum.
--   exact  the hash of the row as text, under pinned settings. A few values can be stored in two ways that read the
--          same (a NaN with a sign, an array that once held nulls): what differs in the fast form is no difference
--          before it differs in this one, too.

-- The server's own hash functions for arguments of any type. They take what they get for what they expect, so they are
-- for column_hash() alone, which knows the types.
CREATE OR REPLACE FUNCTION shardherd.hash_bytes("any", bigint) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashvarlenaextended';
CREATE OR REPLACE FUNCTION shardherd.hash_word("any", bigint) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashint4extended';
CREATE OR REPLACE FUNCTION shardherd.hash_long("any", bigint) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashint8extended';
CREATE OR REPLACE FUNCTION shardherd.upper_half("any", int) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int8shr';
REVOKE ALL ON FUNCTION shardherd.hash_bytes("any", bigint), shardherd.hash_word("any", bigint),
    shardherd.hash_long("any", bigint), shardherd.upper_half("any", int) FROM PUBLIC;

-- The SQL text of the fast hash of a column. hash_long() folds its argument to 32 bits, so it is asked twice. Types whose
-- stored form holds oids (enums, composite types, reg*), or that we do not know, go by their text.
CREATE OR REPLACE FUNCTION shardherd.column_hash(type oid, reference text, seed int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('coalesce(' || CASE
        WHEN b.typname IN ('int2', 'int4', 'date', 'bool', 'float4') THEN 'shardherd.hash_word(%1$s, %2$s)'
        WHEN b.typname IN ('int8', 'float8', 'time', 'timestamp', 'timestamptz', 'money')
        THEN 'shardherd.hash_long(shardherd.upper_half(%1$s, 32), shardherd.hash_long(%1$s, %2$s))'
        WHEN b.typname IN ('text', 'varchar', 'bpchar', 'bytea', 'json', 'jsonb', 'numeric', '_text', '_varchar', '_bpchar',
                           '_bytea', '_numeric', '_int2', '_int4', '_int8', '_bool', '_date', '_timestamp', '_timestamptz',
                           '_float4', '_float8', '_uuid') THEN 'shardherd.hash_bytes(%1$s, %2$s)'
        WHEN b.typname = 'uuid' THEN 'uuid_hash_extended(%1$s, %2$s)'
        ELSE 'hashtextextended(%1$s::text COLLATE "C", %2$s)' END || ', -%2$s)', reference, seed)
    FROM pg_type t
    LEFT JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
        AND b.typtype = 'b' AND b.oid < 10000
    WHERE t.oid = type
$$;

-- The SQL text of the hash of a row of `x`.
CREATE OR REPLACE FUNCTION shardherd.row_hash(table_name text, exact boolean) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN exact THEN format('hashtextextended(ROW(%s)::text COLLATE "C", 0)', c.plain)
        WHEN t.type IN ('text', 'varchar') THEN format('hashtextextended(x.%I COLLATE "C", %s)', t.key, c.hashes)
        WHEN t.type = 'uuid' THEN format('uuid_hash_extended(x.%I, %s)', t.key, c.hashes)
        ELSE format('hashint8extended(x.%I, %s)', t.key, c.hashes) END
    FROM shardherd.tables t, LATERAL (
        SELECT string_agg(format('x.%I', attname), ', ' ORDER BY attname) AS plain,
               string_agg(shardherd.column_hash(atttypid, format('x.%I', attname), place::int), ' # ' ORDER BY attname) AS hashes
        FROM (SELECT a.attname, a.atttypid, row_number() OVER (ORDER BY a.attname) AS place FROM pg_attribute a
              WHERE a.attrelid = t.name::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') p) c
    WHERE t.name::regclass = table_name::regclass
$$;

-- By which columns a row is told from others: those of the primary key, or of the replica identity's index; without
-- either, all rows of one shard key are taken together.
CREATE OR REPLACE FUNCTION shardherd.identity_columns(table_name text) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT array_agg(a.attname::text ORDER BY a.attname) FROM (
            SELECT i.* FROM pg_index i WHERE i.indrelid = t.name::regclass AND i.indisvalid
            AND (i.indisprimary OR i.indisreplident) ORDER BY i.indisprimary DESC LIMIT 1) i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
        ARRAY[t.key])
    FROM shardherd.tables t WHERE t.name::regclass = table_name::regclass
$$;

-- The SQL text of a row's identity: a JSON object of texts, its members in the order of their names.
CREATE OR REPLACE FUNCTION shardherd.row_identity(table_name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('json_build_object(%s)::text', string_agg(format('%L, x.%I::text', name, name), ', ' ORDER BY place))
    FROM unnest(shardherd.identity_columns(table_name)) WITH ORDINALITY AS i(name, place)
$$;

-- What the manager asks first: the columns (equal on both sides, or nothing can be compared), how much there is to
-- read, and the column by whose values the table can be read piece by piece: the first of an index whose order is much
-- that of the heap, so that a piece is read in one go; NULL if there is none.
CREATE OR REPLACE FUNCTION shardherd.verify_table(table_name text)
RETURNS TABLE (columns text, bytes bigint, row_count bigint, cut_column text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attname)
            FROM pg_attribute a WHERE a.attrelid = t.name::regclass AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated = '') || ', rows told by ' || shardherd.identity_columns(t.name)::text,
           s.bytes, s.row_count,
           (SELECT a.attname::text FROM pg_index i
            JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attnotnull
            JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_stats st ON st.schemaname = n.nspname AND st.tablename = c.relname AND st.attname = a.attname
                AND NOT st.inherited
            WHERE i.indrelid = t.name::regclass AND i.indisvalid AND i.indpred IS NULL AND abs(st.correlation) > 0.9
            AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype, 'date'::regtype,
                               'timestamp'::regtype, 'timestamptz'::regtype) -- their order is the same everywhere
            ORDER BY abs(st.correlation) DESC, a.attname LIMIT 1)
    FROM shardherd.tables t, LATERAL (
        SELECT coalesce(sum(pg_table_size(l.relation)), 0)::bigint AS bytes,
               coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint AS row_count
        FROM shardherd.leaves() l JOIN pg_class c ON c.oid = l.relation WHERE l.root = t.name) s
    WHERE t.name::regclass = table_name::regclass
$$;

-- The value of the cut column `row_limit` rows after `cut_after` (NULL: from the first); NULL at the end of the table.
CREATE OR REPLACE FUNCTION shardherd.verify_cut(table_name text, cut_column text, cut_after text, row_limit bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' AS $$
DECLARE
    found text;
BEGIN
    EXECUTE format('SELECT (SELECT x.%1$I FROM %2$s x WHERE %3$s ORDER BY x.%1$I OFFSET %4$s LIMIT 1)::text', cut_column,
                   table_name::regclass,
                   CASE WHEN cut_after IS NULL THEN 'true' ELSE format('x.%I > %L', cut_column, cut_after) END, row_limit)
    INTO found;
    RETURN found;
END $$;

-- SQL texts for the functions below. A bucket is 1/1024 of [range_lo, range_hi], told by the upper 54 bits of the hash
-- (less would not fit into a bigint), so a range of few hashes has fewer buckets. `wanted` names buckets, NULL = all;
-- (cut_after, cut_upto] is a piece of the table, NULL = open.
CREATE OR REPLACE FUNCTION shardherd.verify_texts(table_name text, range_lo bigint, range_hi bigint, wanted int[], cut_column text,
                                                  cut_after text, cut_upto text, OUT bucket text, OUT source text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t shardherd.tables;
    hash text;
BEGIN
    SELECT * INTO STRICT t FROM shardherd.tables WHERE name::regclass = table_name::regclass;
    hash := shardherd.hash_expression(t.type, format('x.%I', t.key));
    bucket := format('((%s >> 10) - %L::bigint) / %L::bigint', hash, range_lo >> 10,
                     ((range_hi >> 10) - (range_lo >> 10)) / 1024 + 1);
    source := format('%s x WHERE (%s)', t.name, shardherd.inside(hash, ARRAY[range_lo], ARRAY[range_hi]));
    IF wanted IS NOT NULL THEN
        source := source || format(' AND %s = ANY (%L::bigint[])', bucket, wanted);
    END IF;
    IF cut_after IS NOT NULL THEN
        source := source || format(' AND x.%I > %L', cut_column, cut_after);
    END IF;
    IF cut_upto IS NOT NULL THEN
        source := source || format(' AND x.%I <= %L', cut_column, cut_upto);
    END IF;
END $$;

-- Rows and checksum of each bucket that has rows.
CREATE OR REPLACE FUNCTION shardherd.verify_buckets(table_name text, exact boolean, range_lo bigint, range_hi bigint,
                                                    wanted int[] DEFAULT NULL, cut_column text DEFAULT NULL,
                                                    cut_after text DEFAULT NULL, cut_upto text DEFAULT NULL)
RETURNS TABLE (bucket bigint, row_count bigint, checksum numeric)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmlbinary = 'base64' SET xmloption = 'content' AS $$
DECLARE
    texts record;
BEGIN
    texts := shardherd.verify_texts(table_name, range_lo, range_hi, wanted, cut_column, cut_after, cut_upto);
    -- no names of our own: a table may have a column of any name
    RETURN QUERY EXECUTE format('SELECT %s, count(*), sum(%s) FROM %s GROUP BY 1', texts.bucket,
                                shardherd.row_hash(table_name, exact), texts.source);
END $$;

-- The same for the 1,024 parts of one bucket, told by the identity of its rows: also the rows of one key can be told
-- apart by them.
CREATE OR REPLACE FUNCTION shardherd.verify_parts(table_name text, exact boolean, range_lo bigint, range_hi bigint,
                                                  one_bucket int, cut_column text DEFAULT NULL, cut_after text DEFAULT NULL,
                                                  cut_upto text DEFAULT NULL)
RETURNS TABLE (part bigint, row_count bigint, checksum numeric)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmlbinary = 'base64' SET xmloption = 'content' AS $$
DECLARE
    texts record;
BEGIN
    texts := shardherd.verify_texts(table_name, range_lo, range_hi, ARRAY[one_bucket], cut_column, cut_after, cut_upto);
    RETURN QUERY EXECUTE format('SELECT hashtextextended(%s COLLATE "C", 0) & 1023, count(*), sum(%s) FROM %s GROUP BY 1',
                                shardherd.row_identity(table_name), shardherd.row_hash(table_name, exact), texts.source);
END $$;

-- The rows of some of these parts, the first row_limit of them.
CREATE OR REPLACE FUNCTION shardherd.verify_rows(table_name text, exact boolean, range_lo bigint, range_hi bigint,
                                                 one_bucket int, parts int[], row_limit bigint, cut_column text DEFAULT NULL,
                                                 cut_after text DEFAULT NULL, cut_upto text DEFAULT NULL)
RETURNS TABLE (identity text, row_count bigint, checksum numeric)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmlbinary = 'base64' SET xmloption = 'content' AS $$
DECLARE
    texts record;
    who text := shardherd.row_identity(table_name);
BEGIN
    texts := shardherd.verify_texts(table_name, range_lo, range_hi, ARRAY[one_bucket], cut_column, cut_after, cut_upto);
    RETURN QUERY EXECUTE format(
        'SELECT * FROM (SELECT %1$s, count(*), sum(%2$s) FROM %3$s '
        'AND hashtextextended(%1$s COLLATE "C", 0) & 1023 = ANY (%4$L::bigint[]) GROUP BY 1) AS q(who, n, s) '
        'ORDER BY who COLLATE "C" LIMIT %5$s',
        who, shardherd.row_hash(table_name, exact), texts.source, parts, row_limit);
END $$;

-- The rows of these identities (a JSON array), found by the index that tells them apart.
CREATE OR REPLACE FUNCTION shardherd.verify_lookup(table_name text, exact boolean, identities jsonb)
RETURNS TABLE (identity text, row_count bigint, checksum numeric)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmlbinary = 'base64' SET xmloption = 'content' AS $$
DECLARE
    members text;
    joined text;
BEGIN
    SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '),
           string_agg(format('x.%I = k.%I', a.attname, a.attname), ' AND ')
    INTO members, joined FROM pg_attribute a
    WHERE a.attrelid = table_name::regclass AND a.attname = ANY (shardherd.identity_columns(table_name)::name[]);
    RETURN QUERY EXECUTE format(
        'SELECT * FROM (SELECT %s, count(*), sum(%s) FROM jsonb_to_recordset($1) AS k(%s) JOIN %s x ON %s GROUP BY 1) '
        'AS q(who, n, s) ORDER BY who COLLATE "C"',
        shardherd.row_identity(table_name), shardherd.row_hash(table_name, exact), members, table_name::regclass, joined)
    USING identities;
END $$;

-- Identities of some rows of [range_lo, range_hi]: of the last two blocks of each heap, where rows that were written
-- lately often are, and of a few blocks that chance takes. Nothing for tables whose rows cannot be told apart.
CREATE OR REPLACE FUNCTION shardherd.verify_sample(table_name text, range_lo bigint, range_hi bigint)
RETURNS TABLE (identity text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' SET lc_monetary = 'C' AS $$
DECLARE
    t shardherd.tables;
    heap record;
    block bigint;
BEGIN
    SELECT * INTO STRICT t FROM shardherd.tables WHERE name::regclass = table_name::regclass;
    IF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t.name::regclass AND indisvalid AND (indisprimary OR indisreplident)) THEN
        RETURN;
    END IF;
    FOR heap IN SELECT l.relation, pg_relation_size(l.relation) / current_setting('block_size')::bigint AS blocks
                FROM shardherd.leaves() l WHERE l.root = t.name ORDER BY 2 DESC LIMIT 4 LOOP
        FOR block IN SELECT DISTINCT n FROM (SELECT heap.blocks - 1 UNION ALL SELECT heap.blocks - 2
                     UNION ALL SELECT floor(random() * heap.blocks)::bigint FROM generate_series(1, 6)) AS b(n) WHERE n >= 0 LOOP
            RETURN QUERY EXECUTE format(
                'SELECT %s FROM ONLY %s x WHERE x.ctid >= ''(%s,0)'' AND x.ctid < ''(%s,0)'' AND (%s) LIMIT 20',
                shardherd.row_identity(t.name), heap.relation::regclass, block, block + 1,
                shardherd.inside(shardherd.hash_expression(t.type, format('x.%I', t.key)), ARRAY[range_lo], ARRAY[range_hi]));
        END LOOP;
    END LOOP;
END $$;

-- Of an earlier version.
DROP FUNCTION IF EXISTS shardherd.buckets(text, bigint, bigint, int, int[]);
