"""What shardherd does about load beside splitting: merges, rebalances, recommends, and leaves alone what it moved
lately, also after a restart. Four fleets at once, each with its load; test_auto_split.py has the decision to split."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import wait_until
from rig import Rig
from test_auto_split import decided, decisions, metric

BALANCE = {"threshold": 150, "window": 5, "sample": "2s", "cooldown": "0s"}
HOT = ("--rate", "330", "--skew", "hot-shard=s2:0.9")
FLEETS = {
    "merge": ({"merge": "auto", "mergeAfter": "1s"}, ("--rate", "30")),
    "recommend": ({"split": "recommend", "merge": "recommend", "mergeAfter": "1s"}, HOT),
    "rebalance": (
        {"split": "auto", "rebalance": "auto", "maxShards": 2},
        ("--rate", "190", "--skew", "hot-shard=s2:0.95"),
    ),
    "cooldown": ({"split": "auto", "cooldown": "10m"}, ()),
}


def make(shardherd, name):
    rig = Rig(shardherd, f"/tmp/shardherd-balance-{os.getpid()}-{name}")
    rig.settings = [f"runtime.first_port={27000 + 200 * list(FLEETS).index(name)}"]
    rig.start()
    rig.make_shop(customers=1000, balance={**BALANCE, **FLEETS[name][0]})
    return rig


@pytest.fixture(scope="module")
def rigs(shardherd):
    with ThreadPoolExecutor(2) as pool:
        rigs = dict(zip(FLEETS, pool.map(lambda name: make(shardherd, name), FLEETS), strict=True))
    try:
        split(rigs["merge"], "s2")
        for name, (_, load) in FLEETS.items():
            if load:
                rigs[name].start_load("--clients", "4", *load)
        yield rigs
    finally:
        with ThreadPoolExecutor(len(rigs)) as pool:
            list(pool.map(Rig.clean_up, rigs.values()))


def split(rig, shard, **more):
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": shard, "bake": "0s", **more})
    assert rig.wait_operation(op["id"])["status"] == "done"


def names(rig):
    return [shard["name"] for shard in rig.routing()["shards"]]


def end(rig):
    result = rig.stop_load()
    assert result["acked_writes"] > 0
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()


def test_rebalance_by_itself(rigs):
    """No shard may be made: half of the hot one's load goes to the other one."""
    rig = rigs["rebalance"]
    found = decided(rig, 17)
    assert (found["shard"], found["kind"], found["acted"]) == ("s2", "rebalance", True), found
    assert "to shard s1" in found["sentence"] and "(R17)" in found["sentence"], found
    operation = rig.wait_operation(found["operation"])
    assert (operation["status"], operation["kind"], operation["target"]) == ("done", "rebalance", "s1"), operation
    assert names(rig) == ["s1", "s2"]
    rates = {name: lambda name=name: metric(rig, "shard_query_rate", f'shard="{name}"') for name in ("s1", "s2")}
    wait_until(lambda: rates["s1"]() > 60 and rates["s2"]() < 130, timeout=20, what="the load on both shards")
    end(rig)


def test_recommended_only(rigs):
    rig = rigs["recommend"]
    found = decided(rig, 1)
    assert (found["shard"], found["kind"], found["acted"], found["operation"]) == ("s2", "split", False, None), found
    assert "recommended only: splitting is recommend" in found["sentence"], found
    assert names(rig) == ["s1", "s2"]
    end(rig)


@pytest.mark.slow
def test_merge_recommended_only(rigs):
    rig = rigs["recommend"]
    if rig.loading.poll() is None:
        rig.stop_load()
    split(rig, "s2")  # by a person; then both halves are idle
    found = decided(rig, 18, timeout=150)
    assert (found["kind"], found["acted"], found["operation"]) == ("merge", False, None), found
    assert "recommended only: merging is recommend" in found["sentence"], found
    assert [op["kind"] for op in rig.operations()] == ["split", "provision"]


def test_cool_down_outlives_the_manager(rigs):
    """What was split lately stays, also under a manager that only read of it; a dry run is no change."""
    rig = rigs["cooldown"]
    split(rig, "s2")
    split(rig, "s1", dryRun=True)
    rig.stop()
    rig.start()
    rig.start_load("--clients", "4", *HOT)
    found = decided(rig, 6)
    assert (found["shard"], found["kind"], found["rule_name"]) == ("s2", "refuse", "cool-down"), found
    assert "the cool-down is 10 min" in found["sentence"], found
    rig.control.write_text("skew hot-shard=s1:0.95\n")
    found = decided(rig, 1)
    assert found["shard"] == "s1" and found["operation"], found
    assert rig.wait_operation(found["operation"])["status"] == "done"
    assert {d["shard"] for d in decisions(rig) if d["rule"] == 1} == {"s1"}
    end(rig)


@pytest.mark.slow
def test_merge_by_itself(rigs):
    """Two idle neighbours become one, down to the number of shards that was asked for."""
    rig = rigs["merge"]
    found = decided(rig, 18, timeout=180)
    assert (found["kind"], found["acted"]) == ("merge", True), found
    assert "under 0.5 x 150" in found["sentence"], found
    operation = rig.wait_operation(found["operation"])
    assert (operation["status"], operation["kind"]) == ("done", "merge"), operation
    assert len(names(rig)) == 2
    held = decided(rig, 19, timeout=150)
    assert "the database is to have at least 2 shards" in held["sentence"], held
    end(rig)
