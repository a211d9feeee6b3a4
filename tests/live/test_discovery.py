"""Servers that come, go, restart or change their role are noticed within two poll periods."""

import json
import os
import signal
import time

import pytest
from conftest import DEFAULT, wait_until
from rig import Rig

pytestmark = pytest.mark.waits

PERIOD = 1.0
MOST = 2 * PERIOD + 0.5  # half a second for asking the API, on a machine that is busy with other things
PASSWORD = "open sesame"


class Fleet:
    """A manager with a static list in a file, and a local database of its own."""

    def __init__(self, shardherd):
        self.rig = Rig(shardherd, f"/tmp/shardherd-discovery-{os.getpid()}")
        self.rig.config = self.rig.directory / "shardherd.yaml"
        self.passfile = self.rig.directory / "passfile"
        self.passfile.write_text(f"*:*:*:postgres:{PASSWORD}\n")
        self.passfile.chmod(0o600)
        self.servers = {}
        self.write()

    def write(self):
        common = {"host": "127.0.0.1", "user": "postgres", "passfile": str(self.passfile)}
        entries = [{"name": name, "port": server.port, **common} for name, server in self.servers.items()]
        temporary = self.rig.config.with_suffix(".new")
        temporary.write_text(json.dumps({"discovery": {"interval": "1s", "static": entries}}))  # JSON is YAML
        temporary.rename(self.rig.config)

    def listed(self):
        return {i["name"]: i for i in self.rig.fetch("/v1/instances")["items"]}

    def noticed(self, what, condition, most=MOST):
        """Waits until the API shows it; fails if that takes too long, prints how long it took."""
        started = time.monotonic()
        wait_until(lambda: condition(self.listed()), timeout=most, what=f"{what} is seen in /v1/instances")
        print(f"{what}: seen after {time.monotonic() - started:.2f} s")


@pytest.fixture(scope="module")
def fleet(shardherd):
    fleet = Fleet(shardherd)
    fleet.rig.start()
    fleet.rig.make_shop(customers=0)
    yield fleet
    fleet.rig.clean_up()


@pytest.fixture(scope="module")
def primary(fleet, pg_factory_module):
    server = pg_factory_module(password=PASSWORD, wal_level="logical")
    fleet.servers["pg-a"] = server
    fleet.write()
    fleet.rig.process.send_signal(signal.SIGHUP)
    fleet.noticed("a new entry", lambda seen: seen.get("pg-a", {}).get("health") == "up")
    return server


def test_found_facts(fleet, primary):
    seen = fleet.listed()["pg-a"]
    assert seen["role"] == "primary" and seen["timeline"] == 1 and seen["source"] == "static", seen
    assert seen["version"].startswith(f"{DEFAULT}."), seen
    assert seen["system_identifier"] == str(primary.value("SELECT system_identifier FROM pg_control_system()"))
    assert {i["source"] for i in fleet.listed().values()} == {"static", "local"}


def test_entry_comes_and_goes_without_a_signal(fleet, primary, pg_factory):
    """The file is watched: every 2 s, so its period comes on top."""
    server = pg_factory(password=PASSWORD)
    fleet.servers["pg-b"] = server
    fleet.write()
    wait_until(lambda: fleet.listed().get("pg-b", {}).get("health") == "up", timeout=MOST + 2)
    del fleet.servers["pg-b"]
    fleet.write()
    wait_until(lambda: "pg-b" not in fleet.listed(), timeout=MOST + 2)
    assert fleet.listed()["pg-a"]["health"] == "up"


def test_static_server_dies_and_comes_back(fleet, primary):
    started = fleet.listed()["pg-a"]["started"]
    primary.kill9()
    fleet.noticed("kill -9", lambda seen: seen["pg-a"]["health"] != "up")
    wait_until(lambda: fleet.listed()["pg-a"]["health"] == "down", timeout=MOST)
    assert "refused" in fleet.listed()["pg-a"]["error"], fleet.listed()["pg-a"]
    ready = fleet.rig.fetch("/readyz?verbose", raw=True)
    assert "[+]collectors ok: 2 of 3 servers answered their last poll\n" in ready, ready
    assert "[+]health ok: 2 up, 0 suspect, 1 down, 0 not known yet\n" in ready, ready
    primary.start()
    fleet.noticed("a start", lambda seen: seen["pg-a"]["health"] == "up" and seen["pg-a"]["started"] != started)


def test_static_server_restarts(fleet, primary):
    started = fleet.listed()["pg-a"]["started"]
    primary.restart()
    fleet.noticed("a restart", lambda seen: seen["pg-a"]["health"] == "up" and seen["pg-a"]["started"] != started)
    assert "restarted" in fleet.rig.log.read_text()


def test_static_server_hangs(fleet, primary):
    primary.pause_all()
    try:
        fleet.noticed("a hang", lambda seen: seen["pg-a"]["health"] != "up", MOST + PERIOD)  # its deadline comes on top
    finally:
        primary.resume()
    fleet.noticed("the end of a hang", lambda seen: seen["pg-a"]["health"] == "up")


def test_standby_is_promoted(fleet, primary, pg_factory):
    standby = pg_factory(start=False, password=PASSWORD)
    standby.run(
        "pg_basebackup", "-D", standby.data, "-R", "-X", "stream", "-c", "fast", "-d", primary.conninfo(),
    )  # fmt: skip
    standby.start()
    fleet.servers["pg-standby"] = standby
    fleet.write()
    fleet.rig.process.send_signal(signal.SIGHUP)
    fleet.noticed("a standby", lambda seen: seen.get("pg-standby", {}).get("role") == "standby")
    system = fleet.listed()["pg-a"]["system_identifier"]  # asked for in the same poll, answered after the role
    fleet.noticed("its system", lambda seen: seen["pg-standby"]["system_identifier"] == system != "0")
    primary.psql("CREATE TABLE IF NOT EXISTS lag (n int)")
    standby.psql("SELECT pg_wal_replay_pause()")
    wait_until(lambda: standby.value("SELECT pg_get_wal_replay_pause_state()") == "paused")
    primary.psql("INSERT INTO lag SELECT generate_series(1, 10000)")
    fleet.noticed("lag", lambda seen: int(seen["pg-standby"]["lag_bytes"] or 0) > 0)
    standby.psql("SELECT pg_wal_replay_resume()")
    assert standby.value("SELECT pg_promote()")
    fleet.noticed("a promotion", lambda seen: seen["pg-standby"]["role"] == "primary")
    fleet.noticed("its timeline", lambda seen: seen["pg-standby"]["timeline"] == 2)
    del fleet.servers["pg-standby"]
    fleet.write()
    fleet.rig.process.send_signal(signal.SIGHUP)
    fleet.noticed("a removed entry", lambda seen: "pg-standby" not in seen)


def test_local_server_dies_and_comes_back(fleet):
    data = fleet.rig.state / "instances" / "shop-s2-0" / "data"
    fleet.noticed("the local servers", lambda seen: {seen[f"shop-s{n}-0"]["health"] for n in (1, 2)} == {"up"})
    started = fleet.listed()["shop-s2-0"]["started"]
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    fleet.noticed("kill -9 of a local server", lambda seen: seen["shop-s2-0"]["health"] != "up")
    # by the manager; the time is the server's
    wait_until(lambda: fleet.listed()["shop-s2-0"]["health"] == "up", timeout=30, what="a start")
    fleet.noticed("its age", lambda seen: seen["shop-s2-0"]["started"] != started)
    fleet.rig.assert_consistent()


def test_database_comes_and_goes(fleet):
    """Instances that the runtime makes and removes."""
    seen = fleet.listed()
    assert {"shop-s1-0", "shop-s2-0"} <= set(seen)
    answer = fleet.rig.fetch("/v1/databases/shop", "DELETE")
    fleet.rig.wait_operation(answer["operation"] if "operation" in answer else answer["id"])
    fleet.noticed("removed instances", lambda seen: not [name for name in seen if name.startswith("shop-")])
    assert "pg-a" in fleet.listed()
