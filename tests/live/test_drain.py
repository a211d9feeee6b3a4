"""A shard gives all it has to others, range by range, and stays."""

import json
import os
import subprocess

import pytest
from conftest import wait_until
from rig import Problem, Rig

pytestmark = pytest.mark.beside

PATH = "/v1/databases/shop/operations"


@pytest.fixture
def rig(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-drain-{os.getpid()}")
    try:
        rig.start()
        rig.make_shop(customers=4_000)
        yield rig
    finally:
        rig.clean_up()


def command(rig, *words):
    asked = [rig.shardherd, *words, "--state", str(rig.state)]
    return subprocess.run(asked, capture_output=True, text=True, timeout=120)


def ranges(rig, shard):
    (found,) = [s for s in rig.routing()["shards"] if s["name"] == shard]
    return [(int(r["lo"]), int(r["hi"])) for r in found["ranges"]]


def scatter(rig):
    """s3 owns three ranges; two of them between those of s1, one between that of s1 and that of s2."""
    assert rig.wait_operation(rig.start_move(kind="split", shard="s1", bake="0s"))["status"] == "done"
    for lo in (-(1 << 63) + (1 << 57), -(1 << 63) + (3 << 57)):
        move = {"kind": "move", "shard": "s1", "target": "s3", "lo": str(lo), "hi": str(lo + (1 << 56)), "bake": "0s"}
        assert rig.wait_operation(rig.start_move(**move))["status"] == "done"
    assert len(ranges(rig, "s3")) == 3, rig.routing()


def moves(rig, drain):
    items = rig.fetch("/v1/operations?limit=100")["items"]
    return [op for op in items if op["record"].get("reason", "").startswith(f"drain {drain}:")]


def refused(rig, status=409, **body):
    with pytest.raises(Problem) as problem:
        rig.post(PATH, body)
    assert problem.value.status == status, problem.value
    return json.loads(problem.value.body)["detail"]


def counts(result):
    return [result[name] for name in ("lost", "duplicated", "misplaced", "resurrected")]


def test_all_ranges_of_a_shard_under_load(rig):
    scatter(rig)
    rig.start_load("--clients", "8", "--rate", "300")
    done = command(rig, "drain", "s3", "--bake", "0s", "--wait")
    assert done.returncode == 0 and "done: drain shop/s3" in done.stdout, done
    assert ranges(rig, "s3") == []
    (drain,) = [op for op in rig.fetch("/v1/operations")["items"] if op["kind"] == "drain"]
    made = moves(rig, drain["id"])
    assert len(made) == 3 and all(op["status"] == "done" and op["shard"] == "s3" for op in made), made
    result = rig.stop_load()
    assert result["acked_writes"] > 100 and counts(result) == [0] * 4, result
    assert rig.sql("s3", "SELECT count(*) FROM customers") == [(0,)]
    rig.assert_consistent()
    assert "nothing to drain" in refused(rig, status=422, kind="drain", shard="s3")
    back = rig.start_move(kind="rebalance", shard="s2", target="s3", bake="0s")  # it gets some again
    assert rig.wait_operation(back)["status"] == "done"
    assert len(ranges(rig, "s3")) == 1
    rig.assert_consistent()


def planned(op):
    return [(int(step["lo"]), int(step["hi"]), step["target"]) for step in op["record"]["plan"]]


def test_a_dry_run_says_what_would_go_where(rig):
    scatter(rig)
    before = rig.routing()
    done = command(rig, "drain", "s3", "--dry-run")
    assert done.returncode == 0 and "done: drain shop/s3 (dry run: nothing" in done.stdout, done
    (dry,) = [op for op in rig.fetch("/v1/operations")["items"] if op["kind"] == "drain"]
    plan = planned(rig.operation(dry["id"]))
    assert [(lo, hi) for lo, hi, _ in plan] == ranges(rig, "s3") and rig.routing() == before
    for lo, hi, target in plan:
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [str(lo)]]
        assert line.split()[1:3] == [str(hi), target], done.stdout
    checked = moves(rig, dry["id"])
    assert len(checked) == 3 and all(op["record"]["dry_run"] for op in checked), checked
    assert [step["operation"] for step in dry["record"]["plan"]] == [
        op["id"] for op in sorted(checked, key=lambda op: op["created"])
    ]
    rig.stop()
    rig.start()
    assert planned(rig.operation(dry["id"])) == plan  # for who asks later
    drain = rig.post(PATH, {"kind": "drain", "shard": "s3", "bake": "0s"})["id"]
    assert rig.wait_operation(drain)["status"] == "done"
    made = sorted(moves(rig, drain), key=lambda op: op["created"])
    assert [(int(op["record"]["lo"]), int(op["record"]["hi"]), op["target"]) for op in made] == plan  # as it said


def test_a_dry_run_says_what_stands_in_the_way(rig):
    scatter(rig)
    baking = rig.start_move(kind="split", shard="s2", bake="10m")
    rig.wait_baking(baking)
    rig.sql("s3", "ALTER TABLE customers DISABLE TRIGGER shardherd_guard_insert")
    asked = command(rig, "drain", "s3", "--dry-run", "--to", "s1")
    assert asked.returncode == 4, asked
    for words in ("forbid the drain", "guard shardherd_guard_insert", "s1"):
        assert words in asked.stdout + asked.stderr, asked
    rig.sql("s3", "ALTER TABLE customers ENABLE TRIGGER shardherd_guard_insert")
    asked = command(rig, "drain", "s3", "--dry-run", "--to", "s2")
    assert asked.returncode == 4 and f"operation {baking} runs on shard s2" in asked.stdout, asked
    assert len(ranges(rig, "s3")) == 3
    rig.post(f"/v1/operations/{baking}/rollback", None)
    assert rig.wait_operation(baking)["status"] == "undone"
    rig.assert_consistent()


def test_to_one_shard_and_what_is_refused_meanwhile(rig):
    scatter(rig)
    drain = rig.post(PATH, {"kind": "drain", "shard": "s3", "target": "s2", "bake": "10m"})["id"]
    (first,) = wait_until(lambda: moves(rig, drain), timeout=20, what="its first move", interval=0.05)
    assert first["target"] == "s2", first
    assert f"operation {drain} drains shard s3" in refused(rig, kind="drain", shard="s3")
    rig.wait_baking(first["id"])
    assert f"operation {drain} drains shard s3: it is to get nothing" in refused(
        rig, kind="rebalance", shard="s1", target="s3"
    )
    assert len(moves(rig, drain)) == 1  # of one shard one at a time
    shown = rig.operation(drain)
    assert shown["status"] == "running" and shown["state"] == "moving" and 0.3 < shown["progress"] < 0.4, shown
    rig.post(f"/v1/operations/{first['id']}/rollback", None)  # whoever takes one back does not want the others
    ended = rig.wait_operation(drain)
    assert ended["status"] == "failed", ended
    assert ended["error"]["message"].startswith(f"operation {first['id']} of it ended as undone"), ended
    assert len(ranges(rig, "s3")) == 3
    rig.assert_consistent()


def test_a_killed_manager_goes_on_and_a_cancel_begins_no_other(rig):
    scatter(rig)
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "move:state:clean"})
    drain = rig.post(PATH, {"kind": "drain", "shard": "s3", "bake": "0s"})["id"]
    assert rig.wait_dead() == -9
    rig.settings = ["moves.copy_rate=1", "balance.max_moves=1"]
    rig.start()
    wait_until(lambda: len(moves(rig, drain)) == 2, timeout=60, what="the second move", interval=0.02)
    first, second = sorted(moves(rig, drain), key=lambda op: op["created"])
    assert first["status"] == "done", first
    wait_until(lambda: rig.operation(second["id"])["state"] != "planned", timeout=20, what="its begin", interval=0.02)
    rig.post(f"/v1/operations/{drain}/cancel", None)
    ended = rig.wait_operation(drain)
    assert ended["status"] == "undone" and len(moves(rig, drain)) == 2, ended
    last = rig.operation(second["id"])
    assert last["status"] in ("undone", "done"), last  # it may have come to its fence
    assert len(ranges(rig, "s3")) == (2 if last["status"] == "undone" else 1)
    rig.assert_consistent()


def test_it_waits_for_its_turn(rig):
    other = rig.start_move(kind="split", shard="s1", bake="10m")
    drain = rig.post(PATH, {"kind": "drain", "shard": "s1", "bake": "0s"})["id"]
    shown = wait_until(
        lambda: (op := rig.operation(drain))["state"] == "waits" and op, timeout=20, what="it to wait", interval=0.02
    )
    assert f"operation {other} runs on shard s1" in shown["error"]["message"], shown
    assert f"operation {other} runs on shard s1" in command(rig, "describe", "operation", drain).stdout
    rig.wait_baking(other)
    rig.post(f"/v1/operations/{other}/rollback", None)
    assert rig.wait_operation(other)["status"] == "undone"
    assert rig.wait_operation(drain)["status"] == "done"
    assert ranges(rig, "s1") == [] and rig.operation(drain)["error"] is None
    rig.assert_consistent()
