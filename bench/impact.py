"""What an application feels while half of its only shard is copied away, with the copy giving way."""

import contextlib
import json
import subprocess
import time

from benchmarks import Unmeasured, median, rounded, spread
from rig import Rig

TITLE = "throughput and p99 of the application while a copy runs on its shard, against the same load without a move"
GOAL = ">= 85 % of the throughput with throttling on"
CUSTOMERS = 20_000
CLIENTS = 16
WARM = "5s"
QUIET = 10  # seconds of a window without a move
BALLAST, BALLAST_FULL = 600, 3000  # MiB that are copied beside the application's own tables, half of them
REPETITIONS = 3
LEAST = 3  # seconds: a shorter copy says nothing
CARGO = (
    "CREATE TABLE cargo (customer_id bigint NOT NULL, n bigint NOT NULL, filler text, PRIMARY KEY (customer_id, n));"
)
FILL = """INSERT INTO cargo SELECT c.customer_id, n, (SELECT string_agg(md5((c.customer_id * n + i)::text), '')
          FROM generate_series(1, 30) i) FROM customers c, generate_series(1, {each}) n"""
ROW = 30 * 32 + 40  # bytes, about
TABLES = [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "orders", "cargo")]


def window(rig, seconds):
    """The application alone."""
    out = rig.load("run", "--duration", f"{seconds}s", "--clients", str(CLIENTS), "--no-check", "--json", "--quiet",
                   *rig.rows)  # fmt: skip
    return figures(json.loads(out.strip().splitlines()[-1]))


def figures(found):
    seconds = found["duration_seconds"]
    return {"rate": found["operations"] / seconds, "p99_ms": found["latency_ms"]["p99"], "seconds": seconds}


def copying(rig, op_id):
    """The record when rows come, and whether they still do."""
    op = rig.operation(op_id)
    record = op["record"]
    if op["status"] != "running":
        raise Unmeasured(f"the split ended {op['status']}: {op['error']}")
    return record, record["state"] == "copy" and int(record["copy_bytes"]) > 0 and int(record["copy_us"]) == 0


def beside_a_copy(rig):
    """The application from the first row that is copied to the last."""
    op_id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s1", "bake": "0s"})["id"]
    while not copying(rig, op_id)[1]:
        time.sleep(0.01)
    rig.start_load("--clients", str(CLIENTS), "--no-check")
    try:
        while copying(rig, op_id)[1]:
            time.sleep(0.02)
    finally:
        result = rig.stop_load()
    op = rig.wait_operation(op_id, timeout=900)
    if op["status"] != "done":
        raise Unmeasured(f"the split ended {op['status']}: {op['error']}")
    found = figures(result)
    if found["seconds"] < LEAST:
        raise Unmeasured(f"the copy took {found['seconds']:.1f} s: too short to say anything; --full copies more")
    record = op["record"]
    body = {"kind": "merge", "shard": record["target"], "target": "s1", "bake": "0s"}
    merged = rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"], timeout=900)
    if merged["status"] != "done":
        raise Unmeasured(f"the merge back ended {merged['status']}: {merged['error']}")
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
    rig.load("run", "--duration", WARM, "--clients", str(CLIENTS), "--no-check", "--quiet", *rig.rows)
    rows = []
    for on in (True, False) if bench.full else (True,):
        with_throttling(rig, on)
        for _ in range(REPETITIONS):
            before = window(rig, QUIET)
            beside = beside_a_copy(rig)
            after = window(rig, QUIET)
            rows.append({"on": on, "before": before, "beside": beside, "after": after})
            alone = (before["rate"] + after["rate"]) / 2
            bench.note(
                f"throttling {'on' if on else 'off'}: {alone:.0f}/s alone, {beside['rate']:.0f}/s beside a copy of "
                f"{beside['copy_mib_s']:.0f} MiB/s, throttled for {beside['throttled']:.0%} of it"
            )
            bench.sample_load()
    return report(bench, rows)


def shares(rows):
    rates = [row["beside"]["rate"] / ((row["before"]["rate"] + row["after"]["rate"]) / 2) for row in rows]
    tails = [row["beside"]["p99_ms"] / ((row["before"]["p99_ms"] + row["after"]["p99_ms"]) / 2) for row in rows]
    return rates, tails


def report(bench, rows):
    table = []
    for on in (True, False):
        chosen = [row for row in rows if row["on"] == on]
        if not chosen:
            continue
        rates, tails = shares(chosen)
        table.append((
            "on" if on else "off",
            f"{median([(r['before']['rate'] + r['after']['rate']) / 2 for r in chosen]):.0f}",
            f"{median([r['beside']['rate'] for r in chosen]):.0f}",
            f"{median(rates):.1%} ({min(rates):.1%}..{max(rates):.1%})",
            f"{median([r['before']['p99_ms'] for r in chosen]):.1f}",
            f"{median([r['beside']['p99_ms'] for r in chosen]):.1f}",
            f"{median(tails):.2f}",
            f"{median([r['beside']['copy_mib_s'] for r in chosen]):.0f}",
            f"{median([r['beside']['throttled'] for r in chosen]):.0%}",
        ))  # fmt: skip
    bench.table(
        ("throttling", "op/s alone", "beside", "share", "p99 ms alone", "beside", "times", "copy MiB/s", "throttled"),
        table,
    )
    on = [row for row in rows if row["on"]]
    rates, tails = shares(on)
    result = {
        "ours": rounded(median([row["beside"]["rate"] for row in on])),
        "peer": rounded(median([(row["before"]["rate"] + row["after"]["rate"]) / 2 for row in on])),
        "unit": "operations/s beside a copy, and alone",
        "ratio": rounded(median(rates)),
        "spread": spread(rates),
        "times_p99": rounded(median(tails)),
        "copy_mib_per_s": rounded(median([row["beside"]["copy_mib_s"] for row in on])),
        "throttled_share": rounded(median([row["beside"]["throttled"] for row in on])),
    }
    off = [row for row in rows if not row["on"]]
    if off:
        result["ratio_without_throttling"] = rounded(median(shares(off)[0]))
    return result
