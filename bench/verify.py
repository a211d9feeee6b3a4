"""Comparing half of a table, by hash, on two servers.

Ours is the verification of a split: counts and checksums of 1,024 buckets, with the marker round trips and journal
writes that it makes. Peers do what people do by hand, while the manager stands still (SIGSTOP) right after it, on the
same rows in the same caches: what COPY prints of both sides, at the same time, goes to md5sum, and the sums are
compared.

- sorted by key: COPY (SELECT ... ORDER BY primary key). The server sorts, by index if it likes: the fastest way known
  to get an md5 of a sorted dump, and the peer of the goal.
- dump, sort: the same without ORDER BY, through LC_ALL=C sort, as for a dump that is there already.
- pg_dump, sort: the goal by its letter: pg_dump --data-only of both, sorted. It cannot dump half of a table, so instead
  of the source's it dumps that of another database of the source's server, which has these rows and no others.
- only counted: count(*) of these rows, which looks at the key of each and at nothing else: whoever reads rows in
  PostgreSQL is slower than that, so it says how much faster than the peers anything can be.
"""

import os
import signal
import subprocess
import threading
import time

import psycopg
from benchmarks import Unmeasured, beside_ours, median, rounded, spread, table_of_times
from rig import Rig

TITLE = "half of a table by hash on two servers: against md5 of a sorted dump of each"
GOAL = ">= 20 x faster"
ROWS, ROWS_FULL = 3_000_000, 15_000_000
REPETITIONS = 5
SCHEMA = "CREATE TABLE big (k bigint PRIMARY KEY, n bigint NOT NULL, filler text NOT NULL)"
FILL = "INSERT INTO big SELECT i, i, md5(i::text) FROM generate_series(1, {rows}) i"
UPPER = "hashint8extended(k, 0) >= 0"
PLACE = "move:after:verify"


def stands_still(rig):
    return open(f"/proc/{rig.process.pid}/stat").read().rsplit(")", 1)[1].split()[0] == "T"


class Split:
    """One whose manager stands still when both sides were compared."""

    def __init__(self, rig):
        self.rig = rig
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": f"stop:{PLACE}"})
        self.asking = threading.Thread(target=self.ask, daemon=True)
        self.asking.start()
        deadline = time.monotonic() + 600
        while not stands_still(rig):
            if time.monotonic() > deadline:
                raise Unmeasured(f"the manager did not reach {PLACE} in 600 s")
            time.sleep(0.05)

    def ask(self):
        body = {"kind": "split", "shard": "s1", "at": "0", "bake": "0s"}
        self.id = self.rig.post("/v1/databases/shop/operations", body)["id"]

    def end(self):
        self.rig.process.send_signal(signal.SIGCONT)
        self.asking.join(60)
        op = self.rig.wait_operation(self.id, timeout=600)
        if op["status"] != "done":
            raise Unmeasured(f"a split ended {op['status']}: {op['error']}")
        body = {"kind": "merge", "shard": op["record"]["target"], "target": "s1", "bake": "0s"}
        merged = self.rig.wait_operation(self.rig.post("/v1/databases/shop/operations", body)["id"], timeout=1200)
        if merged["status"] != "done":
            raise Unmeasured(f"a merge ended {merged['status']}: {merged['error']}")
        return op["record"]


def dsn(rig, shard):
    """Like rig.dsn(), which asks the manager."""
    directory = rig.state / "instances" / f"shop-{shard}-0"
    (port,) = [line.split("=")[1].strip() for line in (directory / "shardherd.conf").read_text().splitlines()
               if line.startswith("port =")]  # fmt: skip
    password = (directory / "password").read_text().strip()
    return f"host=127.0.0.1 port={port} dbname=shop user=shardherd password={password}"


SORT = ["sort", "--buffer-size=256M"]


def copied(bench, dsns, query, *then):
    return dumps([[[bench.tool("psql"), "-X", "-q", text, "-c", f"COPY ({query}) TO STDOUT"], *then] for text in dsns])


def pg_dumped(bench, dsns):
    dump = [bench.tool("pg_dump"), "--data-only", "--table=public.big"]
    # what is not a row says when and by whom it was dumped
    return dumps([[[*dump, f"--dbname={text}"], ["grep", "-a", "^[0-9-]*\t"], SORT] for text in dsns])


def dumps(sides):
    """Seconds until md5sum has said the same of what both print."""
    start = time.monotonic()
    chains = []
    for stages in sides:
        last = None
        for stage in [*stages, ["md5sum"]]:
            last = subprocess.Popen(
                stage, stdin=last.stdout if last else None, stdout=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
            )
            chains.append((stage[0], last))
    sums = [process.communicate()[0] for name, process in chains if name == "md5sum"]
    if any(process.wait() != 0 for _, process in chains) or sums[0] != sums[1]:
        raise Unmeasured(f"the dumps differ or failed: {sums}")
    return time.monotonic() - start


def make_peer(rig):
    """A database on the source's server with the rows of the range, for pg_dump."""
    rig.sql("s1", "CREATE DATABASE half")
    with psycopg.connect(dsn(rig, "s1").replace("dbname=shop", "dbname=half"), autocommit=True) as half:
        half.execute(SCHEMA)
        with psycopg.connect(dsn(rig, "s1")) as whole, half.cursor().copy("COPY big FROM STDIN") as into:
            with whole.cursor().copy(f"COPY (SELECT * FROM big WHERE {UPPER}) TO STDOUT") as out:
                for data in out:
                    into.write(data)
        half.execute("VACUUM (FREEZE, ANALYZE) big")


def measure(bench):
    rows = ROWS_FULL if bench.full else ROWS
    rig = Rig(bench.program("shardherd"), bench.directory / "rig")
    bench.stack.callback(rig.clean_up)
    rig.start()
    rig.make_shop(customers=0, shards=1, schema=SCHEMA, tables=[{"name": "public.big", "key": "k"}])
    bench.note(f"{rows:,} rows")
    rig.sql("s1", FILL.format(rows=rows))
    rig.sql("s1", "VACUUM (FREEZE, ANALYZE) big")
    make_peer(rig)
    times = {"ours": [], "sorted by key": [], "dump, sort": [], "pg_dump, sort": [], "only counted": []}
    for _ in range(REPETITIONS):
        split = Split(rig)
        (target,) = [p.name.split("-")[1] for p in (rig.state / "instances").iterdir() if p.name != "shop-s1-0"]
        dsns = [dsn(rig, "s1"), dsn(rig, target)]
        plain = f"SELECT * FROM big WHERE {UPPER}"
        times["sorted by key"].append(copied(bench, dsns, f"{plain} ORDER BY k"))
        times["dump, sort"].append(copied(bench, dsns, plain, SORT))
        times["pg_dump, sort"].append(pg_dumped(bench, [dsns[0].replace("dbname=shop", "dbname=half"), dsns[1]]))
        times["only counted"].append(copied(bench, dsns, f"SELECT count(*) FROM big WHERE {UPPER}"))
        record = split.end()
        times["ours"].append(int(record["verify_us"]) / 1e6)
        bench.note(", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items()))
        bench.sample_load()
    return report(bench, times, int(record["verified_rows"]))


def report(bench, times, rows):
    table_of_times(bench, times, "million rows/s, each side", rows / 1e6)
    print(f"{rows:,} rows on each side")
    ratios = beside_ours(times, "sorted by key")
    return {
        "ours": rounded(median(times["ours"])),
        "peer": rounded(median(times["sorted by key"])),
        "unit": "s",
        "ratio": rounded(median(ratios)),
        "spread": spread(ratios),
        "times_dump_and_sort": rounded(median(beside_ours(times, "dump, sort"))),
        "times_pg_dump_and_sort": rounded(median(beside_ours(times, "pg_dump, sort"))),
        "times_count": rounded(median(beside_ours(times, "only counted"))),
    }
