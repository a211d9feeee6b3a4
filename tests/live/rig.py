"""A manager with its servers under test: real binary, real PostgreSQL, its own state directory.

rig = Rig(shardherd, directory)
rig.start()
rig.make_shop(customers=2000)
op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2"})
rig.wait_operation(op["id"])
"""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
from conftest import DEFAULT, pg_bin_dir, wait_until

SCHEMA_COMMAND = ["load", "--print-schema", "--database", "shop"]


class Problem(Exception):
    """An answer of the API that is not a success; .status and .body."""

    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class Rig:
    def __init__(self, shardherd, directory, pg_bin=None):
        self.shardherd = str(shardherd)
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        os.chmod(self.directory, 0o711)
        self.state = self.directory / "state"
        self.folder = "instances"  # of the state directory; containers are in another one
        self.pg_bin = pg_bin or pg_bin_dir(DEFAULT)
        self.process = None
        self.ports = {}
        self.log = self.directory / "manager.log"
        self.settings = []
        self.config = None  # a configuration file
        self.rows = ()
        self.loading = None

    # ---- the manager ----

    def command(self):
        flags = [
            f"state_directory={self.state}",
            # free ones at the first start, the same ones ever after: clients keep their address
            *(f"listen.{name}_port={self.ports.get(name, 0)}" for name in ("public", "admin", "metrics")),
            "discovery.interval=1s",
            *self.settings,
        ]
        if self.pg_bin:
            flags.append(f"runtime.bin_directory={self.pg_bin}")
        out = [self.shardherd, "manager", *(["-c", str(self.config)] if self.config else [])]
        for flag in flags:
            out += ["--set", flag]
        return out

    def start(self, env=None, wait=True):
        ports = self.state / "manager.json"
        ports.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=60):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the manager ended with {self.process.returncode}:\n{self.tail()}")
            try:
                self.ports = json.loads((self.state / "manager.json").read_text())
                if self.ports["pid"] == self.process.pid and self.fetch("/readyz", raw=True):
                    return
            except (OSError, ValueError, Problem):
                pass
            time.sleep(0.02)
        raise AssertionError(f"the manager is not ready after {timeout} s:\n{self.tail()}")

    def wait_dead(self, timeout=60):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the manager still runs after {timeout} s:\n{self.tail()}") from error

    def stop(self, timeout=30):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the manager did not end in {timeout} s:\n{self.tail()}") from None
            assert self.process.returncode == 0, f"it ended with {self.process.returncode}:\n{self.tail()}"
        return self.process.returncode if self.process else None

    def tail(self, lines=40):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def clean_up(self):
        """Ends manager, load and servers and removes everything, whatever state they are in."""
        if self.loading and self.loading.poll() is None:
            self.loading.kill()
            self.loading.communicate()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid_file in self.state.glob("instances/*/data/postmaster.pid"):
            try:
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
            except (OSError, ValueError, IndexError):
                continue
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and list(self.state.glob("instances/*/data/postmaster.pid")):
            time.sleep(0.05)
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- the API ----

    def fetch(self, path, method="GET", body=None, port="admin", raw=False, timeout=30, mime="application/json"):
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", mime)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise Problem(error.code, error.read().decode(errors="replace")) from error
        return content.decode() if raw else json.loads(content) if content else None

    def post(self, path, body):
        return self.fetch(path, "POST", body)

    def routing(self):
        return self.fetch("/v1/databases/shop/routing")

    def operation(self, op_id):
        return self.fetch(f"/v1/operations/{op_id}")

    def operations(self):
        return self.fetch("/v1/operations")["items"]

    def wait_operation(self, op_id, timeout=120):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            op = self.operation(op_id)
            if op["status"] != "running":
                return op
            time.sleep(0.05)
        raise AssertionError(f"operation {op_id} still runs after {timeout} s: {op}\n{self.tail()}")

    # ---- the database ----

    def make_shop(self, customers=2000, shards=2, schema=None, tables=None, balance=None):
        schema = (
            schema
            or subprocess.run([self.shardherd, *SCHEMA_COMMAND], check=True, capture_output=True, text=True).stdout
        )
        spec = {
            "apiVersion": "shardherd.io/v1alpha1",
            "kind": "ShardedDatabase",
            "metadata": {"name": "shop"},
            "spec": {
                "shards": shards,
                "tables": tables
                or [
                    {"name": "public.customers", "key": "customer_id"},
                    {"name": "public.orders", "key": "customer_id"},
                ],
                "schema": schema,
                "balance": {"split": "off", "merge": "off", "rebalance": "off", "bake": "0s", **(balance or {})},
            },
        }
        answer = self.fetch("/v1/databases/shop", "PUT", spec)
        op = self.wait_operation(answer["operation"] if "operation" in answer else answer["id"])
        assert op["status"] == "done", op
        if customers:
            self.rows = ("--customers", str(customers))
            self.load("init", *self.rows, "--quiet")
        return op

    def dsn(self, shard, user="shardherd"):
        """Connection of psycopg to a shard's primary, as shardherd's own superuser role."""
        for found in self.routing()["shards"]:
            if found["name"] == shard:
                instance = self.state / self.folder / f"shop-{shard}-0"
                password = (instance / "password").read_text().strip()
                at = found["primary"]
                return f"host={at['host']} port={at['port']} dbname=shop user={user} password={password}"
        raise KeyError(shard)

    def sql(self, shard, text):
        with psycopg.connect(self.dsn(shard), autocommit=True) as conn:
            cursor = conn.execute(text)
            return cursor.fetchall() if cursor.description else []

    def load_command(self, *args):
        return [
            self.shardherd, "load", *args, "--database", "shop",
            "--routing", f"http://127.0.0.1:{self.ports['public']}",
            "--passfile", str(self.state / "secrets" / "shop.pgpass"),
            "--ledger", str(self.directory / "ledger"),
        ]  # fmt: skip

    def load(self, *args, timeout=300):
        done = subprocess.run(self.load_command(*args), capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start_load(self, *args):
        """A load that runs until stop_load(), which checks every row."""
        self.control = self.directory / "control"
        self.control.write_text("")
        self.loading = subprocess.Popen(
            self.load_command("run", "--duration", "0", "--control", str(self.control), "--json", "--quiet",
                              "--check-wait", "60s", *self.rows, *args),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self.loading

    def stop_load(self, timeout=120):
        self.control.write_text("stop\n")
        out, err = self.loading.communicate(timeout=timeout)
        assert self.loading.returncode == 0, f"load ended with {self.loading.returncode}\n{out}\n{err}\n{self.tail()}"
        return json.loads(out.strip().splitlines()[-1])

    # ---- a move that bakes ----

    def start_move(self, **body):
        return self.post("/v1/databases/shop/operations", body)["id"]

    def wait_baking(self, op_id, timeout=120):
        """Its fence is behind it, and its source follows its target."""
        source, deadline = self.operation(op_id)["shard"], time.monotonic() + timeout
        follows = f"SELECT subenabled FROM pg_subscription WHERE subname LIKE '%{op_id}_r'"
        while time.monotonic() < deadline:
            op = self.operation(op_id)
            assert op["status"] == "running", op
            if op["state"] == "watch" and self.sql(source, follows) == [(True,)]:
                return op
            time.sleep(0.05)
        raise AssertionError(f"operation {op_id} does not bake after {timeout} s: {op}\n{self.tail()}")

    # ---- what must be true when nothing runs ----

    def listeners(self, shard):
        """Temporary slots of the change stream: those of a shard that was hot until a moment ago end by themselves."""
        return self.sql(shard, "SELECT slot_name::text FROM pg_replication_slots WHERE temporary")

    def assert_consistent(self):
        """One owner per hash, guards as the routing table says, nothing of a move left over."""
        routing = self.routing()
        owned = []
        for shard in routing["shards"]:
            (epoch, los, his), *_ = self.sql(shard["name"], "SELECT epoch, los, his FROM shardherd.shard")
            ranges = sorted(zip(los, his, strict=True))
            assert ranges == sorted((int(r["lo"]), int(r["hi"])) for r in shard["ranges"]), (shard, ranges)
            assert epoch == int(shard["epoch"]), (shard, epoch)
            owned += ranges
            wait_until(lambda name=shard["name"]: self.listeners(name) == [], what="the end of listening")
            left = self.sql(
                shard["name"],
                "SELECT 'slot', slot_name::text FROM pg_replication_slots WHERE slot_type = 'logical' UNION ALL "
                "SELECT 'subscription', subname FROM pg_subscription UNION ALL "
                "SELECT 'publication', pubname FROM pg_publication WHERE pubname <> 'shardherd_sample' UNION ALL "
                "SELECT 'gate', move FROM shardherd.gate UNION ALL "
                "SELECT 'freeze', move FROM shardherd.freeze UNION ALL "
                "SELECT 'opening', move FROM shardherd.opening UNION ALL "
                "SELECT 'event trigger', evtname FROM pg_event_trigger "
                "WHERE evtname <> 'shardherd_trigger_made' UNION ALL "
                "SELECT 'origin', roname FROM pg_replication_origin UNION ALL "
                "SELECT 'table', relname FROM pg_class WHERE relname ~ '^shardherd_' AND relkind = 'r'",
            )
            assert left == [], (shard["name"], left)
        owned.sort()
        assert owned[0][0] == -(2**63) and owned[-1][1] == 2**63 - 1, owned
        for (_, hi), (lo, _) in zip(owned, owned[1:], strict=False):
            assert hi + 1 == lo, owned
        self.assert_instances(routing)

    def assert_instances(self, routing):
        instances = {p.name for p in (self.state / self.folder).iterdir() if p.is_dir()}
        assert instances == {f"shop-{s['name']}-0" for s in routing["shards"]}, instances
