"""Whatever breaks, wherever a move is: faults x places, each cell a move under load between two real servers.

The manager stands still (SIGSTOP) at exactly the place, the fault begins, the manager goes on, the fault is over. Then
the move must end by itself, done or undone: nothing acknowledged lost, duplicated or misplaced, one owner for each
hash, nothing left over. SHARDHERD_TEST_FULL runs every cell; else a few by a seed that is printed, one for each fault.

Places: each state once it is journaled, and before and after each action, on the way there, on the way back
(rollback:...), of a move that is canceled, and of one that a manager took up that found it in the journal.
"""

import contextlib
import itertools
import os
import random
import re
import signal
import sqlite3
import threading
import time
import traceback

import psycopg
import pytest
from outside import DATABASE, MOVING, Outside, why_not
from places import BACK_CELLS, FORWARD, SEED, assert_nothing_lost
from rig import Problem

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.beside,
    pytest.mark.timeout(480),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
FULL = bool(os.environ.get("SHARDHERD_TEST_FULL"))
LOAD = ("--clients", "6", "--rate", "400", "--op-timeout", "3s", "--give-up", "60s")
OURS = "application_name LIKE 'shardherd op=%'"

# ---- places ----

STATES = ["check", "target", "copy", "catch_up", "verify", "rehearse", "fence", "settle", "watch", "clean", "done"]
ACTIONS = [
    "check", "provision", "schema", "freeze", "publish", "copy", "build", "subscribe", "catch_up", "verify",
    "close_gate", "recheck", "rehearse", "prepare_open", "lock", "marker", "fence", "sequences", "route", "commit",
    "open", "settle", "announce", "drop_forward", "clean_source", "unfreeze",
]  # fmt: skip
REVERSE = ["reverse_slot", "reverse_follow", "reverse_check", "reverse_verify", "reverse_drop"]
UNDO = ["rollback", "unroute", "burn_gate", "drop_forward", "empty_target", "unfreeze"]
RESUMED = ["take_term", "inspect", "rollback", "unroute"]


def around(actions, way="move"):
    return [f"{way}:{moment}:{action}" for action in actions for moment in ("before", "after")]


PLACES = {
    "there": [f"move:state:{state}" for state in STATES] + around(ACTIONS),
    "bakes": around(REVERSE),
    "back": [place for place in BACK_CELLS if not place.endswith((":unlist", ":linger", ":retire"))],  # a server goes
    "canceled": ["move:state:undo", *around(UNDO), "move:state:undone"],
    "resumed": around(RESUMED),
}
WAYS = [(way, place) for way, places in PLACES.items() for place in places]


# ---- a move that stands still at its place ----


def stopped(manager):
    try:
        with open(f"/proc/{manager.process.pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"
    except OSError:  # it has ended
        return False


class Cell:
    def __init__(self, fleet, way, place):
        self.fleet, self.way, self.place, self.id = fleet, way, place, None
        self.manager = fleet.first
        self.random = random.Random(f"{SEED} {place}")
        self.threads = []
        self.over = threading.Event()
        fleet.stop()
        fleet.wait_servers()
        first = "move:before:commit" if way == "resumed" else f"stop:{place}"
        fleet.start(env={"SHARDHERD_TEST_KILL_AT": first})
        self.logs = [m.log for m in fleet.managers] + [server.log for server in fleet.servers.values()]
        self.seen = [log.stat().st_size if log.exists() else 0 for log in self.logs]
        name = fleet.owner_of_moving()
        other = {"s1": "s2", "s2": "s1"}[name]
        self.source, self.target = fleet.servers[name], fleet.servers[other]
        self.body = {"kind": "rebalance", "shard": name, "target": other, **MOVING, "bake": self.bake()}
        fleet.start_load(*LOAD)

    def bake(self):
        return {"bakes": "1s", "back": "10m"}.get(self.way, "0s")

    def background(self, function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        thread.start()
        self.threads.append(thread)

    def ask(self):
        """The answer may come only after the manager goes on, or never."""
        with contextlib.suppress(OSError, Problem):
            path = f"/v1/databases/{DATABASE}/operations"
            self.id = self.manager.fetch(path, "POST", self.body, timeout=60)["id"]

    def also(self, what):
        with contextlib.suppress(OSError, Problem):
            self.manager.fetch(f"/v1/operations/{self.id}/{what}", "POST", {}, timeout=60)

    def reach(self):
        self.background(self.ask)
        if self.way == "back":
            self.wait(lambda: self.id, "an answer")
            self.fleet.wait_baking(self.id)
            self.background(self.also, "rollback")
        elif self.way == "canceled":
            self.cancel()
        elif self.way == "resumed":
            assert self.manager.wait_dead() == -9
            self.manager.start(env={"SHARDHERD_TEST_KILL_AT": f"stop:{self.place}"}, wait=False)
        self.wait(lambda: stopped(self.manager), f"the manager to reach {self.place}")

    def cancel(self):
        """Before its fence, from which somebody's lock holds it off meanwhile."""
        self.wait(lambda: self.id and self.manager.operation(self.id)["state"] in ("catch_up", "verify"), "catching up")
        with self.source.connect(DATABASE, autocommit=False) as other:
            other.execute("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
            self.background(self.also, "cancel")
            self.wait(lambda: stopped(self.manager) or self.is_canceled(), "a cancel")

    def is_canceled(self):
        with contextlib.suppress(OSError):  # it may stand still by now
            return self.manager.fetch(f"/v1/operations/{self.id}", timeout=1)["record"]["canceled"]
        return False

    def wait(self, condition, what, timeout=60):
        deadline = time.monotonic() + timeout
        while not condition():
            if self.manager.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout} s\n{self.fleet.tail()}")
            time.sleep(0.01)

    def go_on(self):
        for manager in self.fleet.managers:
            if manager.process.poll() is None and stopped(manager):
                manager.process.send_signal(signal.SIGCONT)

    # ---- the end ----

    def operation(self):
        """The newest of the fleet; None while nobody can tell."""
        try:
            operations = self.fleet.operations()
        except Problem:
            return None
        mine = [op for op in operations if op["kind"] == "rebalance" and self.id in (None, op["id"])]
        return max(mine, key=lambda op: op["created"], default=None)

    def wait_end(self, timeout=120):
        deadline, op = time.monotonic() + timeout, None
        while time.monotonic() < deadline:
            op = self.operation()
            if op and op["status"] != "running":
                return op
            time.sleep(0.05)
        raise AssertionError(f"it still runs after {timeout} s: {op}\n{self.fleet.tail()}")

    def end(self):
        ended = self.wait_end()
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        result = self.fleet.stop_load(timeout=120)
        assert_nothing_lost(result)
        assert result["abandoned_writes"] == 0, result
        assert ended["status"] in self.allowed(), (ended, self.fleet.tail())
        self.fleet.assert_consistent()
        return ended

    def noticed(self):
        """What managers and servers said of it, shortened."""
        said = []
        for log, seen in zip(self.logs, self.seen, strict=True):
            text = log.read_bytes()[seen:].decode(errors="replace")
            errors = re.findall(r'(?m) level=(?:warn|error) .*err="((?:[^"\\]|\\.)*)|^.*(?:PANIC|FATAL): +(.*)', text)
            said += [next(filter(None, found))[:100] for found in errors]
        return f"{len(said)} complaints, such as {said[0]!r}" if said else "nobody complained"

    def allowed(self):
        moment, action = self.place.split(":")[1:]
        if self.way in ("back", "canceled"):
            return ["undone"]
        if moment == "state" and action in ("settle", "watch", "clean", "done"):
            return ["done"]
        return ["done"] if action in FORWARD and (moment, action) != ("before", "commit") else ["done", "undone"]


# ---- faults ----


class Fault:
    """begin() while the manager stands still at the place; it goes on; heal() after `hold` seconds at most."""

    store, hold, long = "sqlite", 2.0, False

    def __init__(self, cell):
        self.cell, self.fleet = cell, cell.fleet

    def begin(self):
        pass

    def heal(self):
        pass

    @classmethod
    def ways(cls):
        """With two managers the other one takes up what one left, and that is one of the faults."""
        return [(way, place) for way, place in WAYS if cls.store == "sqlite" or way != "resumed"]


class ManagerKilled(Fault):
    hold = 0.0

    def begin(self):
        self.cell.manager.process.kill()
        self.cell.manager.process.wait()
        self.cell.manager.start()


class ServerFault(Fault):
    which = "source"

    @property
    def server(self):
        return getattr(self.cell, self.which)

    def heal(self):
        self.server.mend()


class SourceKilled(ServerFault):
    def begin(self):
        self.server.kill9()


class TargetKilled(SourceKilled):
    which = "target"


class SourceUnreachable(ServerFault):
    def begin(self):
        self.server.cut()


class TargetUnreachable(SourceUnreachable):
    which = "target"


class SourceUnreachableForLong(SourceUnreachable):
    """Longer than statements are waited for."""

    hold, long = 45.0, True


class TargetUnreachableForLong(SourceUnreachableForLong):
    which = "target"


class TargetDiskFull(ServerFault):
    which = "target"

    def begin(self):
        for disk in self.server.disks:
            disk.fill()
        self.server.use_up_wal()


class SourceWalFull(ServerFault):
    def begin(self):
        self.server.wal_disk.fill()
        self.server.use_up_wal()


class Ended(Fault):
    """Processes of the servers that are ended; as soon as there are some, should there be none yet."""

    hold = 0.0
    which = ("source", "target")
    processes = OURS

    def begin(self):
        servers = [getattr(self.cell, name) for name in self.which]
        if not any([self.end_on(server) for server in servers]):
            for server in servers:
                self.cell.background(self.lie_in_wait, server)

    def lie_in_wait(self, server):
        while not self.cell.over.wait(0.02) and not self.end_on(server):
            pass

    def end_on(self, server):
        with contextlib.suppress(psycopg.Error), server.connect(DATABASE, connect_timeout=3) as conn:
            pids = [pid for (pid,) in conn.execute(f"SELECT pid FROM pg_stat_activity WHERE {self.processes}")]
            return any([self.end_one(conn, pid) for pid in pids])
        return False

    def end_one(self, conn, pid):
        return conn.execute("SELECT pg_terminate_backend(%s, 3000)", (pid,)).fetchone()[0]


class WalsenderEnded(Ended):
    processes = "backend_type = 'walsender'"


class ApplyWorkerEnded(Ended):
    processes = "backend_type = 'logical replication worker'"


class Killed(Ended):
    """Not even PostgreSQL expects that: it starts all of its processes anew."""

    def end_one(self, conn, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False


class WalsenderKilled(Killed):
    processes = WalsenderEnded.processes


class ApplyWorkerKilled(Killed):
    processes = ApplyWorkerEnded.processes


class FenceBackendEnded(Ended):
    """The session that holds the fence; elsewhere, all of the move's sessions on the server that gives."""

    HOLDS = (
        "pid IN (SELECT pid FROM pg_locks WHERE relation = 'public.orders'::regclass AND granted "
        f"AND mode = 'ShareRowExclusiveLock') AND {OURS}"
    )

    def begin(self):
        giver = self.cell.target if self.cell.way == "back" else self.cell.source
        self.processes = self.HOLDS
        if not self.end_on(giver):
            self.processes = OURS
            self.end_on(giver)


class SessionsEnded(Ended):
    """All of the move's, on both servers."""


class StoreFull(Fault):
    """The disk of the manager's own database."""

    def begin(self):
        self.cell.manager.disk.fill()

    def heal(self):
        self.cell.manager.disk.empty()


class StoreLocked(Fault):
    """By another program, for longer than it is waited for."""

    hold = 6.0

    def begin(self):
        (path,) = self.cell.manager.state.glob("*.db")
        self.other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.other.execute("BEGIN IMMEDIATE")

    def heal(self):
        self.other.execute("ROLLBACK")
        self.other.close()


class StoreStopped(Fault):
    store = "etcd"

    def begin(self):
        self.fleet.etcd.members[0].process.send_signal(signal.SIGSTOP)

    def heal(self):
        self.fleet.etcd.members[0].process.send_signal(signal.SIGCONT)


class StoreStoppedForLong(StoreStopped):
    """Until the lease is over and nobody leads."""

    hold, long = 17.0, True


class LeaseLost(Fault):
    """The lease ends while the manager stands still, another one takes over; then the first one wakes up and goes on
    with what it was about to do. etcd is told to end the lease, which it does by itself after 15 s."""

    store, hold = "etcd", 0.0

    def begin(self):
        before = self.term()
        for key in self.fleet.etcd.keys("shardherd/").values():
            if int(key.get("lease", 0)):
                self.fleet.etcd.request("/v3/lease/revoke", {"ID": key["lease"]})
        self.cell.wait(lambda: self.term() > before, "another leader")
        self.fleet.least_term = self.term()
        self.awaited()

    def term(self):
        found = self.fleet.etcd.keys("shardherd/leader/term")
        return int(next(iter(found.values()))["value"]) if found else 0

    def awaited(self):
        """It wakes up as soon as the other one leads, and for some seconds believes that it does."""


class LeaseLostForLong(LeaseLost):
    """It wakes up when the other one has ended the move."""

    def awaited(self):
        self.cell.wait_end()


class LeaseRunsOut(LeaseLost):
    """Nobody helps: it takes the lease's time."""

    long = True

    def begin(self):
        before = self.term()
        self.cell.wait(lambda: self.term() > before, "another leader")
        self.fleet.least_term = self.term()


FAULTS = {
    "manager killed": ManagerKilled,
    "manager stopped, another leads": LeaseLost,
    "manager stopped until another has ended it": LeaseLostForLong,
    "manager stopped for longer than the lease": LeaseRunsOut,
    "source killed": SourceKilled,
    "target killed": TargetKilled,
    "source unreachable": SourceUnreachable,
    "target unreachable": TargetUnreachable,
    "source unreachable for long": SourceUnreachableForLong,
    "target unreachable for long": TargetUnreachableForLong,
    "target's disks full": TargetDiskFull,
    "source's WAL full": SourceWalFull,
    "apply worker ended": ApplyWorkerEnded,
    "apply worker killed": ApplyWorkerKilled,
    "walsender ended": WalsenderEnded,
    "walsender killed": WalsenderKilled,
    "fence's backend ended": FenceBackendEnded,
    "sessions ended": SessionsEnded,
    "store full": StoreFull,
    "store locked": StoreLocked,
    "store stopped": StoreStopped,
    "store stopped for longer than the lease": StoreStoppedForLong,
}
# with those that take long: where most hangs on it
CRITICAL = [
    ("there", f"move:{place}")
    for place in ("after:copy", "after:rehearse", "before:commit", "after:commit", "after:open", "after:announce")
] + [("back", "rollback:before:commit"), ("canceled", "move:after:burn_gate")]


def cells():
    """All of them, or SHARDHERD_TEST_PLACES of each fault, 1 in CI; SHARDHERD_TEST_PART=i/n: a part."""
    part, parts = map(int, os.environ.get("SHARDHERD_TEST_PART", "1/1").split("/"))
    yield from itertools.islice(cells_of_each(), part - 1, None, parts)


def cells_of_each():
    chance, few = random.Random(SEED), int(os.environ.get("SHARDHERD_TEST_PLACES") or (0 if FULL else 1))
    for name, fault in FAULTS.items():
        ways = CRITICAL if fault.long else fault.ways()
        if few:
            ways = chance.sample(ways, min(few, len(ways))) if FULL or not fault.long else []
        yield from (pytest.param(name, way, place, id=f"{name}-{way}-{place}") for way, place in ways)


# ---- the cells ----

kept = {}  # the fleets that the next cell may use


def fleet_with(shardherd, store):
    if store not in kept:
        if store == "etcd":
            why = etcd_missing()
            if why:
                pytest.skip(why)
        kept[store] = Outside(shardherd, f"/tmp/shardherd-outside-{store}-{os.getpid()}", store).__enter__()
    return kept[store]


def etcd_missing():
    from control_plane import build_programs

    try:
        build_programs(("etcd",))
    except RuntimeError as error:
        return str(error)
    return None


def drop(store):
    if store in kept:
        fleet = kept.pop(store)
        for manager in fleet.managers:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.kill(manager.process.pid, signal.SIGCONT)
        fleet.clean_up()


@pytest.fixture(scope="module", autouse=True)
def at_the_end():
    print(f"test_move_faults: seed {SEED}")
    yield
    for store in list(kept):
        drop(store)


@pytest.mark.parametrize(("name", "way", "place"), list(cells()))
def test_fault(shardherd, name, way, place):
    kind = FAULTS[name]
    fleet = fleet_with(shardherd, kind.store)
    fine = False
    try:
        cell = Cell(fleet, way, place)
        cell.reach()
        fault = kind(cell)
        fault.begin()
        cell.go_on()
        time.sleep(kind.hold * cell.random.uniform(0.3, 1.0))  # how long it lasts is part of the cell
        fault.heal()
        ended = cell.end()
        fences = ended["record"]["fence_attempts"]
        print(f"{name}, {place}: {ended['status']}, fences {fences}; {cell.noticed()}")
        fine = True
    finally:
        if not fine:
            told(fleet, name, way, place)
            drop(kind.store)


def told(fleet, name, way, place):
    """The whole story of a cell that failed is kept beside the other logs of the build, if it has any."""
    folder = os.environ.get("SHARDHERD_TEST_LOGS")
    if folder:
        with open(f"{folder}/move-faults-{os.getpid()}.log", "a") as log:
            print(f"\n== {name}, {way}, {place}, seed {SEED}\n{traceback.format_exc()}\n{fleet.tail(2000)}", file=log)
            for shard, server in fleet.servers.items():
                print(f"-- {shard}\n{server.log_text()[-20000:]}", file=log)
