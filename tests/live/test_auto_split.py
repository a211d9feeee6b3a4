"""shardherd decides by itself: a hot shard is split; what must not be split is not, and each says why.

Four fleets at once, each with its load: a hot range of keys, one hot key, all shards hot alike, no shard left to make.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import wait_until
from rig import Rig

BALANCE = {"split": "auto", "threshold": 150, "window": 5, "sample": "2s", "cooldown": "10m"}
LOADS = {
    "hot": ({}, ("--rate", "350", "--skew", f"hot-range=0..{2**63 - 1}:0.9")),
    "one-key": ({}, ("--rate", "350", "--skew", "hot-key=17:0.9")),
    "uniform": ({}, ("--rate", "500")),
    "max-shards": ({"maxShards": 2}, ("--rate", "350", "--skew", "hot-shard=s2:0.9")),
}


def make(shardherd, name):
    balance, load = LOADS[name]
    rig = Rig(shardherd, f"/tmp/shardherd-auto-{os.getpid()}-{name}")
    # each manager looks for free ports from another one on
    rig.settings = [f"runtime.first_port={26000 + 200 * list(LOADS).index(name)}"]
    if name == "uniform":  # the balancer counts the samples that there are
        rig.settings.append("polling.load=2s")
    rig.start()
    rig.make_shop(customers=2000, balance={**BALANCE, **balance})
    return rig


@pytest.fixture(scope="module")
def rigs(shardherd):
    with ThreadPoolExecutor(2) as pool:
        rigs = dict(zip(LOADS, pool.map(lambda name: make(shardherd, name), LOADS), strict=True))
    try:
        for name, rig in rigs.items():
            rig.start_load("--clients", "4", *LOADS[name][1])
            rig.onset = time.monotonic()
        yield rigs
    finally:
        with ThreadPoolExecutor(len(rigs)) as pool:
            list(pool.map(Rig.clean_up, rigs.values()))


def decisions(rig):
    return rig.fetch("/v1/decisions")["items"]


def decided(rig, number, timeout=60):
    """The first decision by that rule."""

    def look():
        return [d for d in decisions(rig) if d["rule"] == number]

    return wait_until(look, timeout=timeout, what=f"R{number} in {[d['sentence'] for d in decisions(rig)]}")[-1]


def metrics(rig, name):
    found = {}
    for line in rig.fetch("/metrics", port="metrics", raw=True).splitlines():
        if line.startswith(name + "{"):
            labels, value = line.rsplit(" ", 1)
            found[labels] = float(value)
    return found


def metric(rig, name, *labels):
    """The one series with these labels; a server that was polled for the first time just now has none yet."""

    def look():
        found = [v for at, v in metrics(rig, name).items() if all(label in at for label in labels)]
        return found if len(found) == 1 else None

    return wait_until(look, what=f"one series {name} with {labels}")[0]


def end(rig):
    result = rig.stop_load()
    assert result["acked_writes"] > 0
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()


def test_hot_shard_is_split(rigs):
    rig = rigs["hot"]
    found = decided(rig, 1)
    waited = time.monotonic() - rig.onset
    print(f"onset to decision: {waited:.1f} s")
    assert waited < 15 + 5, waited  # 5 s of grace: three other fleets are loading the machine as well
    assert (found["shard"], found["kind"], found["rule_name"], found["acted"]) == ("s2", "split", "split", True), found
    assert "shard s2 carries" in found["sentence"] and "above 150" in found["sentence"], found
    assert "(R1)" in found["sentence"] and found["operation"], found
    operation = rig.wait_operation(found["operation"])
    assert operation["status"] == "done", operation
    assert operation["record"]["rule"] == 1 and operation["record"]["reason"] == found["sentence"], operation
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2", "s3"]
    wait_until(lambda: halved(rig), timeout=20, what="both halves with their part of the load in /metrics")
    assert metric(rig, "shardherd_decisions_total", 'rule="R1"') == 1
    probe = rig.fetch("/v1/databases/shop/shards/s2")["load"]["probe_ms"]
    # one poll of five is timed
    assert 0 < probe["p50"] <= probe["p95"] <= probe["p99"] and int(probe["count"]) >= 2, probe
    end(rig)


def halved(rig):
    rates = [metric(rig, "shard_query_rate", f'shard="{name}"') for name in ("s2", "s3")]
    return min(rates) > 30 and max(rates) < 0.75 * sum(rates)


def test_one_key_is_not_split(rigs):
    rig = rigs["one-key"]
    found = decided(rig, 7)
    assert found["kind"] == "refuse" and not found["operation"], found
    assert found["rule_name"] == "popular-key" and "one key carries" in found["sentence"], found
    offer = decided(rig, 8)
    assert offer["acted"] is False and not offer["operation"], offer
    assert "isolating it as the range" in offer["sentence"], offer
    assert metric(rig, "shardherd_decisions_total", 'rule="R7"') >= 1
    unsplit(rig)


def test_all_alike_are_not_split(rigs):
    rig = rigs["uniform"]
    found = decided(rig, 2)
    assert found["kind"] == "refuse" and found["rule_name"] == "even-load", found
    assert "1.20 x is needed" in found["sentence"], found
    unsplit(rig)


def test_no_more_shards_than_allowed(rigs):
    rig = rigs["max-shards"]
    found = decided(rig, 11)
    assert found["kind"] == "refuse" and found["rule_name"] == "max-shards", found
    assert "has 2 shards of at most 2" in found["sentence"], found
    shard = rig.fetch("/v1/databases/shop/shards/s2")
    assert "R11" in str(shard), shard  # what stands is shown with the shard
    unsplit(rig)


def unsplit(rig):
    """Nothing was moved, and refusals are said once, not every second."""
    assert [op for op in rig.operations() if op["kind"] != "provision"] == []
    said = [d["sentence"] for d in decisions(rig) if d["kind"] == "refuse"]
    assert len(said) <= 6, said
    assert len(rig.routing()["shards"]) == 2
    end(rig)
