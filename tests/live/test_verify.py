"""The verification of a move: a difference stops it and is named, what is written meanwhile is none; it goes on where it
was, keeps its rate, and looks once more before the fence.

The manager is stopped at an exact place (SHARDHERD_TEST_KILL_AT=stop:<place>), the target is damaged by a session with
a replication origin, which its guards let pass, and the manager goes on.
"""

# ruff: noqa: E501 - SQL texts

import contextlib
import json
import os
import signal
import threading
import time

import psycopg
import pytest
from conftest import TRIED, VERSIONS, pg_bin_dir, wait_until
from rig import Rig
from test_faults import go_on, rig_address, stopped

pytestmark = pytest.mark.beside

SCHEMA = '''
CREATE TABLE things (id bigint PRIMARY KEY, n int NOT NULL, pad text, list int[] DEFAULT '{1,2}');
CREATE TABLE pieces (thing bigint NOT NULL, "Part ""no""" int NOT NULL, note text, PRIMARY KEY (thing, "Part ""no"""));
CREATE TABLE loose (thing bigint NOT NULL, n int);
ALTER TABLE loose REPLICA IDENTITY FULL;
'''
TABLES = [
    {"name": "public.things", "key": "id"},
    *({"name": f"public.{n}", "key": "thing"} for n in ("pieces", "loose")),
]
ROWS = 6000
OWNED = """EXISTS (SELECT FROM shardherd.shard s, unnest(s.los, s.his) AS r(lo, hi)
                   WHERE hashint8extended(i, 0) BETWEEN r.lo AND r.hi)"""
SECRET = "eye of newt"
FILL = f"""
INSERT INTO things SELECT i, i, repeat('{SECRET} ', 40) FROM generate_series(1, {{rows}}) i WHERE {OWNED};
INSERT INTO pieces SELECT i, p, '{SECRET}' FROM generate_series(1, {{rows}}, 10) i, generate_series(1, 3) p WHERE {OWNED};
INSERT INTO loose SELECT i, i FROM generate_series(1, {{rows}}, 10) i, generate_series(1, 2) WHERE {OWNED};
ANALYZE things; ANALYZE pieces; ANALYZE loose
"""


@pytest.fixture
def make(shardherd):
    rigs = []

    def start(rows=ROWS, pg_bin=None, shop=False, **settings):
        rig = Rig(shardherd, f"/tmp/shardherd-verify-{os.getpid()}", pg_bin=pg_bin)
        rigs.append(rig)
        rig.settings = [f"moves.{name}={value}" for name, value in settings.items()]
        rig.start()
        if shop:
            rig.make_shop(customers=2000)
        else:
            rig.make_shop(customers=0, schema=SCHEMA, tables=TABLES)
            for shard in ("s1", "s2"):
                rig.sql(shard, FILL.format(rows=rows))
        return rig

    yield start
    for rig in rigs:
        with contextlib.suppress(ProcessLookupError):
            rig.process.send_signal(signal.SIGCONT)
        rig.clean_up()


def begin(rig):
    return rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]


class StoppedAt:
    """A split whose manager stands still at `place`."""

    def __init__(self, rig, place):
        self.rig = rig
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": f"stop:{place}"})
        self.asking = threading.Thread(target=self.ask, daemon=True)
        self.asking.start()
        wait_until(lambda: stopped(rig), timeout=60, what=f"the manager to reach {place}")

    def ask(self):
        self.id = begin(self.rig)

    def go_on(self):
        go_on(self.rig)
        self.asking.join(30)
        return self.rig.wait_operation(self.id)


def damage(rig, *statements, shard="s3"):
    """As somebody could whom no guard stops."""
    with psycopg.connect(rig_address(rig, shard), autocommit=True) as conn:
        conn.execute("SELECT pg_replication_origin_create('damage')")
        conn.execute("SELECT pg_replication_origin_session_setup('damage')")
        for statement in statements:
            assert conn.execute(statement).rowcount > 0, statement
        conn.execute("SELECT pg_replication_origin_session_reset()")
        conn.execute("SELECT pg_replication_origin_drop('damage')")


def the_move_went_back(rig, ended):
    assert ended["status"] == "undone" and ended["error"]["code"] == "corrupt", ended
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2"]
    rig.assert_consistent()
    for text in (json.dumps(ended), rig.log.read_text()):
        assert "newt" not in text  # what is in a row is told nowhere


DAMAGES = {
    "byte": ("UPDATE things SET pad = overlay(pad placing '!' from 99) WHERE id = (SELECT id FROM things ORDER BY id OFFSET 40 LIMIT 1)", "things", "is not the same"),
    "null": ("UPDATE pieces SET note = NULL WHERE thing = (SELECT max(thing) FROM pieces) AND \"Part \"\"no\"\"\" = 2", "pieces", "is not the same"),
    "missing": ("DELETE FROM pieces WHERE thing = (SELECT max(thing) FROM pieces) AND \"Part \"\"no\"\"\" = 2", "pieces", "is missing on s3"),
    "extra": ("INSERT INTO pieces SELECT max(thing), 99 FROM pieces", "pieces", "is on s3, but not on s2"),
    "twice": ("INSERT INTO loose SELECT * FROM loose WHERE thing = (SELECT max(thing) FROM loose) LIMIT 1", "loose", "2 times on s2, 3 times on s3"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_a_difference_stops_the_move(make, what):
    rig = make()
    statement, table, said = DAMAGES[what]
    split = StoppedAt(rig, "move:before:verify")
    damage(rig, statement)
    with psycopg.connect(rig_address(rig, "s3")) as conn:
        keys = {
            "byte": "SELECT id::text, NULL FROM things ORDER BY things.id OFFSET 40 LIMIT 1",
            "extra": "SELECT max(thing)::text, '99' FROM pieces",
            "twice": "SELECT max(thing)::text, NULL FROM loose",
        }
        thing, part = conn.execute(keys.get(what, "SELECT max(thing)::text, '2' FROM pieces")).fetchone()
    ended = split.go_on()
    the_move_went_back(rig, ended)
    key = "id" if table == "things" else "thing"
    name = {key: thing} if part is None else {'Part "no"': part, key: thing}
    assert ended["error"]["message"].startswith(f"public.{table} differs in bucket "), ended["error"]
    (finding,) = ended["findings"]
    assert finding["subject"] == f"public.{table}" and said in finding["finding"], finding
    assert json.loads(finding["finding"].split(said)[0].replace(" is there", "")) == name, finding
    assert finding["finding"] in ended["error"]["message"]
    assert begin(rig) and rig.wait_operation(rig.operations()[-1]["id"])["status"] == "done"  # it was T's fault


@pytest.mark.parametrize("version", TRIED, ids=lambda version: f"pg{version}")
def test_each_version(make, version):
    if pg_bin_dir(version) is None:
        pytest.skip(f"PostgreSQL {version} is not installed (scripts/install-deps gets it)")
    rig = make(pg_bin=pg_bin_dir(version))
    split = StoppedAt(rig, "move:before:verify")
    damage(rig, "UPDATE things SET pad = overlay(pad placing '!' from 99) WHERE id = (SELECT max(id) FROM things)")
    the_move_went_back(rig, split.go_on())
    ended = rig.wait_operation(begin(rig))
    assert ended["status"] == "done", ended
    record = ended["record"]
    assert record["verified_tables"] == "3" and record["buckets_in_motion"] == "0", record
    assert int(record["verified_rows"]) == int(record["copy_rows"]), record
    assert record["verified_bytes"] == record["verify_bytes"] != "0", record
    assert int(record["verified_buckets"]) > 1000 and int(record["rechecked_rows"]) > 10, record
    rig.assert_consistent()


def test_what_reads_the_same_is_the_same(make):
    """A value that can be stored in two ways: the fast form of the checksum differs, the exact one does not."""
    rig = make()
    split = StoppedAt(rig, "move:before:verify")
    damage(rig, "UPDATE things SET list = ('{NULL,1,2}'::int[])[2:3]")
    ended = split.go_on()
    assert ended["status"] == "done", ended
    assert ended["record"]["verified_rows"] == ended["record"]["copy_rows"], ended["record"]
    assert rig.sql("s3", "SELECT DISTINCT list FROM things") == [([1, 2],)]


def test_other_columns_are_told(make):
    rig = make()
    split = StoppedAt(rig, "move:before:verify")
    with psycopg.connect(rig_address(rig, "s3"), autocommit=True) as conn:
        conn.execute("SET shardherd.operation = 'test'")  # DDL is frozen
        conn.execute("ALTER TABLE pieces ALTER note TYPE varchar(99)")
    ended = split.go_on()
    assert ended["status"] == "undone" and ended["error"]["code"] == "refused", ended
    assert "public.pieces is not the same table on s2 (" in ended["error"]["message"], ended


def test_many_rows_differ(make):
    """Of all that are wrong some are named, and how many more there are of the part that was looked at."""
    rig = make()
    split = StoppedAt(rig, "move:before:verify")
    damage(rig, "UPDATE things SET n = n + 1")
    ended = split.go_on()
    the_move_went_back(rig, ended)
    assert 1 <= len(ended["findings"]) <= 100, ended
    assert all("is not the same on s2 and s3" in f["finding"] for f in ended["findings"])


def test_under_load_nothing_is_a_difference(make):
    rig = make(shop=True)
    rig.start_load("--clients", "8", "--rate", "2500")
    for _ in range(3):
        ended = rig.wait_operation(begin(rig))
        assert ended["status"] == "done", ended
        body = {"kind": "merge", "shard": ended["record"]["target"], "target": "s2", "bake": "0s"}
        ended = rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"])
        assert ended["status"] == "done", ended
    result = rig.stop_load()
    assert result["acked_writes"] > 1000
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()


@pytest.mark.parametrize("skew", ["uniform", pytest.param("zipf:0.99", marks=pytest.mark.slow)])
def test_under_load_a_difference_is_found(make, skew):
    """Also in the bucket that is written most: no write of the load touches that row."""
    rig = make(shop=True)
    rig.start_load("--clients", "8", "--rate", "1500", "--skew", skew)
    split = StoppedAt(rig, "move:before:verify")
    damage(
        rig,
        "INSERT INTO orders (customer_id, order_id) SELECT customer_id, -5 FROM customers ORDER BY version DESC LIMIT 1",
    )
    ended = split.go_on()
    result = rig.stop_load()
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    the_move_went_back(rig, ended)
    assert '"order_id" : "-5"} is on s3, but not on s2' in ended["error"]["message"], ended


def test_once_more_before_the_fence(make):
    """What goes wrong for many rows after the verification is noticed; the gate is closed by then."""
    rig = make()
    split = StoppedAt(rig, "move:before:recheck")
    damage(rig, "UPDATE things SET n = n + 1 WHERE n % 2 = 0")
    ended = split.go_on()
    the_move_went_back(rig, ended)
    assert "looked at once more before the fence" in ended["error"]["message"], ended


def verifying(rig, op_id, rows=0):
    def look():
        op = rig.operation(op_id)
        assert op["status"] == "running", op
        return op["record"]["state"] == "verify" and int(op["record"]["verified_rows"]) > rows and op

    return wait_until(look, timeout=60, what="rows to be verified", interval=0.005)


def test_a_killed_manager_goes_on_where_it_was(make):
    rig = make(rows=60000, verify_rate=2)
    op_id = begin(rig)
    seen = verifying(rig, op_id, 3000)
    assert 0.87 < seen["progress"] < 0.92
    wait_until(lambda: int(rig.operation(op_id)["record"]["verified_rows"]) > 8000, timeout=60, what="more of them")
    rig.process.send_signal(signal.SIGKILL)
    rig.wait_dead()
    rig.start()
    again = verifying(rig, op_id)
    assert int(again["record"]["verified_rows"]) > 3000, again["record"]  # what the journal had, at most a second old
    ended = rig.wait_operation(op_id)
    assert ended["status"] == "done", ended
    assert '"verification goes on"' in rig.log.read_text()
    assert ended["record"]["verified_rows"] == ended["record"]["copy_rows"], ended["record"]  # each once
    rig.assert_consistent()


def test_a_server_that_dies_meanwhile(make):
    rig = make(rows=60000, verify_rate=2)
    op_id = begin(rig)
    verifying(rig, op_id, 3000)
    for shard in ("s2", "s3"):
        rig.sql(
            shard, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shardherd op=%'"
        )
    ended = rig.wait_operation(op_id)
    assert ended["status"] == "done", ended
    assert ended["record"]["verified_rows"] == ended["record"]["copy_rows"], ended["record"]


def test_a_difference_in_a_later_piece(make):
    rig = make(rows=60000, verify_rate=4)
    split = StoppedAt(rig, "move:before:verify")
    damage(rig, "DELETE FROM things WHERE id = (SELECT max(id) FROM things)")
    ended = split.go_on()
    the_move_went_back(rig, ended)
    assert "is missing on s3" in ended["error"]["message"], ended
    assert 0 < int(ended["record"]["verified_rows"]) < int(ended["record"]["copy_rows"]), ended["record"]


@pytest.mark.slow
def test_the_rate_is_kept_and_no_snapshot_is_held_for_long(make):
    rig = make(rows=60000, verify_rate=4)
    op_id = begin(rig)
    began, oldest = time.monotonic(), 0.0
    verifying(rig, op_id)
    with psycopg.connect(rig.dsn("s2"), autocommit=True) as conn:
        while rig.operation(op_id)["record"]["state"] == "verify":
            (age,) = conn.execute(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float FROM pg_stat_activity "
                "WHERE query LIKE '%verify_buckets%' AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
            ).fetchone()
            oldest = max(oldest, age)
    took = time.monotonic() - began
    record = rig.wait_operation(op_id)["record"]
    size = int(record["verify_bytes"]) / 2**20
    assert size > 12, size
    assert took > size / 4 * 0.8, (took, size)
    assert oldest < took / 3, (oldest, took)


def test_canceled_while_verifying(make):
    rig = make(rows=60000, verify_rate=1)
    op_id = begin(rig)
    verifying(rig, op_id)
    rig.post(f"/v1/operations/{op_id}/cancel", {})
    ended = rig.wait_operation(op_id, timeout=20)
    assert ended["status"] == "undone", ended
    rig.assert_consistent()


def test_from_15_to_18(make):
    """A target of another major version has the same sums, and a byte that differs is found there, too."""
    old, new = VERSIONS[0], VERSIONS[-1]
    if old == new or pg_bin_dir(old) is None or pg_bin_dir(new) is None:
        pytest.skip("two versions are needed (scripts/install-deps gets them)")
    rig = make(pg_bin=pg_bin_dir(old))
    rig.pg_bin = pg_bin_dir(new)
    split = StoppedAt(rig, "move:before:verify")
    damage(rig, "UPDATE things SET pad = overlay(pad placing '!' from 99) WHERE id = (SELECT max(id) FROM things)")
    the_move_went_back(rig, split.go_on())
    ended = rig.wait_operation(begin(rig))
    assert ended["status"] == "done", ended
    major = "SELECT current_setting('server_version_num')::int / 10000"
    assert [rig.sql(shard, major)[0][0] for shard in ("s2", "s3")] == [old, new]
    rig.assert_consistent()
