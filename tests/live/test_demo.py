"""shardherd demo: the whole story with few rows, the proof that its check can fail, and that it cleans up after itself.

Every test works in a directory of its own and looks afterwards for what was left: files, and processes that name it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

SMALL = ["--customers", "20000", "--rate", "600", "--clients", "8"]
WRONG = ["lost", "resurrected", "duplicated", "misplaced", "unexpected"]
# What whoever reads the report may rely on.
REPORTED = {
    **dict.fromkeys(["moved_rows", "moved_bytes", "refused_writes", "acked_writes", "manager_rss_peak_bytes"], int),
    **dict.fromkeys(["lost", "duplicated", "misplaced"], int),
    **dict.fromkeys(["decision_seconds", "copy_seconds", "write_block_ms"], float),
    **dict.fromkeys(["loop_longest_turn_ms", "manager_cpu_seconds"], float),
}
STATES = ["check", "target", "copy", "catch_up", "verify", "rehearse", "fence", "settle", "watch", "clean"]


def processes_of(directory):
    """Command lines that name the directory, and postmasters that work below it."""
    found = []
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit() and int(proc.name) != os.getpid():
            try:
                line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{directory}/" in line:
                found.append((int(proc.name), line))
    return found


class Demo:
    """A demo that runs; its output line by line."""

    def __init__(self, shardherd, base, *args, env=None, small=True):
        self.base = Path(base)
        self.directory = self.base / "demo"
        self.report = self.base / "report.json"
        self.out = open(self.base / "out", "w+")  # noqa: SIM115 - closed with the fixture
        self.err = open(self.base / "err", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(shardherd), "demo", "--directory", str(self.directory), "--report", str(self.report),
             *(SMALL if small else []), *args],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, env={**os.environ, **(env or {})},
        )  # fmt: skip

    def text(self):
        return (self.base / "out").read_text() + (self.base / "err").read_text()

    def wait_text(self, pattern, timeout=120):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = re.search(pattern, " ".join(self.text().split()))
            if found:
                return found
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} was not said within {timeout} s:\n{self.text()}")

    def wait(self, timeout=200):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over after {timeout} s:\n{self.text()}") from None

    def figures(self):
        return json.loads(self.report.read_text())

    def clean_up(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid, _ in processes_of(self.directory):
            try:
                os.kill(pid, signal.SIGQUIT if pid else 0)
            except OSError:
                continue
        self.out.close()
        self.err.close()


@pytest.fixture
def demo(shardherd):
    base = Path(f"/tmp/shardherd-demo-test-{os.getpid()}")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(mode=0o711)
    os.chmod(base, 0o711)
    running = []

    def start(*args, **kwargs):
        running.append(Demo(shardherd, base, *args, **kwargs))
        return running[-1]

    yield start
    for one in running:
        one.clean_up()
    shutil.rmtree(base, ignore_errors=True)


def assert_nothing_left(demo):
    assert not demo.directory.exists(), sorted(demo.directory.rglob("*"))[:20]
    assert processes_of(demo.directory) == []


def test_story(demo):
    run = demo()
    assert run.wait() == 0, run.text()
    report = run.figures()
    assert report["passed"] is True and report["error"] is None
    assert [report[kind] for kind in WRONG] == [0] * len(WRONG), report
    assert report["rule"] == 1 and "(R1)" in report["decision"], report
    assert 9 <= report["decision_seconds"] <= 15, report
    assert report["acked_writes"] > 1000 and report["rows_checked"] > 50000, report
    # a quarter of the rows: half of one of two shards
    assert 0.2 < report["moved_rows"] / report["rows_made"] < 0.3, report
    assert report["cleaned_rows"] >= report["moved_rows"] * 0.9, report
    assert 0 < report["write_block_ms"] < 250, report
    for move in ("isolate", "rollback", "merge"):
        assert 0 < report[f"{move}_write_block_ms"] < 250, report
    assert report["longest_write_gap_ms"] > 0 and report["copy_seconds"] > 0, report
    assert set(STATES) <= set(report["phases"]), report["phases"]
    assert report["phases"]["watch"] >= 5, report["phases"]
    assert report["manager_rss_peak_bytes"] > 1e6 and report["manager_cpu_seconds"] > 0, report
    assert report["postgresql"] and report["version"] and report["commit"], report
    assert {name: type(report[name]) for name in REPORTED} == REPORTED
    assert report["moved_bytes"] > 1e6 and report["refused_writes"] >= 0 and report["loop_longest_turn_ms"] > 0, report
    assert "\x1b" not in run.text()  # not a terminal: nothing steers one
    assert_nothing_left(run)


FEW = ["--failover", "--customers", "2000", "--rate", "200", "--clients", "8"]


def test_failover(demo):
    """A primary is killed for good, a standby takes over, the old one follows and is made the primary again."""
    run = demo(*FEW, small=False)
    assert run.wait() == 0, run.text()
    report = run.figures()
    assert report["passed"] is True and report["error"] is None
    assert [report[kind] for kind in WRONG] == [0] * len(WRONG), report
    assert report["acked_writes"] > 100 and report["rows_checked"] >= 8000, report
    assert report["lost_primary"] != report["new_primary"] and report["rule"] > 0, report
    for change in (report["failover"], report["switchover"]):
        assert 0 < change["seconds_without_writes"] < 20 and change["rejoin_seconds"] > 0, report
        assert change["blocked_seconds"] > 0, report
    assert "write_block_ms" not in report  # of the other story
    text = " ".join(run.text().split())
    assert f"kill -9 of all that runs for {report['lost_primary']}" in text
    assert f"{report['new_primary']} is the primary, under term 2" in text
    assert f"{report['lost_primary']} is the primary, under term 3" in text
    assert_nothing_left(run)


def test_failover_interrupted(demo):
    """Agents, watchdogs and servers of members go, too, also while one of them is just away."""
    run = demo(*FEW, small=False)
    run.wait_text("kill -9 of all")
    run.process.send_signal(signal.SIGINT)
    assert run.wait(90) == 130, run.text()
    assert_nothing_left(run)


@pytest.mark.slow
def test_full_size_in_time(demo):
    """As a newcomer runs it: at least 200,000 and 600,000 rows, in less than 90 s on two processors."""
    run = demo(small=False)
    assert run.wait() == 0, run.text()
    report = run.figures()
    assert report["rows_made"] >= 800_000 and report["customers"] >= 200_000, report
    assert report["total_seconds"] < 90, report
    assert_nothing_left(run)


@pytest.mark.slow
def test_a_row_deleted_behind_its_back_is_reported(demo):
    """The check of the demo can fail, and then everything says so."""
    run = demo()
    run.wait_text("load begins")
    state = run.directory / "state"
    port = int(run.wait_text(r"shard s1 is PostgreSQL \S+ on 127.0.0.1 port (\d+)").group(1))
    password = (state / "instances" / "shop-s1-0" / "password").read_text().strip()
    with psycopg.connect(
        f"host=127.0.0.1 port={port} dbname=shop user=shardherd password={password}", autocommit=True
    ) as conn:
        # the newest order of a customer: the load takes the oldest
        gone = conn.execute(
            "DELETE FROM orders WHERE (customer_id, order_id) IN (SELECT customer_id, order_id FROM orders "
            "WHERE order_id = 3 LIMIT 1) RETURNING customer_id"
        ).fetchall()
    assert len(gone) == 1
    assert run.wait() == 1
    report = run.figures()
    assert report["passed"] is False and report["lost"] == 1, report
    assert str(gone[0][0]) in report["error"], report["error"]
    assert "rows are not as the ledger says" in run.text()
    # servers and data are gone, what explains it is kept
    assert processes_of(run.directory) == []
    assert (run.directory / "manager.log").exists() and (run.directory / "findings.txt").exists()
    assert list(run.directory.glob("state/instances/*/data")) == []


@pytest.mark.parametrize(
    "moment",
    [
        *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("starting a manager", "load begins")),
        "creating database",
        "the load shifts",
        "we change our mind",
    ],  # fmt: skip
)
def test_interrupted(demo, moment):
    run = demo()
    run.wait_text(moment)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130, run.text()
    assert "everything was taken away" in run.text()
    assert_nothing_left(run)


def test_manager_dies(demo):
    run = demo()
    run.wait_text("load begins")
    manager = json.loads((run.directory / "state" / "manager.json").read_text())["pid"]
    os.kill(manager, signal.SIGKILL)
    assert run.wait(60) == 1
    assert "the manager was ended by signal 9" in run.text()
    assert f"{run.directory}/manager.log" in run.text()
    assert (run.directory / "manager.log").stat().st_size > 0
    assert run.figures()["passed"] is False
    assert processes_of(run.directory) == []


def test_keep(demo, shardherd):
    """Also: more load than the machine can do is made less, so that a slow machine has its demo, too."""
    run = demo("--keep", "--rate", "100000")
    assert run.wait() == 0, run.text()
    assert re.search("this machine does .* operations/s now: the load becomes", " ".join(run.text().split()))
    assert 100 <= run.figures()["rate"] < 50000
    kept = processes_of(run.directory)
    assert len(kept) >= 3, kept  # a manager and two servers
    shards = json.loads(
        subprocess.run(
            [str(shardherd), "get", "shards", "--state", str(run.directory / "state"), "-o", "json"],
            check=True, capture_output=True, text=True,
        ).stdout
    )  # fmt: skip
    assert [s["name"] for s in shards["items"]] == ["s1", "s2"]
    # what it says must work as it stands there
    command = re.search(r"^  (.*delete database shop.*\n.*)$", run.text(), re.MULTILINE).group(1)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    deadline = time.monotonic() + 20
    while processes_of(run.directory) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert_nothing_left(run)


def test_directory_that_is_not_empty_is_refused(demo):
    (Path(f"/tmp/shardherd-demo-test-{os.getpid()}") / "demo").mkdir()
    (Path(f"/tmp/shardherd-demo-test-{os.getpid()}") / "demo" / "precious").write_text("kept")
    run = demo()
    assert run.wait(20) == 2
    assert "is not empty" in run.text()
    assert [p.name for p in run.directory.iterdir()] == ["precious"]


def test_without_postgresql_it_says_what_to_install(demo):
    run = demo(env={"SHARDHERD_RUNTIME_BIN_DIRECTORY": "/nonexistent"})
    assert run.wait(30) == 1
    assert "/nonexistent" in run.text() and "postgresql" in run.text().lower(), run.text()
    assert processes_of(run.directory) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--customers", "5"], "--customers"),
        (["--rate", "x"], "--rate"),
        (["--clients", "-1"], "--clients"),
        (["--report", "/nonexistent/r.json"], "/nonexistent/r.json"),
        (["--nothing"], "--nothing"),
        (["word"], "too many words"),
    ],
)
def test_wrong_usage(shardherd, arguments, named):
    done = subprocess.run([str(shardherd), "demo", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert named in done.stderr
