"""Memory runs out for a shard's primary, by a real limit (a group of the memory controller of its own): whom the kernel
ends, and what follows. Acknowledged writes are there in each case."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest
from conftest import wait_until
from test_agent_replica import servers_of, shard  # noqa: F401
from test_ha import Writer, begun, by_name, herd, lost, streaming, until  # noqa: F401

MEMORY = Path("/sys/fs/cgroup/memory")
MIB = 1 << 20
HOG = "SELECT length(string_agg(repeat('x', 1000000), '')) FROM generate_series(1, 900)"


def score(pid):
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Group:
    """All of a member in a group whose memory ends `more` MiB above what it takes now."""

    def __init__(self, member, more):
        self.path = MEMORY / f"shardherd-test-{os.getpid()}-{time.monotonic_ns()}"
        self.home = MEMORY / Path(self.of_us()).relative_to("/")
        self.path.mkdir()
        for pid in (member.process.pid, *children(member.process.pid), *servers_of(member.data)):
            (self.path / "cgroup.procs").write_text(str(pid))
        taken = sum(self.resident(int(pid)) for pid in (self.path / "cgroup.procs").read_text().split())
        (self.path / "memory.limit_in_bytes").write_text(str(taken + more * MIB))

    @staticmethod
    def of_us():
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        return next(line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(","))

    @staticmethod
    def resident(pid):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kills(self):
        lines = (self.path / "memory.oom_control").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def close(self):
        def empty():
            with contextlib.suppress(FileNotFoundError):  # it is gone
                for pid in (self.path / "cgroup.procs").read_text().split():
                    with contextlib.suppress(OSError):
                        (self.home / "cgroup.procs").write_text(pid)
            with contextlib.suppress(OSError):
                self.path.rmdir()
            return not self.path.exists()

        wait_until(empty, 20, "the group to be empty")


WHY_NOT = None
if os.geteuid() != 0 or not os.access(MEMORY / "cgroup.procs", os.W_OK) or not (MEMORY / "memory.oom_control").exists():
    WHY_NOT = "needs root and the memory controller of cgroup v1"
limited = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@contextlib.contextmanager
def short_of_memory(member, more=200):
    group = Group(member, more)
    try:
        yield group
    finally:
        group.close()


def devour(member):
    """A session takes more and more memory. -> whether it was ended."""
    with contextlib.suppress(psycopg.OperationalError), member.connect() as connection:
        connection.execute(HOG)
        return False
    return True


def devour_at_the_cost_of(member, pid):
    """The same, but the kernel is to end another process: a score of 1000 counts as much as the limit, and each of
    two sessions takes half of that at most."""
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    hogs = [member.connect() for _ in range(2)]
    for hog in hogs:
        Path(f"/proc/{hog.info.backend_pid}/oom_score_adj").write_text("0")

    def run(hog):
        with contextlib.suppress(psycopg.OperationalError), hog:
            hog.execute(HOG)

    threads = [threading.Thread(target=run, args=(hog,), daemon=True) for hog in hogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_scores(shard):  # noqa: F811
    """Agent, watchdog and postmaster are below every process of the server."""
    (a,) = shard.of("a")
    postmaster = int(a.status()["pid"])
    own = score(a.process.pid)
    assert {score(p) for p in children(a.process.pid)} == {own} and score(postmaster) == own
    with a.connect() as connection:
        backend = connection.info.backend_pid
        assert score(backend) == (0 if own < 0 else min(own + 200, 1000))
        assert all(score(p) > score(postmaster) for p in children(postmaster))


def writing(herd):  # noqa: F811
    begun(herd)
    writer = Writer(herd.members)
    wait_until(lambda: len(writer.acknowledged) > 100, 20, "writes")
    return writer


def goes_on(herd, writer):  # noqa: F811
    count = len(writer.acknowledged)
    until(herd, lambda: len(writer.acknowledged) > count + 100, 60, "writes")


@limited
def test_backend(herd):  # noqa: F811
    """The server starts its sessions anew in its place: no failover."""
    writer, a = writing(herd), by_name(herd, "a")
    postmaster = a.status()["pid"]
    with short_of_memory(a) as group:
        assert devour(a)
        assert group.kills() >= 1
        goes_on(herd, writer)
    streaming(herd, "bc")
    writer.end()
    assert herd.primary() == ("a", 1)
    status = a.status()
    assert (status["pid"], status["exits"]) == (postmaster, "0")
    assert lost(a, writer) == []


@contextlib.contextmanager
def busy(member):
    """A session that does not look whether its postmaster is there. -> its process."""
    session = member.connect()
    pid = session.info.backend_pid

    def run():
        with contextlib.suppress(psycopg.OperationalError), session:
            session.execute("DO $$ BEGIN LOOP NULL; END LOOP; END $$")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield pid
    finally:
        if pid in servers_of(member.data):
            os.kill(pid, signal.SIGKILL)
        thread.join(60)


@limited
def test_postmaster(herd):  # noqa: F811
    """Started again in its place, or failed over; its backends do not outlive it, also those that work."""
    writer, a = writing(herd), by_name(herd, "a")
    with busy(a) as worker:
        ends_with_its_backends(herd, writer, a, worker)


def ends_with_its_backends(herd, writer, a, worker):  # noqa: F811
    postmaster = a.status()["pid"]
    sessions = children(postmaster)
    assert worker in sessions
    with short_of_memory(a) as group:
        devour_at_the_cost_of(a, postmaster)
        assert group.kills() >= 1
        wait_until(lambda: a.status()["exits"] != "0", 20, "its end")
        wait_until(lambda: a.status()["reported"] != "stopping", 20, "it to be swept up after")
        assert not set(sessions) & set(servers_of(a.data))
        goes_on(herd, writer)
    name, _ = herd.primary()
    streaming(herd, set("abc") - {name})
    writer.end()
    status = a.status()
    assert status["pid"] != postmaster and status["exits"] == "1" and "signal 9" in a.log(), status
    assert lost(by_name(herd, name), writer) == []


@limited
def test_agent(herd):  # noqa: F811
    """Its server goes with it, and another one is the primary: never two."""
    writer, a = writing(herd), by_name(herd, "a")
    session = a.connect()
    with short_of_memory(a) as group:
        devour_at_the_cost_of(a, a.process.pid)
        assert group.kills() >= 1
        a.process.wait(timeout=60)
        until(herd, lambda: herd.primary()[1] >= 2, 60, "another primary")
        assert servers_of(a.data) == []
        with pytest.raises(psycopg.OperationalError):
            session.execute("INSERT INTO w VALUES (-1)")
        goes_on(herd, writer)
    name, _ = herd.primary()
    assert name != "a"
    a.start()
    streaming(herd, set("abc") - {name})
    writer.end()
    assert lost(by_name(herd, name), writer) == []
