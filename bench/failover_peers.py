"""The peers of the failover benchmark, installed below build/: Patroni with etcd, and pg_auto_failover."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import yaml
from benchmarks import ROOT, Unmeasured
from failover_clusters import PORTS, Cluster, Group, end_all_in, kill, wait

sys.path.append(str(ROOT / "tests" / "kube"))  # after tests/live, whose conftest counts here
PG = "15"  # for which Debian 12 has the extension of pg_auto_failover
# what Patroni 4.1 takes at least: it raises anything less, and wants loop_wait + 2 * retry_timeout <= ttl
FASTEST = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}
DEFAULTS = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}


def reaches(program):
    """Whether the user whom servers run as can run it."""
    from conftest import server_user

    try:
        done = subprocess.run([program, "--version"], capture_output=True, check=False, cwd="/", **server_user())
    except OSError:
        return False
    return done.returncode == 0


def folder():
    """Where peers are unpacked: build/failover, or a place that the servers' user reaches, to which that is a link."""
    from conftest import server_user

    link = ROOT / "build" / "failover"
    link.parent.mkdir(exist_ok=True)
    seen = subprocess.run(["test", "-x", ROOT / "build"], check=False, cwd="/", **server_user()).returncode == 0
    if not link.exists() and not seen:
        place = Path(f"/var/tmp/shardherd-failover-{os.getuid()}")
        place.mkdir(mode=0o755, exist_ok=True)
        link.symlink_to(place)
    link.mkdir(exist_ok=True)
    return link.resolve()


def run(what, *argv, **kwargs):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, **kwargs)
    if done.returncode != 0:
        raise Unmeasured(f"{what}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def install_patroni(bench):
    """The newest of PyPI, in a venv of its own; -> its python."""
    python = folder() / "venv" / "bin" / "python"
    if not (python.parent / "patroni").exists():
        base = next((p for p in (sys.executable, "/usr/bin/python3") if reaches(p)), None)
        if base is None:
            raise Unmeasured("Patroni runs as the servers' user, who reaches no python3")
        bench.note("installing Patroni below build/failover")
        run("a venv for Patroni", base, "-m", "venv", "--without-pip", python.parent.parent)
        run("Patroni", sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
            "patroni[etcd3]", "psycopg2-binary")  # fmt: skip
    return python


def download(to, *packages):
    """The Debian packages, with new lists where the machine's know nothing of them."""
    try:
        run("packages", "apt-get", "download", *packages, cwd=to)
    except Unmeasured:
        run("the lists of packages", "apt-get", "update")
        run("packages", "apt-get", "download", *packages, cwd=to)


def install_pg_auto_failover(bench):
    """Debian's packages, unpacked beside a copy of its PostgreSQL; -> the folder that is their /usr."""
    root = folder() / "pg_auto_failover"
    if not (root / "usr" / "bin" / "pg_autoctl").exists():
        if not Path(f"/usr/lib/postgresql/{PG}/bin/postgres").exists():
            raise Unmeasured(f"Debian's PostgreSQL {PG}, which its extension is made for, is not installed")
        bench.note("unpacking pg_auto_failover below build/failover")
        partial = root.with_name(f".{root.name}.{os.getpid()}")
        try:
            packages = partial / "packages"
            packages.mkdir(parents=True)
            download(packages, "pg-auto-failover-cli", f"postgresql-{PG}-auto-failover")
            for part in ("lib", "share"):
                (partial / "usr" / part / "postgresql").mkdir(parents=True)
                shutil.copytree(f"/usr/{part}/postgresql/{PG}", partial / "usr" / part / "postgresql" / PG,
                                symlinks=True)  # fmt: skip
            for package in packages.glob("*.deb"):
                run(package.name, "dpkg", "-x", package, partial)
            shutil.rmtree(packages)
            partial.chmod(0o755)
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return root / "usr"


class Peer(Cluster):
    """Nodes of which each has a daemon; all of it below one directory, as the servers' user."""

    user = "app"

    def __init__(self, bench, name, nodes):
        from conftest import server_user

        self.bench, self.name = bench, name
        self.directory = bench.directory / name.replace(", ", "-")
        self.directory.mkdir(mode=0o700)
        self.as_user = server_user()
        if self.as_user:
            os.chown(self.directory, self.as_user["user"], self.as_user["group"])
        bench.stack.callback(self.close)
        self.nodes = nodes
        self.ports = {node: next(PORTS) for node in nodes}
        self.started, self.groups = {}, {}
        self.environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.directory)}

    def close(self):
        for process in self.started.values():
            kill([process.pid])
        end_all_in(self.directory)
        for process in self.started.values():
            process.wait(10)
        for group in self.groups.values():
            group.close()

    def home(self, node):
        return self.directory / node

    def make_home(self, node):
        self.home(node).mkdir(mode=0o700)
        if self.as_user:
            os.chown(self.home(node), self.as_user["user"], self.as_user["group"])

    def data(self, node):
        return self.home(node) / "data"

    def spawn(self, node, *argv):
        if node in self.started:
            self.started[node].wait(10)  # it was killed
        with (self.directory / f"{node}.log").open("ab") as log:
            self.started[node] = subprocess.Popen(
                [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home(node),
                env=self.environment, start_new_session=True, **self.as_user,
            )  # fmt: skip
        if node not in self.groups:
            self.groups[node] = Group(f"{self.directory.name}-{node}")
        self.groups[node].add(self.started[node].pid)  # before it has a connection

    def ports_of(self, node):
        return [self.ports[node]]

    def groups_of(self, node):
        """It connects to the others, and to who knows what the others do."""
        if self.groups[node].folder is None:
            raise Unmeasured("a link is lost by control groups of version 2, which are not there")
        return [self.groups[node].path]

    def conninfo(self, node):
        return f"host=127.0.0.1 port={self.ports[node]} dbname=postgres user={self.user}"

    def admin(self, node):
        return f"host=127.0.0.1 port={self.ports[node]} dbname=postgres user=postgres"

    def make_table(self):
        with psycopg.connect(self.admin(self.place()), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {self.user} LOGIN")
        super().make_table()


class Patroni(Peer):
    """Three nodes and one etcd. Whose the leader's key is, is the primary."""

    def __init__(self, bench, name, timing):
        from conftest import DEFAULT, pg_bin_dir
        from etcd_cluster import EtcdCluster

        self.python = install_patroni(bench)
        super().__init__(bench, name, ["p0", "p1", "p2"])
        self.etcd = bench.stack.enter_context(EtcdCluster(bench.directory / f"{self.directory.name}-etcd"))
        self.rest = {node: next(PORTS) for node in self.nodes}
        for node in self.nodes:
            self.make_home(node)
            self.config(node).write_text(yaml.safe_dump(self.settings(node, timing, pg_bin_dir(DEFAULT))))
            self.config(node).chmod(0o644)
            self.restart(node)
        self.timing = timing

    def ready(self):
        super().ready()
        taken = json.loads(self.ask(self.nodes[0], "config"))
        if {key: taken[key] for key in self.timing} != self.timing:
            raise Unmeasured(f"{self.name}: Patroni took {taken}, not {self.timing}")

    def config(self, node):
        return self.home(node) / "patroni.yaml"

    def settings(self, node, timing, bin_directory):
        if bin_directory is None:
            raise Unmeasured("there is no PostgreSQL")
        at, rest = f"127.0.0.1:{self.ports[node]}", f"127.0.0.1:{self.rest[node]}"
        return {
            "scope": "bench",
            "name": node,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"hosts": self.etcd.urls().replace("http://", "")},
            "bootstrap": {
                "dcs": {**timing, "postgresql": {"use_pg_rewind": True}},
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": at,
                "connect_address": at,
                "data_dir": str(self.data(node)),
                "bin_dir": str(bin_directory),
                "pgpass": str(self.home(node) / "pgpass"),
                "use_unix_socket": True,  # a lost link is none between a daemon and its server
                "parameters": {"unix_socket_directories": str(self.home(node))},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
            },
        }

    def ports_of(self, node):
        return [self.ports[node], self.rest[node]]

    def ask(self, node, path, body=None, timeout=60):
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest[node]}/{path}",
                                         data=None if body is None else json.dumps(body).encode())  # fmt: skip
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read().decode()

    def place(self):
        from etcd_cluster import EtcdError, b64

        try:
            found = self.etcd.request("/v3/kv/range", {"key": b64("/service/bench/leader")}).get("kvs")
        except (OSError, EtcdError):
            return None
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def daemons(self, node):
        return [self.started[node].pid]

    def restart(self, node):
        self.spawn(node, self.python, "-m", "patroni", self.config(node))
        return time.monotonic()

    def switchover(self, node):
        target = next(n for n in self.nodes if n != node)
        try:
            self.ask(node, "switchover", {"leader": node, "candidate": target})
        except urllib.error.HTTPError as error:
            raise Unmeasured(f"the switchover: {error.read().decode(errors='replace')}") from error

    def settled(self):
        """All members run by their own word, which they write only each loop_wait."""
        self.wait_streaming()

        def as_told():
            members = json.loads(self.ask(self.place() or self.nodes[0], "cluster"))["members"]
            return sorted(m["state"] for m in members) == ["running", "streaming", "streaming"]

        wait(as_told, 60, f"{self.name}: members that stream by their own word")


class PgAutoFailover(Peer):
    """Two nodes and a monitor, whose word on the primary counts."""

    def __init__(self, bench, name):
        self.usr = install_pg_auto_failover(bench)
        super().__init__(bench, name, ["n0", "n1"])
        for kind in ("CONFIG_HOME", "DATA_HOME", "RUNTIME_DIR"):
            self.make_home(kind)
            self.environment[f"XDG_{kind}"] = str(self.home(kind))
        bin_directory = self.usr / "lib" / "postgresql" / PG / "bin"
        self.environment["PATH"] = f"{self.usr / 'bin'}:{bin_directory}:{os.environ['PATH']}"
        self.common = ["--pgctl", bin_directory / "pg_ctl", "--hostname", "localhost", "--auth", "trust", "--no-ssl"]
        self.monitor_port, self.asking = next(PORTS), None
        self.make_home("monitor")
        self.spawn("monitor", "pg_autoctl", "create", "monitor", "--pgdata", self.data("monitor"), "--pgport",
                   self.monitor_port, *self.common, "--run")  # fmt: skip
        self.monitor = f"postgres://autoctl_node@localhost:{self.monitor_port}/pg_auto_failover?sslmode=disable"
        wait(lambda: self.ask("SELECT 1"), 60, f"{name}: its monitor")
        for node in self.nodes:
            self.make_home(node)
            self.spawn(node, "pg_autoctl", "create", "postgres", "--name", node, "--pgdata", self.data(node),
                       "--pgport", self.ports[node], "--monitor", self.monitor, *self.common, "--run")  # fmt: skip
            wait(self.place, 60, f"{name}: {node}")

    def ask(self, query):
        """Over a connection that stays: writers ask each 50 ms."""
        if self.asking is None or self.asking.closed:
            self.asking = psycopg.connect(self.monitor, autocommit=True, connect_timeout=2)
        return self.asking.execute(query).fetchall()

    def place(self):
        try:
            rows = self.ask("SELECT primary_name FROM pgautofailover.get_primary('default', 0)")
        except psycopg.Error:
            return None
        return rows[0][0] if rows else None

    def daemons(self, node):
        """pg_autoctl and its children, which are programs of the same name."""
        from test_ha_manager import processes_of

        return [pid for pid, words in processes_of(self.home(node)).items() if "pg_autoctl" in words.split(" ")[0]]

    def restart(self, node):
        self.spawn(node, "pg_autoctl", "run", "--pgdata", self.data(node))
        return time.monotonic()

    def switchover(self, node):
        run(self.name, self.usr / "bin" / "pg_autoctl", "perform", "switchover", "--pgdata", self.data("monitor"),
            env=self.environment, cwd=self.directory, **self.as_user)  # fmt: skip

    def settled(self):
        self.wait_streaming()
        want = [("primary", "primary"), ("secondary", "secondary")]
        wait(
            lambda: sorted(self.ask("SELECT reportedstate::text, goalstate::text FROM pgautofailover.node")) == want,
            90,
            f"{self.name}: primary and secondary",
        )
