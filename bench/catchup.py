"""How soon a target is abreast of its source once the rows are there, while the application goes on writing."""

import contextlib
import subprocess
import time

import psycopg
from benchmarks import Unmeasured, median, rounded, spread
from rig import Rig

TITLE = "how long after the copy the apply lag falls under 1 s, at 2,000 writes/s"
GOAL = "lag under 1 s within 10 s after the copy"
RATE = 2000
CUSTOMERS = 100_000
REPETITIONS, REPETITIONS_FULL = 3, 10
LAG_S = 1.0
GOAL_S = 10
LIMIT_S = 300
# A copy that takes long, as of a large shard, by being held to a rate: what counts is how much was written meanwhile.
LONG_MIB_S = 1
CARGO = (
    "CREATE TABLE cargo (customer_id bigint NOT NULL, n bigint NOT NULL, filler text, PRIMARY KEY (customer_id, n));"
)
CARGO_ROW = 1000  # bytes, about
LONG_S = 60
TABLES = [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "orders", "cargo")]
FILL = f"""INSERT INTO cargo SELECT customer_id, 1, repeat(md5(customer_id::text), 30)
           FROM customers ORDER BY customer_id LIMIT {2 * LONG_S * LONG_MIB_S * 2**20 // CARGO_ROW}"""
WRITES = ("--mix", "read=0,insert=20,update=60,delete=20,tx=0")


class Slot:
    """The slot of the move that runs: how old is what it has confirmed?"""

    def __init__(self, rig, shard):
        self.conn = psycopg.connect(rig.dsn(shard), autocommit=True)
        self.points = []  # (when, the source's position then)

    def lag(self):
        """Seconds: the age of the oldest position of the source that the subscription has not confirmed. None: there is
        no slot any more."""
        now = time.monotonic()
        row = self.conn.execute(
            "SELECT (pg_current_wal_lsn() - '0/0')::bigint, (confirmed_flush_lsn - '0/0')::bigint "
            "FROM pg_replication_slots WHERE slot_name LIKE 'shardherd\\_%\\_f'"
        ).fetchone()
        if row is None:
            return None
        self.points.append((now, row[0]))
        confirmed = row[1] or 0
        return next((now - when for when, position in self.points if position > confirmed), 0.0)


def one_split(rig, bench):
    """Seconds from the last copied row to a lag under LAG_S, and the greatest lag seen."""
    op_id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]
    slot, copied, lags = Slot(rig, "s2"), None, []
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        op = rig.operation(op_id)
        if op["status"] not in ("running", "done"):
            raise Unmeasured(f"the split ended {op['status']}: {op['error']}")
        lag = slot.lag()
        copied = copied or (time.monotonic() if int(op["record"]["copy_us"]) > 0 else None)
        if copied and lag is not None:
            lags.append(lag)
        # before the subscription begins nothing is confirmed, however short that is
        begun = op["record"]["state"] not in ("planned", "check", "target", "copy")
        if begun and (lag is None or lag < LAG_S):
            took = time.monotonic() - copied
            break
        time.sleep(0.02)
    else:
        raise Unmeasured(f"the target did not catch up in {LIMIT_S} s: {rig.operation(op_id)}")
    op = rig.wait_operation(op_id, timeout=LIMIT_S)
    if op["status"] != "done":
        raise Unmeasured(f"the split ended {op['status']}: {op['error']}")
    slot.conn.close()
    record = op["record"]
    body = {"kind": "merge", "shard": record["target"], "target": "s2", "bake": "0s"}
    back = rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"], timeout=LIMIT_S)
    if back["status"] != "done":
        raise Unmeasured(f"the merge back ended {back['status']}: {back['error']}")
    copy_s = int(record["copy_us"]) / 1e6
    bench.note(f"copy {copy_s:.1f} s, abreast {took:.2f} s after it, greatest lag {max(lags, default=0):.2f} s")
    bench.sample_load()
    return {"took": took, "lag": max(lags, default=0.0), "copy": copy_s}


def measure(bench):
    rig = Rig(bench.program("shardherd"), bench.directory / "rig")
    bench.stack.callback(rig.clean_up)
    try:
        rig.start()
        bench.note("making a database of two shards")
        schema = subprocess.run([rig.shardherd, "load", "--print-schema", "--database", "shop"], check=True,
                                capture_output=True, text=True).stdout  # fmt: skip
        rig.make_shop(customers=CUSTOMERS, schema=schema + CARGO, tables=TABLES)
        rig.start_load("--clients", "32", "--rate", str(RATE), *WRITES)
        time.sleep(2)
        found = [one_split(rig, bench) for _ in range(REPETITIONS_FULL if bench.full else REPETITIONS)]
        rig.sql("s2", FILL)
        rig.stop()
        rig.settings = [f"moves.copy_rate={LONG_MIB_S}"]
        rig.start()
        long = one_split(rig, bench)
        result = rig.stop_load(timeout=300)
    except AssertionError as error:
        raise Unmeasured(str(error)) from error
    finally:
        with contextlib.suppress(AssertionError):
            rig.stop()
    return report(bench, found, long, result)


def report(bench, found, long, result):
    def row(name, values):
        return (name, f"{median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}")

    took = [one["took"] for one in found]
    bench.table(
        ("s", "median", "min", "max", "after a long copy"),
        [(*row("copy", [one["copy"] for one in found]), f"{long['copy']:.1f}"),
         (*row("lag under 1 s after it", took), f"{long['took']:.2f}"),
         (*row("greatest lag after it", [one["lag"] for one in found]), f"{long['lag']:.2f}")],
    )  # fmt: skip
    rate = result["acked_writes"] / result["duration_seconds"]
    counts = ", ".join(f"{name} {result[name]}" for name in ("lost", "duplicated", "misplaced", "resurrected"))
    print(f"{result['acked_writes']} writes acknowledged, {rate:.0f}/s of the {RATE}/s asked for; {counts}")
    return {
        "ours": rounded(median(took)),
        "peer": GOAL_S,
        "unit": "s from the copy's end to a lag under 1 s; the goal",
        "ratio": rounded(GOAL_S / max(median(took), 0.001)),
        "spread": spread([GOAL_S / max(t, 0.001) for t in took]),
        "worst_s": rounded(max(took)),
        "long_copy_s": rounded(long["copy"]),
        "after_long_copy_s": rounded(long["took"]),
        "greatest_lag_s": rounded(max(one["lag"] for one in found)),
        "writes_per_s": rounded(rate),
        "lost": result["lost"],
    }
