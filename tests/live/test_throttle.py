"""A move that gives way: slow commits and standbys slow its copy down, and a disk in danger sends it back.

The application's load runs all the while and must not notice more than that.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

import psycopg
import pytest
from conftest import _children, server_user, wait_until
from rig import Rig
from test_copy import copying
from test_faults import data_of, rig_address, wait_server

SCHEMA = """
CREATE TABLE things (owner bigint NOT NULL, n bigint NOT NULL, filler text, PRIMARY KEY (owner, n));
CREATE TABLE few (owner bigint PRIMARY KEY, note text);
"""
TABLES = [{"name": "public.things", "key": "owner"}, {"name": "public.few", "key": "owner"}]
OWNED = """EXISTS (SELECT FROM shardherd.shard s, unnest(s.los, s.his) AS r(lo, hi)
                   WHERE hashint8extended(i, 0) BETWEEN r.lo AND r.hi)"""
MIB = 1 << 20


@pytest.fixture
def make(shardherd):
    """make(megabytes of one shard, moves' settings...) -> a rig with two shards."""
    rigs = []

    def start(size, **settings):
        rig = Rig(shardherd, f"/tmp/shardherd-throttle-{os.getpid()}")
        rigs.append(rig)
        rig.settings = [f"moves.{name}={value}" for name, value in settings.items()]
        rig.start()
        rig.make_shop(customers=0, schema=SCHEMA, tables=TABLES)
        each = size * MIB // 1000 // 680  # rows of every owner: a thousand on each shard, 680 bytes in COPY's format
        for shard in ("s1", "s2"):
            rig.sql(shard, f"INSERT INTO few SELECT i, 'few' FROM generate_series(1, 2000) i WHERE {OWNED}")
            rig.sql(
                shard,
                f"INSERT INTO things SELECT i, n, repeat('x', 650) FROM generate_series(1, 2000) i, "
                f"generate_series(1, {each}) n WHERE {OWNED}",
            )
        return rig

    yield start
    for rig in rigs:
        with contextlib.suppress(ProcessLookupError, OSError):
            suspend(rig, "s1", signal.SIGCONT)
        rig.clean_up()


def split(rig):
    return rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]


def reload(rig, shard, **settings):
    for name, value in settings.items():
        rig.sql(shard, f"ALTER SYSTEM SET {name} = {value}")
    rig.sql(shard, "SELECT pg_reload_conf()")


def metric(rig, name):
    text = rig.fetch("/metrics", port="metrics", raw=True)
    return [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{")]


def record_when(rig, op_id, condition, what, timeout=60):
    """The record of the running move as soon as it is so."""

    def look():
        op = rig.operation(op_id)
        assert op["status"] == "running", (what, op, rig.tail())
        return op["record"] if condition(op["record"]) else None

    return wait_until(look, timeout=timeout, what=what, interval=0.05)


class Events(threading.Thread):
    """What the event stream says of operations, from now on."""

    def __init__(self, rig):
        super().__init__(daemon=True)
        self.answer = urllib.request.urlopen(f"http://127.0.0.1:{rig.ports['admin']}/v1/events", timeout=60)
        self.texts = []
        self.start()

    def run(self):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            for line in self.answer:
                if line.startswith(b"data:") and b'"throttle"' in line:
                    self.texts.append(json.loads(line[5:])["record"]["throttle"])


class Writer(threading.Thread):
    """An application that writes to s2 all the time; .end() says how often, and the errors' codes."""

    def __init__(self, rig, shard="s2"):
        super().__init__(daemon=True)
        self.conn = psycopg.connect(rig.dsn(shard), autocommit=True)
        self.owners = [row[0] for row in self.conn.execute("SELECT owner FROM few").fetchall()]
        self.over = threading.Event()
        self.written, self.errors, self.pause = 0, [], 0.01
        self.start()

    def run(self):
        while not self.over.is_set():
            owner = self.owners[self.written % len(self.owners)]
            try:
                self.conn.execute("UPDATE few SET note = %s WHERE owner = %s", (str(self.written), owner))
                self.written += 1
            except psycopg.Error as error:
                self.errors.append(error.sqlstate)
            self.over.wait(self.pause)

    def end(self):
        self.over.set()
        self.join(30)
        self.conn.close()
        return self.written, self.errors


def much_wal(rig, shard, megabytes):
    """WAL that no table sees."""
    rig.sql(
        shard,
        f"SELECT count(pg_logical_emit_message(false, 'x', repeat('x', {MIB}))) FROM generate_series(1, {megabytes})",
    )


def wal_size(rig, shard):
    return int(rig.sql(shard, "SELECT sum(size) FROM pg_ls_waldir()")[0][0])


def small_wal(rig, shard):
    """So that what is freed can be seen: else files are kept for later, up to max_wal_size."""
    reload(rig, shard, max_wal_size="'64MB'", min_wal_size="'32MB'")
    rig.sql(shard, "CHECKPOINT")


def unsplit(rig, rows, shard="s2"):
    """As before the move."""
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2"]
    assert rig.sql(shard, "SELECT count(*) FROM things") == rows
    rig.assert_consistent()


# ---- throttling ----


def test_slow_commits_slow_the_copy(make):
    rig = make(120, copy_rate=4, max_throughput_loss=0)
    events, writer = Events(rig), Writer(rig)
    op_id = split(rig)
    copying(rig, op_id)
    fast = record_when(rig, op_id, lambda r: int(r["copy_rate"]) > 3 * MIB, "full speed")
    assert fast["throttle"] == "" and fast["throttle_rate"] == "0"
    reload(rig, "s2", commit_delay=90000, commit_siblings=0)
    slow = record_when(rig, op_id, lambda r: 0 < int(r["throttle_rate"]) <= MIB, "the floor")
    said = re.fullmatch(
        r"copy throttled to 1\.0 MiB/s: commits on s2 take ([\d.]+) ms, bound ([\d.]+) ms", slow["throttle"]
    )
    assert said and float(said[1]) > float(said[2]), slow["throttle"]
    assert metric(rig, "shardherd_move_throttle_bytes_per_second") == [MIB]
    # one commit of the last second: one that joins another's flush late is quick
    slow_commit = lambda: metric(rig, "shardherd_move_source_commit_seconds")[0] > 0.005  # noqa: E731
    wait_until(slow_commit, what="a slow commit", interval=0.1)
    described = subprocess.run(
        [rig.shardherd, "describe", "operation", op_id, "--server", f"http://127.0.0.1:{rig.ports['admin']}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "copy throttled to" in described.stdout, described
    record_when(rig, op_id, lambda r: int(r["copy_rate"]) < 1.6 * MIB, "the rate of what it is held to")
    before = int(rig.operation(op_id)["record"]["copy_bytes"])
    record_when(rig, op_id, lambda r: int(r["copy_bytes"]) > before, "more rows: it does not stop")
    reload(rig, "s2", commit_delay=0)
    healed = record_when(rig, op_id, lambda r: "rising again" in r["throttle"], "a rising rate")
    assert int(healed["throttled_us"]) > 0
    record_when(rig, op_id, lambda r: r["throttle_rate"] == "0", "full speed again")
    assert any(text.startswith("copy throttled to") for text in events.texts), events.texts
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op
    assert op["record"]["throttle"] == "" and int(op["record"]["throttled_us"]) > 3e6
    written, errors = writer.end()
    assert written > 100 and set(errors) <= {"SHR01"}, set(errors)
    log = rig.log.read_text()
    assert "copy throttled" in log and "copy not throttled any more" in log


class Suffering(threading.Thread):
    """Gives four writers' pause from how fast the copy goes: beside a fast one they get a third done."""

    def __init__(self, rig, op_id, writers):
        super().__init__(daemon=True)
        self.rig, self.op_id, self.writers = rig, op_id, writers
        self.over = threading.Event()
        self.start()

    def run(self):
        before, at = 0, time.monotonic()
        while not self.over.wait(0.5):
            copied, now = int(self.rig.operation(self.op_id)["record"]["copy_bytes"]), time.monotonic()
            rate, before, at = (copied - before) / (now - at), copied, now
            for writer in self.writers:
                writer.pause = 0.06 if rate > 1.5 * MIB else 0.02


@pytest.mark.slow
def test_an_application_that_suffers(make):
    """How much a copy costs an application is not the same everywhere; this one sees to it itself."""
    rig = make(160, copy_rate=4, max_commit_latency="off", max_throughput_loss=20)
    writers = [Writer(rig) for _ in range(4)]
    op_id = split(rig)
    suffering = Suffering(rig, op_id, writers)
    slow = record_when(rig, op_id, lambda r: int(r["throttle_rate"]) > 0, "throttling")
    said = re.fullmatch(
        r"copy throttled to [\d.]+ MiB/s: s2 does (\d+) % fewer transactions beside it, bound 20 %", slow["throttle"]
    )
    assert said and 20 < int(said[1]) < 90, slow["throttle"]
    suffering.over.set()
    for writer in writers:
        writer.pause = 0.02
    record_when(rig, op_id, lambda r: r["throttle_rate"] == "0", "full speed again", timeout=90)
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op
    for writer in writers:
        assert set(writer.end()[1]) <= {"SHR01"}


@pytest.mark.slow
def test_an_application_that_does_less_by_itself(make):
    """Many transactions before the copy and at its beginning, then few: counted again, and not held against it."""
    rig = make(120, copy_rate=2, max_commit_latency="off", max_throughput_loss=10)
    writers = [Writer(rig) for _ in range(4)]
    for writer in writers:
        writer.pause = 0.01
    op_id = split(rig)
    record_when(rig, op_id, lambda r: int(r["copy_bytes"]) > 4 * MIB, "some seconds of the copy")
    for writer in writers:
        writer.pause = 0.06
    rates, throttled = [], []
    while int((record := rig.operation(op_id)["record"])["copy_us"]) == 0:
        rates.append(int(record["copy_rate"]))
        throttled.append(record["throttle"])
        time.sleep(0.2)
    assert min(rates[10:]) < 1.6 * MIB, rates  # a lull of the floor's speed
    assert not any(throttled), throttled
    op = rig.wait_operation(op_id)
    assert op["status"] == "done" and op["record"]["throttled_us"] == "0", op
    for writer in writers:
        assert set(writer.end()[1]) <= {"SHR01"}


@pytest.fixture
def standby(make, pg_factory):
    """A rig whose s2 has a streaming standby that does not belong to the fleet."""
    rig = make(120, copy_rate=4, max_standby_lag="2s", max_commit_latency="off", max_throughput_loss=0)
    server = pg_factory(start=False, max_connections=None)
    server.run("pg_basebackup", "-D", server.data, "-R", "-X", "stream", "-c", "fast", "-d",
               rig.dsn("s2").replace("dbname=shop", "dbname=replication") + " application_name=far_away")  # fmt: skip
    included = shutil.copy(data_of(rig, "s2").parent / "shardherd.conf", server.dir)
    os.chmod(included, 0o644)
    server.start(wait=False, fsync="off")
    at = re.sub(r"port=\d+", f"port={server.port}", rig.dsn("s2"))

    def streams():
        assert server.running, server.log_text()[-2000:]
        return rig.sql("s2", "SELECT state FROM pg_stat_replication WHERE application_name = 'far_away'")

    wait_until(lambda: streams() == [("streaming",)], timeout=60, what="the standby")
    rig.standby = lambda sql: psycopg.connect(at, autocommit=True).execute(sql)
    yield rig
    server.destroy()


@pytest.mark.slow
def test_a_standby_behind_slows_the_copy(standby):
    rig = standby
    op_id = split(rig)
    record_when(rig, op_id, lambda r: int(r["copy_bytes"]) > 8 * MIB, "some seconds of the copy")
    assert rig.operation(op_id)["record"]["throttle"] == ""
    rig.standby("SELECT pg_wal_replay_pause()")
    slow = record_when(rig, op_id, lambda r: int(r["throttle_rate"]) > 0, "throttling")
    assert re.fullmatch(
        r"copy throttled to [\d.]+ MiB/s: standby far_away of s2 is [\d.]+ s behind, bound 2\.0 s", slow["throttle"]
    ), slow["throttle"]
    assert int(slow["standby_lag_us"]) > 2e6
    rig.standby("SELECT pg_wal_replay_resume()")
    record_when(rig, op_id, lambda r: r["throttle_rate"] == "0", "full speed again")
    op = rig.wait_operation(op_id)
    assert op["status"] == "done", op


# ---- progress ----


def watched_copy(make, analyzed, burst):
    """A split of a shard of 45 MB at 3 MiB/s: (what was seen [(when, record's bytes, ETA, record)], its end, the end's
    record)."""
    rig = make(90, copy_rate=3, max_commit_latency="off")
    if analyzed:
        rig.sql("s2", "ANALYZE")
    writers = [Writer(rig) for _ in range(4 if burst else 0)]
    seen = []
    op_id = split(rig)
    for writer in writers:  # counted before the copy, so that it makes a lull to count again
        record_when(rig, op_id, lambda r: int(r["copy_bytes"]) > 0, "the copy")
        writer.end()
    while True:
        op, now = rig.operation(op_id), time.monotonic()
        assert op["status"] == "running", (op, rig.tail())
        if int(op["record"]["copy_us"]) > 0:
            break
        if int(op["record"]["copy_bytes"]) > 0:
            seen.append((now, int(op["record"]["copy_bytes"]), op["eta_seconds"], op["record"]))
        time.sleep(0.1)
    assert rig.wait_operation(op_id)["status"] == "done"
    return seen, now, op["record"]


def stood_still(seen):
    """Whether the machine did nothing for seconds: no copy makes that up, no ETA foresees it."""
    changes = [at for (at, copied, _, _), (_, before, _, _) in zip(seen[1:], seen, strict=False) if copied != before]
    return max(b - a for a, b in zip(changes, changes[1:], strict=False)) > 3


def last_lull(seen):
    """When the copy last went slowly for two seconds, so that transactions could be counted: nobody knows that before
    it comes. 0 = it never did."""
    lull = 0
    for at, copied, _, _ in seen:
        later = next((row for row in seen if row[0] >= at + 2), None)
        if later and later[1] - copied < 2 * 1.5 * MIB:
            lull = at
    return lull


def assert_rate(seen, record):
    """The rate that a record tells is that of the ten seconds before it, and no more than was allowed."""
    told = int(record["copy_rate"])
    at, copied = next((at, copied) for at, copied, _, then in seen if then["copy_bytes"] == record["copy_bytes"])
    before, had = max(row[:2] for row in seen if row[0] <= max(at - 10, seen[0][0]))
    assert told == pytest.approx((copied - had) / (at - before), rel=0.25), (told, at - before, copied - had)
    assert 1 * MIB < told < 3.5 * MIB, told


@pytest.mark.parametrize("burst", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("analyzed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_eta_is_right_after_a_tenth(make, analyzed, burst):
    seen, end, record = watched_copy(make, analyzed, burst)
    if stood_still(seen):
        seen, end, record = watched_copy(make, analyzed, burst)
    size, rows = int(record["copy_bytes"]), int(record["copy_rows"])
    later = [row for row in seen if row[1] > size / 10]
    assert len(later) > 50, len(later)
    assert not any(row[3]["throttle"] for row in seen), [row[3]["throttle"] for row in seen]
    lull = last_lull(seen)
    for at, copied, eta, then in later:
        left = end - at
        unforeseen = 3 if at < lull else 0  # of its four seconds, at a third of the speed
        # at the very end one piece more or less is more than a fifth of what is left
        assert eta is not None and abs(eta - left) <= max(0.2 * left, 1) + unforeseen, (eta, left, copied, then)
    half = later[len(later) // 2][3]
    assert half["tables"] == "2" and half["tables_copied"] in ("0", "1"), half
    assert abs(int(half["total_bytes"]) - size) < 0.15 * size, (half, record)
    assert abs(int(half["total_rows"]) - rows) < 0.15 * rows, (half, record)
    assert record["tables_copied"] == "2"
    assert_rate(seen, half)


# ---- the WAL guard ----


class Hold:
    """A transaction on the target that keeps the table from everybody: what applies there waits."""

    def __init__(self, rig, shard):
        self.conn = psycopg.connect(rig_address(rig, shard))  # the manager may stand still
        self.conn.execute("LOCK TABLE things, few IN EXCLUSIVE MODE")

    def end(self):
        with contextlib.suppress(psycopg.Error):
            self.conn.close()


def fill_until(rig, shard, op_id, megabytes, timeout=60):
    """Writes until the move goes back; at most so much."""
    for _ in range(megabytes // 4):
        if rig.operation(op_id)["record"]["state"] in ("undo", "undone"):
            return
        much_wal(rig, shard, 4)
        time.sleep(0.1)  # a disk's speed: the guard looks once a second
    wait_until(lambda: rig.operation(op_id)["record"]["state"] in ("undo", "undone"), timeout=timeout,
               what=f"the move to go back: {rig.operation(op_id)}")  # fmt: skip


@pytest.mark.parametrize("phase", ["copy", pytest.param("catch_up", marks=pytest.mark.slow)])
def test_too_much_wal_sends_the_move_back(make, phase):
    rig = make(40, copy_rate=1 if phase == "copy" else 0, max_retained_wal=96)
    small_wal(rig, "s2")
    rows = rig.sql("s2", "SELECT count(*) FROM things")
    if phase == "catch_up":
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:state:catch_up"})
    writer = Writer(rig)
    ids = []
    asking = threading.Thread(target=lambda: ids.append(split(rig)), daemon=True)
    asking.start()
    if phase == "copy":
        asking.join(30)
        copying(rig, ids[0])
    else:
        stat = f"/proc/{rig.process.pid}/stat"
        wait_until(lambda: open(stat).read().rsplit(")", 1)[1].split()[0] == "T", timeout=60, what="catch_up")
    hold = Hold(rig, "s3")
    if phase == "catch_up":
        rig.process.send_signal(signal.SIGCONT)
        asking.join(30)
    pid = (data_of(rig, "s2") / "postmaster.pid").read_text().split()[0]
    fill_until(rig, "s2", ids[0], 400)
    op = rig.wait_operation(ids[0], timeout=90)
    hold.end()
    assert op["status"] == "undone", op
    error = op["error"]["message"]
    assert op["error"]["code"] == "limit" and re.search(
        r"slot shardherd_shop_\w+_f keeps \d+ MiB of WAL on s2, bound 96 MiB \(moves\.max_retained_wal\)", error
    ), error
    assert not op["record"]["canceled"]
    written, errors = writer.end()
    assert written > 50 and errors == [], errors[:3]
    assert rig.sql("s2", "SELECT count(*) FROM pg_replication_slots") == [(0,)]
    wait_until(lambda: wal_size(rig, "s2") < 160 * MIB, timeout=60, what="the WAL to be freed")
    assert (data_of(rig, "s2") / "postmaster.pid").read_text().split()[0] == pid
    assert "the move goes back before a disk is full" in rig.log.read_text()
    unsplit(rig, rows)


def suspend(rig, shard, number):
    postmaster = int((data_of(rig, shard) / "postmaster.pid").read_text().split()[0])
    for pid in [postmaster, *_children(postmaster)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.slow
def test_the_slot_goes_while_the_target_hangs(make):
    """An undo begins at the target, which does not answer: the source's disk may not wait for it."""
    rig = make(40, copy_rate=1, max_retained_wal=96)
    small_wal(rig, "s2")
    rows = rig.sql("s2", "SELECT count(*) FROM things")
    body = {"kind": "move", "shard": "s2", "target": "s1", "bake": "0s"}
    op_id = rig.post("/v1/databases/shop/operations", body)["id"]
    copying(rig, op_id)
    suspend(rig, "s1", signal.SIGSTOP)
    fill_until(rig, "s2", op_id, 400, timeout=120)
    wait_until(
        lambda: rig.sql("s2", "SELECT count(*) FROM pg_replication_slots") == [(0,)], timeout=20, what="the slot to go"
    )
    wait_until(lambda: wal_size(rig, "s2") < 160 * MIB, timeout=60, what="the WAL to be freed")
    assert rig.operation(op_id)["status"] == "running"
    suspend(rig, "s1", signal.SIGCONT)
    op = rig.wait_operation(op_id, timeout=180)
    assert op["status"] == "undone" and "moves.max_retained_wal" in op["error"]["message"], op
    unsplit(rig, rows)


@pytest.fixture
def small_disk(make):
    """A rig whose s2 has its WAL on a disk of 256 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    rig = make(40, copy_rate=1, max_retained_wal=0, min_free_disk=64)
    small_wal(rig, "s2")
    disk = rig.directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mount: {mounted.stderr.decode()}")
    rig.disk = disk
    data = data_of(rig, "s2")
    rig.stop()
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGINT)
    wait_until(lambda: not (data / "postmaster.pid").exists(), timeout=30, what="s2 to stop")
    shutil.move(data / "pg_wal", disk / "pg_wal")
    (data / "pg_wal").symlink_to(disk / "pg_wal")
    owner = server_user()
    if owner:
        subprocess.run(["chown", "-R", f"{owner['user']}:{owner['group']}", str(disk)], check=True)
        os.chown(data / "pg_wal", owner["user"], owner["group"], follow_symlinks=False)
    rig.start()
    wait_server(rig, "s2")
    yield rig
    rig.clean_up()
    subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)
    shutil.rmtree(rig.directory, ignore_errors=True)


@pytest.mark.slow
def test_a_small_disk_of_the_source(small_disk):
    rig = small_disk
    rows = rig.sql("s2", "SELECT count(*) FROM things")
    writer = Writer(rig)
    op_id = split(rig)
    copying(rig, op_id)
    hold = Hold(rig, "s3")
    pid = (data_of(rig, "s2") / "postmaster.pid").read_text().split()[0]
    fill_until(rig, "s2", op_id, 224)
    op = rig.wait_operation(op_id, timeout=90)
    hold.end()
    assert op["status"] == "undone", op
    assert re.search(
        r"the disk of the WAL of s2 has \d+ MiB free, 64 MiB are to stay free \(moves\.min_free_disk\)",
        op["error"]["message"],
    ), op["error"]
    written, errors = writer.end()
    assert written > 50 and errors == [], errors[:3]
    assert (data_of(rig, "s2") / "postmaster.pid").read_text().split()[0] == pid  # it never stopped
    wait_until(lambda: shutil.disk_usage(rig.disk).free > 100 * MIB, timeout=60, what="the WAL to be freed")
    unsplit(rig, rows)


def test_no_room_on_the_target(make):
    """Found before anything is copied, not by a COPY that fails half-way."""
    rig = make(40, copy_rate=1, min_free_disk=shutil.disk_usage("/tmp").free // MIB + 10000)
    rows = rig.sql("s2", "SELECT count(*) FROM things")
    op = rig.wait_operation(split(rig))
    assert op["status"] == "undone" and "moves.min_free_disk" in op["error"]["message"], op
    assert int(op["record"]["copy_bytes"]) < 10 * MIB, op
    unsplit(rig, rows)
