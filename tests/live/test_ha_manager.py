"""Databases with several instances for each shard, as a user has them: through the program's commands, with a load
that remembers each acknowledged write, and kill -9."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
import yaml
from conftest import wait_until
from rig import SCHEMA_COMMAND, Rig
from test_cli import Cli

pytestmark = pytest.mark.waits

INSTANCES = 3


def processes_of(directory):
    """Processes that were started with something below this directory, or work there."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            where = os.readlink(entry / "cwd")
            text = b" ".join(words).decode(errors="replace")
            if str(directory) in text or where.startswith(str(directory)):
                found[int(entry.name)] = text
    return found


class Herd(Rig):
    """A manager whose database shop has several instances for each shard."""

    def __init__(self, shardherd, directory):
        super().__init__(shardherd, directory)
        self.settings += ["runtime.kind=local"]
        self.cli = Cli(shardherd, self.state)

    def specify(self, shards=1, instances=INSTANCES, members=None):
        """The file of a specification."""
        schema = subprocess.run([self.shardherd, *SCHEMA_COMMAND], check=True, capture_output=True, text=True).stdout
        spec = {
            "apiVersion": "shardherd.io/v1alpha1",
            "kind": "ShardedDatabase",
            "metadata": {"name": "shop"},
            "spec": {
                "shards": shards,
                "instances": instances,
                "tables": [
                    {"name": "public.customers", "key": "customer_id"},
                    {"name": "public.orders", "key": "customer_id"},
                ],
                "schema": schema,
                "balance": {"split": "off", "merge": "off", "rebalance": "off", "bake": "0s"},
            },
        }
        if members is not None:
            spec["spec"]["members"] = members
        file = self.directory / "shop.yaml"
        file.write_text(yaml.safe_dump(spec))
        return file

    def make(self, shards=1, instances=INSTANCES, customers=500, wait=True, members=None):
        file = self.specify(shards, instances, members)
        said = self.cli.out("apply", "-f", str(file), *(["--wait"] if wait else []), timeout=180)
        if not wait:
            return
        assert " done: provision shop" in said, said
        if customers:
            self.rows = ("--customers", str(customers))
            self.load("init", *self.rows, "--quiet")

    def instances(self, shard="s1"):
        return [i for i in self.fetch("/v1/instances")["items"] if i["shard"] == shard]

    def primary(self, shard="s1"):
        """The instance that the routing table names."""
        at = next(s["primary"] for s in self.routing()["shards"] if s["name"] == shard)
        return next(i for i in self.instances(shard) if (i["host"], i["port"]) == (at["host"], at["port"]))

    def home(self, name):
        return self.state / "instances" / name

    def agent_pids(self, name):
        return [p for p, words in processes_of(self.home(name)).items() if f"--member {name} " in words]

    def postmaster_pid(self, name):
        return int((self.home(name) / "member" / "data" / "postmaster.pid").read_text().split()[0])

    def kill_node(self, name):
        """Agent, watchdog and server, as when its machine ends."""
        pids = [*self.agent_pids(name), self.postmaster_pid(name)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def all_stream(self, shard="s1", instances=INSTANCES):
        members = [i["member"] for i in self.instances(shard)]
        streaming = sum(bool(m and m["streams"]) for m in members)
        return len(members) == instances and streaming == instances - 1

    def wait_streaming(self, shard="s1", timeout=60):
        wait_until(lambda: self.all_stream(shard), timeout, "standbys to stream")

    def wait_primary(self, wanted, shard="s1", timeout=30):
        def look():
            with contextlib.suppress(StopIteration):  # the instance is not known yet
                return wanted(self.primary(shard)["name"])

        wait_until(look, timeout, "another primary in the routing table")
        return self.primary(shard)

    def acknowledged(self):
        """Writes that the load's ledger has."""
        return sum(f.stat().st_size for f in self.directory.glob("ledger*") if f.is_file())

    def wait_acknowledged(self, timeout=30):
        before = self.acknowledged()
        wait_until(lambda: self.acknowledged() > before, timeout, "acknowledged writes")

    def nothing_lost(self):
        report = self.stop_load()
        assert report["acked_writes"] > 0
        assert report["lost"] == report["duplicated"] == report["misplaced"] == report["resurrected"] == 0, report

    def nothing_left(self, shard=""):
        """No process, no directory, no record of this shard, or of any."""
        homes = [p.name for p in (self.state / "instances").glob(f"shop-{shard}*")]
        assert homes == [], homes
        mine = {p: w for p, w in processes_of(self.state / "instances").items() if f"shop-{shard}" in w}
        assert mine == {}, mine
        with sqlite3.connect(f"file:{self.state}/store.db?mode=ro", uri=True) as store:
            keys = [row[0] for row in store.execute("SELECT key FROM kv WHERE key LIKE ?", (f"ha/shop/{shard}%",))]
        assert keys == [], keys

    def assert_instances(self, routing):
        homes = {p.name for p in (self.state / "instances").iterdir() if p.is_dir()}
        assert homes == {f"shop-{s['name']}-{i}" for s in routing["shards"] for i in range(INSTANCES)}, homes

    def wait_stopped(self, timeout=60):
        """The manager has come to the place where it is to stop."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", timeout, "the manager to stop")

    def clean_up(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and processes_of(self.state):
            for pid in processes_of(self.state):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        super().clean_up()


@pytest.fixture
def herd(shardherd, tmp_path_factory):
    directory = Path("/tmp") / f"shardherd-ha-{os.getpid()}-{time.monotonic_ns()}"
    herd = Herd(shardherd, directory)
    try:
        herd.start()
        yield herd
        herd.stop()
    finally:
        if os.environ.get("SHARDHERD_TEST_LOGS"):  # for whoever looks into a failure
            for log in (herd.log, *herd.state.glob("instances/*/log")):
                shutil.copy(log, Path(os.environ["SHARDHERD_TEST_LOGS"]) / f"{log.parent.name}-{log.name}")
        herd.clean_up()


def test_failover(herd):
    """The primary's machine dies under load: another one serves, nothing that was acknowledged is lost, and a delete
    leaves nothing behind."""
    herd.make()
    herd.wait_streaming()
    first, epoch = herd.primary(), int(herd.routing()["epoch"])
    wide = herd.cli.out("get", "instances", "-o", "wide")
    assert len([line for line in wide.splitlines() if " standby " in line and " sync " in line]) == 2, wide
    herd.start_load("--clients", "4")
    herd.wait_acknowledged()
    herd.kill_node(first["name"])
    second = herd.wait_primary(lambda name: name != first["name"])
    assert int(herd.routing()["epoch"]) > epoch
    assert second["member"]["term"] == "2", second
    herd.wait_acknowledged()
    herd.nothing_lost()
    assert " done" in herd.cli.out("delete", "database", "shop", "--confirm=shop", "--wait", timeout=120)
    herd.nothing_left()


def addresses(shard):
    return {(r["host"], r["port"]) for r in shard["replicas"]}


def address(instance):
    return instance["host"], instance["port"]


def freeze(herd, name):
    pids = [*herd.agent_pids(name), *processes_of(herd.home(name) / "member")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def test_replicas_in_the_routing_table(herd):
    """Standbys that stream are in the table with a bound of their lag; who is away is not, and has no lag, least of
    all 0; who was the primary and follows is one of them."""
    herd.make()
    herd.wait_streaming()
    listed = lambda: addresses(herd.routing()["shards"][0])  # noqa: E731
    first = herd.primary()
    standbys = [i for i in herd.instances() if i["name"] != first["name"]]
    wait_until(lambda: listed() == {address(i) for i in standbys}, 20, "both standbys in the table")
    assert all(int(r["lag_bytes"]) >= 1024 * 1024 for r in herd.routing()["shards"][0]["replicas"])
    away = standbys[0]["name"]
    frozen = freeze(herd, away)
    try:
        wait_until(lambda: listed() == {address(standbys[1])}, 40, "the frozen one out of the table")
        seen = lambda: next(i for i in herd.instances() if i["name"] == away)  # noqa: E731
        wait_until(lambda: seen()["lag_bytes"] is seen()["lag_seconds"] is None, 20, "no lag of the frozen one")
        assert seen()["member"]["lag_bytes"] is None and seen()["member"]["streams"] is False, seen()
        wide = herd.cli.out("get", "instances", "-o", "wide")
        row = next(line for line in wide.splitlines() if line.startswith(away))
        assert " away " in row and " 0 B " not in row, row
    finally:
        go_on(frozen)
    wait_until(lambda: listed() == {address(i) for i in standbys}, 60, "both standbys in the table again")
    herd.kill_node(first["name"])
    second = herd.wait_primary(lambda name: name != first["name"])
    assert address(second) not in listed()
    rest = {address(i) for i in [*standbys, first] if i["name"] != second["name"]}
    wait_until(lambda: listed() == rest, 60, "the old primary among the standbys")


def load_polls(herd, seconds):
    """How often each instance's load was read meanwhile."""
    line = re.compile(r'^shardherd_poll_last_success_timestamp_seconds\{.*group="load".*\} (\S+)$')
    seen, until = {}, time.monotonic() + seconds
    while time.monotonic() < until:
        for found in filter(None, map(line.match, herd.fetch("/metrics", port="metrics", raw=True).splitlines())):
            name = re.search(r'member="([^"]*)"', found[0])[1]
            seen.setdefault(name, set()).add(found[1])
        time.sleep(0.1)
    return {name: len(times) - 1 for name, times in seen.items()}


def test_polls_of_standbys(herd):
    """A standby that streams is polled every other second, the primary each second; and so is a standby whose agent is
    not heard. None of them is taken for suspect by that."""
    herd.make()
    herd.wait_streaming()
    first = herd.primary()["name"]
    away = next(i["name"] for i in herd.instances() if i["name"] != first)
    time.sleep(2)
    logged = len(herd.log.read_text())
    polls = load_polls(herd, 10)
    assert polls.pop(first) >= 7, polls
    assert len(polls) == 2 and all(2 <= n <= 6 for n in polls.values()), polls
    assert " suspect " not in herd.cli.out("get", "instances", "-o", "wide")
    assert "instance health" not in herd.log.read_text()[logged:], herd.tail()
    agent = agent_of(herd, away)
    os.kill(agent, signal.SIGSTOP)
    try:
        time.sleep(4)
        assert load_polls(herd, 5)[away] >= 3
    finally:
        os.kill(agent, signal.SIGCONT)


def member(herd, name):
    return next(i for i in herd.instances() if i["name"] == name)["member"]


def test_tags(herd):
    """Who is tagged noFailover is not promoted, who is tagged noSync is not waited for; tags may change meanwhile."""
    herd.make(members=[{"number": 1, "noFailover": True}])
    herd.wait_streaming()
    assert herd.primary()["name"] == "shop-s1-0"
    herd.start_load("--clients", "4")
    herd.wait_acknowledged()
    herd.kill_node("shop-s1-0")
    herd.wait_primary(lambda name: name == "shop-s1-2")  # the first of equals would be 1
    herd.wait_streaming()
    assert member(herd, "shop-s1-1")["sync"] is True
    changed = herd.specify(members=[{"number": 1, "noSync": True}, {"number": 2, "priority": 5}])
    herd.cli.out("apply", "-f", str(changed))
    wait_until(lambda: member(herd, "shop-s1-1")["sync"] is False, 20, "1 out of the sync set")
    assert member(herd, "shop-s1-1")["streams"] is True
    herd.wait_acknowledged()
    herd.kill_node("shop-s1-2")
    # whom nobody waits for may have received more, and is not kept from being promoted any more
    herd.wait_primary(lambda name: name != "shop-s1-2")
    herd.wait_acknowledged()
    herd.nothing_lost()


def test_delayed_standby(herd):
    """It has on its disk what the primary has, shows it late, is neither waited for nor promoted; without the tag it is
    a standby like others."""
    delay = 6
    herd.make(members=[{"number": 2, "replayDelay": f"{delay}s"}])
    herd.wait_streaming()
    late, primary = "shop-s1-2", herd.primary()["name"]
    assert primary == "shop-s1-0"
    wait_until(lambda: member(herd, late)["sync"] is False, 20, "it out of the sync set")

    def connect(name):
        port = next(i["port"] for i in herd.instances() if i["name"] == name)
        password = (herd.home(name) / "password").read_text().strip()
        where = f"host=127.0.0.1 port={port} dbname=shop user=shardherd password={password}"
        return psycopg.connect(where, autocommit=True)

    def there():  # it has made the database, late
        with contextlib.suppress(psycopg.OperationalError):
            return not connect(late).close()

    def seconds_until_seen(number):
        wait_until(there, 20, "the database on the standby")
        with connect(primary) as writer, connect(late) as reader:
            writer.execute("CREATE TABLE IF NOT EXISTS public.seen (number int)")
            writer.execute("INSERT INTO public.seen VALUES (%s)", (number,))
            since = time.monotonic()

            def seen():
                with contextlib.suppress(psycopg.errors.UndefinedTable):
                    return reader.execute("SELECT FROM public.seen WHERE number = %s", (number,)).fetchone() is not None

            wait_until(seen, 30, "the row on the standby")
            return time.monotonic() - since

    assert seconds_until_seen(1) >= delay - 1
    refused = herd.cli.run("switchover", "shop/s1", "--to", late, code=2)
    assert "replays late on purpose" in refused.stderr, refused.stderr
    herd.cli.out("apply", "-f", str(herd.specify(members=[])))
    wait_until(lambda: member(herd, late)["sync"] is True, 30, "it in the sync set again")
    assert seconds_until_seen(2) < delay - 2


def backends_of(herd, name):
    """Sessions of the application."""
    postmaster = herd.postmaster_pid(name)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(OSError):  # it has just ended
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            found += [int(pid)] if words.startswith("postgres: ") and " app shop " in words else []
    return found


def test_a_backend_is_killed(herd):
    """As by the kernel when memory is short: the server starts its sessions anew in its place, which is no failover."""
    herd.make()
    herd.wait_streaming()
    first, postmaster = herd.primary()["name"], herd.postmaster_pid(herd.primary()["name"])
    herd.start_load("--clients", "4")
    herd.wait_acknowledged()
    for _ in range(3):
        victims = wait_until(lambda: backends_of(herd, first), 20, "a session")
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[0], signal.SIGKILL)
        herd.wait_acknowledged()
    herd.wait_streaming()
    herd.nothing_lost()
    assert herd.primary()["name"] == first and herd.postmaster_pid(first) == postmaster
    assert [o["kind"] for o in herd.operations() if o["kind"] in ("switchover", "failover")] == []


def agent_of(herd, name):
    """The agent itself, not its watchdog."""
    return next(p for p in herd.agent_pids(name) if Path(f"/proc/{p}/comm").read_text().strip() == "shardherd")


def test_a_primary_that_is_to_stop_hands_over(herd):
    """SIGTERM, as of an evicted pod or a stopped unit: a switchover, no failover; then the agent has ended, and a
    new one follows. Without a manager that listens it ends at once."""
    herd.make()
    herd.wait_streaming()
    first = herd.primary()["name"]
    agent = agent_of(herd, first)
    herd.start_load("--clients", "4")
    herd.wait_acknowledged()
    os.kill(agent, signal.SIGTERM)
    second = herd.wait_primary(lambda name: name != first)["name"]
    wait_until(lambda: agent not in herd.agent_pids(first), 20, "the agent's end")
    herd.wait_acknowledged()
    herd.wait_streaming()
    herd.nothing_lost()
    changes = [o for o in herd.operations() if o["kind"] in ("switchover", "failover")]
    assert [o["kind"] for o in changes] == ["switchover"], changes
    assert changes[0]["record"]["reason"] == f"{first} is to stop, and hands over first", changes
    assert changes[0]["record"]["from"] == first and changes[0]["target"] == second, changes
    herd.stop()
    left, since = agent_of(herd, second), time.monotonic()
    os.kill(left, signal.SIGTERM)
    wait_until(lambda: left not in herd.agent_pids(second), 20, "the end of an agent that nobody listens to")
    assert time.monotonic() - since < 8
    herd.start()


@pytest.mark.slow
def test_killed_manager_and_rejoin(herd):
    """The manager is killed with the primary, and once more within the failover; all three stream in the end."""
    herd.make(shards=2)
    herd.wait_streaming("s1")
    herd.wait_streaming("s2")
    herd.start_load("--clients", "4")
    for delay in (0, 0.3, 0.8):
        first = {shard: herd.primary(shard)["name"] for shard in ("s1", "s2")}
        herd.wait_acknowledged()
        herd.kill_node(first["s1"])
        time.sleep(delay)  # anywhere within the failover
        herd.process.kill()
        herd.process.wait()
        herd.start()
        # the old primary, whose agent the manager starts again, or another one: whichever is there first
        herd.wait_acknowledged()
        assert herd.primary("s2")["name"] == first["s2"]
        herd.wait_streaming("s1", 90)
        herd.wait_streaming("s2")
    herd.nothing_lost()


@pytest.mark.slow
def test_switchover(herd):
    herd.make()
    herd.wait_streaming()
    herd.start_load("--clients", "4")
    for to in ("shop-s1-1", None, "shop-s1-0"):
        herd.wait_acknowledged()
        if to == herd.primary()["name"]:
            continue
        said = herd.cli.out("switchover", "s1", *(["--to", to] if to else []), "--wait")
        assert to is None or f"{to} is the primary" in said, said
        assert to is None or herd.primary()["name"] == to
        herd.wait_streaming()
    other = herd.cli.run("switchover", "shop/s1", "--to", "shop-s1-9", code=2)
    assert "no standby" in other.stderr, other.stderr
    herd.nothing_lost()


def failover_metrics(herd):
    text = herd.fetch("/metrics", port="metrics", raw=True)
    return dict(
        line.rsplit(" ", 1)
        for line in text.splitlines()
        if line.startswith(("shardherd_failover", "shardherd_shard_un"))
    )


def wait_told(herd, kind, known):
    """The operation of this kind that is not known yet, once it has ended."""

    def look():
        found = [o for o in herd.operations() if o["kind"] == kind and o["id"] not in known]
        return found[0] if found and found[0]["status"] != "running" else None

    wait_until(look, 30, f"a {kind} in the list of operations")
    return look()


def test_failovers_are_told(herd):
    """A switchover, a failover and one whose manager is killed in its midst are operations, counted, with their reason
    and how long nobody accepted writes."""
    herd.make()
    herd.wait_streaming()
    numbers = failover_metrics(herd)
    assert numbers.get('shardherd_failovers_total{db="shop",kind="failover",outcome="done"}') == "0", numbers
    herd.cli.out("switchover", "s1", "--to", "shop-s1-1", "--wait")
    switched = wait_told(herd, "switchover", ())
    assert switched["status"] == switched["state"] == "done", switched
    assert (switched["record"]["from"], switched["target"]) == ("shop-s1-0", "shop-s1-1"), switched
    assert "a person asked for it" in switched["record"]["reason"]
    assert 0 < switched["record"]["write_block_us"] < 10_000_000, switched
    herd.wait_streaming()
    herd.stop()
    herd.start(env={"SHARDHERD_TEST_KILL_AT": "failover:after:promote"})
    herd.wait_streaming()
    killed = time.monotonic()
    herd.kill_node("shop-s1-1")
    herd.wait_dead()
    herd.start()
    failed = wait_told(herd, "failover", ())
    took = time.monotonic() - killed
    assert failed["status"] == "done" and failed["record"]["from"] == "shop-s1-1", failed
    assert failed["target"] != "shop-s1-1"
    wait_until(lambda: herd.primary()["name"] == failed["target"], what="the instances to be told of it")
    assert re.match(r"fail over shard shop/s1: .*\(F1[0-2]\)", failed["record"]["reason"]), failed
    assert 0.1 < failed["record"]["write_block_us"] / 1e6 <= took, (failed, took)
    lines = herd.cli.out("get", "operations", "-o", "wide").splitlines()
    assert any(re.match(rf"{failed['id']} +failover .* done ", line) for line in lines), lines
    said = herd.cli.out("describe", "operation", failed["id"])
    assert "Primary before:" in said and "Without writes:" in said and "fail over shard" in said, said
    numbers = failover_metrics(herd)
    assert numbers['shardherd_failovers_total{db="shop",kind="failover",outcome="done"}'] == "1", numbers
    assert float(numbers['shardherd_failover_blocked_seconds_sum{db="shop",kind="failover"}']) > 0.1, numbers
    assert not [key for key in numbers if "unwritable" in key], numbers
    refused = herd.cli.run("cancel", failed["id"], code=None)
    assert refused.returncode != 0, refused


def go_on(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_maintenance(herd):
    """While it is on nobody is promoted, also by the next manager; then at once."""
    herd.make()
    herd.wait_streaming()
    first = herd.primary()["name"]
    assert "in maintenance" in herd.cli.out("maintenance", "s1", "on")
    herd.stop()
    herd.start()
    wait_until(
        lambda: (herd.fetch("/v1/databases/shop/shards/s1")["keeper"] or {}).get("maintenance"), 30, "maintenance"
    )
    assert "on: nothing is decided" in herd.cli.out("describe", "shard", "s1")
    pids = freeze(herd, first)
    time.sleep(6)  # longer than a silent primary is waited for
    assert herd.primary()["name"] == first and not [o for o in herd.operations() if o["kind"] == "failover"]
    assert "not in maintenance" in herd.cli.out("maintenance", "shop/s1", "off")
    herd.wait_primary(lambda name: name != first)
    go_on(pids)
    herd.wait_streaming()
    assert herd.cli.run("maintenance", "s1", "perhaps", code=2).stderr


@pytest.mark.slow
def test_forced_failover(herd):
    """Primary and a standby are gone, so that no quorum confirms: a person hears what would be lost, and can say that
    it may be. Who comes back follows."""
    herd.make()
    herd.wait_streaming()
    first = herd.primary()["name"]
    gone, left = [i["name"] for i in herd.instances() if i["name"] != first]
    there = herd.cli.run("failover", "s1", "--to", left, code=None)
    assert there.returncode != 0 and "switch over" in there.stderr, there
    frozen = [*freeze(herd, first), *freeze(herd, gone)]
    # it does not begin, or waits for its quorum: whichever of the two is found silent first
    wait_until(lambda: re.search(r"\(F8\)|\(F13\)", herd.log.read_text()), 30, "it to be said that a quorum is missing")
    refused = herd.cli.run("failover", "s1", "--to", left, code=None)
    assert refused.returncode != 0, refused
    assert re.search(
        rf"1 of the 2 standbys that helped {first} acknowledge .* are heard, and 2 must be", refused.stderr
    )
    assert "would be lost" in refused.stderr and "--allow-data-loss" in refused.stderr
    assert herd.cli.run("failover", "s1", "--to", left, "--allow-data-loss", code=None).returncode != 0
    assert herd.primary()["name"] == first
    herd.cli.out("failover", "s1", "--to", left, "--allow-data-loss", "--confirm", "s1", "--wait")
    assert herd.primary()["name"] == left
    forced = wait_told(herd, "failover", ())
    assert forced["status"] == "done" and "allowed to lose data" in forced["record"]["reason"], forced
    go_on(frozen)
    herd.wait_streaming(timeout=90)
    assert herd.primary()["name"] == left


def test_promoted_is_settled(herd):
    """What a promoted instance believes to own is what the store says, before it lets anybody in."""
    herd.make(shards=2)
    herd.wait_streaming("s1")
    owned = "SELECT epoch, los, his FROM shardherd.shard"
    right = herd.sql("s1", owned)
    herd.sql("s1", "UPDATE shardherd.shard SET epoch = 0, los = '{}', his = '{}'")  # as one that missed an opening
    old = herd.primary("s1")["name"]
    herd.kill_node(old)
    new = herd.wait_primary(lambda name: name != old, "s1")["name"]
    assert herd.sql("s1", owned) == right
    log = herd.log.read_text()
    assert re.search(f"compared with the store.*instance={new} found=settled", log), herd.tail()
    herd.wait_streaming("s1")
    herd.cli.out("switchover", "s1", "--wait")
    wait_until(lambda: "found=same" in herd.log.read_text(), 30, "a promoted instance that is as it should be")


@pytest.mark.slow
def test_moves(herd):
    """A split makes a shard with standbys of its own. A failover of its source sends a split back; one of either shard
    during the bake does no harm; a merge takes three instances away."""
    herd.make(customers=2000)
    herd.wait_streaming()
    herd.start_load("--clients", "4")
    # undone
    op = herd.start_move(kind="split", shard="s1")
    wait_until(lambda: herd.operation(op)["state"] in ("copy", "catch_up", "verify", "rehearse"), 60, "a copy")
    first = herd.primary()["name"]
    herd.kill_node(first)
    ended = herd.wait_operation(op)
    assert ended["status"] in ("undone", "done"), ended
    herd.wait_primary(lambda name: name != first)
    herd.wait_streaming("s1", 90)
    if ended["status"] == "undone":
        assert "another primary" in ended["error"]["message"], ended
        herd.nothing_left("s2")
        op = herd.start_move(kind="split", shard="s1")
        ended = herd.wait_operation(op)
        assert ended["status"] == "done", ended
    herd.wait_streaming("s2", 90)
    second = herd.primary("s2")["name"]
    herd.kill_node(second)
    herd.wait_primary(lambda name: name != second, "s2")
    herd.wait_acknowledged()
    herd.wait_streaming("s2", 90)
    op = herd.start_move(kind="merge", shard="s2", target="s1")
    ended = herd.wait_operation(op)
    assert ended["status"] == "done", ended
    herd.nothing_lost()
    herd.nothing_left("s2")


@pytest.mark.slow
def test_lost_member(herd):
    """All that a standby had is gone, while the manager runs and while it does not: it is made anew."""
    herd.make()
    herd.wait_streaming()
    herd.start_load("--clients", "4")
    for stopped in (False, True):
        lost = next(i["name"] for i in herd.instances() if not i["member"]["primary"])
        if stopped:
            herd.stop()
        herd.kill_node(lost)
        wait_until(lambda name=lost: not processes_of(herd.home(name)), 20, "the end of its processes")
        shutil.rmtree(herd.home(lost))
        if stopped:
            herd.start()
        else:
            wait_until(lambda: not herd.all_stream(), 20, "the loss to be seen")
        herd.wait_streaming(timeout=90)
        assert herd.home(lost).exists()
    herd.nothing_lost()


@pytest.mark.slow
def test_two_instances(herd):
    """A pair: who is left goes on alone, what was acknowledged is kept, and the other comes back."""
    herd.make(instances=2)
    wait_until(lambda: herd.all_stream(instances=2), 60, "the standby to stream")
    herd.start_load("--clients", "4")
    for turn in range(2):
        first = herd.primary()["name"]
        herd.wait_acknowledged()
        herd.kill_node(first)
        if turn == 0:  # later it may have acknowledged something alone: then it is the one that is waited for
            herd.wait_primary(lambda name, old=first: name != old)
        herd.wait_acknowledged()
        wait_until(lambda: herd.all_stream(instances=2), 90, "the standby to stream")
    herd.nothing_lost()


MADE = ("before:instances", "before:primaries", "amid:primaries", "after:primaries", "state:schema")


@pytest.mark.slow
@pytest.mark.parametrize("place", MADE)
def test_killed_while_made(herd, place):
    herd.stop()
    herd.start(env={"SHARDHERD_TEST_KILL_AT": f"provision:{place}"})
    herd.make(shards=2, customers=0, wait=False)
    herd.wait_dead()
    herd.start()
    herd.cli.out("wait", "database", "shop", "--for=ready", "--timeout", "2m", timeout=150)
    herd.rows = ("--customers", "200")
    herd.load("init", *herd.rows, "--quiet")
    herd.wait_streaming("s1")
    herd.wait_streaming("s2")
    herd.assert_consistent()
    herd.stop()
    herd.start(env={"SHARDHERD_TEST_KILL_AT": f"retire:{'after' if place == MADE[-1] else 'before'}:instances"})
    herd.cli.run("delete", "database", "shop", "--confirm=shop", timeout=60)
    herd.wait_dead()
    herd.start()
    herd.cli.out("wait", "database", "shop", "--for=deleted", "--timeout", "2m", timeout=150)
    herd.nothing_left()


def test_refused_elsewhere(herd):
    """What nobody would keep is not made: says so, and keeps nothing."""
    herd.stop()
    herd.settings.remove("runtime.kind=local")
    herd.settings += ["runtime.kind=none"]
    herd.start()
    with pytest.raises(AssertionError, match="made by the local runtime"):
        herd.make()
    assert herd.fetch("/v1/databases")["items"] == []


# From the commit on the range is the target's; before, the move may go either way.
PLACES = ("after:copy", "after:lock", "after:fence", "after:marker", "before:commit", "after:commit", "after:open")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_failover_within_a_move(herd, place):
    """The manager stops within a move, source or target lose their primary, the manager goes on."""
    herd.make(shards=2, customers=1000)
    owner, other = "s1", "s2"
    herd.start_load("--clients", "4")
    for victim in ("source", "target"):
        herd.wait_streaming("s1", 90)
        herd.wait_streaming("s2", 90)
        herd.stop()
        herd.start(env={"SHARDHERD_TEST_KILL_AT": f"stop:move:{place}"})
        wait_until(lambda: herd.all_stream("s1") and herd.all_stream("s2"), 60, "standbys to stream")
        op = herd.start_move(kind="rebalance", shard=owner, target=other)
        herd.wait_stopped()
        old = herd_kill(herd, owner if victim == "source" else other)
        herd.process.send_signal(signal.SIGCONT)
        ended = herd.wait_operation(op)
        print(place, victim, ended["status"], old, ended["error"] and ended["error"]["message"])
        assert ended["status"] in ("done", "undone"), (place, victim, ended)
        if place in ("after:commit", "after:open"):
            assert ended["status"] == "done", (place, victim, ended)
        if ended["status"] == "done":
            owner, other = other, owner
        herd.wait_acknowledged()
        herd.assert_consistent()
    herd.nothing_lost()


def herd_kill(herd, shard):
    """Without the API: the manager does not answer now."""
    for home in sorted((herd.state / "instances").glob(f"shop-{shard}-*")):
        if not (home / "member" / "data" / "standby.signal").exists():
            herd.kill_node(home.name)
            return home.name
    raise AssertionError(f"no primary of {shard}")
