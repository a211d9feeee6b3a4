"""How long writes of the moved range are blocked by a move, under load."""

import contextlib
import json
import subprocess
import time

import psycopg
from benchmarks import Unmeasured, median, quantile, rounded, spread
from rig import SCHEMA_COMMAND, Rig

TITLE = (
    "write block of splits and merges at 5,000 writes/s, against two commits and a marker round trip, and Citus' poll"
)
GOAL = "p50 <= 8 ms, p99 <= 20 ms, no acknowledged write lost"
RATE = 5000
MOVES = 20
CUSTOMERS = 20_000
WRITES = ("--mix", "read=0,insert=20,update=60,delete=20,tx=0")
# Citus looks once a second whether the copy has caught up, with writes blocked: its mean is half of it more
# than its floor, its worst case all of it.
CITUS_POLL_MS = 1000
STEPS = ("lock_us", "inside_us", "commit_us", "open_us", "write_block_us")
HEADROOM = 0.4  # of what the machine can write at most: the move needs its share too
CATCH_UP_S = 40  # longer means that the machine cannot apply what it writes


def schema_of_load(rig):
    """The tables that `shardherd load` writes."""
    done = subprocess.run([rig.shardherd, *SCHEMA_COMMAND], check=True, capture_output=True, text=True)
    return done.stdout


class Floor:
    """What no protocol with these guarantees can be below: a commit on each server and a row seen on the other.

    In a database of its own on the same two servers, with a publication and a subscription of its own."""

    def __init__(self, bench, rig):
        self.ends = {}
        for shard in ("s1", "s2"):
            rig.sql(shard, "CREATE DATABASE floor")
            self.ends[shard] = bench.stack.enter_context(psycopg.connect(self.dsn(rig, shard), autocommit=True))
            self.ends[shard].execute(
                "CREATE TABLE marker (id bigint PRIMARY KEY); "
                "CREATE TABLE own (id bigint PRIMARY KEY, n bigint); INSERT INTO own VALUES (1, 0)"
            )
        self.ends["s1"].execute("CREATE PUBLICATION floor FOR TABLE marker")
        text = self.dsn(rig, "s1").replace("'", "''")
        self.ends["s2"].execute(f"CREATE SUBSCRIPTION floor CONNECTION '{text}' PUBLICATION floor")
        self.number = 0
        self.sample()  # waits until the subscription streams

    def dsn(self, rig, shard):
        return rig.dsn(shard).replace("dbname=shop", "dbname=floor")

    def sample(self):
        """Milliseconds."""
        source, target = self.ends["s1"], self.ends["s2"]
        self.number += 1
        start = time.perf_counter()
        source.execute("UPDATE own SET n = n + 1")
        source.execute("INSERT INTO marker VALUES (%s)", (self.number,))
        while not target.execute("SELECT FROM marker WHERE id = %s", (self.number,)).rowcount:
            if time.perf_counter() - start > 30:
                raise Unmeasured("the marker of the floor did not arrive in 30 s")
            time.sleep(0.0002)
        target.execute("UPDATE own SET n = n + 1")
        return (time.perf_counter() - start) * 1000

    def end(self):
        """Its subscription, and with it the slot, which a look for what a move left would find."""
        self.ends["s2"].execute("DROP SUBSCRIPTION floor")


def sustainable_rate(bench, rig):
    """RATE, or less on a machine that could not write it and move rows as well."""
    out = rig.load("run", "--duration", "4s", "--clients", "32", "--no-check", "--json", "--quiet", *rig.rows, *WRITES)
    found = json.loads(out.strip().splitlines()[-1])
    most = found["acked_writes"] / found["duration_seconds"]
    rate = RATE if most * HEADROOM >= RATE else int(most * HEADROOM / 100) * 100
    bench.note(f"this machine, as it is now, writes at most {most:.0f}/s: measured at {rate}/s")
    return most, rate


def throttled(rig, op_id, rate):
    """Waits for the operation. True if the load had to be taken back for it to catch up."""
    try:
        return rig.wait_operation(op_id, timeout=CATCH_UP_S), False
    except AssertionError:
        rig.control.write_text(f"rate {rate // 4}\n")
        op = rig.wait_operation(op_id, timeout=60)
        rig.control.write_text(f"rate {rate}\n")
        return op, True


def one_move(rig, new, rate):
    """A split of s2, or the merge of what came of it."""
    body = (
        {"kind": "merge", "shard": new, "target": "s2", "bake": "0s"}
        if new
        else {"kind": "split", "shard": "s2", "bake": "0s"}
    )
    op, helped = throttled(rig, rig.post("/v1/databases/shop/operations", body)["id"], rate)
    if op["status"] != "done":
        raise Unmeasured(f"a {body['kind']} ended {op['status']}: {op['error']}")
    found = {name: int(op["record"][name]) / 1000 for name in STEPS}
    return {"kind": body["kind"], "helped": helped, "attempts": int(op["record"]["fence_attempts"]), **found}


def moves_under_load(bench, rig, floor, rate, count, until):
    moves, floors = [], []
    while len(moves) < count and (time.monotonic() < until or len(moves) < 5 or len(moves) % 2):
        new = next((s["name"] for s in rig.routing()["shards"] if s["name"] not in ("s1", "s2")), None)
        floors.append(median([floor.sample() for _ in range(20)]))
        moves.append(one_move(rig, new, rate))
        done, helped = moves[-1], ", load taken back" if moves[-1]["helped"] else ""
        bench.note(f"{len(moves)}: {done['kind']} {done['write_block_us']:.1f} ms, floor {floors[-1]:.1f} ms{helped}")
        bench.sample_load()
    return moves, floors


def measure(bench):
    count, limit = (100, 3600) if bench.full else (MOVES, 210)
    rig = Rig(bench.program("shardherd"), bench.directory / "rig")
    bench.stack.callback(rig.clean_up)
    bench.note("making a database of two shards")
    try:
        rig.start()
        rig.make_shop(customers=CUSTOMERS)
        floor = Floor(bench, rig)
        most, rate = sustainable_rate(bench, rig)
        loading = rig.start_load("--clients", "32", "--rate", str(rate), *WRITES)
        bench.stack.callback(lambda: loading.poll() is None and loading.kill())
        time.sleep(3)
        moves, floors = moves_under_load(bench, rig, floor, rate, count, time.monotonic() + limit)
        result = rig.stop_load()
    except AssertionError as error:
        raise Unmeasured(str(error)) from error
    finally:
        with contextlib.suppress(AssertionError):
            rig.stop()
    return report(bench, moves, floors, result, most, rate)


def report(bench, moves, floors, result, most, asked):
    rows = []
    for name in STEPS:
        values = [m[name] for m in moves]
        rows.append(
            (
                name.removesuffix("_us"),
                *(
                    f"{v:.1f}"
                    for v in (median(values), quantile(values, 0.9), quantile(values, 0.99), min(values), max(values))
                ),
            )
        )
    rows.append(
        (
            "floor",
            *(
                f"{v:.1f}"
                for v in (median(floors), quantile(floors, 0.9), quantile(floors, 0.99), min(floors), max(floors))
            ),
        )
    )
    bench.table(("ms", "p50", "p90", "p99", "min", "max"), rows)
    blocks = [m["write_block_us"] for m in moves]
    times = [b / f for b, f in zip(blocks, floors, strict=True)]
    rate = result["acked_writes"] / result["duration_seconds"]
    helped = sum(m["helped"] for m in moves)
    kinds = {k: sum(m["kind"] == k for m in moves) for k in ("split", "merge")}
    tries = sum(m["attempts"] for m in moves)
    print(f"{kinds['split']} splits, {kinds['merge']} merges; tries of the fence: {tries}")
    print(f"block / floor: {median(times):.1f} ({min(times):.1f}..{max(times):.1f})")
    counts = ", ".join(f"{name} {result[name]}" for name in ("lost", "duplicated", "misplaced", "resurrected"))
    print(f"{result['acked_writes']} writes acknowledged, {rate:.0f}/s; {counts}")
    if asked < RATE:
        share = f"{HEADROOM:.0%} of the {most:.0f}/s that this machine writes at most as it is now"
        print(f"asked for {asked}/s instead of {RATE}/s: {share}")
    if helped:
        print(f"{helped} moves did not catch up in {CATCH_UP_S} s: for them the load was taken back to {asked // 4}/s")
    print(
        f"peer: Citus polls once in {CITUS_POLL_MS} ms with writes blocked (its documented interval, not measured here)"
    )
    p50, p99 = median(blocks), quantile(blocks, 0.99)
    return {
        "ours": rounded(p50),
        "peer": CITUS_POLL_MS,
        "unit": "ms of blocked writes",
        "ratio": rounded(CITUS_POLL_MS / p50),
        "spread": spread([CITUS_POLL_MS / b for b in blocks]),
        "block_p50_ms": rounded(p50),
        "block_p99_ms": rounded(p99),
        "floor_p50_ms": rounded(median(floors)),
        "times_floor": rounded(median(times)),
        "moves": len(moves),
        "moves_throttled": helped,
        "writes_per_s": rounded(rate),
        "writes_per_s_at_most": rounded(most),
        "lost": result["lost"],
    }
