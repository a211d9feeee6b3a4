"""Two PostgreSQL servers that are not ours, each in a network namespace and on small disks of its own, and managers
that move a range between them to and fro: what test_move_faults.py breaks.

    with Outside(shardherd, directory, store="sqlite") as fleet:
        fleet.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:after:verify"})
        fleet.servers["s1"].cut(); fleet.servers["s1"].fill(); fleet.servers["s1"].down(); fleet.servers["s1"].mend()

A server that ended is started again, as systemd would. Needs root.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
from conftest import DEFAULT, PgServer, server_user, wait_until
from rig import Problem, Rig

sys.path.append(str(Path(__file__).parents[1] / "kube"))

PASSWORD = "open sesame"
DATABASE = "shop"
MIDDLE = -(2**62)  # the upper half of s1's range at first is what moves
MOVING = {"lo": str(MIDDLE), "hi": "-1"}
SETTINGS = {
    "wal_level": "logical",
    "fsync": "on",  # a move insists on it, and this disk is memory
    "max_wal_size": "16MB",
    "min_wal_size": "2MB",
    "wal_retrieve_retry_interval": "200ms",  # a worker that was ended is there again before the next cell
    "shared_buffers": "16MB",
}


def why_not():
    """The reason why there are no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces and mounts of its own need root"
    for program in ("ip", "nsenter", "setpriv", "mount"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    try:
        name = f"shp{os.getpid()}"
        ip("netns", "add", name)
        ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"
    return None


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """A bridge that is the first address, and namespaces behind a link each."""

    made = itertools.count()  # a link goes some time after its namespace

    def __init__(self, mark):
        number = os.getpid() % 2**14
        self.mark = f"sh{number}{mark}{next(self.made)}"
        self.prefix = f"198.{18 + (mark == 'e')}.{number % 256}."  # set aside for tests: nobody's network
        self.bridge = f"{self.mark}b"
        self.names = []
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.prefix}1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")

    def namespace(self, number):
        """Its name; its address is prefix + number."""
        name, outside = f"{self.mark}n{number}", f"{self.mark}v{number}"
        ip("netns", "add", name)
        self.names.append(name)
        ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", outside, "master", self.bridge, "up")
        ip("-n", name, "addr", "add", f"{self.prefix}{number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")
        return name

    def link(self, number, state):
        ip("link", "set", f"{self.mark}v{number}", state)

    def close(self):
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", self.bridge)


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, path, size, owner=None):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "shardherd-test", str(path)], check=True
        )
        if owner:
            os.chown(path, owner["user"], owner["group"])
        self.filler = self.path / "filler"

    def fill(self):
        with open(self.filler, "ab", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 16))
        with open(self.filler, "ab", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 12))

    def empty(self):
        self.filler.unlink(missing_ok=True)

    def close(self):
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


class Server(PgServer):
    """One of the two: namespace, disk of the data, disk of the WAL."""

    def __init__(self, network, number, version=DEFAULT):
        self.disks = []
        super().__init__(version, password=PASSWORD, port=5432, **SETTINGS)
        self.network, self.number, self.held = network, number, False
        self.host = f"{network.prefix}{number}"
        owner = server_user()
        self.data_disk = Disk(self.dir / "disk", "128m", owner)
        self.wal_disk = Disk(self.dir / "wal", "40m", owner)
        self.disks = [self.data_disk, self.wal_disk]
        self.data = self.data_disk.path / "data"
        name = network.namespace(number)
        self.wrap = ["nsenter", f"--net=/run/netns/{name}", "setpriv", f"--reuid={owner['user']}",
                     f"--regid={owner['group']}", "--clear-groups"]  # fmt: skip

    def initdb(self, *args):
        super().initdb("-X", self.wal_disk.path / "pg_wal", "--wal-segsize=1", *args)
        lines = [f"{kind} all scram-sha-256" for kind in ("local all", "host all all", "host replication all")]
        (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")

    def kill9(self):
        self.held = True
        super().kill9()

    def mend(self):
        """Whatever was done to it is over."""
        self.network.link(self.number, "up")
        for disk in self.disks:
            disk.empty()
        self.held = False

    def cut(self):
        self.network.link(self.number, "down")

    def use_up_wal(self):
        """Segments that were made before are no room any more."""
        for _ in range(20):
            try:
                self.psql("SET statement_timeout = '1s'; SELECT pg_switch_wal() FROM (SELECT txid_current()) t")
            except psycopg.Error:
                return

    def destroy(self):
        self.held = True
        super().destroy()
        for disk in self.disks:
            disk.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Manager(Rig):
    """One manager of the fleet; all of them have its configuration."""

    def __init__(self, fleet, name):
        super().__init__(fleet.shardherd, fleet.directory / name)
        self.config = fleet.config_path
        self.settings = ["runtime.kind=none", "moves.min_free_disk=0", *fleet.store_settings]
        self.disk = Disk(self.state, "16m")

    def leads(self):
        """The term in which it believes to lead, 0 if it does not."""
        try:
            if "[+]balancer ok" in self.fetch("/readyz?verbose", raw=True, timeout=2):
                return int(self.fetch("/version", timeout=2)["term"])
        except (OSError, Problem):
            pass
        return 0

    def clean_up(self):
        super().clean_up()
        self.disk.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def unless_unavailable(ask):
    """None while managers change over, as they do on a machine that is too busy for their lease."""
    try:
        return ask()
    except Problem as problem:
        if problem.status != 503:
            raise
        return None


class Outside(Rig):
    """The fleet; as a Rig it is its first manager."""

    def __init__(self, shardherd, directory, store="sqlite", version=DEFAULT):
        super().__init__(shardherd, directory)
        self.store, self.version = store, version
        self.parts, self.servers, self.ending = contextlib.ExitStack(), {}, threading.Event()
        self.config_path = self.directory / "shardherd.yaml"
        self.least_term = 1

    # ---- life ----

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.clean_up()
            raise
        return self

    def __exit__(self, *_):
        self.clean_up()

    def make(self):
        self.store_settings = []
        if self.store == "etcd":
            from etcd_cluster import EtcdCluster

            self.etcd = self.parts.enter_context(EtcdCluster(self.directory / "etcd"))
            self.store_settings = ["store.kind=etcd", f"store.etcd_endpoints={self.etcd.urls()}"]
        self.network = Network("e" if self.store == "etcd" else "s")
        self.parts.callback(self.network.close)
        for number, shard in enumerate(("s1", "s2"), 2):
            server = Server(self.network, number, self.version)
            self.servers[shard] = server
            self.parts.callback(server.destroy)
            server.start()
            server.psql("CREATE ROLE app LOGIN PASSWORD 'open sesame'")
            server.psql(f"CREATE DATABASE {DATABASE} OWNER app")
        self.keeper = threading.Thread(target=self.keep, daemon=True)
        self.keeper.start()
        self.write_config()
        self.managers = [Manager(self, "one")]
        if self.store == "etcd":
            self.managers.append(Manager(self, "two"))
        self.first = self.managers[0]
        self.start()
        self.make_shop()

    def write_config(self):
        self.passfile = self.directory / "passfile"
        self.passfile.touch(mode=0o600)
        self.passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
        entries = [
            {"name": f"pg-{shard}", "host": server.host, "port": server.port, "user": "postgres", "dbname": DATABASE,
             "database": DATABASE, "shard": shard, "passfile": str(self.passfile)}
            for shard, server in self.servers.items()
        ]  # fmt: skip
        self.config_path.write_text(json.dumps({"discovery": {"interval": "1s", "static": entries}}))

    def keep(self):
        """What systemd does with Restart=always."""
        while not self.ending.wait(0.1):
            for server in self.servers.values():
                if not server.running and not server.held:
                    server.start(wait=False)

    def make_shop(self, customers=600):
        schema = subprocess.run(
            [self.shardherd, "load", "--print-schema"], check=True, capture_output=True, text=True
        ).stdout
        shards = [("s1", -(2**63), -1), ("s2", 0, 2**63 - 1)]
        spec = {
            "shards": [{"name": name, "range": f"{lo}..{hi}", "instance": f"pg-{name}"} for name, lo, hi in shards],
            "tables": [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "orders")],
            "schema": schema,
            "balance": {"split": "off", "merge": "off", "rebalance": "off", "bake": "0s"},
        }
        document = {"apiVersion": "shardherd.io/v1alpha1", "kind": "ShardedDatabase"}
        document |= {"metadata": {"name": DATABASE}, "spec": spec}
        wanted = lambda: self.first.fetch(f"/v1/databases/{DATABASE}", "PUT", document)  # noqa: E731
        answer = wait_until(lambda: unless_unavailable(wanted), timeout=60, what="a manager that leads")
        op = self.first.wait_operation(answer.get("operation", answer.get("id")))
        assert op["status"] == "done", op
        self.rows = ("--customers", str(customers))
        self.load("init", *self.rows, "--quiet")

    def stop(self, timeout=30):
        for manager in self.managers:
            manager.stop(timeout)

    def start(self, env=None, wait=True):
        """The first one leads then."""
        self.first.start(env, wait)
        for manager in self.managers[1:]:
            manager.start()

    def clean_up(self):
        if self.loading and self.loading.poll() is None:
            self.loading.kill()
            self.loading.communicate()
        for manager in getattr(self, "managers", []):
            manager.clean_up()
        self.ending.set()
        if hasattr(self, "keeper"):
            self.keeper.join()
        self.parts.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def tail(self, lines=40):
        return "\n".join(f"-- {m.directory.name}\n{m.tail(lines)}" for m in getattr(self, "managers", []))

    # ---- what a test asks ----

    def leader(self):
        """Of two that believe to lead the one with the greater term; none of less than `least_term`."""
        living = [m for m in self.managers if m.process and m.process.poll() is None]
        found = [(term, m) for m in living if (term := m.leads()) >= self.least_term]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def fetch(self, path, *args, **kwargs):
        """Of whoever leads."""
        deadline = time.monotonic() + 60
        while True:
            leader = self.leader()
            if leader is not None:
                try:
                    return leader.fetch(path, *args, **kwargs)
                except OSError:
                    pass
                except Problem as problem:  # it has only just begun
                    if problem.status != 503 or time.monotonic() > deadline:
                        raise
            if time.monotonic() > deadline:
                raise AssertionError(f"nobody leads\n{self.tail()}")
            time.sleep(0.05)

    def dsn(self, shard, user="postgres"):
        server = self.servers[shard]
        return server.conninfo(DATABASE, user=user, connect_timeout=3)

    def load_command(self, *args):
        public = self.managers[-1].ports["public"]
        return [
            self.shardherd, "load", *args, "--database", DATABASE, "--routing", f"http://127.0.0.1:{public}",
            "--passfile", str(self.passfile), "--ledger", str(self.directory / "ledger"),
        ]  # fmt: skip

    def owner_of_moving(self):
        for shard in self.routing()["shards"]:
            if any(int(r["lo"]) <= MIDDLE <= int(r["hi"]) for r in shard["ranges"]):
                return shard["name"]
        raise AssertionError(f"nobody owns it: {self.routing()}")

    def assert_instances(self, routing):
        assert {s["name"] for s in routing["shards"]} == set(self.servers), routing

    def wait_servers(self):
        for server in self.servers.values():
            wait_until(lambda s=server: answers(s), timeout=60, what=f"server {server.number}")


def answers(server):
    try:
        server.connect(DATABASE, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
