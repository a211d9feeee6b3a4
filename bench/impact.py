"""What an application feels while half of its only shard is copied away, with the copy giving way.

Two loads: half of what the machine does, as an application that has room has it, and as fast as it goes, which leaves
nothing for anybody: what the copy takes is missing there. Throughput is what the server counts of transactions, alone
and from the first row that is copied to the last; p99 is of the whole load, from some seconds before the move on. When
the rows are there the move is canceled, so that the next one finds the same.
"""

import contextlib
import subprocess
import time

from benchmarks import Unmeasured, median, rounded, spread
from rig import Rig

TITLE = "throughput and p99 of the application while a copy runs on its shard, against the same load without a move"
GOAL = ">= 85 % of the throughput with throttling on"
CUSTOMERS = 200_000
CLIENTS = 16
SHARE = 0.5  # of what the machine does
SETTLE = 3  # seconds of a load before it is measured
QUIET = 10  # seconds of a window without a move
BALLAST, BALLAST_FULL = 1600, 4800  # MiB that are copied beside the application's own tables, half of them
REPETITIONS, REPETITIONS_FULL = 1, 5
LEAST = 3  # seconds: a shorter copy says nothing
CARGO = (
    "CREATE TABLE cargo (customer_id bigint NOT NULL, n bigint NOT NULL, filler text, PRIMARY KEY (customer_id, n));"
)
FILL = """INSERT INTO cargo SELECT c.customer_id, n, repeat(md5((c.customer_id * n)::text), 30)
          FROM customers c, generate_series(1, {each}) n"""
ROW = 30 * 32 + 40  # bytes, about
TABLES = [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "orders", "cargo")]


class Load:
    """The application, from some seconds before it is measured."""

    def __init__(self, rig, rate):
        self.rig = rig
        # what comes due while sessions are opened would be the p99 of an open load
        rig.start_load("--clients", str(CLIENTS), "--no-check", *(("--rate", str(CLIENTS)) if rate else ()))
        time.sleep(SETTLE)
        if rate:
            rig.control.write_text(f"rate {rate:.0f}\n")
            time.sleep(SETTLE)
        self.count()

    def transactions(self):
        return self.rig.sql("s1", "SELECT xact_commit FROM pg_stat_database WHERE datname = 'shop'")[0][0]

    def count(self):
        self.at, self.before = time.monotonic(), self.transactions()

    def measure(self):
        self.seconds = time.monotonic() - self.at
        self.rate = (self.transactions() - self.before) / self.seconds

    def end(self):
        self.p99_ms = self.rig.stop_load()["latency_ms"]["p99"]
        return {"rate": self.rate, "p99_ms": self.p99_ms, "seconds": self.seconds}


def window(rig, rate=0):
    """The application alone."""
    load = Load(rig, rate)
    time.sleep(QUIET)
    load.measure()
    return load.end()


def copying(rig, op_id):
    """The record when rows come, and whether they still do."""
    op = rig.operation(op_id)
    record = op["record"]
    if op["status"] != "running":
        raise Unmeasured(f"the split ended {op['status']}: {op['error']}")
    return record, record["state"] == "copy" and int(record["copy_bytes"]) > 0 and int(record["copy_us"]) == 0


def beside_a_copy(rig, rate):
    """The application from the first row that is copied to the last."""
    load = Load(rig, rate)
    try:
        op_id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s1", "bake": "0s"})["id"]
        while not copying(rig, op_id)[1]:
            time.sleep(0.01)
        load.count()
        while copying(rig, op_id)[1]:
            time.sleep(0.02)
        load.measure()
        record = rig.operation(op_id)["record"]
        rig.post(f"/v1/operations/{op_id}/cancel", {})
    finally:
        found = load.end()
    op = rig.wait_operation(op_id, timeout=900)
    if op["status"] != "undone":
        raise Unmeasured(f"the canceled split ended {op['status']}: {op['error']}")
    if found["seconds"] < LEAST:
        raise Unmeasured(f"the copy took {found['seconds']:.1f} s: too short to say anything; --full copies more")
    found["copy_mib_s"] = int(record["copy_bytes"]) / 2**20 / (int(record["copy_us"]) / 1e6)
    found["throttled"] = int(record["throttled_us"]) / max(1, int(record["copy_us"]))
    return found


def with_throttling(rig, on):
    rig.stop()
    off = ("max_commit_latency=off", "max_standby_lag=off", "max_throughput_loss=0")
    rig.settings = [] if on else [f"moves.{setting}" for setting in off]
    rig.start()


def measure(bench):
    rig = Rig(bench.program("shardherd"), bench.directory / "rig")
    bench.stack.callback(rig.clean_up)
    try:
        return run(bench, rig)
    except AssertionError as error:
        raise Unmeasured(str(error)) from error
    finally:
        with contextlib.suppress(AssertionError):
            rig.stop()


def run(bench, rig):
    schema = subprocess.run([rig.shardherd, "load", "--print-schema", "--database", "shop"], check=True,
                            capture_output=True, text=True).stdout  # fmt: skip
    size = BALLAST_FULL if bench.full else BALLAST
    bench.note(f"making a database of one shard with {size} MiB beside the application's tables")
    rig.start()
    rig.make_shop(customers=CUSTOMERS, shards=1, schema=schema + CARGO, tables=TABLES)
    rig.sql("s1", FILL.format(each=max(1, size * 2**20 // ROW // CUSTOMERS)))
    rig.sql("s1", "VACUUM (ANALYZE)")
    able = window(rig)["rate"]
    rows = []
    for on in (True, False) if bench.full else (True,):
        with_throttling(rig, on)
        for _ in range(REPETITIONS_FULL if bench.full else REPETITIONS):
            for name, rate in (("half", able * SHARE), ("all", 0)):
                rows.append({"on": on, "load": name, **one(bench, rig, rate)})
    return report(bench, rows)


def one(bench, rig, rate):
    before, beside, after = window(rig, rate), beside_a_copy(rig, rate), window(rig, rate)
    alone = (before["rate"] + after["rate"]) / 2
    p99 = (before["p99_ms"] + after["p99_ms"]) / 2
    bench.note(
        f"{alone:.0f}/s alone, {beside['rate']:.0f}/s beside a copy of {beside['copy_mib_s']:.0f} MiB/s that took "
        f"{beside['seconds']:.0f} s and was throttled for {beside['throttled']:.0%} of it; p99 {p99:.1f} and "
        f"{beside['p99_ms']:.1f} ms"
    )
    bench.sample_load()
    return {"alone": alone, "share": beside["rate"] / alone, "p99": p99, "beside": beside}


def report(bench, rows):
    table = []
    for on in (True, False):
        for load in ("half", "all"):
            chosen = [row for row in rows if (row["on"], row["load"]) == (on, load)]
            if not chosen:
                continue
            beside = [row["beside"] for row in chosen]
            shares = [row["share"] for row in chosen]
            table.append((
                f"{load} of what it does", "on" if on else "off",
                f"{median([row['alone'] for row in chosen]):.0f}", f"{median([b['rate'] for b in beside]):.0f}",
                f"{median(shares):.1%} ({min(shares):.1%}..{max(shares):.1%})",
                f"{median([row['p99'] for row in chosen]):.1f}", f"{median([b['p99_ms'] for b in beside]):.1f}",
                f"{median([b['copy_mib_s'] for b in beside]):.0f}", f"{median([b['throttled'] for b in beside]):.0%}",
            ))  # fmt: skip
    bench.table(
        ("load", "throttling", "/s alone", "beside", "share", "p99 ms alone", "beside", "copy MiB/s", "throttled"),
        table,
    )

    def result(load, on=True):
        return [row["share"] for row in rows if (row["on"], row["load"]) == (on, load)]

    half = [row for row in rows if row["on"] and row["load"] == "half"]
    found = {
        "ours": rounded(median([row["beside"]["rate"] for row in half])),
        "peer": rounded(median([row["alone"] for row in half])),
        "unit": "transactions/s beside a copy, and alone, at half of what the machine does",
        "ratio": rounded(median(result("half"))),
        "spread": spread(result("half")),
        "ratio_as_fast_as_it_goes": rounded(median(result("all"))),
        "times_p99": rounded(median([row["beside"]["p99_ms"] / row["p99"] for row in half])),
        "copy_mib_per_s": rounded(median([row["beside"]["copy_mib_s"] for row in half])),
    }
    if bench.full:
        found["ratio_without_throttling"] = rounded(median(result("half", False)))
        found["ratio_as_fast_as_it_goes_without"] = rounded(median(result("all", False)))
    return found
