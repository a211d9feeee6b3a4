"""Merges by hand that the tests of moves do not have."""

import json
import os
import re
import subprocess
import time

import psycopg
import pytest
from conftest import wait_until
from rig import Problem, Rig

pytestmark = pytest.mark.beside

MERGE = {"kind": "merge", "shard": "s2", "target": "s1", "bake": "0s"}


@pytest.fixture
def rig(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-merge-{os.getpid()}")
    try:
        rig.start()
        yield rig
    finally:
        rig.clean_up()


def test_merge_of_a_shard_of_many_ranges(rig):
    """The refusal names the moves that make it possible; they and the merge then work as they stand there."""
    rig.make_shop(customers=300)
    merge = MERGE
    lowest = {
        "kind": "rebalance",
        "shard": "s1",
        "target": "s2",
        "lo": str(-(2**63)),
        "hi": str(-(2**62)),
        "bake": "0s",
    }
    assert rig.wait_operation(rig.post("/v1/databases/shop/operations", lowest)["id"])["status"] == "done"
    with pytest.raises(Problem) as problem:
        rig.post("/v1/databases/shop/operations", merge)
    assert problem.value.status == 422, problem.value
    detail = json.loads(problem.value.body)["detail"]
    assert 'shard "s2" owns 2 ranges and a merge moves one' in detail, detail
    (remedy,) = re.findall(r'"shardherd (move .*?)"', detail)
    done = subprocess.run(
        [rig.shardherd, *remedy.split(), "--bake", "0s", "--wait", "--state", str(rig.state)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert rig.wait_operation(rig.post("/v1/databases/shop/operations", merge)["id"])["status"] == "done"
    assert [shard["name"] for shard in rig.routing()["shards"]] == ["s1"]
    assert rig.sql("s1", "SELECT count(*) FROM customers") == [(300,)]
    rig.assert_consistent()


def answer_to_a_write(dsn, key):
    """What a client that routes by an old table is told; its connection is new, and stays for a moment."""
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            try:
                conn.execute("UPDATE customers SET balance = balance WHERE customer_id = %s", (key,))
                return "done"
            except psycopg.Error as error:
                return error.sqlstate
            finally:
                time.sleep(0.3)
    except psycopg.OperationalError as error:
        return str(error)


def test_a_merged_server_stays_until_its_clients_have_gone(rig):
    rig.make_shop(customers=300)
    dsn, ((key,),) = rig.dsn("s2"), rig.sql("s2", "SELECT customer_id FROM customers LIMIT 1")
    op_id = rig.post("/v1/databases/shop/operations", MERGE)["id"]
    wait_until(lambda: len(rig.routing()["shards"]) == 1, timeout=60, what="a routing table without s2")
    until, answers = time.monotonic() + 5, []
    while time.monotonic() < until:
        answers.append(answer_to_a_write(dsn, key))
    assert set(answers) == {"SHR01"}, answers
    op = rig.operation(op_id)
    assert (op["status"], op["state"]) == ("running", "retire"), op
    quiet_since = time.monotonic()
    assert rig.wait_operation(op_id, timeout=20)["status"] == "done"
    assert time.monotonic() - quiet_since > 1
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    rig.assert_consistent()


def test_a_merged_server_does_not_wait_for_ever(rig):
    rig.stop()
    rig.settings.append("moves.retire_wait=3s")
    rig.start()
    rig.make_shop(customers=300)
    with psycopg.connect(rig.dsn("s2")) as conn:
        op_id = rig.post("/v1/databases/shop/operations", MERGE)["id"]
        wait_until(lambda: len(rig.routing()["shards"]) == 1, timeout=60, what="a routing table without s2")
        conn.execute("SELECT 1")  # a transaction that nobody ends
        started = time.monotonic()
        assert rig.wait_operation(op_id, timeout=30)["status"] == "done"
        assert time.monotonic() - started > 2
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        conn.close()
    rig.assert_consistent()


def test_a_merge_is_no_error_to_a_load(rig):
    """Reads and writes go on; who is told that the server is not in the table any more leaves it, and does not try it
    again when it is gone."""
    rig.make_shop(customers=2000)
    rig.start_load("--clients", "16", "--rate", "1000")
    op_id = rig.post("/v1/databases/shop/operations", MERGE)["id"]
    assert rig.wait_operation(op_id)["status"] == "done"
    time.sleep(2)  # whoever would still try has tried
    result = rig.stop_load()
    assert result["acked_writes"] > 0 and result["errors"] == {}, result
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()
