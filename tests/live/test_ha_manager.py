"""Databases with several instances for each shard, as a user has them: through the program's commands, with a load
that remembers each acknowledged write, and kill -9."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
import yaml
from conftest import wait_until
from rig import SCHEMA_COMMAND, Rig
from test_cli import Cli

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

    def make(self, shards=1, instances=INSTANCES, customers=500):
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
        file = self.directory / "shop.yaml"
        file.write_text(yaml.safe_dump(spec))
        said = self.cli.out("apply", "-f", str(file), "--wait", timeout=180)
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


def test_primary_dies(herd):
    herd.make()
    herd.wait_streaming()
    first = herd.primary()
    epoch = int(herd.routing()["epoch"])
    herd.start_load("--clients", "4")
    time.sleep(1)
    herd.kill_node(first["name"])
    wait_until(lambda: herd.primary()["name"] != first["name"], 20, "another primary in the routing table")
    assert int(herd.routing()["epoch"]) > epoch
    herd.wait_streaming()
    herd.stop_load()
