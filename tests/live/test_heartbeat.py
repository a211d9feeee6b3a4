"""The heartbeat row of a shard, and the lag that is told by it."""

import contextlib
import os
import signal
import time

import pytest
from conftest import wait_until
from test_agent_replica import DEFAULT, shard  # noqa: F401
from test_ha_manager import Herd, herd  # noqa: F401

pytestmark = pytest.mark.beside

ROW = "SELECT n FROM shardherd.heartbeat"


def beat(member):
    return int(member.status().get("beat", "0"))


def write(member):
    member.value("SELECT pg_current_xact_id()")


def look(member):
    assert member.call("POST", "/v1/look")[0] == 200


@pytest.mark.parametrize("shard", sorted({DEFAULT, 18}), indirect=True, ids=lambda v: f"pg{v}")  # noqa: F811
def test_idle_server_stays_idle(shard):  # noqa: F811
    """Each write of somebody is followed by a count, and without one nothing is written at all."""
    a, b = shard.of("ab")
    wait_until(lambda: beat(a) > 0 and beat(b) == beat(a), 20, "the heartbeat on both")
    a.value("SELECT pg_switch_wal()")
    with a.connect() as connection:  # what a checkpoint writes later is none of ours
        connection.execute("CHECKPOINT")

    def still():
        before = a.value("SELECT pg_current_wal_insert_lsn()"), a.value(ROW)
        time.sleep(4)
        return (a.value("SELECT pg_current_wal_insert_lsn()"), a.value(ROW)) == before

    wait_until(still, 60, "the server to be idle")
    before = beat(a)
    write(a)
    wait_until(lambda: beat(a) > before, 10, "the next count")
    wait_until(lambda: beat(b) == beat(a), 10, "it on the standby")
    assert b.value("SELECT term FROM shardherd.heartbeat") == 1
    wait_until(still, 60, "the server to be idle again")
    assert beat(a) == beat(b)


@pytest.mark.slow  # a count a second
def test_row_stays_in_its_page(shard):  # noqa: F811
    (a,) = shard.of("a")
    first = wait_until(lambda: beat(a), 20, "the heartbeat")
    with a.connect() as connection:  # a page holds 110 versions of it
        while connection.execute(ROW).fetchone()[0] < first + 150:
            connection.execute("SELECT pg_current_xact_id()")
            look(a)
    assert a.value("SELECT pg_relation_size('shardherd.heartbeat')") == 8192


def test_nothing_is_added_without_standbys(shard):  # noqa: F811
    """While too few of those stream that commits wait for, and when its agent waits for a confirmation."""
    a, b = shard.of("ab", sync={"need": 1, "members": ["b"]})
    wait_until(lambda: beat(a) > 0, 20, "the heartbeat")
    os.kill(b.process.pid, signal.SIGKILL)
    b.no_server()
    wait_until(lambda: beat(a) == 0, 10, "no count")
    before = a.value(ROW)
    with a.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        for _ in range(3):
            connection.execute("SELECT pg_current_xact_id()")
            time.sleep(1)
    assert a.value(ROW) == before


def lag(herd, name):  # noqa: F811
    return next(i for i in herd.instances() if i["name"] == name)["lag_seconds"]


def process_of(herd, name, kind):  # noqa: F811
    return next(
        pid
        for pid in map(int, children(herd.postmaster_pid(name)))
        if open(f"/proc/{pid}/cmdline").read().startswith(f"postgres: {name}: {kind}")
    )


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def metric(herd, name):  # noqa: F811
    found = [
        line
        for line in herd.fetch("/metrics", port="metrics", raw=True).splitlines()
        if line.startswith("replication_lag_seconds{") and f'"{name}"' in line
    ]
    return float(found[0].rsplit(" ", 1)[1]) if found else None


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_lag(herd):  # noqa: F811
    """0 on an idle shard and while all is there; as long as replay or the receiver has stood still, else."""
    herd.make(customers=0)
    herd.wait_streaming()
    late = next(i["name"] for i in herd.instances() if i["name"] != herd.primary()["name"])
    wait_until(lambda: lag(herd, late) == 0, 20, "no lag")
    time.sleep(3)  # nothing is written meanwhile: idle is no lag
    assert lag(herd, late) == 0

    # it receives, and shows nothing of it
    with stopped(process_of(herd, late, "startup")):
        herd.sql("s1", "SELECT pg_current_xact_id()")
        since = time.monotonic()
        wait_until(lambda: (lag(herd, late) or 0) > 4, 20, "the lag to grow")
        assert 4 <= time.monotonic() - since < 12
    wait_until(lambda: lag(herd, late) == 0, 20, "no lag again")

    # nobody writes, and it receives nothing (P16)
    with stopped(process_of(herd, late, "walreceiver")):
        time.sleep(6)
        seen = [lag(herd, late) for _ in range(20) if time.sleep(0.2) is None]
        assert all(s is not None and s > 4 for s in seen), seen
        assert seen[-1] > seen[0]
        assert metric(herd, late) > 4
    wait_until(lambda: lag(herd, late) == 0, 20, "no lag again")


assert Herd
