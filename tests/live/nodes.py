"""A shard whose members, keepers and etcd each have a network namespace of their own on one bridge, and what can go
wrong with them, as one call each. Agents and keepers that end are started again, as systemd would.

    with Herd(shardherd, tool, store="etcd") as herd:      # or "sqlite": one keeper
        herd.begin()
        herd.cut(herd.nodes[:1], herd.others(herd.nodes[0]))
        herd.heal()

The test is on the bridge: it and its clients reach each member, also one that is cut off from all others, unless its
link is down. Who is Inside(node) reaches it even then. Needs root.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import DEFAULT, REPO, server_user, wait_until
from outside import Network, ip
from test_agent_replica import Member, make_shard, servers_of
from test_ha import Keeper, children

sys.path.append(str(REPO / "tests" / "kube"))  # after tests/live, whose conftest counts here
CLONE_NEWNET = 0x40000000
NOWHERE = "02:00:00:00:de:ad"  # an address of the link layer that nobody has
KEEPALIVE = {"keepalives_idle": 2, "keepalives_interval": 2, "keepalives_count": 30}


def signal_all(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Clock:
    """Of programs that have its environment: their wall clock can be stepped."""

    def __init__(self, directory):
        self.path, library = directory / "clock", directory / "clock.so"
        if shutil.which("cc") is None:
            pytest.skip("there is no C compiler for the clock that can be stepped")
        source = REPO / "tests" / "preload" / "clock.c"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        self.path.write_bytes(struct.pack("=q", 0))
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "SHARDHERD_TEST_CLOCK": str(self.path)}
        # asan wants to be the first library
        self.environment["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"

    def step(self, seconds):
        with self.path.open("r+b") as file:
            file.write(struct.pack("=q", seconds))


class Node(Member):
    """A member on a node of its own."""

    def __init__(self, herd, name, number):
        super().__init__(herd.shard.program, herd.directory, name, DEFAULT)
        self.number, self.held = number, False
        self.host = self.http_address = f"{herd.network.prefix}{number}"
        self.port, self.http = 5432, 8008
        self.namespace = herd.network.namespace(number)
        user = server_user()
        self.wrap = ["nsenter", f"--net=/run/netns/{self.namespace}", "setpriv", f"--reuid={user['user']}",
                     f"--regid={user['group']}", "--clear-groups"]  # fmt: skip
        self.more = [f"--http-tls={herd.agent_tls}"]
        self.tls = herd.context
        self.environment = herd.clocks[name].environment if name in herd.clocks else None
        herd.shard.made.append(self)

    def connect(self, **more):
        return super().connect(**{**KEEPALIVE, **more})

    def processes(self):
        return [self.process.pid, *children(self.process.pid), *servers_of(self.data)]

    def postmaster(self):
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def die(self):
        """Agent, watchdog and server at once."""
        signal_all(self.processes(), signal.SIGKILL)
        self.process.wait()


class Inside:
    """For clients on the node itself, whatever becomes of its link. Only the thread that connects goes there, and a
    socket stays where it was made."""

    libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self, node):
        self.name, self.node = node.name, node

    def enter(self, path):
        with open(path, "rb") as namespace:
            if self.libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {path}")

    def connect(self, **more):
        self.enter(f"/run/netns/{self.node.namespace}")
        try:
            return self.node.connect(**more)
        finally:
            self.enter("/proc/self/ns/net")  # of the first thread


class Manager(Keeper):
    """A keeper on a node of its own."""

    def __init__(self, herd, name, number, store):
        super().__init__(herd.tool("ha_tool"), herd.directory, herd.nodes, store, name)
        self.number, self.held = number, False
        self.namespace = herd.network.namespace(number)
        self.wrap = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        self.environment = {"HA_TOOL_TLS": str(herd.keeper_tls), "HA_TOOL_HOLDER": name, **herd.environment}
        if name in herd.clocks:
            self.environment = {**herd.clocks[name].environment, **self.environment}

    def running(self):
        return self.process is not None and self.process.poll() is None


class Herd:
    def __init__(self, shardherd, tool, store="sqlite", names="abc", clocks=(), **environment):
        """clocks: members and keepers whose clock is to be stepped. environment: of the keepers (ha_tool)."""
        self.shard, self.tool, self.store, self.names = make_shard(shardherd, DEFAULT), tool, store, names
        self.directory = self.shard.directory
        self.clocks, self.environment = dict.fromkeys(clocks), environment
        self.parts, self.ending, self.lock = contextlib.ExitStack(), threading.Event(), threading.Lock()
        self.nodes, self.managers, self.etcd, self.poisoned, self.down = [], [], None, [], []
        self.supervisor = threading.Thread(target=self.supervise, daemon=True)

    # ---- life ----

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def make(self):
        self.network = Network("h")
        self.parts.callback(self.network.close)
        for name in self.clocks:
            folder = self.directory / f"clock-{name}"
            folder.mkdir(mode=0o755)
            self.clocks[name] = Clock(folder)
        self.make_certificates()
        self.nodes = [Node(self, name, number) for number, name in enumerate(self.names, 2)]
        for node in self.nodes:
            node.start()
        if self.store == "etcd":
            self.start_etcd(30)
            store = self.etcd_url
        else:
            store = self.directory / "store.db"
        keepers = ("one", "two") if self.store == "etcd" else ("one",)
        self.managers = [Manager(self, name, number, store) for number, name in enumerate(keepers, 20)]
        for manager in self.managers:
            manager.start()
        self.supervisor.start()

    def make_certificates(self):
        """Valid long enough that a clock may be stepped: they begin an hour and a half before now."""
        early = self.clocks and next(iter(self.clocks.values()))
        certificates = Certificates(self.directory / "certificates", early.environment if early else None)
        if early:
            early.step(-5400)
        certificates.authority("ours")
        addresses = [f"{self.network.prefix}{number}" for number, _ in enumerate(self.names, 2)]
        certificates.issue("ours", "agent", "serverAuth,clientAuth", addresses)
        certificates.issue("ours", "keeper", "clientAuth")
        if early:
            early.step(0)
        self.agent_tls, self.keeper_tls = self.directory / "agent-tls", self.directory / "keeper-tls"
        for folder, name in ((self.agent_tls, "agent"), (self.keeper_tls, "keeper")):
            certificates.as_secret(folder, tls_crt=f"{name}.crt", tls_key=f"{name}.key", ca_crt="ours.crt")
        self.context = ssl.create_default_context(cafile=certificates.dir / "ours.crt")
        self.context.load_cert_chain(certificates.dir / "keeper.crt", certificates.dir / "keeper.key")

    def start_etcd(self, number):
        from control_plane import Part, build_programs

        try:
            program = build_programs(("etcd",)) / "etcd"
        except RuntimeError as error:
            pytest.skip(str(error))
        self.etcd_namespace, self.etcd_number = self.network.namespace(number), number
        self.etcd_url = f"http://{self.network.prefix}{number}:2379"
        argv = ["nsenter", f"--net=/run/netns/{self.etcd_namespace}", program, f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={self.etcd_url}", f"--advertise-client-urls={self.etcd_url}",
                "--log-level=warn"]  # fmt: skip
        self.etcd = Part("etcd", argv, self.directory / "etcd.log")
        self.etcd.start()

    def supervise(self):
        while not self.ending.wait(0.3):
            with self.lock:
                for node in self.nodes:
                    if not node.held and node.process.poll() is not None:
                        node.spawn()
                for manager in self.managers:
                    if not manager.held and not manager.running():
                        manager.start()

    def hold(self, which):
        """It is not started again until it is held no more."""
        with self.lock:
            which.held = True

    def close(self):
        self.ending.set()
        if self.supervisor.is_alive():
            self.supervisor.join()
        for manager in self.managers:
            if manager.running():
                manager.process.send_signal(signal.SIGCONT)
                manager.kill()
        if self.etcd is not None:
            self.etcd.kill(signal.SIGCONT)
            self.etcd.kill()
        for node in self.shard.made:
            if node.process is not None:
                signal_all(node.processes(), signal.SIGCONT)
            node.destroy()
        self.parts.close()
        shutil.rmtree(self.directory)

    # ---- what is so ----

    def member(self, name):
        return next(n for n in self.nodes if n.name == name)

    def others(self, *nodes):
        """All that have a namespace, but these."""
        return [n for n in (*self.nodes, *self.managers) if n not in nodes] + ([self] if self.etcd else [])

    def primary(self):
        """Name and term of the primary that was told last."""
        told = [(int(words[2]), words[1]) for m in self.managers for _, words in list(m.lines) if words[0] == "primary"]
        term, name = max(told, default=(0, None))
        return name, term

    def leader(self):
        """Who was the last to lead, and when that was."""
        told = [(at, m) for m in self.managers for at, words in list(m.lines) if words[0] == "leader"]
        return max(told, key=lambda pair: pair[0], default=(0.0, None))[::-1]

    def dump(self):
        logs = [m.log() for m in self.managers] + [n.log() for n in self.nodes]
        names = [m.name for m in self.managers] + [n.name for n in self.nodes]
        return "\n".join(f"--- {name}\n{log[-3500:]}" for name, log in zip(names, logs, strict=True))

    def keep_logs(self, label):
        if os.environ.get("SHARDHERD_TEST_LOGS"):
            to = Path(os.environ["SHARDHERD_TEST_LOGS"]) / label
            shutil.copytree(self.directory, to, ignore=shutil.ignore_patterns("pgdata*", ".s.*", "etcd", "disk"))

    def until(self, condition, timeout, what):
        """wait_until(), for which who does not answer is a no, and whose failure shows the logs."""

        def holds():
            with contextlib.suppress(OSError, AssertionError):
                return condition()

        with contextlib.suppress(pytest.fail.Exception):
            return wait_until(holds, timeout, what)
        self.keep_logs(f"failed-{time.monotonic_ns()}")
        pytest.fail(f"{what}: not within {timeout} s\n{self.dump()}")

    def whole(self):
        """All others stream from the one that was told last, and know no other term."""
        name, term = self.primary()
        if name is None:
            return False
        statuses = {node.name: node.status() for node in self.nodes}
        streaming = {s["name"] for s in statuses[name].get("standbys", []) if s["state"] == "streaming"}
        return (
            streaming == set(statuses) - {name}
            and [n for n, s in statuses.items() if s["reported"] == "primary"] == [name]
            and all(s["term"] == str(term) for s in statuses.values())
        )

    def begin(self):
        self.until(lambda: self.primary() == (self.names[0], 1), 40, "the first primary")
        self.until(self.whole, 40, "standbys to stream")

    # ---- the network ----

    @property
    def number(self):  # as a node: that of its store
        return self.etcd_number

    @property
    def namespace(self):
        return self.etcd_namespace

    def lose(self, sources, targets):
        """What these send to those is lost, without a word to anybody."""
        for source in sources:
            for target in targets:
                address = f"{self.network.prefix}{target.number}"
                ip("-n", source.namespace, "neigh", "replace", address, "lladdr", NOWHERE, "dev", "eth0", "nud",
                   "permanent")  # fmt: skip
                self.poisoned.append((source.namespace, address))

    def cut(self, these, those):
        self.lose(these, those)
        self.lose(those, these)

    def link(self, node, state):
        """Of all traffic, that of the test included."""
        self.network.link(node.number, state)
        if state == "down":
            self.down.append(node)
        elif node in self.down:
            self.down.remove(node)

    def heal(self):
        for namespace, address in self.poisoned:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("-n", namespace, "neigh", "del", address, "dev", "eth0")
        self.poisoned = []
        for node in list(self.down):
            self.link(node, "up")
