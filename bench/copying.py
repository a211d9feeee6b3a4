"""Copying half of a table by hash from one server to another, with the primary key that follows.

Everybody copies to a server that was made for it, as a split does, with the settings that a new shard has, and with
fsync. Ours is the time from the split's slot to the last index, with ANALYZE, the triggers of the freeze and psql's
start in it, which nobody else has; it does not give way to anybody (bench/impact.py is about that). CPU is that of the
servers and of who copies, the pipe's with its two psqls: on a machine with other work it says more than the time.
"""

import os
import subprocess
import time

from benchmarks import (
    PASSWORD,
    Servers,
    Unmeasured,
    beside_ours,
    ended_children_ns,
    median,
    process_cpu_ns,
    rounded,
    server_cpu_ns,
    spread,
    table_of_times,
)
from rig import Rig

TITLE = "half of a table by hash, primary key after it: against psql's COPY through a pipe, a subscription, pgcopydb"
GOAL = ">= 0.9 x the pipe with its key, >= 1.2 x pgcopydb, >= 1.5 x the subscription; own CPU <= 15 % of the servers'"
ROWS, ROWS_FULL = 3_000_000, 15_000_000
REPETITIONS = 5
SCHEMA = "CREATE TABLE big (k bigint PRIMARY KEY, n bigint NOT NULL, filler text NOT NULL)"
FILL = "INSERT INTO big SELECT i, i, md5(i::text) FROM generate_series(1, {rows}) i"
UPPER = "hashint8extended(k, 0) >= 0"


# as in src/runtime/local_config.c; the rest are PostgreSQL's own
SHARD = {
    "fsync": "on", "autovacuum": "on", "shared_buffers": "128MB", "max_connections": None, "wal_level": "logical",
    "max_wal_senders": "20", "max_replication_slots": "20", "max_worker_processes": "32",
    "max_logical_replication_workers": "20", "max_sync_workers_per_subscription": "4",
}  # fmt: skip
# nobody else gives way; on one disk for all the copy's own WAL makes commits so slow that it would
NOT_THROTTLED = ["moves.max_commit_latency=off", "moves.max_throughput_loss=0"]


class Peers:
    """On the same disk, each time with a new server that a peer copies to."""

    def __init__(self, bench, rig):
        self.bench, self.rig, self.server = bench, rig, None

    def measured(self, name):
        """Seconds, and seconds of CPU: of both servers, and of the peer's processes, which are our children."""
        (self.server,) = Servers(self.bench, 1, **SHARD)
        try:
            self.rig.sql("s1", "CHECKPOINT")
            before = self.cpu_ns()
            took = getattr(self, name)()
            cpu = (self.cpu_ns() - before) / 1e9
            return (took, cpu / 2) if name == "pgcopydb" else (took, cpu)
        finally:
            self.server.destroy()

    def cpu_ns(self):
        return servers_cpu(self.rig) + server_cpu_ns(self.server.pid) + ended_children_ns(os.getpid())

    def psql(self):
        return self.bench.tool("psql")

    def url(self, dbname="postgres"):
        return f"host=127.0.0.1 port={self.server.port} dbname={dbname} user=postgres password={PASSWORD}"

    def pipe(self):
        self.server.psql(SCHEMA.replace(" PRIMARY KEY", " NOT NULL"))
        start = time.monotonic()
        out = subprocess.Popen(
            [self.psql(), "-X", "-q", self.rig.dsn("s1"), "-c",
             f"COPY (SELECT * FROM big WHERE {UPPER}) TO STDOUT (FORMAT binary)"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        into = [self.psql(), "-X", "-q", self.url(), "-c", "COPY big FROM STDIN (FORMAT binary)"]
        done = subprocess.run(into, stdin=out.stdout, capture_output=True, text=True)
        if out.wait() != 0 or done.returncode != 0:
            raise Unmeasured(f"psql's COPY failed: {done.stderr}")
        self.server.psql("ALTER TABLE big ADD PRIMARY KEY (k)")
        return time.monotonic() - start

    def subscription(self):
        self.server.psql(SCHEMA)
        self.rig.sql("s1", f"CREATE PUBLICATION bench FOR TABLE big WHERE ({UPPER})")
        start = time.monotonic()
        text = self.rig.dsn("s1").replace("'", "''")
        self.server.psql(f"CREATE SUBSCRIPTION bench CONNECTION '{text}' PUBLICATION bench")
        while self.server.value("SELECT srsubstate FROM pg_subscription_rel") not in ("r", "s"):
            if time.monotonic() - start > 600:
                raise Unmeasured("the subscription did not copy in 600 s")
            time.sleep(0.02)
        took = time.monotonic() - start
        self.server.psql("DROP SUBSCRIPTION bench")
        self.rig.sql("s1", "DROP PUBLICATION bench")
        return took

    def pgcopydb(self):
        """It cannot take half of a table: all of it, so its time is halved."""
        self.server.psql("CREATE DATABASE whole")
        start = time.monotonic()
        done = subprocess.run(
            [self.bench.tool("pgcopydb"), "clone", "--skip-extensions", "--no-acl", "--no-owner", "--table-jobs", "4",
             "--index-jobs", "2", "--restart", "--dir", str(self.bench.directory / "pgcopydb"),
             "--split-tables-larger-than", "32MB", "--filters", str(self.filters()),
             "--source", self.rig.dsn("s1"), "--target", self.url("whole")],
            capture_output=True, text=True, start_new_session=True,  # it ends its whole process group
        )  # fmt: skip
        if done.returncode != 0:
            raise Unmeasured(f"pgcopydb failed: {done.stderr[-1500:]}")
        return (time.monotonic() - start) / 2

    def filters(self):
        path = self.bench.directory / "filters.ini"
        path.write_text("[include-only-table]\npublic.big\n")
        return path


def ours(rig):
    """A split, of which the copy and what is built after it count; then the merge back. Also CPU: servers', our own."""
    rig.sql("s1", "CHECKPOINT")
    op_id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s1", "at": "0", "bake": "0s"})["id"]
    await_record(rig, op_id, lambda record: record["state"] == "copy")
    servers, own = servers_cpu(rig), own_cpu(rig)
    await_record(rig, op_id, lambda record: int(record["build_us"]) > 0)
    servers, own = (servers_cpu(rig) - servers) / 1e9, (own_cpu(rig) - own) / 1e9
    record = wait(rig, op_id)["record"]
    took = (int(record["copy_us"]) + int(record["build_us"])) / 1e6
    if int(record["throttled_us"]) > 0:
        raise Unmeasured("the copy was throttled")
    body = {"kind": "merge", "shard": record["target"], "target": "s1", "bake": "0s"}
    wait(rig, rig.post("/v1/databases/shop/operations", body)["id"])
    return took, servers, own, record


def own_cpu(rig):
    """Of the manager and of the psql that builds."""
    return process_cpu_ns(rig.process.pid) + ended_children_ns(rig.process.pid)


def await_record(rig, op_id, reached):
    while True:
        op = rig.operation(op_id)
        if reached(op["record"]):
            return
        if op["status"] != "running":
            raise Unmeasured(f"a split ended {op['status']}: {op['error']}")
        time.sleep(0.02)


def servers_cpu(rig):
    pids = [int(p.read_text().split()[0]) for p in rig.state.glob("instances/*/data/postmaster.pid")]
    return sum(server_cpu_ns(pid) for pid in pids)


def wait(rig, op_id):
    op = rig.wait_operation(op_id, timeout=1200)
    if op["status"] != "done":
        raise Unmeasured(f"a {op['kind']} ended {op['status']}: {op['error']}")
    return op


def measure(bench):
    rows = ROWS_FULL if bench.full else ROWS
    rig = Rig(bench.program("shardherd"), bench.directory / "rig")
    bench.stack.callback(rig.clean_up)
    rig.settings = NOT_THROTTLED
    rig.start()
    rig.make_shop(customers=0, shards=1, schema=SCHEMA, tables=[{"name": "public.big", "key": "k"}])
    bench.note(f"{rows:,} rows")
    rig.sql("s1", FILL.format(rows=rows))
    rig.sql("s1", "VACUUM (FREEZE, ANALYZE) big")
    peers, own = Peers(bench, rig), []
    times, cpu = ({name: [] for name in ("ours", "pipe", "subscription", "pgcopydb")} for _ in range(2))
    for _ in range(REPETITIONS):
        took, servers, mine, record = ours(rig)
        times["ours"].append(took)
        cpu["ours"].append(servers + mine)
        own.append(mine / servers)
        for name in ("pipe", "subscription", "pgcopydb"):
            took, used = peers.measured(name)
            times[name].append(took)
            cpu[name].append(used)
        bench.note(", ".join(f"{name} {values[-1]:.2f} s ({cpu[name][-1]:.2f})" for name, values in times.items()))
        bench.sample_load()
    return report(bench, times, cpu, own, record)


def report(bench, times, cpu, own, record):
    mib = int(record["copy_bytes"]) / 2**20
    table_of_times(bench, times, "MiB/s", mib)
    print("CPU of all:")
    table_of_times(bench, cpu, "MiB/s", mib)
    rows = int(record["copy_rows"])
    print(f"{rows:,} rows, {mib:.0f} MiB of COPY data; own CPU {median(own):.1%} of the servers' meanwhile")
    ratios = beside_ours(times, "pipe")
    return {
        "ours": rounded(median(times["ours"])),
        "peer": rounded(median(times["pipe"])),
        "unit": "s",
        "ratio": rounded(median(ratios)),
        "spread": spread(ratios),
        "times_pgcopydb": rounded(median(beside_ours(times, "pgcopydb"))),
        "times_subscription": rounded(median(beside_ours(times, "subscription"))),
        "cpu_ratio": rounded(median(beside_ours(cpu, "pipe"))),
        "own_cpu_of_servers": rounded(median(own)),
    }
