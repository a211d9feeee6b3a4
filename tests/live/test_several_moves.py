"""Several moves at a time: of different shards side by side, of one shard one after the other."""

import json
import os
import signal
import subprocess

import pytest
from conftest import wait_until
from rig import Problem, Rig

pytestmark = pytest.mark.beside

PATH = "/v1/databases/shop/operations"


LIMIT = "1 move runs in the whole fleet ({} on shard s1), and balance.max_moves is 1"


@pytest.fixture
def rig(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-several-{os.getpid()}")
    rig.settings = ["moves.copy_rate=1"]  # so that they are under way for long enough
    try:
        rig.start()
        yield rig
    finally:
        rig.clean_up()


def refused(rig, **body):
    with pytest.raises(Problem) as problem:
        rig.post(PATH, {**body, "bake": "0s"})
    assert problem.value.status == 409, problem.value
    return json.loads(problem.value.body)["detail"]


def test_two_shards_at_the_same_time(rig):
    rig.make_shop(customers=100_000)
    rig.start_load("--clients", "8", "--rate", "300")
    first, second = (rig.post(PATH, {"kind": "split", "shard": shard, "bake": "0s"})["id"] for shard in ("s1", "s2"))

    def both_copy():
        records = [rig.operation(op_id)["record"] for op_id in (first, second)]
        assert all(int(r["copy_us"]) == 0 for r in records), [(r["state"], r["copy_bytes"]) for r in records]
        return all(int(r["copy_bytes"]) > 0 for r in records)

    wait_until(both_copy, timeout=20, what="rows of both", interval=0.05)
    assert f"operation {first} runs on shard s1" in refused(rig, kind="split", shard="s1")
    assert f"operation {second} runs on shard s2" in refused(rig, kind="merge", shard="s2", target="s1")
    targets = [rig.operation(op_id)["record"]["target"] for op_id in (first, second)]
    assert sorted(targets) == ["s3", "s4"]
    for op_id in (first, second):
        assert rig.wait_operation(op_id)["status"] == "done"
    result = rig.stop_load()
    assert result["acked_writes"] > 500, result
    assert [result[name] for name in ("lost", "duplicated", "misplaced", "resurrected")] == [0] * 4, result
    assert [shard["name"] for shard in rig.routing()["shards"]] == ["s1", "s2", "s3", "s4"]
    rig.assert_consistent()


def test_one_limit_for_all(rig):
    """Who asks is told which run; a dry run may, and a move that bakes does not count."""
    rig.settings.append("balance.max_moves=1")
    rig.stop()
    rig.start()
    rig.make_shop(customers=40_000)
    first = rig.start_move(kind="split", shard="s1", bake="10m")
    assert LIMIT.format(first) in refused(rig, kind="split", shard="s2")
    dry = rig.start_move(kind="split", shard="s2", dryRun=True)
    assert rig.wait_operation(dry)["status"] == "done"
    command = [rig.shardherd, "split", "s2", "--state", str(rig.state)]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.returncode == 4 and LIMIT.format(first) in asked.stderr, asked
    rig.process.kill()
    rig.wait_dead()
    rig.start()  # one that is resumed counts
    assert LIMIT.format(first) in refused(rig, kind="split", shard="s2")
    rig.wait_baking(first)
    second = rig.start_move(kind="split", shard="s2", bake="0s")
    assert rig.operation(first)["state"] == "watch"
    rig.post(f"/v1/operations/{first}/rollback", None)  # not a new one: it goes on, whatever runs
    assert rig.wait_operation(first)["status"] == "undone"
    assert rig.wait_operation(second)["status"] == "done"
    rig.assert_consistent()


def test_the_limit_of_a_reload_counts_from_then_on(rig):
    rig.config = rig.directory / "shardherd.yaml"
    rig.stop()

    def limit(most):
        rig.config.write_text(f"balance: {{max_moves: {most}}}\n")
        os.utime(rig.config, (1.7e9, 1.7e9))  # it is the signal that says so

    limit(1)
    rig.start()
    rig.make_shop(customers=40_000)
    first = rig.start_move(kind="split", shard="s1", bake="0s")
    assert LIMIT.format(first) in refused(rig, kind="split", shard="s2")
    limit(2)
    rig.process.send_signal(signal.SIGHUP)

    def second():
        try:
            return rig.post(PATH, {"kind": "split", "shard": "s2", "bake": "0s"})["id"]
        except Problem as problem:
            assert LIMIT.format(first) in json.loads(problem.body)["detail"], problem.body
            return None

    other = wait_until(second, timeout=10, what="the new limit", interval=0.05)
    assert rig.operation(first)["status"] == "running"
    limit(1)
    rig.process.send_signal(signal.SIGHUP)
    for op_id in (first, other):  # what runs goes on
        ended = rig.wait_operation(op_id)
        assert ended["status"] == "done", (ended["error"], ended["record"])
    third = rig.start_move(kind="split", shard="s3", bake="0s")
    assert LIMIT.format(third).replace("s1", "s3") in refused(rig, kind="split", shard="s4")
    assert rig.wait_operation(third)["status"] == "done"
    rig.assert_consistent()
