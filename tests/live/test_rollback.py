"""A move is taken back after its fence: its source has followed its target meanwhile, and gets everything again."""

import contextlib
import json
import os
import subprocess
import threading

import psycopg
import pytest
from conftest import wait_until
from rig import Problem, Rig
from test_faults import data_of, go_on, kill_server, rig_address, sql, stopped, wait_server

pytestmark = pytest.mark.beside

CUSTOMERS = 2000
LOAD = ("--clients", "6", "--rate", "600", "--op-timeout", "20s", "--give-up", "60s")
BAKE = "10m"  # longer than any test: only a rollback ends it


@pytest.fixture(scope="module")
def shop(shardherd):
    made = Rig(shardherd, f"/tmp/shardherd-rollback-{os.getpid()}")
    made.start()
    made.make_shop(customers=CUSTOMERS)
    yield made
    made.clean_up()


@pytest.fixture
def own(shardherd):
    """For tests that leave a fleet that others cannot use."""
    made = Rig(shardherd, f"/tmp/shardherd-rollback-own-{os.getpid()}")
    made.start()
    made.make_shop(customers=CUSTOMERS)
    yield made
    made.clean_up()


@pytest.fixture
def rig(shop):
    """Two shards that own what they owned at first, and nothing that runs."""
    if shop.process.poll() is not None:
        shop.start()
    yield shop
    end_load(shop)
    for op in shop.operations():  # a test that failed leaves it to the next one as it was
        if op["status"] == "running":
            with contextlib.suppress(Problem):
                ask(shop, op["id"])
            shop.wait_operation(op["id"])


def end_load(rig):
    """Without its check: while a move bakes, both shards have rows of the range."""
    if rig.loading and rig.loading.poll() is None:
        rig.loading.kill()
        rig.loading.communicate()


def written_to(rig, shard, more=200):
    """Waits until the load has written more rows there."""
    count = "SELECT coalesce(sum(version), 0) FROM customers"
    ((before,),) = rig.sql(shard, count)
    wait_until(lambda: rig.sql(shard, count)[0][0] >= before + more, timeout=60, what=f"writes on {shard}")


def ask(rig, op_id):
    return rig.post(f"/v1/operations/{op_id}/rollback", None)


def assert_back(rig, op_id, timeout=120):
    """It ended as undone, the load lost nothing, nothing is left over."""
    ended = rig.wait_operation(op_id, timeout)
    result = rig.stop_load()
    assert ended["status"] == "undone", ended
    assert ended["record"]["back"] is True and ended["error"] is None, ended
    assert result["acked_writes"] > 0
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    assert result["abandoned_writes"] == 0, result
    rig.assert_consistent()
    return ended, result


def ranges(rig):
    return {s["name"]: [(r["lo"], r["hi"]) for r in s["ranges"]] for s in rig.routing()["shards"]}


KINDS = {
    "split": {"kind": "split", "shard": "s2"},
    "rebalance": {"kind": "rebalance", "shard": "s1", "target": "s2"},
    "merge": {"kind": "merge", "shard": "s1", "target": "s2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_taken_back_under_load(rig, kind):
    before = ranges(rig)
    rig.start_load(*LOAD)
    op_id = rig.start_move(**KINDS[kind], bake=BAKE)
    there = rig.wait_baking(op_id)
    written_to(rig, there["target"])
    asked = ask(rig, op_id)
    assert asked["id"] == op_id and (asked["record"]["rollback"] or asked["record"]["back"]), asked
    ended, result = assert_back(rig, op_id)
    assert ranges(rig) == before
    assert (ended["shard"], ended["target"]) == (there["shard"], there["target"])  # as they were asked for
    print(f"{kind}: there {there['record']['write_block_us']} us, back {ended['record']['write_block_us']} us, "
          f"longest write gap {result['longest_write_gap_ms']} ms")  # fmt: skip
    assert result["longest_write_gap_ms"] < 2000, result


def contents(rig, shard, lo, hi):
    return [
        rig.sql(shard, f"SELECT * FROM shardherd.verify_buckets('public.{table}', true, {lo}, {hi}) ORDER BY 1")
        for table in ("customers", "orders")
    ]


def test_the_source_follows_row_by_row(own):
    """What S has of R is what T has of it, once the writing has ended; and T's own rows stay T's."""
    rig = own
    rig.start_load(*LOAD)
    op_id = rig.start_move(kind="rebalance", shard="s1", target="s2", bake=BAKE)
    op = rig.wait_baking(op_id)
    written_to(rig, "s2")
    end_load(rig)  # its ledger is of no use any more
    lo, hi = op["record"]["lo"], op["record"]["hi"]
    wait_until(lambda: contents(rig, "s1", lo, hi) == contents(rig, "s2", lo, hi), timeout=30, what="equal copies")
    assert sum(rows for _, rows, _ in contents(rig, "s2", lo, hi)[0]) > 100
    outside = f"NOT hashint8extended(customer_id, 0) BETWEEN {lo} AND {hi}"
    mine = rig.sql("s1", f"SELECT count(*) FROM customers WHERE {outside}")
    everything = rig.sql("s1", "SELECT count(*) FROM customers")
    assert 0 < mine[0][0] < everything[0][0]
    ask(rig, op_id)
    assert rig.wait_operation(op_id)["status"] == "undone"
    rig.assert_consistent()
    assert rig.sql("s1", f"SELECT count(*) FROM customers WHERE {outside}") == mine


def test_asked_for_before_the_fence(rig):
    """Then it is a cancel."""
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:after:publish"})
    asking = threading.Thread(target=lambda: rig.start_move(kind="split", shard="s2", bake=BAKE), daemon=True)
    asking.start()
    wait_until(lambda: stopped(rig), timeout=60, what="the manager to stand still")
    go_on(rig)
    asking.join(30)
    (op,) = [op for op in rig.operations() if op["status"] == "running"]
    with contextlib.suppress(Problem):  # it may have come to its end meanwhile, then it is taken back
        ask(rig, op["id"])
    assert rig.wait_operation(op["id"])["status"] == "undone"
    rig.assert_consistent()


def test_asked_for_too_late(rig):
    """While the old rows go, and after: a sentence, and the move goes on."""
    op_id = rig.start_move(kind="rebalance", shard="s1", target="s2", bake="1s")
    rig.wait_baking(op_id)
    with psycopg.connect(rig_address(rig, "s1")) as other:
        other.execute("LOCK TABLE customers IN SHARE ROW EXCLUSIVE MODE")  # nothing can be deleted
        wait_until(lambda: rig.operation(op_id)["state"] == "clean", timeout=60, what="the clean-up")
        with pytest.raises(Problem) as problem:
            ask(rig, op_id)
        other.rollback()
    assert problem.value.status == 409
    assert "has begun to take away what shard s1 still had of the range" in problem.value.body, problem.value
    assert rig.wait_operation(op_id)["status"] == "done"
    with pytest.raises(Problem) as problem:
        ask(rig, op_id)
    assert problem.value.status == 409 and "has ended: done" in problem.value.body, problem.value
    rig.assert_consistent()
    back = rig.start_move(kind="rebalance", shard="s2", target="s1", lo=rig.operation(op_id)["record"]["lo"],
                          hi=rig.operation(op_id)["record"]["hi"], bake="0s")  # fmt: skip
    assert rig.wait_operation(back)["status"] == "done"


def test_without_a_bake_time(rig):
    """Nothing is kept for a way back, and that is said."""
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:after:open"})
    asking = threading.Thread(target=lambda: rig.start_move(kind="split", shard="s2", bake="0s"), daemon=True)
    asking.start()
    wait_until(lambda: stopped(rig), timeout=60, what="the manager to stand still")
    assert sql(rig, "s3", "SELECT slot_name FROM pg_replication_slots") == []
    go_on(rig)
    asking.join(30)
    (op,) = [op for op in rig.operations() if op["kind"] == "split" and op["record"]["bake_ns"] == "0"][:1]
    with pytest.raises(Problem) as problem:
        ask(rig, op["id"])
    assert problem.value.status == 409, problem.value
    assert rig.wait_operation(op["id"])["status"] == "done"
    merge_back(rig)


def merge_back(rig):
    body = {"kind": "merge", "shard": "s3", "target": "s2", "bake": "0s"}
    assert rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"])["status"] == "done"
    rig.assert_consistent()


def test_command_line(rig):
    """Exit code 0 when it is back, 4 when it cannot be."""
    op_id = rig.start_move(kind="split", shard="s2", bake=BAKE)
    rig.wait_baking(op_id)
    command = [rig.shardherd, "rollback", op_id, "--wait", "--state", str(rig.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    assert f"operation/{op_id} undone: split shop/s2 -> s3 (new)" in done.stdout, done
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 4 and "has ended: undone" in again.stderr, again
    show = [rig.shardherd, "get", "operation", op_id, "-o", "json", "--state", str(rig.state)]
    shown = subprocess.run(show, check=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(shown)["record"]["back"] is True, shown
    rig.assert_consistent()


def test_back_and_there_again(rig):
    """A range that came back can be moved again, and back again."""
    rig.start_load(*LOAD)
    for _ in range(2):
        op_id = rig.start_move(kind="split", shard="s2", bake=BAKE)
        rig.wait_baking(op_id)
        written_to(rig, "s3", more=50)
        ask(rig, op_id)
        assert rig.wait_operation(op_id)["status"] == "undone"
        rig.assert_consistent()
    op_id = rig.start_move(kind="split", shard="s2", bake="1s")
    assert rig.wait_operation(op_id)["status"] == "done"
    result = rig.stop_load()
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()
    merge_back(rig)


# ---- what may happen while it bakes ----


@pytest.mark.parametrize("shard", ["s2", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_server_dies_while_it_bakes(rig, shard):
    """kill -9 of either, and a restart: what was flushed is what counts (A4, B7)."""
    rig.start_load(*LOAD)
    op_id = rig.start_move(kind="split", shard="s2", bake=BAKE)
    rig.wait_baking(op_id)
    written_to(rig, "s3")
    kill_server(rig, shard)
    wait_server(rig, shard)
    written_to(rig, "s3")
    ask(rig, op_id)
    assert_back(rig, op_id)


def test_the_source_dies_as_soon_as_it_follows(rig):
    """B7: the position is durable when the subscription is enabled, or what S gave away comes back to it."""
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:after:reverse_follow"})
    rig.start_load(*LOAD)
    started = {}
    asking = threading.Thread(
        target=lambda: started.update(id=rig.start_move(kind="split", shard="s2", bake=BAKE)), daemon=True
    )
    asking.start()
    wait_until(lambda: stopped(rig), timeout=60, what="the manager to stand still")
    kill_server(rig, "s2")
    go_on(rig)
    asking.join(30)
    wait_server(rig, "s2")
    rig.wait_baking(started["id"])
    written_to(rig, "s3")
    ask(rig, started["id"])
    assert_back(rig, started["id"])


def other_timeline(rig, shard):
    """As after a failover: the server goes on in another history."""
    timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    ((before,),) = rig.sql(shard, timeline)
    (data_of(rig, shard) / "standby.signal").touch()
    kill_server(rig, shard)
    wait_server(rig, shard)
    assert sql(rig, shard, "SELECT pg_promote(true, 60)") == [(True,)]
    wait_until(lambda: sql(rig, shard, timeline)[0][0] > before, timeout=60, what="another timeline")


@pytest.mark.parametrize("shard", ["s1", pytest.param("s2", marks=pytest.mark.slow)])
def test_refused_on_another_timeline(own, shard):
    """A7: S or T was failed over, so S may lack something: the move stays, says why, and ends as it would have."""
    rig = own
    op_id = rig.start_move(kind="rebalance", shard="s1", target="s2", bake=BAKE)
    rig.wait_baking(op_id)
    other_timeline(rig, shard)
    command = [rig.shardherd, "rollback", op_id, "--wait", "--state", str(rig.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4, done
    assert f"not rolled back: shard {shard} is another server, or on another timeline" in done.stderr, done
    op = rig.operation(op_id)
    assert op["status"] == "running" and not op["record"]["back"] and not op["record"]["rollback"], op
    assert rig.sql("s2", "SELECT move FROM shardherd.gate") == rig.sql("s1", "SELECT move FROM shardherd.gate") == []


def test_slot_of_the_way_back_is_lost(own):
    """A12: it is never made anew under what S has followed so far."""
    rig = own
    op_id = rig.start_move(kind="rebalance", shard="s1", target="s2", bake=BAKE)
    rig.wait_baking(op_id)
    name = f"shardherd_shop_{op_id}_r"
    rig.sql("s1", f"ALTER SUBSCRIPTION {name} DISABLE")
    gone = f"SELECT active_pid IS NULL FROM pg_replication_slots WHERE slot_name = '{name}'"
    wait_until(lambda: rig.sql("s2", gone) == [(True,)], timeout=30, what="the walsender to go")
    rig.sql("s2", f"SELECT pg_drop_replication_slot('{name}')")
    rig.sql("s1", f"ALTER SUBSCRIPTION {name} ENABLE")
    ask(rig, op_id)
    wait_until(lambda: "not rolled back" in rig.operation(op_id)["record"]["error"], timeout=60, what="an answer")
    assert "the reverse slot on shard s2 is gone or lost" in rig.operation(op_id)["error"]["message"]
