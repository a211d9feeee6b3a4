"""How long a range cannot be written while it moves, with few tables and with many."""

import contextlib
import json
import time

import split
from benchmarks import Unmeasured, median, quantile, rounded, spread
from rig import Rig

TITLE = "write block of moves back and forth at 5,000 writes/s, with 2, 10 and 100 tables, against the floor"
GOAL = (
    "with 2 tables p50 <= 1.5 x the floor and <= 7 ms, p99 <= 15 ms; with 100 p99 <= 60 ms; no client error but SHR01, "
    "no lost write"
)
TABLES = (2, 10, 100)  # two of them are written, the others have rows and are locked, guarded and compared as well
MOVES, MOVES_FULL = 10, 100
ROWS = 200
MIX = ("--mix", "read=10,insert=20,update=55,delete=15,tx=0")


def schema(rig, tables):
    extra = [f"CREATE TABLE extra{i:03} (customer_id bigint PRIMARY KEY, n bigint);" for i in range(tables - 2)]
    return split.schema_of_load(rig) + "\n".join(extra)


def names(tables):
    every = ["public.customers", "public.orders", *(f"public.extra{i:03}" for i in range(tables - 2))]
    return [{"name": name, "key": "customer_id"} for name in every]


def fill(rig, tables):
    """Rows of each extra table on the shard that owns them."""
    for shard in rig.routing()["shards"]:
        inside = " OR ".join(f"hashint8extended(i, 0) BETWEEN {r['lo']} AND {r['hi']}" for r in shard["ranges"])
        for i in range(tables - 2):
            rig.sql(
                shard["name"], f"INSERT INTO extra{i:03} SELECT i, i FROM generate_series(1, {ROWS}) i WHERE {inside}"
            )


def with_tables(bench, tables, count):
    rig = Rig(bench.program("shardherd"), bench.directory / f"rig{tables}")
    bench.stack.callback(rig.clean_up)
    bench.note(f"{tables} tables")
    try:
        rig.start()
        rig.make_shop(customers=split.CUSTOMERS, schema=schema(rig, tables), tables=names(tables))
        fill(rig, tables)
        floor = split.Floor(bench, rig)
        _, rate = split.sustainable_rate(bench, rig)
        loading = rig.start_load("--clients", "32", "--rate", str(rate), *MIX)
        bench.stack.callback(lambda: loading.poll() is None and loading.kill())
        time.sleep(3)
        moves, floors = split.moves_under_load(bench, rig, floor, rate, count, time.monotonic() + 3600)
        result = rig.stop_load()
        floor.end()
        rig.assert_consistent()
    except AssertionError as error:
        raise Unmeasured(str(error)) from error
    finally:
        with contextlib.suppress(AssertionError):
            rig.stop()
    rig.clean_up()
    return moves, floors, result


def measure(bench):
    count = MOVES_FULL if bench.full else MOVES
    return report(bench, {tables: with_tables(bench, tables, count) for tables in TABLES})


def report(bench, found):
    rows = []
    for tables, (moves, floors, result) in found.items():
        blocks = [m["write_block_us"] for m in moves]
        times = [b / f for b, f in zip(blocks, floors, strict=True)]
        rows.append(
            (
                tables, len(moves), f"{result['acked_writes'] / result['duration_seconds']:.0f}",
                f"{median(floors):.1f}", f"{median(blocks):.1f}", f"{quantile(blocks, 0.99):.1f}",
                f"{median(times):.1f}", sum(m["attempts"] for m in moves), result["refused_writes"],
                result["lost"] + result["duplicated"] + result["misplaced"], json.dumps(result["errors"]),
            )
        )  # fmt: skip
    head = (
        "tables",
        "moves",
        "writes/s",
        "floor p50 ms",
        "block p50",
        "p99",
        "x floor",
        "tries",
        "refused",
        "wrong",
        "errors",
    )
    bench.table(head, rows)
    moves, floors, result = found[TABLES[0]]
    blocks = [m["write_block_us"] for m in moves]
    times = [b / f for b, f in zip(blocks, floors, strict=True)]
    return {
        "ours": rounded(median(blocks)),
        "peer": rounded(median(floors)),
        "unit": "ms of blocked writes, and the floor",
        "ratio": rounded(1 / median(times)),
        "spread": spread([1 / t for t in times]),
        "block_p50_ms": rounded(median(blocks)),
        "block_p99_ms": rounded(quantile(blocks, 0.99)),
        "block_p99_ms_100_tables": rounded(quantile([m["write_block_us"] for m in found[TABLES[-1]][0]], 0.99)),
        "times_floor": rounded(median(times)),
        "lost": sum(r["lost"] for _, _, r in found.values()),
    }
