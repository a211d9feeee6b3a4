"""What bench/run failover makes of what it saw: gaps, losses, the order of the faults, the line for machines."""

import sys
import types
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import benchmarks
import failover
import failover_writers as writers


def test_longest_gap():
    times = [0.0, 5.0, 5.1, 6.1, 6.2]
    assert writers.longest_gap(times, 5.05) == pytest.approx(1.0)  # what was before the fault does not count
    assert writers.longest_gap(times, 3.0) == pytest.approx(5.0)  # a gap in whose midst the fault is does
    assert writers.longest_gap([1.0], 0.0) == writers.longest_gap([], 0.0) == 0.0


def test_lost_rows():
    assert writers.lost_rows([3, 1, 2], [1, 4]) == [2, 3]


def test_both_acknowledged():
    assert writers.both_acknowledged_s([1.0, 2.0, 7.0], [4.0, 9.0]) == pytest.approx(3.0)
    assert writers.both_acknowledged_s([1.0, 2.0], [4.0, 9.0]) == 0.0
    assert writers.both_acknowledged_s([], [4.0]) == writers.both_acknowledged_s([1.0], []) == 0.0


class Canceled:
    """A connection whose statements end in the ways that are listed, and which then is lost."""

    def __init__(self, *ends):
        self.ends, self.handlers = list(ends), []

    def add_notice_handler(self, handler):
        self.handlers.append(handler)

    def execute(self, *_):
        end = self.ends.pop(0) if self.ends else "lost"
        if end == "warned":
            for handler in self.handlers:
                handler(types.SimpleNamespace(sqlstate="01000"))
        elif end == "canceled":
            raise psycopg.errors.QueryCanceled
        elif end == "lost":
            raise psycopg.OperationalError("gone")

    def cancel_safe(self, timeout):
        pass

    def close(self):
        pass


def test_impatient(monkeypatch):
    """A cancelled commit is no end of it; what is acknowledged with a warning is acknowledged."""
    connection = Canceled("done", "canceled", "warned", "done")
    monkeypatch.setattr(writers.psycopg, "connect", lambda *_, **__: connection)
    monkeypatch.setattr(writers.Impatient, "start", lambda self: None)
    session = writers.Impatient("", 0)
    session.run()
    assert session.acknowledged == [1, 3, 4]
    assert (session.canceled, session.warned) == (1, 1)
    assert isinstance(session.error, psycopg.OperationalError)


def test_plan_takes_turns():
    names = list(failover.CLUSTERS)
    few, many = list(failover.plan(False, names)), list(failover.plan(True, names))
    assert few[:4] == [("node death", name) for name in names]
    assert few.count(("node death", "ours")) == failover.ROUNDS
    assert few.count(("node death", "pg_auto_failover")) == few.count(("daemon frozen, cancels", "ours")) == 1
    assert few.count(("daemon frozen", "ours")) == failover.ROUNDS
    assert many.count(("daemon frozen", "Patroni, defaults")) == failover.ROUNDS_FULL
    assert ("daemon killed", "pg_auto_failover") not in many
    assert {name for _, name in failover.plan(True, ["ours"])} == {"ours"}


def figures(*gaps, lost=0):
    seen = [failover.Seen(g, g, 100, lost, 0.0, True, 2 * g) for g in gaps]
    return failover.Figures(seen)


def test_result():
    found = {
        ("ours", "node death"): figures(0.5, 1.0, 0.25),
        ("ours", "switchover"): figures(0.1, lost=2),
        ("a", "node death"): figures(20.0),
        ("a", "switchover"): figures(0.2),
        ("b", "node death"): figures(30.0, lost=7),
        ("b", "daemon killed"): failover.Figures([], ["b: not within 90 s"]),
    }
    result = failover.result_of(found)
    assert (result["ours"], result["peer"], result["ratio"]) == (0.5, 20.0, 40.0)
    assert (result["spread"], result["p50_s"], result["max_s"]) == ([20.0, 80.0], 0.5, 1.0)
    assert result["lost"] == 2  # ours
    assert result["faults"]["b"] == {"node death": found["b", "node death"].as_json()}
    assert result["faults"]["b"]["node death"]["lost"] == 7
    assert result["faults"]["a"]["node death"]["rejoin_p50_s"] == 40.0
    assert result["failures"] == ["b: not within 90 s"]


def test_result_without_peers():
    result = failover.result_of({("ours", "node death"): figures(0.5)})
    assert (result["ours"], result["peer"], result["ratio"], result["spread"]) == (0.5, None, None, None)
    with pytest.raises(benchmarks.Unmeasured):
        failover.result_of({("ours", "node death"): failover.Figures(), ("a", "node death"): figures(1.0)})


def test_row():
    assert figures(0.5, 1.5, lost=1).row() == (2, "1.00", "1.50", "1.00", "2 of 200", "0", "2.0")
    assert set(failover.Figures().row()) == {"-"}
