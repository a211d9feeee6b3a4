"""Agents of a shard with several instances, driven by hand over HTTP: assign, clone, promote, rewind, fence,
and what happens when an agent is killed, frozen or started anew. The servers are real."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from conftest import DEFAULT, free_port, pg_bin_dir, wait_until

pytestmark = pytest.mark.beside

POSTGRES = "postgres" if os.geteuid() == 0 else None
TOKEN = "a-token-that-nobody-guesses"
LEASE_MS = 3000


def servers_of(data):
    """Processes of PostgreSQL that work in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(data):
                found.append(int(entry.name))
    return found


class Member:
    host, http_address = "127.0.0.1", "127.0.0.1"
    wrap = ()  # words before the agent's own command; they see to its user
    environment = None

    def __init__(self, program, directory, name, version):
        self.program, self.name = program, name
        self.dir = directory / name
        self.bin = pg_bin_dir(version)
        self.port, self.http = free_port(), free_port()
        self.data = self.dir / "pgdata"
        self.process = None
        self.more, self.tls = [], None  # arguments; how callers see its HTTP interface, if by TLS
        self.dir.mkdir()
        for file, text in (("password", "secret-of-the-shard\n"), ("token", TOKEN), ("settings", "fsync = off\n")):
            (self.dir / file).touch(mode=0o600)
            (self.dir / file).write_text(text)
        if POSTGRES:
            for path in (self.dir, *self.dir.rglob("*")):
                shutil.chown(path, POSTGRES, POSTGRES)

    def start(self):
        self.spawn()
        wait_until(lambda: self.call("GET", "/livez", token=None)[0] == 200, what=f"agent {self.name}")
        return self

    def spawn(self):
        argv = [
            *self.wrap,
            self.program,
            "agent",
            f"--member={self.name}",
            f"--token-file={self.dir / 'token'}",
            f"--data={self.data}",
            f"--bin={self.bin}",
            f"--run={self.dir}",
            f"--settings={self.dir / 'settings'}",
            f"--password-file={self.dir / 'password'}",
            f"--listen={self.host}",
            f"--port={self.port}",
            f"--http-address={self.http_address}",
            f"--http-port={self.http}",
            *self.more,
        ]
        user = None if self.wrap else POSTGRES
        with (self.dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stderr=log, stdout=log, user=user, group=user, cwd="/", start_new_session=True,
                env=self.environment,
            )  # fmt: skip

    def call(self, method, path, body=None, token=TOKEN):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = json.dumps(body).encode() if body is not None else None
        url = f"{'https' if self.tls else 'http'}://{self.http_address}:{self.http}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5, context=self.tls) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self):
        code, text = self.call("GET", "/v1/status")
        assert code == 200, (code, text, self.log()[-2000:])
        return json.loads(text)

    def assign(self, term, role, **more):
        """Expects it to be taken; a lease counts from the agent's clock now."""
        if "lease_ms" in more:
            more.setdefault("heard", self.status()["clock"])
        order = {"term": str(term), "role": role, **more}

        def taken():
            code, text = self.call("POST", "/v1/assign", order)
            assert code in (200, 503), (code, text, self.log()[-2000:])
            return code == 200

        wait_until(taken, what="the order to be taken")
        return self

    def refused(self, term, role, **more):
        code, text = self.call("POST", "/v1/assign", {"term": str(term), "role": role, **more})
        assert code >= 400, text
        return code, json.loads(text)["code"]

    def lease(self, term):
        return self.call("POST", "/v1/lease", {"term": str(term), "heard": self.status()["clock"]})

    def settled(self, reported=None, timeout=20):
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status["settled"] and reported in (None, status["reported"]):
                return status
            assert time.monotonic() < deadline, f"{self.name} not {reported}: {status}\n{self.log()[-3000:]}"
            time.sleep(0.02)

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def connect(self, **more):
        options = {"connect_timeout": 5, "autocommit": True, **more}
        return psycopg.connect(
            **{"host": self.host, **options},
            port=self.port,
            user="shardherd",
            password="secret-of-the-shard",
            dbname="postgres",
        )

    def value(self, sql):
        with self.connect() as connection:
            return connection.execute(sql).fetchone()[0]

    @property
    def upstream(self):
        return {"host": self.host, "port": self.port}

    def no_server(self, timeout=10):
        wait_until(lambda: not servers_of(self.data), timeout, f"end of all servers in {self.data}", 0.01)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def destroy(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        self.no_server()


class Shard:
    def __init__(self, program, directory, version):
        self.made = []
        self.directory, self.program, self.version = directory, program, version

    def member(self, name, more=(), tls=None):
        made = Member(self.program, self.directory, name, self.version)
        made.more, made.tls = list(more), tls
        self.made.append(made)
        return made.start()

    def of(self, names, term=1, **more):
        """A primary and its standbys, which stream."""
        first, *others = [self.member(name) for name in names]
        slots = [f"shardherd_{other.name}" for other in others]
        first.assign(term, "primary", initialize=True, slots=slots, **more).settled("primary")
        for other in others:
            other.assign(term, "standby", upstream={**first.upstream, "slot": f"shardherd_{other.name}"})
        for other in others:
            other.settled("standby")
            wait_until(lambda other=other: other.status().get("receiver") == "streaming", 30, "streaming")
        return [first, *others]


def make_shard(program, version):
    if pg_bin_dir(version) is None:
        pytest.skip(f"PostgreSQL {version} is not installed")
    directory = Path("/tmp") / f"member-{os.getpid()}-{time.monotonic_ns()}"
    directory.mkdir(mode=0o755)
    return Shard(program, directory, version)


@pytest.fixture(params=[DEFAULT])
def shard(request, shardherd):
    made = make_shard(shardherd, request.param)
    yield made
    for member in made.made:
        member.destroy()
    shutil.rmtree(made.directory)


def replayed(standby, sql, value):
    def there():
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            return standby.value(sql) == value

    with contextlib.suppress(pytest.fail.Exception):
        return wait_until(there, what="the row")
    pytest.fail(f"{standby.name} has not {value}: {standby.status()}\n{standby.log()[-4000:]}")


@pytest.mark.parametrize("shard", sorted({DEFAULT, 18}), indirect=True, ids=lambda v: f"pg{v}")
def test_a_life_of_three(shard):
    """A primary, two standbys cloned from it, another promoted, the old primary back by a rewind."""
    a, b, c = shard.of("abc")
    with a.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
        connection.execute("INSERT INTO t VALUES (1)")
    for standby in (b, c):
        replayed(standby, "SELECT count(*) FROM t", 1)
        assert standby.status()["system_id"] == a.status()["system_id"] != "0"
    wait_until(lambda: {s["name"] for s in a.status()["standbys"]} == {"b", "c"}, what="both to be seen")
    assert a.value("SELECT count(*) FROM pg_replication_slots WHERE active") == 2

    # the standbys follow nobody any more, the primary goes on alone: what it writes now is lost
    for standby in (b, c):
        standby.assign(2, "standby").settled("standby")
        assert standby.status()["receiver"] == ""
    with a.connect() as connection:
        connection.execute("INSERT INTO t SELECT generate_series(100, 200)")

    b.assign(2, "primary", slots=["shardherd_a", "shardherd_c"])
    promoted = b.settled("primary")
    assert promoted["timeline"] == "2"
    with b.connect() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    c.assign(2, "standby", seq=1, upstream={**b.upstream, "slot": "shardherd_c"}).settled("standby")
    replayed(c, "SELECT count(*) FROM t", 2)

    # the old one: fenced, and back behind the new one
    a.assign(2, "fenced").settled("fenced")
    assert not servers_of(a.data)
    a.assign(2, "standby", seq=1, upstream={**b.upstream, "slot": "shardherd_a"})
    back = a.settled("standby")
    wait_until(lambda: a.status().get("receiver") == "streaming", 20, "streaming")
    replayed(a, "SELECT count(*) FROM t", 2)
    wait_until(lambda: a.status()["timeline"] == "2", what="the timeline of the new primary")
    assert not back["may_have_diverged"]
    kept = list((a.data.parent / "pgdata.kept").iterdir())
    assert [path.name for path in kept] == ["term-2"]
    assert {"pg_control", "pg_rewind.log"} < {path.name for path in kept[0].iterdir()}
    assert any(path.name.startswith("00000001") for path in kept[0].iterdir())
    assert "secret" not in a.log() + b.log() + c.log()
    assert a.value("SELECT count(*) FROM pg_replication_slots") == 0  # they would hold the log for ever


class SlowRewind:
    """pg_rewind of a member, which does not end before go(); it is counted when it is no dry run."""

    def __init__(self, member):
        self.folder = member.dir / "slow"
        self.folder.mkdir()
        real = member.bin
        for program in real.iterdir():
            (self.folder / program.name).symlink_to(program)
        (self.folder / "pg_rewind").unlink()
        (self.folder / "pg_rewind").write_text(
            f"""#!/bin/sh
            case " $* " in *" --dry-run "*)
                {real}/pg_rewind "$@"; code=$?; touch {self.folder}/looked; exit $code ;;
            esac
            echo run >> {self.folder}/runs
            {real}/pg_rewind "$@" || exit 1
            while [ ! -e {self.folder}/go ]; do sleep 0.02; done
            """
        )
        (self.folder / "pg_rewind").chmod(0o755)
        if POSTGRES:
            shutil.chown(self.folder, POSTGRES, POSTGRES)
        member.bin = self.folder

    def runs(self):
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def go(self):
        (self.folder / "go").touch()


def within_a_rewind(shard):
    """The old primary, which has writes of its own, and is being rewound to follow b."""
    a, b = shard.of("ab")
    with a.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    replayed(b, "SELECT count(*) FROM t", 1)
    b.assign(2, "standby").settled("standby")
    with a.connect() as connection:
        connection.execute("INSERT INTO t SELECT generate_series(100, 200)")
    b.assign(2, "primary", slots=["shardherd_a"]).settled("primary")
    a.stop()
    slow = SlowRewind(a)
    a.start().assign(2, "standby", seq=1, upstream={**b.upstream, "slot": "shardherd_a"})
    wait_until(lambda: slow.runs() == 1, 20, "a rewind")
    return a, b, slow


def test_an_order_does_not_interrupt_a_rewind(shard):
    a, b, slow = within_a_rewind(shard)
    a.assign(2, "standby", seq=2, upstream={**b.upstream, "slot": "shardherd_a"})
    time.sleep(0.5)
    assert a.status()["reported"] == "rewinding" and slow.runs() == 1
    slow.go()
    a.settled("standby")
    replayed(a, "SELECT count(*) FROM t", 1)
    assert slow.runs() == 1 and "msg=cloning" not in a.log()
    assert not (slow.folder / "looked").exists()  # where the histories part was known long before the dry run ends
    said = (a.data.parent / "pgdata.kept" / "term-2" / "pg_rewind.log").read_text()
    assert "diverged at" in said and "(COPY)" in said  # what was changed, not only where


def test_a_rewind_that_did_not_end_is_followed_by_a_clone(shard):
    """Never by another one, which would first let the half of each recover, and add to its log."""
    a, b, slow = within_a_rewind(shard)
    a.process.kill()
    a.process.wait()
    slow.go()
    a.start().assign(2, "standby", seq=1, upstream={**b.upstream, "slot": "shardherd_a"})
    a.settled("standby")
    replayed(a, "SELECT count(*) FROM t", 1)
    assert slow.runs() == 1 and "msg=cloning" in a.log()
    assert [path.name for path in (a.data.parent / "pgdata.kept").iterdir()] == ["term-2"]


def test_terms(shard):
    a = shard.member("a")
    wait_until(lambda: a.status()["reported"] == "empty", what="the agent to have looked")
    assert a.call("GET", "/v1/status", token=None)[0] == 401
    assert a.call("GET", "/v1/status", token=TOKEN + "x")[0] == 401
    assert a.call("POST", "/v1/assign", {"term": 9, "role": "stopped"}, token="wrong")[0] == 401
    assert a.refused(0, "primary") == (400, "invalid")
    assert a.refused(1, "king") == (400, "invalid")
    assert a.refused(1, "primary", crown=True) == (400, "invalid")
    assert a.refused(1, "standby", lease_ms=3000) == (400, "invalid")
    a.assign(5, "primary", seq=2, initialize=True).settled("primary")
    pid = a.status()["pid"]
    a.assign(5, "primary", seq=2, initialize=True).settled("primary")  # again: nothing happens
    assert a.status()["pid"] == pid
    assert a.refused(4, "stopped", seq=9) == (409, "stale")
    assert a.refused(5, "stopped", seq=1) == (409, "stale")

    # the term outlives the agent; a primary is not started without a confirmation of this life
    assert a.stop() == 0
    a.no_server()
    a.start()
    waiting = wait_until(lambda: (s := a.status())["reported"] == "stopped" and s.get("error") and s, what="waiting")
    assert "waits until somebody confirms it" in waiting["error"]
    assert (waiting["term"], waiting["confirmed"], waiting["pid"]) == ("5", False, 0)
    assert a.refused(4, "primary") == (409, "stale")
    assert not servers_of(a.data)
    a.assign(5, "primary", seq=2, initialize=True).settled("primary")


def test_killed_agent_takes_its_server_along(shard):
    a = shard.member("a")
    a.assign(1, "primary", initialize=True).settled("primary")
    with a.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
        a.process.kill()
        killed = time.monotonic()
        a.process.wait()
        a.no_server()
        assert time.monotonic() - killed < 2
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
    a.start()
    wait_until(lambda: "confirms" in a.status().get("error", ""), what="waiting")
    assert not servers_of(a.data)
    a.assign(1, "primary", seq=1).settled("primary")
    # a postmaster that dies is started again in its place, and what it left behind is ended
    pid = a.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: a.status()["exits"] == "1", what="the death to be told")
    status = a.settled("primary")
    assert status["pid"] != pid
    assert "signal 9" in status["exit"]


class Writer(threading.Thread):
    """Writes over one open session until it ends; remembers when the last write was acknowledged."""

    def __init__(self, member):
        super().__init__(daemon=True)
        self.connection = member.connect()
        self.connection.execute("CREATE TABLE IF NOT EXISTS w (id bigserial, at timestamptz DEFAULT now())")
        self.acknowledged, self.last, self.error = 0, 0.0, None

    def run(self):
        try:
            while True:
                self.connection.execute("INSERT INTO w DEFAULT VALUES")
                self.acknowledged += 1
                self.last = time.monotonic()
                time.sleep(0.005)
        except psycopg.Error as error:
            self.error = error


def test_frozen_agent_does_not_leave_a_primary(shard):
    """The lease counts from what was heard; the watchdog ends the server; a word from before renews nothing."""
    a = shard.member("a")
    a.assign(1, "primary", initialize=True, lease_ms=LEASE_MS)
    writer = None
    deadline = time.monotonic() + 60
    while writer is None or writer.acknowledged < 100:  # renewed, it goes on beyond a lease
        assert a.lease(1)[0] in (200, 409), a.log()[-2000:]
        if writer is None and a.status()["reported"] == "primary":
            writer = Writer(a)
            writer.start()
        assert time.monotonic() < deadline, a.log()[-2000:]
        time.sleep(0.05)
    old_clock = a.status()["clock"]
    assert a.lease(1)[0] == 200
    a.process.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    writer.join(LEASE_MS / 1000 + 5)
    assert not writer.is_alive()
    assert writer.error is not None
    assert 1.5 < writer.last - frozen < LEASE_MS / 1000
    a.no_server()
    a.process.send_signal(signal.SIGCONT)
    assert a.call("POST", "/v1/lease", {"term": "1", "heard": old_clock})[0] == 409
    fenced = wait_until(lambda: (s := a.status())["reported"] == "fenced" and s, what="fenced")
    assert fenced["watchdog_fired"] == "1"
    assert not servers_of(a.data)
    # a lease of the same term starts it again; silence ends it, this time by the agent itself
    assert a.lease(1)[0] == 200
    wait_until(lambda: a.lease(1)[0] == 200 and a.status()["reported"] == "primary", 20, "primary", 0.1)
    wait_until(lambda: a.status()["reported"] == "fenced", 20, "fenced")
    assert a.status()["lease_lost"]


def hung_commits(primary, cancel_after, count):
    """Commits that hang, each cancelled by its client; how many were acknowledged all the same."""
    false = 0
    for number in range(count):
        with contextlib.suppress(psycopg.Error), primary.connect() as connection:
            timer = threading.Timer(cancel_after, connection.cancel)
            timer.start()
            try:
                connection.execute("INSERT INTO t VALUES (%s)", (number,))
                false += 1
            finally:
                timer.cancel()
                timer.join()
    return false


def test_cancelled_commits(shard):
    """Nobody streams: a session that waits for its commit is ended within half a second, and gets an error."""
    a, b = shard.of("ab", sync={"need": 1, "members": ["b"]})
    with a.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
        connection.execute("INSERT INTO t VALUES (0)")  # acknowledged by b
    b.assign(1, "standby", seq=1).settled("standby")
    took = []
    for _ in range(3):  # the machine may stand still once
        with a.connect() as connection:
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("INSERT INTO t VALUES (1)")
            took.append(time.monotonic() - began)
    assert min(took) < 0.6, took
    false = [hung_commits(a, 1.0, 5) for _ in range(2)]
    print(f"false acknowledgements of 5 commits cancelled after 1 s: {false}")
    assert min(false) == 0
    assert int(a.status()["commits_ended"]) >= 5
    b.assign(1, "standby", seq=2, upstream={**a.upstream, "slot": "shardherd_b"}).settled("standby")
    wait_until(lambda: b.status().get("receiver") == "streaming", 30, "streaming")
    with a.connect() as connection:
        connection.execute("INSERT INTO t VALUES (9)")


def until_it_fails(primary, stop_standby):
    """A session commits one row after the other; the standby is stopped. Seconds from its end to the session's
    error, and from when its end began."""
    stopped, commits = [], []

    def stop():
        stopped.append(time.monotonic())
        stop_standby()
        stopped.append(time.monotonic())

    with primary.connect() as connection:
        timer = threading.Timer(0.3, stop)
        timer.start()
        with pytest.raises(psycopg.OperationalError):
            while True:
                connection.execute("INSERT INTO t VALUES (1)")
                commits.append(time.monotonic())
                assert not stopped or time.monotonic() < stopped[0] + 20
        failed = time.monotonic()
        timer.join()
    late = [at for at in commits if at > stopped[1] + 0.1]  # later than what was on its way
    return failed - stopped[1], failed - stopped[0], late


def report(what, seconds):
    ordered = sorted(seconds)
    print(f"{what}: {len(ordered)} runs, median {ordered[len(ordered) // 2]:.3f} s, longest {ordered[-1]:.3f} s")


@pytest.mark.slow
def test_cancelled_commits_measured(shard):
    """How long a commit can wait, and so be cancelled and acknowledged falsely, after the last standby is gone."""
    a, b = shard.of("ab", sync={"need": 1, "members": ["b"]})
    with a.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")

    def receiver_gone():
        b.process.kill()
        b.process.wait()
        for pid in servers_of(b.data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def receiver_silent():
        """Its agent as well, which would end a postmaster that is stopped."""
        for pid in (b.process.pid, *servers_of(b.data)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def back():
        if b.process.poll() is not None:
            b.start()  # it follows by itself
        for pid in (b.process.pid, *servers_of(b.data)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'b'"
        wait_until(lambda: a.value(streams) == 1, 30, "streaming")
        time.sleep(0.5)  # until the guard has seen it as well

    gone, killed, silent = [], [], []
    for _ in range(20):
        since, seconds, late = until_it_fails(a, receiver_gone)
        assert late == []
        gone.append(since)
        killed.append(seconds)
        back()
    for _ in range(4):
        _, seconds, late = until_it_fails(a, receiver_silent)
        assert late == []
        silent.append(seconds)
        back()
    report("the last standby's server killed, since it is dead", gone)
    report("the same, since its killing began", killed)
    report("the last standby frozen", silent)
    assert sorted(gone)[len(gone) // 2] < 0.3  # the longest is what this machine makes of it
    assert max(gone) < 0.5
    assert max(silent) < 4.5  # wal_sender_timeout counts from the last word
    for after in (0.1, 0.4):
        receiver_gone()
        print(f"cancelled after {after} s: {hung_commits(a, after, 10)} of 10 acknowledged falsely, the standby gone")
        back()
    receiver_silent()
    print(f"cancelled after 1 s: {hung_commits(a, 1.0, 6)} of 6 acknowledged falsely, from when it fell silent")
    back()


def login(member, **more):
    return psycopg.connect(
        host="127.0.0.1", port=member.port, user="app", password="app", dbname="postgres", autocommit=True, **more
    )


def test_held(shard):
    """A held primary has nobody in it but shardherd, also nobody who read from it as a standby; then it is opened."""
    a, b = shard.of("ab")
    with a.connect() as connection:
        connection.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
        connection.execute("CREATE TABLE public.t (id int); GRANT ALL ON t TO app")
    replayed(b, "SELECT count(*) FROM pg_roles WHERE rolname = 'app'", 1)
    a.assign(2, "standby")
    with login(b) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone()[0] == 0
        status = b.assign(2, "primary", seq=1, held=True).settled("primary")
        assert status["order"]["held"] is True
        assert status["ready"] is False
        with pytest.raises(psycopg.Error):
            reader.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(psycopg.OperationalError, match="pg_hba.conf"):
        login(b)
    with b.connect(options="-c default_transaction_read_only=off") as ours:
        ours.execute("INSERT INTO t VALUES (2)")
    b.process.kill()  # it is held again when it comes back
    b.process.wait()
    b.start()
    b.assign(2, "primary", seq=1, held=True).settled("primary")
    with pytest.raises(psycopg.OperationalError, match="pg_hba.conf"):
        login(b)
    assert b.assign(2, "primary", seq=2).settled("primary")["ready"] is True
    assert b.refused(2, "primary", seq=1, held=True) == (409, "stale")
    with login(b) as writer:
        writer.execute("INSERT INTO t VALUES (3)")
        assert [row[0] for row in writer.execute("SELECT id FROM t ORDER BY 1")] == [2, 3]


def test_closed(shard):
    """Who is being removed takes no order any more, of no term, over a restart, until one says it is not closed."""
    (a,) = shard.of("a")
    assert a.refused(1, "standby", closed=True) == (400, "invalid")
    assert a.assign(1, "stopped", seq=9, closed=True).settled("stopped")["closed"] is True
    assert a.refused(2, "primary") == (409, "closed")
    a.stop()
    a.start()
    a.settled("stopped")  # it has read what it is
    assert a.refused(9, "standby") == (409, "closed")
    assert a.lease(1)[0] == 409
    a.no_server()
    a.assign(1, "stopped", seq=9, closed=True)  # the same, once more
    assert a.refused(1, "primary", closed=False) == (409, "stale")
    status = a.assign(2, "stopped", closed=False).settled("stopped")
    assert "closed" not in status
    a.assign(2, "primary", seq=1).settled("primary")


def test_port_is_taken(shard):
    """Somebody took it while the server was away: that is said, and a second after it is free the server is back."""
    (a,) = shard.of("a")
    a.assign(1, "stopped", seq="100")
    wait_until(lambda: a.status()["reported"] == "stopped", what="the stop")
    with socket.create_server(("127.0.0.1", a.port)):
        a.assign(1, "primary", seq="101")
        said = wait_until(lambda: (s := a.status())["reported"] == "failed" and s, what="the failure")
        assert f"another program has port {a.port}" in said["error"], said
        time.sleep(5)  # so that a pause which is doubled each time would be longer than a second
    free = time.monotonic()
    wait_until(lambda: a.status()["reported"] == "primary", 10, "the primary")
    assert time.monotonic() - free < 3


def test_checkpoint_on_demand(shard):
    (a,) = shard.of("a")
    before = a.value("SELECT checkpoint_lsn FROM pg_control_checkpoint()")
    a.value("SELECT pg_logical_emit_message(false, 'x', 'y')")
    count = int(a.status()["checkpoints"])
    assert a.call("POST", "/v1/checkpoint")[0] == 200
    wait_until(lambda: int(a.status()["checkpoints"]) > count, what="the checkpoint")
    assert a.value("SELECT checkpoint_lsn FROM pg_control_checkpoint()") != before


def test_checkpoint_after_a_promotion_is_tried_again(shard):
    """Until there is one pg_control tells the timeline before (pg_rewind reads it), and the server has no room now."""
    a, b = shard.of("ab")
    with contextlib.ExitStack() as sessions:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            while True:
                sessions.enter_context(b.connect())
        a.assign(2, "fenced").settled("fenced")
        refused = b.log().count("too many clients")
        b.assign(2, "primary", slots=["shardherd_a"]).settled("primary")
        wait_until(lambda: b.log().count("too many clients") > refused, what="one more to be refused")
        assert b.status()["checkpoints"] == "0"
    wait_until(lambda: int(b.status()["checkpoints"]) == 1, 10, "the checkpoint")
    assert b.value("SELECT timeline_id FROM pg_control_checkpoint()") == 2


def test_rejoin_by_clone_and_refusals(shard):
    a, b = shard.of("ab")
    with a.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    (b.data / "mine").touch()
    b.assign(2, "standby", rejoin="clone", upstream={**a.upstream, "slot": "shardherd_b"})
    wait_until(lambda: not (b.data / "mine").exists(), 30, "another directory")
    b.settled("standby")
    replayed(b, "SELECT count(*) FROM t", 1)
    # once per term, also after a restart; and a standby follows again by itself
    (b.data / "mine").touch()
    assert b.stop() == 0
    b.start().settled("standby")
    assert (b.data / "mine").exists()
    assert b.status()["confirmed"] is False
    # a second agent on the same data waits for the lock
    twin = Member.__new__(Member)
    twin.__dict__.update(b.__dict__)
    twin.http = free_port()
    try:
        twin.start()
        wait_until(lambda: "another agent" in twin.status().get("error", ""), what="refusal")
    finally:
        twin.process.kill()
        twin.process.wait()
    assert b.settled("standby")["pid"] > 0
    # stopped in order: everything is on the standby
    a.assign(2, "stopped").settled("stopped")
    b.assign(3, "primary").settled("primary")
    assert b.value("SELECT count(*) FROM t") == 1
    a.assign(3, "standby", upstream=b.upstream).settled("standby")
    assert not (a.data.parent / "pgdata.kept").exists()  # nothing was lost, nothing is kept
