"""Merges by hand that the tests of moves do not have."""

import json
import os
import re
import subprocess

import pytest
from rig import Problem, Rig


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
    merge = {"kind": "merge", "shard": "s2", "target": "s1", "bake": "0s"}
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
