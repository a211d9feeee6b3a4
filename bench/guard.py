"""What the guards cost: single-row writes and COPY into a table with guards and into one without, by turns."""

import subprocess
import time

from benchmarks import Unmeasured, median, rounded, spread
from rig import Rig

TITLE = "writes with guards, against the same table without: prepared single-row updates and inserts, and COPY"
GOAL = "CPU-bound updates and inserts >= 0.95 x, COPY >= 0.98 x; commits that wait for the disk: in the noise"
ROWS = 100_000
COPY_ROWS = 500_000
CLIENTS = 4
SCHEMA = """
CREATE TABLE guarded (k bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0, filler text NOT NULL DEFAULT repeat('x', 60));
CREATE TABLE plain (k bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0, filler text NOT NULL DEFAULT repeat('x', 60));
"""
SCRIPTS = {
    "update": f"\\set k random(1, {ROWS})\nUPDATE {{table}} SET n = n + 1 WHERE k = :k;\n",
    "insert": "\\set k random(1000000, 9000000000000000)\nINSERT INTO {table} (k) VALUES (:k);\n",
}
# statement, synchronous_commit, what is compared
KINDS = (("update", "off"), ("insert", "off"), ("update", "on"), ("copy", "off"))
LONE_KEY = 1_000_001  # has a shard of its own: so the others' shard owns two ranges, as after a split or two


def environment(rig, commit):
    """For psql and pgbench: nothing of a password on a command line."""
    said = dict(word.split("=", 1) for word in rig.dsn("s1").split())
    return {
        "PGHOST": said["host"], "PGPORT": said["port"], "PGDATABASE": said["dbname"], "PGUSER": said["user"],
        "PGPASSWORD": said["password"], "PGOPTIONS": f"-c synchronous_commit={commit}", "PATH": "/usr/bin:/bin",
    }  # fmt: skip


def run(command, env):
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        raise Unmeasured(f"{command[0]} failed: {done.stderr[-1000:]}")
    return done.stdout


def transactions(bench, rig, kind, commit, table, seconds):
    """Per second."""
    script = bench.directory / f"{kind}.sql"
    script.write_text(SCRIPTS[kind].format(table=table))  # a variable would be a parameter of the prepared statement
    pgbench = f"{rig.pg_bin}/pgbench"
    out = run(
        [pgbench, "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(seconds), "-f", script],
        environment(rig, commit),
    )  # fmt: skip
    return float(next(line.split("=")[1].split()[0] for line in out.splitlines() if line.startswith("tps")))


def copied(bench, rig, table):
    """Rows per second."""
    rig.sql("s1", f"DELETE FROM {table} WHERE k > {ROWS}")
    rig.sql("s1", f"VACUUM {table}")
    rig.sql("s1", "CHECKPOINT")
    start = time.perf_counter()
    run(
        [bench.tool("psql"), "-X", "-q", "-c", f"\\copy {table} FROM '{bench.directory}/rows'"],
        environment(rig, "off"),
    )
    return COPY_ROWS / (time.perf_counter() - start)


def one(bench, rig, kind, commit, table, seconds):
    return copied(bench, rig, table) if kind == "copy" else transactions(bench, rig, kind, commit, table, seconds)


def prepare(bench, rig):
    rig.start()
    rig.make_shop(customers=0, shards=1, schema=SCHEMA, tables=[{"name": "public.guarded", "key": "k"}])
    op = rig.post(
        "/v1/databases/shop/operations", {"kind": "isolate", "shard": "s1", "key": str(LONE_KEY), "bake": "0s"}
    )
    if rig.wait_operation(op["id"])["status"] != "done":
        raise Unmeasured("the key could not be isolated")
    for table in ("guarded", "plain"):
        rig.sql("s1", f"INSERT INTO {table} (k) SELECT generate_series(1, {ROWS})")
        rig.sql("s1", f"VACUUM (ANALYZE, FREEZE) {table}")
    with open(bench.directory / "rows", "w") as rows:
        rows.writelines(f"{LONE_KEY + i}\t{i}\t{'x' * 60}\n" for i in range(1, COPY_ROWS + 1))


def measure(bench):
    seconds, rounds = (10, 10) if bench.full else (3, 5)
    rig = Rig(bench.program("shardherd"), bench.directory / "rig")
    bench.stack.callback(rig.clean_up)
    prepare(bench, rig)
    found = {kind: {"guarded": [], "plain": []} for kind in KINDS}
    for number in range(rounds):
        for kind, commit in KINDS:
            order = ("guarded", "plain") if number % 2 == 0 else ("plain", "guarded")
            for table in order:
                found[kind, commit][table].append(one(bench, rig, kind, commit, table, seconds))
        bench.note(f"round {number + 1} of {rounds}")
        bench.sample_load()
    return report(bench, found)


def report(bench, found):
    rows, ratios = [], {}
    for (kind, commit), values in found.items():
        name = kind if kind == "copy" else f"{kind}, {'CPU-bound' if commit == 'off' else 'commits wait for the disk'}"
        ratios[kind, commit] = [g / p for g, p in zip(values["guarded"], values["plain"], strict=True)]
        rows.append(
            (
                name,
                f"{median(values['guarded']):.0f}",
                f"{median(values['plain']):.0f}",
                f"{median(ratios[kind, commit]):.3f}",
                f"{min(ratios[kind, commit]):.3f}..{max(ratios[kind, commit]):.3f}",
            )
        )
    bench.table(("per second", "guarded", "plain", "guarded / plain", "spread"), rows)
    update = found["update", "off"]
    return {
        "ours": rounded(median(update["guarded"])),
        "peer": rounded(median(update["plain"])),
        "unit": "updates per second",
        "ratio": rounded(median(ratios["update", "off"])),
        "spread": spread(ratios["update", "off"]),
        "insert_ratio": rounded(median(ratios["insert", "off"])),
        "waiting_commit_ratio": rounded(median(ratios["update", "on"])),
        "copy_ratio": rounded(median(ratios["copy", "off"])),
    }
