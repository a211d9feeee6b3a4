"""What can go wrong with the nodes of a shard (nodes.py), each as begin() and heal(), and what clients saw of it."""

import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import psycopg
import pytest
from histories import Clients, make_registers, two_heads
from linear import checker, judge
from nodes import Inside, signal_all

SEED = int(os.environ.get("SHARDHERD_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
HOUR = 3600
BLKIO = Path("/sys/fs/cgroup/blkio")


class Fault:
    """begin(), and after `hold` seconds heal(). moves: whether it takes another primary; None: either. writes: whether
    they go on before it is healed."""

    hold, moves, writes, store = 8, None, True, "sqlite"
    clocks = ()

    def __init__(self, herd, node):
        self.herd, self.node = herd, node

    def begin(self):
        raise NotImplementedError

    def heal(self):
        pass


class PostmasterKilled(Fault):
    moves = False

    def begin(self):
        os.kill(self.node.postmaster(), signal.SIGKILL)


class AgentKilled(Fault):
    def begin(self):
        self.node.process.kill()


class PodKilled(Fault):
    def begin(self):
        self.node.die()


class NodeGone(Fault):
    """Power and link, until somebody sees to it."""

    moves = True

    def begin(self):
        self.herd.hold(self.node)
        self.herd.link(self.node, "down")
        self.node.die()

    def heal(self):
        self.herd.heal()
        self.node.held = False


class PostmasterStopped(Fault):
    """Sessions that are open would go on, and nobody else be let in: its agent ends it."""

    moves = False

    def begin(self):
        self.pids = [self.node.postmaster()]
        signal_all(self.pids, signal.SIGSTOP)

    def heal(self):
        signal_all(self.pids, signal.SIGCONT)


class AgentStopped(PostmasterStopped):
    """Longer than its watchdog waits."""

    hold, moves, writes = 14, True, True

    def begin(self):
        self.pids = [self.node.process.pid]
        signal_all(self.pids, signal.SIGSTOP)


class PodStopped(PostmasterStopped):
    moves, writes = True, True

    def begin(self):
        self.pids = self.node.processes()
        signal_all(self.pids, signal.SIGSTOP)


class LinkDown(Fault):
    moves = True

    def begin(self):
        self.herd.link(self.node, "down")

    def heal(self):
        self.herd.heal()


class CutOff(LinkDown):
    """From all but the clients."""

    def begin(self):
        self.herd.cut([self.node], self.herd.others(self.node))


class Mute(LinkDown):
    def begin(self):
        self.herd.lose([self.node], self.herd.others(self.node))


class Deaf(LinkDown):
    def begin(self):
        self.herd.lose(self.herd.others(self.node), [self.node])


class CutFromManagers(LinkDown):
    """Only they lost sight of it."""

    moves = False

    def begin(self):
        self.herd.cut([self.node], self.herd.managers)


class CutFromStandbys(LinkDown):
    """Only they lost sight of it: they and their manager could do without it."""

    moves, writes = None, None

    def begin(self):
        self.herd.cut([self.node], [n for n in self.herd.nodes if n is not self.node])


class CutFromOneStandby(LinkDown):
    moves = False

    def begin(self):
        self.herd.cut([self.node], [next(n for n in self.herd.nodes if n is not self.node)])


class ClockAhead(Fault):
    """The wall clock of the primary's node is an hour early."""

    moves, by = False, HOUR
    clocks = ("a", "b", "c")

    def begin(self):
        self.herd.clocks[self.node.name].step(self.by)
        with contextlib.suppress(psycopg.Error):  # it does not answer now
            seen = int(self.node.value("SELECT extract(epoch FROM clock_timestamp())::bigint"))
            assert abs(seen - time.time() - self.by) < 60, seen

    def heal(self):
        self.herd.clocks[self.node.name].step(0)


class ClockBehind(ClockAhead):
    by = -HOUR


class StandbysClockAhead(ClockAhead):
    def begin(self):
        for node in self.herd.nodes:
            if node is not self.node:
                self.herd.clocks[node.name].step(self.by)

    def heal(self):
        for clock in self.herd.clocks.values():
            clock.step(0)


class StandbysClockBehind(StandbysClockAhead):
    by = -HOUR


class ManagersClockAhead(ClockAhead):
    clocks = ("one",)

    def begin(self):
        self.herd.clocks["one"].step(self.by)

    def heal(self):
        self.herd.clocks["one"].step(0)


class ManagersClockBehind(ManagersClockAhead):
    by = -HOUR


class DiskSlow(Fault):
    """Of the primary: 20 writes a second."""

    moves = False

    def begin(self):
        device = os.stat(self.node.data).st_dev
        self.group = BLKIO / f"shardherd-test-{os.getpid()}"
        self.group.mkdir()
        limit = f"{os.major(device)}:{os.minor(device)} 20"
        try:
            (self.group / "blkio.throttle.write_iops_device").write_text(limit)
        except OSError as error:
            self.group.rmdir()
            pytest.skip(f"this machine cannot slow down the device of {self.node.data}: {error}")
        for pid in self.node.processes():
            with contextlib.suppress(ProcessLookupError):
                (self.group / "cgroup.procs").write_text(str(pid))

    def heal(self):
        while pids := (self.group / "cgroup.procs").read_text().split():
            for pid in pids:
                with contextlib.suppress(OSError):
                    (BLKIO / "cgroup.procs").write_text(pid)
        self.group.rmdir()


class ManagerKilled(Fault):
    """It is not started again before the other one leads."""

    moves, store, hold = False, "etcd", 15

    def begin(self):
        self.manager, _ = self.herd.leader()
        self.herd.hold(self.manager)
        self.manager.kill()

    def heal(self):
        self.manager.held = False


class ManagerPaused(ManagerKilled):
    def begin(self):
        self.manager, _ = self.herd.leader()
        self.manager.process.send_signal(signal.SIGSTOP)

    def heal(self):
        self.manager.process.send_signal(signal.SIGCONT)


class EtcdKilled(Fault):
    moves, store, hold = False, "etcd", 15

    def begin(self):
        self.herd.etcd.kill()

    def heal(self):
        if self.herd.etcd.process.poll() is not None:
            self.herd.etcd.start()


class EtcdPaused(EtcdKilled):
    def begin(self):
        self.herd.etcd.kill(signal.SIGSTOP)

    def heal(self):
        self.herd.etcd.kill(signal.SIGCONT)


class SqliteLocked(Fault):
    """Somebody holds the file for himself."""

    moves, hold = False, 15

    def begin(self):
        self.connection = sqlite3.connect(self.herd.directory / "store.db", isolation_level=None, timeout=10)
        self.connection.execute("BEGIN EXCLUSIVE")

    def heal(self):
        self.connection.close()


FAULTS = [PostmasterKilled, AgentKilled, PodKilled, NodeGone, PostmasterStopped, AgentStopped, PodStopped, LinkDown,
          CutOff, Mute, Deaf, CutFromManagers, CutFromStandbys, CutFromOneStandby, ClockAhead, ClockBehind,
          StandbysClockAhead, StandbysClockBehind, ManagersClockAhead, ManagersClockBehind, DiskSlow, ManagerKilled,
          ManagerPaused, EtcdKilled, EtcdPaused, SqliteLocked]  # fmt: skip


# ---- what clients see ----


def begin(herd, rounds=4):
    checker()
    herd.begin()
    make_registers(herd.nodes[0], rounds)


def clients_of(herd, seed=SEED, loyal=None, **more):
    print(f"seed {seed}", flush=True)
    clients = Clients(herd.nodes, loyal or herd.nodes[0], seed, inside=[Inside(n) for n in herd.nodes], **more)
    goes_on(herd, clients, 100)
    return clients


def goes_on(herd, clients, count=50, numbers=(1, 2, 3), timeout=60):
    before = clients.acknowledged(*numbers)
    herd.until(lambda: clients.acknowledged(*numbers) >= before + count, timeout, f"writes of {numbers}")


class Seen:
    """What the clients of a history saw."""

    def __init__(self, herd, clients, label, primary=None):
        self.history = clients.end(primary or herd.member(herd.primary()[0]))
        self.verdict = judge(herd.directory / "history", self.history)
        self.heads = two_heads(self.history)
        print(self.verdict.text, flush=True)
        herd.keep_logs(f"{label}-{time.monotonic_ns()}")

    def right(self, herd):
        assert self.heads == [], self.heads[:5]
        assert self.verdict.linearizable, self.verdict.text + herd.dump()


def suffer(herd, clients, fault):
    """From its beginning until the shard is whole again. -> when it began."""
    begun = time.monotonic_ns()
    fault.begin()
    try:
        end = time.monotonic() + fault.hold
        if fault.moves:
            term = herd.primary()[1]
            herd.until(lambda: herd.primary()[1] > term or herd.primary()[0] != fault.node.name, 40, "another primary")
        if fault.writes:
            goes_on(herd, clients)
        time.sleep(max(0, end - time.monotonic()))
    finally:
        fault.heal()
    goes_on(herd, clients)
    herd.until(herd.whole, 90, "the shard to be whole")
    return begun
