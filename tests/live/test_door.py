"""A postmaster that lets nobody in while its sessions go on, as one that died: its agent ends it and starts it anew."""

import contextlib
import os
import signal
import threading
import time

import psycopg
import pytest
from conftest import wait_until
from test_agent_replica import shard  # noqa: F401

pytestmark = pytest.mark.beside


def enters(member):
    with contextlib.suppress(psycopg.OperationalError):
        return member.value("SELECT 1") == 1


def ready(member):
    return member.call("GET", "/readyz", token=None)[0] == 200


class Session(threading.Thread):
    """Commits row after row over one connection, until it is ended."""

    def __init__(self, member):
        super().__init__(daemon=True)
        self.connection = member.connect()
        self.connection.execute("CREATE TABLE kept (id int)")
        self.acknowledged, self.ended = 0, None
        self.start()

    def run(self):
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                self.connection.execute("INSERT INTO kept VALUES (%s)", (self.acknowledged + 1,))
                self.acknowledged += 1
                time.sleep(0.01)
        self.ended = time.monotonic()


def test_stopped_postmaster(shard):  # noqa: F811
    """It is ended within seconds and started again, its sessions with it; what it acknowledged is there."""
    a, b = shard.of("ab")
    session = Session(a)
    wait_until(lambda: session.acknowledged > 10, 10, "writes")
    for member, role in ((a, "primary"), (b, "standby")):
        old = member.status()["pid"]
        begun = time.monotonic()
        os.kill(old, signal.SIGSTOP)
        try:
            assert wait_until(lambda m=member: not ready(m), 5, "it not to be ready")
            wait_until(lambda m=member: enters(m), 15, "a new session")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, signal.SIGCONT)
        print(f"{role}: {time.monotonic() - begun:.1f} s", flush=True)
        status = member.settled(role)
        assert status["pid"] != old and (status["exits"], status["doors_shut"]) == ("1", "1")
    session.join(10)
    assert session.ended is not None
    # the last one may be there without having been acknowledged
    assert a.value("SELECT count(*) FROM kept") in (session.acknowledged, session.acknowledged + 1)
    wait_until(lambda: b.status().get("receiver") == "streaming", 30, "the standby to stream")


def test_postmaster_that_answers_nobody(shard):  # noqa: F811
    """Not stopped, as the kernel sees it; the connection that the agent has answers, a new one does not."""
    (a,) = shard.of("a")
    old = a.status()["pid"]
    settings = a.dir / "settings"
    before = settings.read_text()
    settings.write_text(before + "pre_auth_delay = 60\n")
    wait_until(lambda: not ready(a), 30, "it not to be ready")
    assert a.status()["reported"] == "primary"
    wait_until(lambda: a.status()["doors_shut"] == "1", 40, "the end of the postmaster")
    settings.write_text(before)
    wait_until(lambda: enters(a), 60, "a new session")
    assert a.settled("primary")["pid"] != old


def test_too_many_sessions_is_an_answer(shard):  # noqa: F811
    (a,) = shard.of("a")
    old = a.status()["pid"]
    settings = a.dir / "settings"
    settings.write_text(settings.read_text() + "max_connections = 8\nsuperuser_reserved_connections = 0\n")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: a.status()["pid"] not in (0, old) and enters(a), 30, "it with the new setting")
    wait_until(lambda: ready(a), 30, "the agent's own session")
    old = a.status()["pid"]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(8):
                stack.enter_context(a.connect())
        assert not enters(a)
        time.sleep(27)  # longer than it takes until nothing counts as no answer, twice
        status = a.status()
        assert (status["pid"], status["doors_shut"]) == (old, "0") and ready(a)
