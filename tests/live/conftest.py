"""Fixtures of the live tests: real PostgreSQL servers, the real binary.

Servers live in a directory of their own under /tmp, listen on loopback and on a Unix socket there, run as
the user postgres when the tests run as root, and are gone when their test is, whatever happened to it.

    def test_something(pg_factory, shardherd):
        server = pg_factory(16, wal_level="logical")
        server.psql("CREATE TABLE t (id int)")
        server.kill9()
        server.start()
"""

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

REPO = Path(__file__).resolve().parents[2]
SUPPORTED = (15, 16, 17, 18)
SUPERUSER = "postgres"
TEST_SETTINGS = {
    "fsync": "off",  # no test pulls the plug of the machine
    "shared_buffers": "16MB",
    "max_connections": "50",
    "log_line_prefix": "%m [%p] %q%a ",
}
_alive = []


def pg_bin_dir(version):
    """The directory with initdb and postgres of a major version, or None."""
    candidates = [
        os.environ.get(f"SHARDHERD_PG_BIN_{version}"),
        f"/usr/lib/postgresql/{version}/bin",
        REPO / "build" / "pg" / str(version) / "bin",
    ]
    for candidate in candidates:
        if candidate and (Path(candidate) / "postgres").exists():
            return Path(candidate)
    return None


def default_version():
    """SHARDHERD_TEST_PG, else the newest of the distribution (15 on Debian 12, 16 on Ubuntu 24.04, 17 on Debian 13):
    the one that a manager takes by itself. Else what there is."""
    if os.environ.get("SHARDHERD_TEST_PG"):
        return int(os.environ["SHARDHERD_TEST_PG"])
    packaged = [v for v in SUPPORTED if Path(f"/usr/lib/postgresql/{v}/bin/postgres").exists()]
    return max(packaged or [v for v in SUPPORTED if pg_bin_dir(v)], default=SUPPORTED[0])


# Tests of each version run 16 and 18, which scripts/install-deps unpacks, and what the distribution has: 15 or 17.
DEFAULT = default_version()
VERSIONS = tuple(v for v in SUPPORTED if v in (16, 18, DEFAULT) or pg_bin_dir(v))
# Long suites run all versions with scripts/test --full, and the distribution's otherwise.
FULL = bool(os.environ.get("SHARDHERD_TEST_FULL"))
TRIED = VERSIONS if FULL else (DEFAULT,)


def server_user():
    """uid and gid to run servers with, empty when we are not root (PostgreSQL refuses to run as root)."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(SUPERUSER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def wait_until(condition, timeout=10.0, what="condition", interval=0.02):
    """Calls condition until it returns something true and returns that; fails after timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            pytest.fail(f"{what}: not true within {timeout} s")
        time.sleep(interval)


def _pid_gone(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rsplit(")", 1)[1].split()[0] == "Z"


def _children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class PgServer:
    """One PostgreSQL server. Settings are names and values of postgresql.conf; None takes a default back.

    password: the superuser's, and then every connection needs it (scram-sha-256); without it, trust.
    """

    def __init__(self, version=DEFAULT, password=None, port=None, **settings):
        self.version = version
        self.bin = pg_bin_dir(version)
        if self.bin is None:
            raise FileNotFoundError(f"no PostgreSQL {version}")
        self.password = password
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.settings = {**TEST_SETTINGS, **settings}
        self.dir = Path(tempfile.mkdtemp(prefix="shardherd-test-", dir="/tmp"))
        self.data = self.dir / "data"
        self.log = self.dir / "log"
        self.process = None
        self._run = server_user()
        self.wrap = []  # words before the server's own command; they see to its user themselves
        if self._run:
            os.chown(self.dir, self._run["user"], self._run["group"])
        _alive.append(self)

    def run(self, program, *args, check=True, **kwargs):
        """Runs a program of this server's installation as the server's user."""
        kwargs = {"capture_output": True, "text": True, "cwd": self.dir, **self._run, **kwargs}
        env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", **kwargs.pop("env", {})}
        return subprocess.run([str(self.bin / program), *map(str, args)], check=check, env=env, **kwargs)

    def initdb(self, *args):
        options = ["-D", self.data, "-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8", "-N", "-k", *args]
        if self.password is None:
            self.run("initdb", "-A", "trust", *options)
            return
        secret = self.dir / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if self._run:
            os.chown(secret, self._run["user"], self._run["group"])
        self.run("initdb", "-A", "scram-sha-256", f"--pwfile={secret}", *options)
        secret.unlink()

    def start(self, timeout=30.0, wait=True, **settings):
        """Starts the server (making its data directory first if need be); extra settings are kept."""
        assert not self.running, "the server runs already"
        if not self.data.exists():
            self.initdb()
        self.settings.update(settings)
        options = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.dir,
            **{name: value for name, value in self.settings.items() if value is not None},
        }
        argv = [*map(str, self.wrap), str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                start_new_session=True,
                **({} if self.wrap else self._run),
            )
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=30.0):
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.connect(connect_timeout=2).close()
                return
            except psycopg.OperationalError as error:
                if not self.running:
                    raise RuntimeError(f"the server did not start:\n{self.log_text()[-3000:]}") from error
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.02)

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid if self.running else None

    def stop(self, mode="fast", timeout=30.0):
        """smart, fast or immediate. Nothing happens if it does not run."""
        if not self.running:
            return
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        self.process.send_signal(number)
        self.process.wait(timeout)

    def restart(self, mode="fast", **settings):
        self.stop(mode)
        return self.start(**settings)

    def kill9(self):
        """Kills the postmaster and its children, as the kernel or a dead machine would."""
        if not self.running:
            return
        self.pause()  # no new child while we count them
        pids = [self.process.pid, *_children(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        wait_until(lambda: all(_pid_gone(pid) for pid in pids), what="children of a killed server to go")

    def pause(self):
        """SIGSTOPs the postmaster only: new connections hang, existing ones go on."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def pause_all(self):
        """SIGSTOPs the postmaster and its children: a machine that hangs."""
        for pid in [self.process.pid, *_children(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self):
        for pid in [*_children(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def conninfo(self, dbname="postgres", **more):
        values = {"host": self.host, "port": self.port, "user": SUPERUSER, "dbname": dbname, **more}
        if self.password is not None:
            values.setdefault("password", self.password)
        return psycopg.conninfo.make_conninfo("", **values)

    def connect(self, dbname="postgres", autocommit=True, **more):
        return psycopg.connect(self.conninfo(dbname, **more), autocommit=autocommit)

    def psql(self, sql, params=None, dbname="postgres"):
        """Runs SQL in a connection of its own; rows of the last statement as tuples, or None."""
        with contextlib.closing(self.connect(dbname)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, params)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else None

    def value(self, sql, params=None, dbname="postgres"):
        return self.psql(sql, params, dbname)[0][0]

    def create_database(self, name):
        self.psql(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def destroy(self):
        """Ends the server and removes its directory. Idempotent."""
        if self.running:
            self.resume()
            try:
                self.stop("immediate", timeout=10)
            except subprocess.TimeoutExpired:
                self.kill9()
        self._remove_shared_memory()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in _alive:
            _alive.remove(self)

    def _remove_shared_memory(self):
        """A killed postmaster leaves its System V segment behind; its id is in postmaster.pid."""
        try:
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        except (OSError, IndexError):
            return
        if shutil.which("ipcrm"):
            subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)


@atexit.register
def _destroy_all():
    while _alive:
        _alive[-1].destroy()


def _factory():
    made = []

    def make(version=DEFAULT, start=True, **options):
        if pg_bin_dir(version) is None:
            pytest.skip(f"PostgreSQL {version} is not installed (scripts/install-deps gets it)")
        server = PgServer(version, **options)
        made.append(server)
        if start:
            server.start()
        return server

    return make, made


@pytest.fixture
def pg_factory():
    """pg_factory(version=DEFAULT, start=True, password=None, **settings): a new server, gone after the test."""
    make, made = _factory()
    yield make
    for server in made:
        server.destroy()


@pytest.fixture(scope="module")
def pg_factory_module():
    """The same, with servers that live as long as the test module."""
    make, made = _factory()
    yield make
    for server in made:
        server.destroy()


@pytest.fixture(params=VERSIONS, ids=lambda version: f"pg{version}")
def pg_version(request):
    """Runs the test once for each version."""
    if pg_bin_dir(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} is not installed (scripts/install-deps gets it)")
    return request.param


@pytest.fixture
def pg_server(pg_factory, pg_version):
    """A running server with logical WAL, of each version in turn."""
    return pg_factory(pg_version, wal_level="logical")


@pytest.fixture(scope="session")
def repo():
    return REPO


@pytest.fixture(scope="session")
def build_dir():
    """SHARDHERD_BUILD, else the release build, else the debug build."""
    named = os.environ.get("SHARDHERD_BUILD")
    candidates = [Path(named)] if named else [REPO / "build" / "release", REPO / "build" / "debug"]
    for candidate in candidates:
        if (candidate / "build.ninja").exists():
            return candidate.resolve()
    pytest.fail(f"no build in {', '.join(map(str, candidates))}: run cmake --preset release && ninja -C build/release")


@pytest.fixture(scope="session")
def shardherd(build_dir):
    """Path of the program."""
    program = build_dir / "shardherd"
    assert program.exists(), f"{program} is not built"
    return program


@pytest.fixture
def tool(build_dir):
    """tool("hash_tool"): path of a program made from tests/tools."""

    def path(name):
        program = build_dir / "tests" / name
        assert program.exists(), f"{program} is not built"
        return program

    return path


@pytest.fixture
def work_dir():
    """A directory under /tmp that the server's user may read as well."""
    path = Path(tempfile.mkdtemp(prefix="shardherd-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
