"""The copy of a move: parallel, of every kind of table and type, and what becomes of it when somebody dies in it."""

import os
import re
import signal

import psycopg
import pytest
from conftest import wait_until
from rig import Rig
from test_faults import kill_server, sql, wait_server

pytestmark = pytest.mark.beside

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (a int, b mood);
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CREATE TABLE owners (id bigint PRIMARY KEY, name text);
CREATE TABLE things (
    owner bigint NOT NULL REFERENCES owners, thing bigint GENERATED ALWAYS AS IDENTITY, mood mood, moods mood[],
    pair pair, small small, relation regclass, numbers int[], span int4range, raw bytea, document jsonb, at timestamptz,
    price numeric(20, 4), twice numeric GENERATED ALWAYS AS (price * 2) STORED, gone text,
    PRIMARY KEY (owner, thing));
ALTER TABLE things DROP COLUMN gone;
CREATE INDEX things_mood ON things (mood) WHERE small > 5;
CREATE INDEX things_name ON things (lower(document ->> 'name'));
CREATE TABLE plain (owner bigint NOT NULL, n bigint, filler text, PRIMARY KEY (owner, n));
CREATE TABLE logs (owner bigint NOT NULL, day date NOT NULL, text text, PRIMARY KEY (owner, day))
    PARTITION BY RANGE (day);
CREATE TABLE logs_old PARTITION OF logs FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
CREATE TABLE logs_new PARTITION OF logs FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := upper(NEW.name); RETURN NEW; END';
CREATE TRIGGER loud BEFORE INSERT ON owners FOR EACH ROW EXECUTE FUNCTION loud();
COMMENT ON INDEX things_mood IS 'few';
-- compiling what is in a move's scripts would take longer than running it
CREATE FUNCTION without_jit(n bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN
    IF current_setting('jit')::boolean AND current_setting('application_name') LIKE 'shardherd op=%' THEN
        RAISE EXCEPTION 'a script of a move runs with JIT';
    END IF;
    RETURN n;
END $f$;
CREATE INDEX owners_made ON owners (without_jit(id));
"""
TABLES = [
    {"name": "public.owners", "key": "id"},
    *({"name": f"public.{name}", "key": "owner"} for name in ("things", "plain", "logs")),
]
OWNED = """EXISTS (SELECT FROM shardherd.shard s, unnest(s.los, s.his) AS r(lo, hi)
                   WHERE hashint8extended(i, 0) BETWEEN r.lo AND r.hi)"""
FILL = f"""
INSERT INTO owners SELECT i, 'owner ' || i FROM generate_series(1, 2000) i WHERE {OWNED};
INSERT INTO things (owner, mood, moods, pair, small, relation, numbers, span, raw, document, at, price)
    SELECT i, 'glad', ARRAY['sad', NULL, 'glad']::mood[], ROW(i, 'sad')::pair, i % 1000, 'public.owners'::regclass,
           ARRAY[i, NULL], int4range(i::int, i::int + 3), decode(md5(i::text), 'hex'),
           jsonb_build_object('name', E'\\t\\\\N "' || i), '2026-01-01'::timestamptz + i * interval '1 s', i / 7.0
    FROM generate_series(1, 2000) i WHERE {OWNED};
INSERT INTO things (owner) SELECT i FROM generate_series(1, 2000) i WHERE {OWNED};
INSERT INTO plain SELECT i, n, repeat('x', 600) FROM generate_series(1, 2000) i, generate_series(1, 80) n
    WHERE {OWNED};
INSERT INTO logs SELECT i, d, 'log' FROM generate_series(1, 2000) i, (VALUES ('2024-02-02'::date), ('2026-02-02')) v(d)
    WHERE {OWNED};
"""
ROWS = """SELECT 'owner', o::text FROM owners o UNION ALL SELECT 'thing', t::text FROM things t
          UNION ALL SELECT 'log', l::text FROM logs l UNION ALL SELECT 'plain', md5(p::text) FROM plain p
          ORDER BY 1, 2"""
OBJECTS = """SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal AND tgname !~ '^shardherd'
    UNION ALL SELECT description FROM pg_description d JOIN pg_class c ON c.oid = d.objoid
        WHERE d.classoid = 'pg_class'::regclass AND c.relnamespace = 'public'::regnamespace ORDER BY 1"""


@pytest.fixture
def make(shardherd):
    rigs = []

    def start(**settings):
        rig = Rig(shardherd, f"/tmp/shardherd-copy-{os.getpid()}")
        rigs.append(rig)
        settings = {"max_commit_latency": "off", "max_throughput_loss": 0, **settings}  # however busy the machine is
        rig.settings = [f"moves.{name}={value}" for name, value in settings.items()]
        rig.start()
        rig.make_shop(customers=0, schema=SCHEMA, tables=TABLES)
        for shard in ("s1", "s2"):
            rig.sql(shard, FILL)
        return rig

    yield start
    for rig in rigs:
        rig.clean_up()


def split(rig):
    return rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]


def copying(rig, op_id):
    """Once some rows have come."""

    def look():
        op = rig.operation(op_id)
        assert op["status"] == "running", op
        return op["record"]["state"] == "copy" and int(op["record"]["copy_bytes"]) > 0

    wait_until(look, timeout=60, what="rows to be copied", interval=0.005)


BUILT = """
CREATE FUNCTION said(n bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN
    IF current_setting('application_name') LIKE 'shardherd op=%' THEN
        RAISE LOG 'built with %', current_setting('maintenance_work_mem');
    END IF;
    RETURN n;
END $f$;
CREATE TABLE few (id bigint PRIMARY KEY);
CREATE INDEX few_said ON few (said(id));
"""


@pytest.mark.parametrize(("own", "used"), [(None, 256), ("32MB", 32), ("300MB", 300)])
def test_indexes_are_built_within_the_targets_memory(shardherd, own, used):
    """Two at a time share it; what looks at the table afterwards, alone, has all of it."""
    rig = Rig(shardherd, f"/tmp/shardherd-copy-{os.getpid()}")
    rig.settings.append("moves.build_lanes=2")
    try:
        rig.start()
        rig.make_shop(customers=0, schema=BUILT, tables=[{"name": "public.few", "key": "id"}])
        rig.sql("s2", f"INSERT INTO few SELECT i FROM generate_series(1, 100) i WHERE {OWNED}")
        if own:
            rig.sql("s2", f"ALTER DATABASE shop SET maintenance_work_mem = '{own}'")
        assert rig.wait_operation(split(rig))["status"] == "done"
        log = (rig.state / "instances" / "shop-s3-0" / "log").read_text()
        built = re.findall(r"built with (\w+)", log)
        assert built[0] == f"{used // 2}MB" and set(built) == {f"{used // 2}MB", f"{used}MB"}
    finally:
        rig.clean_up()


def complete(rig, rows, shards=("s2", "s3")):
    moved = [rig.sql(shard, ROWS) for shard in shards]
    assert all(moved), [len(part) for part in moved]
    assert sorted(sum(moved, [])) == rows
    for shard in shards:
        assert rig.sql(shard, "SELECT count(*) FROM pg_replication_origin") == [(0,)]
        assert rig.sql(shard, "SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_A21_D12_every_kind_of_table_and_type(make):
    rig = make()
    rows, objects = rig.sql("s2", ROWS), rig.sql("s2", OBJECTS)
    op = rig.wait_operation(split(rig))
    assert op["status"] == "done", op
    complete(rig, rows)
    assert rig.sql("s3", OBJECTS) == objects
    assert rig.sql("s3", "SELECT count(*) FROM shardherd.post_data") == [(0,)]
    assert rig.sql("s3", "SELECT count(*) FROM pg_stats WHERE tablename = 'plain'")[0][0] > 0  # ANALYZE
    with pytest.raises(psycopg.Error) as refused:
        rig.sql("s3", "INSERT INTO plain SELECT i, 0 FROM generate_series(1, 2000) i")
    assert refused.value.sqlstate == "SHR01"
    assert int(op["record"]["copy_rows"]) == len(rig.sql("s3", ROWS))


@pytest.mark.parametrize("shard", ["s2", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_server_dies_while_copying(make, shard):
    rig = make(copy_rate=4)
    rows = rig.sql("s2", ROWS)
    op_id = split(rig)
    copying(rig, op_id)
    kill_server(rig, shard)
    wait_server(rig, shard)
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op
    complete(rig, rows)


def test_the_manager_dies_while_copying(make):
    rig = make(copy_rate=4)
    rows = rig.sql("s2", ROWS)
    op_id = split(rig)
    copying(rig, op_id)
    rig.process.send_signal(signal.SIGKILL)
    rig.wait_dead()
    assert sql(rig, "s3", "SELECT count(*) FROM plain")  # what was committed stays there
    rig.start()
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op
    complete(rig, rows)


EXPORTED = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL"
ENDED = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'walsender'"


def test_the_session_with_the_snapshot_is_ended(make):
    """The moment it has a snapshot, while those who copy are about to take it: then it is copied under another one."""
    rig = make()
    rows = rig.sql("s2", ROWS)
    with psycopg.connect(rig.dsn("s2"), autocommit=True) as conn:
        op_id = split(rig)
        wait_until(lambda: conn.execute(EXPORTED).fetchone()[0], timeout=60, what="a snapshot", interval=0.0005)
        assert conn.execute(ENDED).fetchone()[0] > 0
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op
    complete(rig, rows)


def test_canceled_while_copying(make):
    rig = make(copy_rate=2)
    rows = rig.sql("s2", ROWS)
    op_id = split(rig)
    copying(rig, op_id)
    rig.post(f"/v1/operations/{op_id}/cancel", {})
    op = rig.wait_operation(op_id, timeout=20)
    assert op["status"] == "undone", op
    complete(rig, rows, ["s2"])
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2"]


def test_A14_no_table_is_rewritten_under_the_copy(make):
    """No event trigger sees VACUUM FULL and CLUSTER; the keeper's lock holds them off until the rows are copied."""
    rig = make(copy_rate=4, copy_lanes=2)
    rows = rig.sql("s2", ROWS)
    op_id = split(rig)
    copying(rig, op_id)
    with psycopg.connect(rig.dsn("s2") + " options='-c lock_timeout=300'", autocommit=True) as conn:
        # from the smallest, which is copied last and may not even be begun
        for statement in ("VACUUM FULL owners", "VACUUM FULL logs_old", "CLUSTER plain USING plain_pkey"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                conn.execute(statement)
    assert rig.operation(op_id)["record"]["state"] == "copy"
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op
    complete(rig, rows)


def test_the_rate_is_kept(make):
    rig = make(copy_rate=4)
    op = rig.wait_operation(split(rig))
    record = op["record"]
    rate = int(record["copy_bytes"]) / (int(record["copy_us"]) / 1e6) / 2**20
    assert rate < 4 * 1.1, record
    assert int(record["copy_bytes"]) > 16 * 2**20, record
