"""The agent beside a real PostgreSQL: makes it, starts it again, applies what changes, stops it."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from certificates import Certificates
from conftest import free_port, pg_bin_dir, wait_until

pytestmark = pytest.mark.beside

POSTGRES = "postgres" if os.geteuid() == 0 else None


class Agent:
    def __init__(self, program, directory, version):
        self.program = program
        self.dir = directory
        self.bin = pg_bin_dir(version)
        self.port, self.http = free_port(), free_port()
        self.password = directory / "password"
        self.settings = directory / "settings.conf"
        self.data = directory / "volume" / "pgdata"
        self.process = None
        for path in (directory / "volume", directory / "run"):
            path.mkdir()
        self.password.write_text("first-secret\n")
        self.settings.write_text("work_mem = '5MB'\n")
        if POSTGRES:
            for path in (directory, *directory.rglob("*")):
                shutil.chown(path, POSTGRES, POSTGRES)

    def start(self, *more):
        argv = [
            self.program,
            "agent",
            f"--data={self.data}",
            f"--bin={self.bin}",
            f"--run={self.dir / 'run'}",
            f"--settings={self.settings}",
            f"--password-file={self.password}",
            "--listen=127.0.0.1",
            f"--port={self.port}",
            "--http-address=127.0.0.1",
            f"--http-port={self.http}",
            *more,
        ]
        log = (self.dir / "log").open("ab")
        self.process = subprocess.Popen(
            argv, stderr=log, stdout=log, user=POSTGRES, group=POSTGRES, cwd="/", start_new_session=True
        )
        log.close()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self):
        return json.loads(self.get("/v1/status")[1])

    def ready(self):
        return self.get("/readyz")[0] == 200

    def wait_ready(self):
        wait_until(self.ready, timeout=60, what=f"readiness; log:\n{self.log()[-2000:]}")

    def log(self):
        return (self.dir / "log").read_text()

    def connect(self, password="first-secret", user="shardherd", dbname="postgres", **more):
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=user,
            password=password,
            dbname=dbname,
            connect_timeout=5,
            autocommit=True,
            **more,
        )

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self):
        if self.process is None or self.process.poll() is not None:
            return
        pid = self.status().get("pid") if self.get("/livez")[0] else 0
        self.process.kill()
        self.process.wait()
        if pid:
            os.kill(pid, signal.SIGQUIT)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="end of the server")


@pytest.fixture(params=[15, 16, 18])
def agent(request, shardherd):
    if pg_bin_dir(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} is not installed")
    directory = Path("/tmp") / f"agent-{os.getpid()}-{time.monotonic_ns()}"
    directory.mkdir(mode=0o755)
    made = Agent(shardherd, directory, request.param)
    yield made
    made.kill()
    shutil.rmtree(directory, ignore_errors=True)


def test_a_life(agent):
    """One server from nothing to its end; each step needs the one before."""
    agent.start()
    wait_until(lambda: agent.get("/livez")[0] == 200, what="the agent")
    assert agent.get("/readyz")[0] in (200, 503)
    agent.wait_ready()
    status = agent.status()
    assert (status["state"], status["role"], status["timeline"]) == ("running", "primary", "1")
    with agent.connect() as connection:
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        assert connection.execute("SHOW data_checksums").fetchone() == ("on",)
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (1)")

    # settings that change are loaded; those that need a restart are told
    agent.settings.write_text("work_mem = '6MB'\nmax_connections = 77\nport = 1\n")
    with agent.connect() as connection:
        wait_until(lambda: connection.execute("SHOW work_mem").fetchone() == ("6MB",), what="new settings")
    wait_until(lambda: agent.status()["pending_restart"], what="pending restart")

    # the password follows its file, and reaches no log
    agent.password.write_text("second-secret\n")

    def second():
        try:
            agent.connect("second-secret").close()
            return True
        except psycopg.OperationalError:
            return False

    wait_until(second, what="new password")
    with pytest.raises(psycopg.OperationalError):
        agent.connect("first-secret")
    assert "secret" not in agent.log()

    # a server that dies is started again
    os.kill(agent.status()["pid"], signal.SIGKILL)
    wait_until(lambda: agent.status()["restarts"] == "1", what="the death to be seen")
    agent.wait_ready()
    assert agent.get("/livez")[0] == 200
    with agent.connect("second-secret") as connection:
        assert connection.execute("SELECT id FROM kept").fetchone() == (1,)
        assert connection.execute("SHOW max_connections").fetchone() == ("77",)

    # an orderly stop ends the server in order, and the next start needs no recovery
    pid = agent.status()["pid"]
    assert agent.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    before = len(agent.log())
    agent.start()
    agent.wait_ready()
    assert "not properly shut down" not in agent.log()[before:]


def test_a_volume_for_the_log(agent):
    wal = agent.dir / "wal"
    wal.mkdir()
    if POSTGRES:
        shutil.chown(wal, POSTGRES, POSTGRES)
    agent.start(f"--wal={wal}")
    agent.wait_ready()
    assert (agent.data / "pg_wal").resolve() == wal / "pg_wal"
    assert sorted(path.name for path in wal.iterdir()) == ["pg_wal"]
    assert agent.stop() == 0
    # data that was lost is not made anew beside a log that is still there
    shutil.rmtree(agent.data)
    agent.start(f"--wal={wal}")
    wait_until(lambda: "the log is left alone" in agent.log(), what="refusal")
    assert agent.stop() == 0
    assert not agent.data.exists()


def test_what_is_no_data_directory_is_left_alone(agent):
    agent.data.mkdir()
    (agent.data / "thesis.txt").write_text("mine")
    if POSTGRES:
        for path in (agent.data, agent.data / "thesis.txt"):
            shutil.chown(path, POSTGRES, POSTGRES)
    agent.start()
    wait_until(lambda: "left alone" in agent.log(), what="refusal")
    assert agent.get("/readyz")[0] == 503
    assert "is not empty and is no data directory of PostgreSQL" in agent.status()["error"]
    assert agent.stop() == 0
    assert (agent.data / "thesis.txt").read_text() == "mine"


def test_a_crash_within_initdb_leaves_nothing_half_made(agent):
    agent.start()
    draft = agent.data.with_name("pgdata.new")
    wait_until(lambda: (draft / "base").exists(), what="initdb", interval=0.001)
    os.killpg(agent.process.pid, signal.SIGKILL)
    agent.process.wait()
    assert not agent.data.exists()
    wait_until(lambda: not processes_in(draft), what="end of initdb")
    agent.start()
    agent.wait_ready()
    assert not draft.exists()


def test_nobody_without_a_certificate(agent):
    """Clients by TCP need one of the authority; the server itself is one, as a subscription needs it."""
    if b"libssl" not in subprocess.run(["ldd", agent.bin / "postgres"], check=True, capture_output=True).stdout:
        pytest.skip("this server is built without TLS")
    made = Certificates(agent.dir / "made")
    made.authority("ca")
    made.authority("other")
    made.issue("ca", "server", "serverAuth,clientAuth")
    made.issue("ca", "client", "clientAuth")
    made.issue("other", "stranger", "clientAuth")
    tls = agent.dir / "tls"
    made.as_secret(tls, tls_crt="server.crt", tls_key="server.key")
    agent.start(f"--tls={tls}", "--client-certificates")
    wait_until(lambda: "certificates of clients cannot be checked" in agent.log(), what="refusal without an authority")
    assert agent.get("/readyz")[0] == 503
    made.as_secret(tls, ca_crt="ca.crt")
    agent.wait_ready()

    verify = {"sslmode": "verify-full", "sslrootcert": str(made.dir / "ca.crt")}
    with pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"):
        agent.connect(**verify)
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        agent.connect(sslmode="disable")
    with pytest.raises(psycopg.OperationalError):
        agent.connect(**verify, **made.shown("stranger"))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        agent.connect("wrong", **verify, **made.shown("client"))
    with agent.connect(**verify, **made.shown("client")) as connection:
        connection.execute("CREATE DATABASE copy")
        connection.execute("CREATE TABLE t (id int)")
        connection.execute("CREATE PUBLICATION p FOR TABLE t")
        connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        connection.execute("INSERT INTO t VALUES (7)")
    subscribe = (
        f"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={agent.port} dbname=postgres user=shardherd "
        f"password=first-secret sslmode=verify-full sslrootcert={tls}/ca.crt{{}}' PUBLICATION p "
        "WITH (create_slot = false)"
    )
    shown = f" sslcert={agent.data}/shardherd.crt sslkey={agent.data}/shardherd.key"
    with agent.connect(dbname="copy", **verify, **made.shown("client")) as connection:
        connection.execute("CREATE TABLE t (id int)")
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            connection.execute(subscribe.format(""))
        connection.execute(subscribe.format(shown))
        wait_until(lambda: connection.execute("SELECT id FROM t").fetchone() is not None, what="the row")
        connection.execute("DROP SUBSCRIPTION s")

        # another authority counts as soon as it is there, without a restart
        pid = agent.status()["pid"]
        made.issue("other", "moved", "serverAuth,clientAuth")
        made.as_secret(tls, ca_crt="other.crt", tls_key="moved.key", tls_crt="moved.crt")

        def moved():
            try:
                agent.connect(sslmode="require", **made.shown("stranger")).close()
                return True
            except psycopg.OperationalError:
                return False

        wait_until(moved, what="the other authority")
        with pytest.raises(psycopg.OperationalError):
            agent.connect(sslmode="require", **made.shown("client"))
        assert agent.status()["pid"] == pid
        assert connection.execute("SELECT 1").fetchone() == (1,)  # who is in stays in
    assert "PRIVATE" not in agent.log()


def processes_in(directory):
    """Processes that name the directory on their command line; initdb outlives an agent killed without a word."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_the_systemd_unit_holds(shardherd, tmp_path):
    """systemd finds nothing wrong with it, and the agent has each of the options that it gives and speaks of."""
    text = (Path(__file__).parents[2] / "deploy" / "systemd" / "shardherd-agent@.service").read_text()
    known = subprocess.run([shardherd, "agent", "--help"], capture_output=True, text=True, check=True).stdout
    for option in set(re.findall(r"(--[a-z-]+)", text)) - {"--now"}:
        assert f"{option} " in known, option
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing")
    unit = tmp_path / "shardherd-agent@shop-s1-0.service"
    unit.write_text(text.replace("/usr/bin/shardherd", str(Path(shardherd).resolve())))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "shardherd" in line]  # not of other units of this machine
    assert done.returncode == 0 and said == [], done.stderr
