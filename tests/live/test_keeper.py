"""Local servers that end while the manager runs: it starts them again, and tells; but not those that shall not run."""

import json
import os
import re
import signal
import threading
import time
import urllib.request

import pytest
from conftest import wait_until
from rig import Problem, Rig

pytestmark = pytest.mark.beside


@pytest.fixture(scope="module")
def shop(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-keeper-{os.getpid()}")
    try:
        rig.start()
        rig.make_shop(customers=100)
        yield rig
    finally:
        rig.clean_up()


@pytest.fixture
def restarts(shop):
    """The data of the events instance_restart."""
    seen = []
    stream = urllib.request.urlopen(f"http://127.0.0.1:{shop.ports['public']}/v1/events", timeout=120)
    ready = threading.Event()

    def follow():
        event = ""
        try:
            for line in stream:
                ready.set()
                name, _, value = line.decode().strip().partition(": ")
                event = value if name == "event" else event
                if name == "data" and event == "instance_restart":
                    seen.append((time.monotonic(), json.loads(value)))
        except (OSError, ValueError, AttributeError):
            return

    threading.Thread(target=follow, daemon=True).start()
    assert ready.wait(20)
    return seen


def data_of(rig, shard):
    return rig.state / "instances" / f"shop-{shard}-0" / "data"


def postmaster(rig, shard):
    return int((data_of(rig, shard) / "postmaster.pid").read_text().split()[0])


def health(rig, shard):
    return rig.fetch(f"/v1/instances/shop-{shard}-0")["health"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_comes_back(shop, restarts, number):
    count = shop.sql("s2", "SELECT count(*) FROM customers")
    old = postmaster(shop, "s2")
    started = time.monotonic()
    os.kill(old, number)
    wait_until(lambda: restarts, timeout=30, what="the event")
    at, event = restarts[0]
    assert event["name"] == "shop-s2-0" and event["database"] == "shop" and event["shard"] == "s2", event
    assert event["started"] is True and event["error"] is None, event
    assert at - started < 20, at - started
    assert postmaster(shop, "s2") != old
    wait_until(lambda: health(shop, "s2") == "up", timeout=20, what="a healthy instance")
    assert shop.sql("s2", "SELECT count(*) FROM customers") == count
    assert len(restarts) == 1
    shop.assert_consistent()


def test_a_missing_data_directory_is_not_replaced(shop, restarts):
    data = data_of(shop, "s2")
    aside = data.with_name("aside")
    pid = postmaster(shop, "s2")
    data.rename(aside)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: restarts, timeout=60, what="the event")
        event = restarts[0][1]
        assert event["started"] is False, event
        assert f"its data directory {data} is missing or empty: restore it" in event["error"], event
        assert not data.exists()
    finally:
        aside.rename(data)
    wait_until(lambda: restarts[-1][1]["started"], timeout=90, what="a start")
    wait_until(lambda: health(shop, "s2") == "up", timeout=20, what="a healthy instance")
    shop.assert_consistent()


def test_pauses_grow(shop, restarts):
    """A server that does not start is tried again, less and less often, with the reason; mended, it comes back."""
    conf = data_of(shop, "s1") / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "no_such_setting = 1\n")
    os.kill(postmaster(shop, "s1"), signal.SIGKILL)
    wait_until(lambda: len(restarts) >= 3, timeout=60, what="three tries")
    events = [event for _, event in restarts]
    assert all(event["name"] == "shop-s1-0" and event["started"] is False for event in events), events
    assert "PostgreSQL ended while it started" in events[0]["error"], events[0]
    tries = [event["tries"] for event in events]
    assert tries == list(range(tries[0], tries[0] + len(tries))), tries
    pauses = [event["next_seconds"] for event in events]
    assert all(after >= 2 * before or after == 60 for before, after in zip(pauses, pauses[1:], strict=False)), pauses
    times = [at for at, _ in restarts]
    assert times[2] - times[1] >= pauses[1], (times, pauses)
    assert shop.sql("s2", "SELECT 1") == [(1,)]
    conf.write_text(good)
    wait_until(lambda: restarts[-1][1]["started"], timeout=60, what="a start")
    wait_until(lambda: health(shop, "s1") == "up", timeout=20, what="a healthy instance")
    shop.assert_consistent()


def test_what_is_removed_stays_away(shop, restarts):
    """Neither a shard that is merged away nor a deleted database comes back."""
    made = shop.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})
    assert shop.wait_operation(made["id"])["status"] == "done"
    body = {"kind": "merge", "shard": "s3", "target": "s2", "bake": "0s"}
    assert shop.wait_operation(shop.post("/v1/databases/shop/operations", body)["id"])["status"] == "done"
    answer = shop.fetch("/v1/databases/shop", "DELETE")
    assert shop.wait_operation(answer["operation"] if "operation" in answer else answer["id"])["status"] == "done"
    with pytest.raises(Problem):
        shop.fetch("/v1/databases/shop")
    time.sleep(3)  # a few looks of the manager: nothing may come of them
    assert restarts == []
    assert not re.search("started again|does not start", shop.log.read_text().rsplit("database deleted", 1)[1])
    assert list(shop.state.glob("instances/*")) == []
