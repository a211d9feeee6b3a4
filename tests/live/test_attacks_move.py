"""Attacks on the manager's own moves: on the order of its steps, its sessions, and what it asks again.

One version in CI, the distribution's; all of them with SHARDHERD_TEST_FULL. docs/protocol/attacks.md has the table.
"""

import contextlib
import os
import threading
import time

import psycopg
import pytest
from conftest import DEFAULT, VERSIONS, pg_bin_dir, wait_until
from rig import Problem, Rig
from test_faults import go_on, kill_server, rig_address, sql, stopped, wait_server

pytestmark = pytest.mark.waits

CUSTOMERS = 1500
FULL = bool(os.environ.get("SHARDHERD_TEST_FULL"))
SPLIT = {"kind": "split", "shard": "s2", "bake": "0s"}


@pytest.fixture(scope="module", params=VERSIONS if FULL else (DEFAULT,), ids=lambda version: f"pg{version}")
def rig(request, shardherd):
    """Two shards with rows; each test leaves two."""
    if pg_bin_dir(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} is not installed (scripts/install-deps gets it)")
    made = Rig(shardherd, f"/tmp/shardherd-attacks-{os.getpid()}", pg_bin=pg_bin_dir(request.param))
    try:
        made.start()
        made.make_shop(customers=CUSTOMERS)
        yield made
    finally:
        go_on(made) if made.process else None
        made.clean_up()


def two_shards_again(rig):
    """Whatever the test left, or a test that failed: nothing of it is for the next one."""
    if rig.loading and rig.loading.poll() is None:
        rig.loading.kill()
        rig.loading.communicate()
    if rig.process:
        go_on(rig)
    rig.stop()
    rig.start()
    for op in rig.operations():
        if op["status"] == "running":
            with contextlib.suppress(Problem):  # behind its fence it can only go forward
                rig.post("/v1/operations/" + op["id"] + "/cancel", {})
            rig.wait_operation(op["id"])
    for shard in rig.routing()["shards"]:
        if shard["name"] not in ("s1", "s2"):
            body = {"kind": "merge", "shard": shard["name"], "target": "s2", "bake": "0s"}
            assert rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"])["status"] == "done"


@pytest.fixture(autouse=True)
def two_shards(rig):
    yield
    two_shards_again(rig)
    rig.assert_consistent()


class Move:
    """A split of s2 that stands still at `place`; load: clients write meanwhile."""

    def __init__(self, rig, place, load=True, body=SPLIT):
        self.rig, self.load, self.id, self.body = rig, load, None, body
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": f"stop:{place}"})
        if load:
            rig.start_load("--clients", "6", "--rate", "500", "--op-timeout", "20s", "--give-up", "60s")
        self.asking = threading.Thread(target=self.ask, daemon=True)  # the answer may come only after it goes on
        self.asking.start()
        wait_until(lambda: stopped(rig), timeout=60, what=f"the manager to reach {place}")

    def ask(self):
        self.id = self.rig.post("/v1/databases/shop/operations", self.body)["id"]

    def go_on(self):
        go_on(self.rig)
        self.asking.join(30)

    def error(self, *words):
        """Waits until the operation tells of a hindrance."""

        def look():
            said = self.rig.operation(self.id)["record"]["error"] or ""
            return all(word in said for word in words)

        wait_until(look, timeout=60, what=f"an error with {words}")

    def end(self, status="done"):
        ended = self.rig.wait_operation(self.id, timeout=180)
        assert ended["status"] == status, ended
        if self.load:
            result = self.rig.stop_load(timeout=180)
            assert result["acked_writes"] > 0
            assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
            assert result["abandoned_writes"] == 0, result
            return ended, result
        return ended, None


def slot_of_move(rig):
    ((name,),) = sql(rig, "s2", "SELECT slot_name::text FROM pg_replication_slots WHERE NOT temporary")
    return name


# ---- sessions ----

HOSTILE = {
    "synchronous_commit": "off",
    "search_path": "nowhere",
    "session_replication_role": "replica",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "row_security": "on",
    "statement_timeout": "'20s'",
}


def test_A4_what_a_role_has_for_defaults(rig):
    """A fence that was acknowledged survives the death of S in the next moment, though the role's commits do not wait
    for the disk and the WAL writer sleeps; and none of the other defaults reaches a move."""
    admin = rig_address(rig, "s2") + " options='-c default_transaction_read_only=off'"
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        conn.execute("ALTER SYSTEM SET autovacuum = off")
        conn.execute("SELECT pg_reload_conf()")
        for name, value in HOSTILE.items():
            conn.execute(f"ALTER ROLE shardherd SET {name} = {value}")
    try:
        move = Move(rig, "move:after:commit", load=False)
        kill_server(rig, "s2")
        move.go_on()
        wait_server(rig, "s2")
        move.end()
    finally:
        with psycopg.connect(admin, autocommit=True) as conn:
            conn.execute("ALTER ROLE shardherd RESET ALL")
            conn.execute("ALTER SYSTEM RESET wal_writer_delay")
            conn.execute("ALTER SYSTEM RESET autovacuum")
            conn.execute("SELECT pg_reload_conf()")


# ---- slot, publication, left-over rows ----


def test_A12_the_slot_is_lost(rig):
    """Nothing is made in its place: no fence comes about, and the move can be taken back."""
    move = Move(rig, "move:after:verify")
    name = slot_of_move(rig)

    def lose():
        try:
            sql(
                rig,
                "s2",
                f"SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{name}'",
            )
            sql(rig, "s2", f"SELECT pg_drop_replication_slot('{name}')")
        except psycopg.errors.ObjectInUse:
            return False
        return True

    wait_until(lose, what="the slot to be dropped")
    move.go_on()
    move.error("marker")
    assert rig.operation(move.id)["state"] == "rehearse"
    assert sql(rig, "s2", "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary") == [(0,)]
    rig.post(f"/v1/operations/{move.id}/cancel", {})
    move.end("undone")


def test_A13_the_publication_is_made_anew(rig):
    """By somebody else, under the same name: changes of meanwhile may be lost without an error, so it ends there."""
    move = Move(rig, "move:after:verify")
    name = slot_of_move(rig)
    sql(rig, "s2", f"DROP PUBLICATION {name}")
    before = sql(rig, "s2", "SELECT sum(version) FROM customers")
    wait_until(lambda: sql(rig, "s2", "SELECT sum(version) FROM customers") != before, what="writes")
    sql(rig, "s2", f"CREATE PUBLICATION {name} FOR TABLE customers, orders, shardherd.{name}")
    move.go_on()
    ended, _ = move.end("undone")
    assert "the publication was dropped or made anew" in ended["record"]["error"], ended


def test_A15_rows_that_an_older_move_left(rig):
    """The target holds a row of the range that is gone on the source: it does not come back."""
    of_range = (
        "SELECT n FROM generate_series(5000000, 5001000) n WHERE hashint8extended(n, 0) > 4611686018427387904 LIMIT 1"
    )
    op = rig.post("/v1/databases/shop/operations", SPLIT)
    assert rig.wait_operation(op["id"])["status"] == "done"
    ((key,),) = rig.sql("s2", of_range)
    with pytest.raises(psycopg.Error) as refused:
        rig.sql("s2", f"INSERT INTO customers (customer_id) VALUES ({key})")
    assert refused.value.sqlstate == "SHR01"
    with psycopg.connect(rig.dsn("s2"), autocommit=True) as conn:
        conn.execute("SELECT shardherd.install_guards()")  # as in a move: light ones let nobody pass
        conn.execute("SELECT pg_replication_origin_create('older')")
        conn.execute("SELECT pg_replication_origin_session_setup('older')")
        conn.execute(f"INSERT INTO customers (customer_id) VALUES ({key})")
        conn.execute(f"INSERT INTO orders (customer_id, order_id) VALUES ({key}, 1)")
        conn.execute("SELECT pg_replication_origin_session_reset()")
        conn.execute("SELECT pg_replication_origin_drop('older')")
    assert rig.sql("s2", f"SELECT count(*) FROM customers WHERE customer_id = {key}") == [(1,)]
    body = {"kind": "merge", "shard": "s3", "target": "s2", "bake": "0s"}
    assert rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"])["status"] == "done"
    for table in ("customers", "orders"):
        assert rig.sql("s2", f"SELECT count(*) FROM {table} WHERE customer_id = {key}") == [(0,)]


# ---- what makes it wait ----


def test_B3_a_reader_for_update_on_the_target(rig):
    """Apply waits for it, so the fence is taken back in time, again and again; when it goes the move goes on."""
    move = Move(rig, "move:after:rehearse")
    with psycopg.connect(rig_address(rig, "s3")) as reader:
        reader.execute("SELECT FROM customers FOR UPDATE")
        sql(rig, "s2", "UPDATE customers SET version = version")  # so that something of these rows is to be applied
        move.go_on()
        move.error("marker")
        before = sql(rig, "s2", "SELECT sum(version) FROM customers")
        wait_until(lambda: sql(rig, "s2", "SELECT sum(version) FROM customers") != before, what="writers to go on")
        assert rig.operation(move.id)["state"] in ("rehearse", "fence")
        reader.rollback()
    ended, result = move.end()
    assert int(ended["record"]["fence_attempts"]) > 1, ended
    assert result["longest_write_gap_ms"] < 2000, result


def test_B8_the_manager_dies_while_it_waits_for_a_slot(rig):
    """A slot waits for every open transaction. The backend that waited for it ends with its manager, and the next one
    makes one slot, when the transaction has ended."""
    rig.sql("s2", "CREATE TABLE other (n int)")
    try:
        with psycopg.connect(rig_address(rig, "s2")) as writer:
            writer.execute("INSERT INTO other VALUES (1)")
            move_id = rig.post("/v1/databases/shop/operations", SPLIT)["id"]
            half = "SELECT active_pid FROM pg_replication_slots WHERE NOT temporary AND confirmed_flush_lsn IS NULL"
            first = wait_until(lambda: sql(rig, "s2", half), timeout=60, what="the slot to be begun")
            rig.process.kill()
            rig.process.wait()
            rig.start()
            wait_until(
                lambda: len(now := sql(rig, "s2", half)) == 1 and now != first,
                timeout=60,
                what="one slot to be begun again",
            )
            assert rig.operation(move_id)["status"] == "running"
            writer.commit()
        assert rig.wait_operation(move_id)["status"] == "done"
    finally:
        for shard in rig.routing()["shards"]:
            if shard["name"] != "s1":
                rig.sql(shard["name"], "DROP TABLE IF EXISTS other")


def test_B14_row_level_security_that_holds_for_the_owner(shardherd, rig):
    """The application's role owns the tables and is held to their policies; copy and apply are not."""
    version = max(VERSIONS) if not FULL else int(rig.sql("s1", "SHOW server_version_num")[0][0]) // 10000
    if version < 16:
        pytest.skip("up to 15 apply works as the owner of the subscription anyway")
    secured = Rig(shardherd, f"/tmp/shardherd-attacks-rls-{os.getpid()}", pg_bin=pg_bin_dir(version))
    try:
        secured.start()
        secured.make_shop(customers=500)
        for shard in ("s1", "s2"):
            for table in ("customers", "orders"):  # after the rows, which come by COPY
                secured.sql(shard, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
                secured.sql(shard, f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
                secured.sql(shard, f"CREATE POLICY all_rows ON {table} USING (true)")
        forced = "SELECT bool_and(relforcerowsecurity AND relowner <> 10) FROM pg_class WHERE relkind = 'r' AND "
        forced += "relname IN ('customers', 'orders')"
        assert secured.sql("s2", forced) == [(True,)]
        secured.start_load("--clients", "4", "--rate", "300")
        op = secured.wait_operation(secured.post("/v1/databases/shop/operations", SPLIT)["id"], timeout=60)
        result = secured.stop_load()
        assert op["status"] == "done", op
        assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
        assert secured.sql("s3", forced) == [(True,)]
        secured.assert_consistent()
    finally:
        secured.clean_up()


def test_A3_strict_clients_through_a_move(rig):
    """They take "0 rows" as an answer, and may: no shard says so of a row that another has."""
    rig.start_load("--clients", "6", "--rate", "600", "--strict")
    time.sleep(1)
    op = rig.post("/v1/databases/shop/operations", SPLIT)
    assert rig.wait_operation(op["id"])["status"] == "done"
    result = rig.stop_load()
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
