"""What bench/run kube-failover makes of what it saw, and what its application does when nobody answers it."""

import socket
import sys
import types
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import benchmarks
import kube_failover as bench


def test_plan_takes_turns():
    few, many = list(bench.plan(False, ["ours", "CloudNativePG"])), list(bench.plan(True, ["ours", "CloudNativePG"]))
    assert few[:3] == [("ours", "container killed"), ("CloudNativePG", "container killed"), ("ours", "pod deleted")]
    assert few.count(("ours", "node killed")) == bench.ROUNDS
    assert few.count(("CloudNativePG", "node killed")) == bench.PEER_ROUNDS
    assert many.count(("CloudNativePG", "node killed")) == bench.PEER_ROUNDS_FULL


def figures(*gaps, lost=0):
    return bench.Figures([bench.Seen(g, 100, lost, True, 2 * g, g < 10) for g in gaps])


def test_result():
    found = {
        ("ours", "pod deleted"): figures(0.5, lost=2),
        ("CloudNativePG", "pod deleted"): bench.Figures([], ["no writes"]),
        ("ours", "node killed"): figures(4.0, 2.0, 5.0),
        ("CloudNativePG", "node killed"): figures(80.0, lost=3),
    }
    result = bench.result_of(found)
    assert (result["ours"], result["peer"], result["ratio"], result["spread"]) == (4.0, 80.0, 20.0, [16.0, 40.0])
    assert (result["lost"], result["failures"]) == (2, ["no writes"])
    assert result["faults"]["ours"]["node killed"]["back_before_not_ready"] == 3
    assert set(result["faults"]["CloudNativePG"]) == {"node killed"}
    assert result["faults"]["CloudNativePG"]["node killed"]["lost"] == 3
    assert set(bench.Figures().row()) == {"-"}
    assert figures(0.5, 1.5, lost=1).row() == (2, "1.00", "0.50", "1.50", "2 of 200", "2 of 2", "2.0")


def test_result_without_the_peer():
    result = bench.result_of({("ours", "node killed"): figures(4.0)})
    assert (result["ours"], result["peer"], result["ratio"], result["spread"]) == (4.0, None, None, None)
    with pytest.raises(benchmarks.Unmeasured):
        bench.result_of({("ours", "node killed"): bench.Figures()})


class Silent:
    """A session whose first statement is answered, and no other one until it is shut."""

    def __init__(self):
        self.inside, self.outside = socket.socketpair()
        self.asked = 0

    def fileno(self):
        return self.inside.fileno()

    def execute(self, *_):
        self.asked += 1
        if self.asked > 1 and self.inside.recv(1) == b"":
            raise psycopg.OperationalError("shut")

    def close(self):
        self.inside.close()


def test_nobody_waits_long_for_a_session():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        text = f"host=127.0.0.1 port={silent.getsockname()[1]}"
        with pytest.raises(psycopg.OperationalError):
            bench.connect(text, 0.05)
    with pytest.raises(psycopg.OperationalError, match="refused"):
        bench.connect(text, 5)


def test_who_is_not_answered_goes_elsewhere(monkeypatch):
    sessions = []

    def connect(*_, **__):
        sessions.append(Silent())
        return sessions[-1]

    monkeypatch.setattr(bench, "PATIENCE_S", 0.05)
    monkeypatch.setattr(bench, "conninfo", lambda *_: "")
    monkeypatch.setattr(bench, "connect", connect)
    rig = types.SimpleNamespace(namespace=types.SimpleNamespace(join=lambda: None))
    writer = bench.Application(rig, types.SimpleNamespace(service="s"), 0)
    try:
        bench.reach(lambda: len(sessions) > 2, writer, 10)
    finally:
        writer.end()
    assert writer.acknowledged[:2] == [1, 3]
