"""What may break while a shard is split under load: servers, workers, connections, the manager itself, other users.

The manager is stopped (SIGSTOP) at an exact place of the move by SHARDHERD_TEST_KILL_AT=stop:<place>, the fault is
made, and the manager goes on. Whatever the fault, the move ends, nothing acknowledged is lost, nothing is left over.
SHARDHERD_TEST_FULL runs every combination, else some.
"""

import contextlib
import http.client
import os
import re
import signal
import threading
import time

import psycopg
import pytest
from conftest import _children, _pid_gone, wait_until
from places import CELLS
from rig import Rig

pytestmark = pytest.mark.waits

CUSTOMERS = 2000
FULL = bool(os.environ.get("SHARDHERD_TEST_FULL"))
FEW = bool(os.environ.get("SHARDHERD_TEST_PLACES"))  # the matrix has a run of its own
kept = []  # the rig that the next test may use


@pytest.fixture
def rig(shardherd):
    """Two shards with rows; shared by tests as long as each leaves it as it should be."""
    if not kept:
        made = Rig(shardherd, f"/tmp/shardherd-faults-{os.getpid()}")
        kept.append(made)
        made.servers = []
        made.start()
        made.make_shop(customers=CUSTOMERS)
    rig = kept[0]
    rig.fine = False
    try:
        yield rig
        if rig.fine:
            merge_back(rig)
    finally:
        if not rig.fine:
            drop()


@pytest.fixture(scope="module", autouse=True)
def at_the_end():
    yield
    drop()


def drop():
    while kept:
        with contextlib.suppress(ProcessLookupError):
            os.kill(kept[0].process.pid, signal.SIGCONT)
        kept.pop().clean_up()


def merge_back(rig):
    for shard in rig.routing()["shards"]:
        if shard["name"] not in ("s1", "s2"):
            body = {"kind": "merge", "shard": shard["name"], "target": "s2", "bake": "0s"}
            assert rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"])["status"] == "done"


# ---- a split that stands still at an exact place ----


def stopped(rig):
    return open(f"/proc/{rig.process.pid}/stat").read().rsplit(")", 1)[1].split()[0] == "T"


def go_on(rig):
    rig.process.send_signal(signal.SIGCONT)


class Split:
    """Load runs, a split began, and the manager stands still at `place`."""

    def __init__(self, rig, place=None):
        self.rig = rig
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": f"stop:{place}"} if place else {})
        rig.start_load("--clients", "6", "--rate", "600", "--op-timeout", "20s", "--give-up", "60s")
        written = "SELECT sum(version) FROM customers"
        before = rig.sql("s2", written)
        wait_until(lambda: rig.sql("s2", written) != before, timeout=60, what="writes")
        if place is None:
            self.id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]
            return
        # the answer may come only after the manager goes on
        self.asking = threading.Thread(target=self.ask, daemon=True)
        self.asking.start()
        wait_until(lambda: stopped(rig), timeout=60, what=f"the manager to reach {place}")

    def ask(self):
        self.id = self.rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]

    def go_on(self):
        go_on(self.rig)
        self.asking.join(30)

    def end(self, status="done"):
        ended = self.rig.wait_operation(self.id, timeout=180)
        result = self.rig.stop_load(timeout=180)
        assert ended["status"] == status, ended
        assert result["acked_writes"] > 0
        assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
        assert result["abandoned_writes"] == 0, result  # every client found its way to the owner
        self.rig.assert_consistent()
        self.rig.fine = True
        return ended, result


# ---- servers of the rig ----


def data_of(rig, shard):
    return rig.state / "instances" / f"shop-{shard}-0" / "data"


def kill_server(rig, shard):
    """The postmaster and all of its children, as a dead machine would."""
    postmaster = int((data_of(rig, shard) / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)  # no new child while we count them
    pids = [postmaster, *_children(postmaster)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(_pid_gone(pid) for pid in pids), what="a killed server to go")


def wait_server(rig, shard):
    """The manager starts it again."""
    address = rig_address(rig, shard)
    wait_until(lambda: answers(address), timeout=60, what=f"server of {shard}")


def rig_address(rig, shard):
    """Like rig.dsn(), but also while the manager stands still."""
    directory = rig.state / "instances" / f"shop-{shard}-0"
    (port,) = re.findall(r"(?m)^port = (\d+)$", (directory / "shardherd.conf").read_text())
    password = (directory / "password").read_text().strip()
    return f"host=127.0.0.1 port={port} dbname=shop user=shardherd password={password}"


def answers(address):
    try:
        psycopg.connect(address, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def sql(rig, shard, text):
    with psycopg.connect(rig_address(rig, shard), autocommit=True) as conn:
        cursor = conn.execute(text)
        return cursor.fetchall() if cursor.description else []


# ---- servers, workers and connections die ----

PLACES = ["move:after:subscribe", "move:after:verify", "move:before:commit", "move:after:commit", "move:after:open"]
BEFORE_TARGET = [
    "move:state:check",
    "move:before:check",
    "move:after:check",
    "move:state:target",
    "move:before:provision",
]
KILLS = [
    (shard, place) for shard in ("s2", "s3") for place in CELLS if shard == "s2" or place not in BEFORE_TARGET
]  # fmt: skip
SOME_KILLS = [("s2", PLACES[2]), ("s2", PLACES[3]), ("s3", PLACES[0]), ("s3", PLACES[3])]


@pytest.mark.parametrize(("shard", "place"), KILLS if FULL and not FEW else SOME_KILLS)
def test_D11_server_killed_and_back(rig, shard, place):
    split = Split(rig, place)
    kill_server(rig, shard)
    split.go_on()
    wait_server(rig, shard)
    split.end()


TERMINATE = {
    "walsender": ("s2", "backend_type = 'walsender'"),
    "apply worker": ("s3", "backend_type = 'logical replication worker'"),
    "our sessions on the source": ("s2", "application_name LIKE 'shardherd op=%'"),
    "our sessions on the target": ("s3", "application_name LIKE 'shardherd op=%'"),
}


@pytest.mark.parametrize("what", [[name] for name in TERMINATE] if FULL else [list(TERMINATE)], ids=" ".join)
def test_backend_terminated_before_the_fence(rig, what):
    split = Split(rig, "move:after:verify")
    for shard, which in (TERMINATE[name] for name in what):
        ended = sql(rig, shard, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {which}")
        assert ended or len(what) > 1, f"no {what}"  # one death may have ended the next one already
        assert all(done for (done,) in ended)
    split.go_on()
    split.end()


@pytest.mark.parametrize("place", ["move:before:commit", "move:after:lock", "move:after:fence"][: 3 if FULL else 1])
def test_B17_backend_of_the_fence_terminated(rig, place):
    split = Split(rig, place)
    holders = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks "
        "WHERE relation = 'public.orders'::regclass AND mode = 'ShareRowExclusiveLock' AND granted)"
    )
    assert sql(rig, "s2", holders) == [(True,)]
    split.go_on()
    ended, _ = split.end()
    assert int(ended["record"]["fence_attempts"]) > 1, ended


@pytest.mark.parametrize("place", ["move:before:commit", "move:after:lock"][: 2 if FULL else 1])
def test_B2_manager_silent_inside_the_fence(rig, place):
    """The server itself ends the fence of a manager that says nothing; writers go on long before it comes back."""
    split = Split(rig, place)
    started = time.monotonic()
    assert sql(rig, "s2", "SET lock_timeout = '8s'; UPDATE customers SET email = email WHERE customer_id = "
               "(SELECT customer_id FROM customers LIMIT 1)") == []  # fmt: skip
    waited = time.monotonic() - started
    assert waited < 5, f"a writer waited for {waited:.1f} s"
    time.sleep(max(0.0, 10 - waited))
    split.go_on()
    split.end()


def test_manager_silent_between_the_commits(rig):
    """The opening that was prepared on T is not to be seen, T ends it by itself, and then it is done anew. Writers of
    the range that stays are not held for long."""
    split = Split(rig, "move:after:commit")
    opened = "SELECT move FROM shardherd.gate WHERE open"
    assert sql(rig, "s3", opened) == []
    started = time.monotonic()
    staying = "hashint8extended(customer_id, 0) BETWEEN 0 AND 4611686018427387903"
    one = f"SELECT customer_id FROM customers WHERE {staying} LIMIT 1"
    sql(rig, "s2", f"SET lock_timeout = '8s'; UPDATE customers SET email = email WHERE customer_id = ({one})")
    waited = time.monotonic() - started
    assert waited < 2, f"a writer waited for {waited:.1f} s"
    prepared = (
        "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' "
        "AND application_name LIKE 'shardherd op=%'"
    )
    wait_until(lambda: sql(rig, "s3", prepared) == [], timeout=10, what="T to end the opening")
    assert sql(rig, "s3", opened) == []
    split.go_on()
    ended, _ = split.end()
    assert int(ended["record"]["fence_attempts"]) == 1, ended


def test_manager_silent_while_copying(rig):
    split = Split(rig, "move:after:publish")
    time.sleep(10 if FULL else 2)
    split.go_on()
    split.end()
    # U1: whether the signal caught it inside of a turn is chance; if so, it is told within a second
    counted = re.search(r"(?m)^shardherd_loop_long_turns_total (\d+)$", rig.fetch("/metrics", port="metrics", raw=True))
    if int(counted[1]) > 0:
        wait_until(lambda: "the event loop was blocked" in rig.log.read_text(), what="a long turn to be told")


# ---- other users ----


def test_long_transaction_at_the_start(rig):
    """The move waits for it where it would lock tables, writers do not wait with it, and then it goes on."""
    rig.stop()
    rig.start()
    with psycopg.connect(rig_address(rig, "s2")) as other:
        other.execute("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        split = Split(rig)
        wait_until(lambda: "lock timeout" in rig.operation(split.id)["record"]["error"], timeout=60)
        time.sleep(1)
        op = rig.operation(split.id)
        assert op["status"] == "running" and op["state"] == "target", op
        other.commit()
    _, result = split.end()
    assert result["longest_write_gap_ms"] < 2000, result


def test_long_transaction_before_the_fence(rig):
    split = Split(rig, "move:after:verify")
    with psycopg.connect(rig_address(rig, "s2")) as other:
        other.execute("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        split.go_on()
        time.sleep(2)
        op = rig.operation(split.id)
        assert op["status"] == "running" and op["state"] in ("rehearse", "fence"), op
        other.commit()
    split.end()


def test_A2_A16_B12_ddl_truncate_and_key_changes_are_refused_during_the_move(rig):
    before = ddl_refusals(rig, "s2")
    assert before == {}, before
    split = Split(rig, "move:after:verify")
    refused = ddl_refusals(rig, "s2")
    refused_on_target = ddl_refusals(rig, "s3")
    key = (
        "UPDATE customers SET customer_id = -customer_id WHERE customer_id = (SELECT c.customer_id FROM customers c "
        "WHERE (hashint8extended(c.customer_id, 0) > 4611686018427387904) <> (hashint8extended(-c.customer_id, 0) > "
        "4611686018427387904) AND hashint8extended(-c.customer_id, 0) > 0 AND NOT EXISTS "
        "(SELECT FROM orders o WHERE o.customer_id = c.customer_id) LIMIT 1)"
    )
    of_s2 = "SELECT n FROM generate_series(1000000, 1000050) n WHERE hashint8extended(n, 0) >= 0"
    sql(rig, "s2", f"INSERT INTO customers {of_s2}")
    with pytest.raises(psycopg.Error) as crossing:
        sql(rig, "s2", key)
    sql(rig, "s2", "DELETE FROM customers WHERE customer_id BETWEEN 1000000 AND 1000050")
    split.go_on()
    ended, _ = split.end()
    assert crossing.value.sqlstate == "SHR02", crossing.value
    for where in (refused, refused_on_target):
        assert set(where) == set(DDL), where
        for statement, error in where.items():
            assert error.sqlstate == "SHR02", (statement, error)
            assert ended["id"] in str(error) and "Wait for the operation to end" in error.diag.message_hint, error
    assert ddl_refusals(rig, "s2") == {}
    assert ddl_refusals(rig, "s3") == {}


DDL = [
    "ALTER TABLE orders ADD COLUMN extra int",
    "ALTER TABLE customers ALTER COLUMN email TYPE varchar(200)",
    "CREATE INDEX extra_index ON orders (amount)",
    "CREATE TRIGGER extra BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "DROP TABLE orders",
    "TRUNCATE orders",
]


def ddl_refusals(rig, shard):
    """Tries each, as the owner would, without keeping any."""
    refused = {statement: ddl_error(rig, shard, statement) for statement in DDL}
    return {statement: error for statement, error in refused.items() if error is not None}


def ddl_error(rig, shard, statement):
    """What the statement fails with, None if it does not. Its locks may cross those of the writers: then once more."""
    for _ in range(10):
        with psycopg.connect(rig_address(rig, shard)) as conn:
            conn.execute("SET lock_timeout = '20s'")
            conn.execute("SET ROLE app")
            try:
                conn.execute(statement)
                error = None
            except psycopg.Error as failed:
                error = failed
            conn.rollback()
        if not isinstance(error, psycopg.errors.DeadlockDetected):
            break
    return error


# ---- cancel ----


@pytest.mark.parametrize("state", ["check", "target", "copy", "catch_up", "verify", "rehearse"])
def test_cancel_before_the_fence(rig, state):
    split = Split(rig, f"move:state:{state}")
    op_id = rig_operation_id(rig)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", rig.ports["admin"], timeout=60)) as conn:
        conn.request("POST", f"/v1/operations/{op_id}/cancel", body="{}", headers={"Content-Type": "application/json"})
        split.go_on()
        answer = conn.getresponse()
        assert answer.status in (200, 202), (answer.status, answer.read())
        answer.read()
    ended, _ = split.end("undone")
    assert ended["record"]["canceled"] is True
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2"]


def test_cancel_is_written_down(rig):
    """Accepted means that it holds even if the manager is killed in that moment, in the middle of a step."""
    dsn = rig.dsn("s2")
    split = Split(rig, "move:state:copy")
    with psycopg.connect(dsn) as blocker:
        blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")  # the next step waits for it
        split.go_on()
        canceled = rig.post(f"/v1/operations/{split.id}/cancel", {})
        rig.process.kill()
        rig.process.wait()
        assert canceled["record"]["canceled"] is True and canceled["record"]["state"] == "copy", canceled
    rig.start()
    ended, _ = split.end("undone")
    assert ended["record"]["canceled"] is True
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2"]


def rig_operation_id(rig):
    """From the log: the API stands still."""
    lines = [line for line in rig.log.read_text().splitlines() if 'msg="move begins"' in line and "kind=split" in line]
    return lines[-1].split(" op=")[1].split()[0]


@pytest.mark.parametrize("state", ["settle", "clean"][: 2 if FULL else 1])
def test_cancel_after_the_fence_is_refused(rig, state):
    split = Split(rig, f"move:state:{state}")
    op_id = rig_operation_id(rig)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", rig.ports["admin"], timeout=60)) as conn:
        conn.request("POST", f"/v1/operations/{op_id}/cancel", body="{}", headers={"Content-Type": "application/json"})
        split.go_on()
        answer = conn.getresponse()
        text = answer.read().decode()
    assert answer.status == 409, (answer.status, text)
    assert state in text or "done" in text, text
    split.end()
