"""One split under load for each type of shard key, each version, and each kind of table that a schema may hold."""

import itertools
import os
import random
import subprocess
import threading
import time

import psycopg
import pytest
from conftest import DEFAULT, VERSIONS, pg_bin_dir, wait_until
from rig import Rig

pytestmark = pytest.mark.beside

CASES = [(DEFAULT, kind) for kind in ("smallint", "integer", "bigint", "text", "varchar", "uuid")]
CASES += [(version, "bigint") for version in VERSIONS if version != DEFAULT]
numbers = itertools.count(1)


def new_rig(shardherd, version):
    bin_directory = pg_bin_dir(version)
    if bin_directory is None:
        pytest.skip(f"PostgreSQL {version} is not installed (scripts/install-deps gets it)")
    rig = Rig(shardherd, f"/tmp/shardherd-keys-{os.getpid()}-{next(numbers)}", pg_bin=bin_directory)
    rig.start()
    return rig


def split(rig, shard="s2"):
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": shard, "bake": "0s"})
    ended = rig.wait_operation(op["id"])
    assert ended["status"] == "done", ended
    return ended


@pytest.mark.parametrize(("version", "key_type"), CASES, ids=[f"pg{v}-{t}" for v, t in CASES])
def test_split_by_type(shardherd, version, key_type):
    rig = new_rig(shardherd, version)
    try:
        schema = subprocess.run(
            [str(shardherd), "load", "--print-schema", "--database", "shop", "--key-type", key_type],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        rig.make_shop(customers=0, schema=schema)
        assert {t["type"] for t in rig.fetch("/v1/databases/shop")["tables"]} == {key_type}
        assert rig.sql("s1", "SHOW server_version_num")[0][0].startswith(str(version))
        rig.rows = ("--customers", "2000", "--key-type", key_type)
        rig.load("init", *rig.rows, "--quiet")
        rig.start_load("--clients", "4", "--rate", "600")
        ended = split(rig)
        result = rig.stop_load()
        assert result["acked_writes"] > 0
        assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
        assert int(ended["record"]["copy_rows"]) > 0
        assert sum(rig.sql(s, "SELECT count(*) FROM customers WHERE true")[0][0] > 100 for s in ("s1", "s2", "s3")) == 3
        rig.assert_consistent()
    finally:
        rig.clean_up()


# ---- every kind of table at once, with a writer of its own ----

SCHEMA = """
CREATE TABLE accounts (account_id bigint PRIMARY KEY, name text NOT NULL, version bigint NOT NULL DEFAULT 0);
CREATE TABLE projects (account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE, project_no int NOT NULL,
    title varchar(40), PRIMARY KEY (account_id, project_no));
CREATE TABLE tasks (account_id bigint NOT NULL, project_no int NOT NULL, task_no int NOT NULL,
    hours int NOT NULL, minutes int GENERATED ALWAYS AS (hours * 60) STORED,
    PRIMARY KEY (account_id, project_no, task_no),
    FOREIGN KEY (account_id, project_no) REFERENCES projects ON DELETE CASCADE);
CREATE TABLE tickets (ticket_id bigint GENERATED ALWAYS AS IDENTITY, account_id bigint NOT NULL, number serial,
    body text, PRIMARY KEY (account_id, ticket_id));
CREATE TABLE events (account_id bigint NOT NULL, event_no int NOT NULL, day int NOT NULL, payload text,
    PRIMARY KEY (account_id, event_no, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20);
CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (20) TO (30);
CREATE TABLE "Weird Table" ("key col" bigint NOT NULL, "select" int NOT NULL, "it's" text,
    PRIMARY KEY ("select", "key col"));
"""
TABLES = [
    *({"name": f"public.{t}", "key": "account_id"} for t in ("accounts", "projects", "tasks", "tickets", "events")),
    {"name": 'public."Weird Table"', "key": "key col"},
]
ACCOUNTS = 400
CHECKS = {
    "accounts": "SELECT account_id, version FROM accounts",
    "projects": "SELECT account_id, project_no FROM projects",
    "tasks": "SELECT account_id, project_no, task_no, hours, minutes FROM tasks",
    "tickets": "SELECT account_id, ticket_id, number, body FROM tickets",
    "events": "SELECT account_id, event_no, day, payload FROM events",
    "Weird Table": 'SELECT "key col", "select", "it\'s" FROM "Weird Table"',
}


class Writer(threading.Thread):
    """Writes to its own accounts by the routing table, and keeps what was acknowledged."""

    def __init__(self, rig, hashes, mine, seed):
        super().__init__(daemon=True)
        self.rig, self.hashes, self.mine = rig, hashes, mine
        self.random = random.Random(seed)
        self.links, self.routing = {}, rig.routing()
        self.ending = threading.Event()
        self.rows = {name: set() for name in CHECKS}
        self.ids = []  # (account, ticket_id, number, when acknowledged)
        self.refused = self.transactions = 0
        self.error = None

    def owner(self, account):
        h = self.hashes[account]
        for shard in self.routing["shards"]:
            if any(int(r["lo"]) <= h <= int(r["hi"]) for r in shard["ranges"]):
                return shard
        raise AssertionError(f"nobody owns {h}: {self.routing}")

    def link(self, shard):
        at = (shard["primary"]["host"], shard["primary"]["port"])
        if at not in self.links:
            self.links[at] = psycopg.connect(self.rig.dsn(shard["name"]))
        return self.links[at]

    def transaction(self, account, statements):
        """All or nothing, tried until acknowledged; rows of the statements that return some."""
        deadline = time.monotonic() + 30
        while True:
            try:
                with self.link(self.owner(account)).transaction() as tx:
                    cursors = [tx.connection.execute(*statement) for statement in statements]
                    found = [c.fetchall() if c.description else None for c in cursors]
                self.transactions += 1
                return found
            except psycopg.Error as error:
                if error.sqlstate != "SHR01" or time.monotonic() > deadline:
                    raise
                self.refused += 1
                time.sleep(0.002)
                self.routing = self.rig.routing()

    def one_round(self, account, n):
        new_day, old_day = self.random.randrange(30), self.random.randrange(30)
        statements = [
            ("INSERT INTO accounts VALUES (%s, 'x') ON CONFLICT (account_id) "
             "DO UPDATE SET version = accounts.version + 1 RETURNING version", (account,)),
            ("INSERT INTO projects VALUES (%s, %s, 'p') ON CONFLICT DO NOTHING", (account, n % 7)),
            ("INSERT INTO tasks VALUES (%s, %s, %s, %s)", (account, n % 7, n, n % 11)),
            ("INSERT INTO tickets (account_id, body) VALUES (%s, %s) RETURNING ticket_id, number", (account, f"b{n}")),
            ("INSERT INTO events VALUES (%s, %s, %s, %s)", (account, n, old_day, "e" * (n % 3000))),
            ('INSERT INTO "Weird Table" VALUES (%s, %s, %s)', (account, n, "it's \\ \t\n")),
        ]  # fmt: skip
        found = self.transaction(account, statements)
        ((ticket, number),) = found[3]
        version = found[0][0][0]
        self.ids.append((account, ticket, number, time.monotonic()))
        self.rows["accounts"].discard((account, version - 1))
        self.rows["accounts"].add((account, version))
        self.rows["projects"].add((account, n % 7))
        self.rows["tasks"].add((account, n % 7, n, n % 11, n % 11 * 60))
        self.rows["tickets"].add((account, ticket, number, f"b{n}"))
        self.rows["Weird Table"].add((account, n, "it's \\ \t\n"))
        event = (account, n, old_day, "e" * (n % 3000))
        self.rows["events"].add(event)
        # to another partition, with its payload unchanged (TOASTed from 2 kB on)
        move_day = "UPDATE events SET day = %s WHERE account_id = %s AND event_no = %s"
        self.transaction(account, [(move_day, (new_day, account, n))])
        self.rows["events"].remove(event)
        self.rows["events"].add((account, n, new_day, event[3]))
        if n % 5 == 4:  # CASCADE takes the tasks along
            delete = "DELETE FROM projects WHERE account_id = %s AND project_no = %s"
            self.transaction(account, [(delete, (account, n % 7))])
            self.rows["projects"].discard((account, n % 7))
            self.rows["tasks"] = {t for t in self.rows["tasks"] if t[:2] != (account, n % 7)}

    def run(self):
        try:
            for n in itertools.count():
                for account in self.mine:
                    if self.ending.is_set():
                        return
                    self.one_round(account, n)
        except BaseException as error:  # noqa: BLE001 - reported by the test's thread
            self.error = error
        finally:
            for link in self.links.values():
                link.close()


@pytest.mark.parametrize("version", sorted({DEFAULT, 18}), ids=lambda version: f"pg{version}")
def test_A20_D12_split_of_every_kind_of_table(shardherd, version):
    rig = new_rig(shardherd, version)
    writers = []
    try:
        rig.make_shop(customers=0, schema=SCHEMA, tables=TABLES)
        hashes = dict(rig.sql("s1", f"SELECT n, hashint8extended(n, 0) FROM generate_series(1, {ACCOUNTS}) n"))
        writers += [Writer(rig, hashes, list(hashes)[i::3], i) for i in range(3)]
        for writer in writers:
            writer.start()
        wait_until(lambda: all(w.error or w.transactions > 300 for w in writers), timeout=120)
        split(rig)
        done_at = time.monotonic()
        wait_until(lambda: all(w.error or w.ids[-1][3] > done_at + 0.5 for w in writers), timeout=120)
        for writer in writers:
            writer.ending.set()
        for writer in writers:
            writer.join(60)
            assert writer.error is None, writer.error
        compare(rig, writers)
        check_ids(rig, writers, hashes)
        rig.assert_consistent()
    finally:
        for writer in writers:
            writer.ending.set()
        rig.clean_up()


def compare(rig, writers):
    for table, query in CHECKS.items():
        found = [row for shard in rig.routing()["shards"] for row in rig.sql(shard["name"], query)]
        wanted = set().union(*(w.rows[table] for w in writers))
        assert len(found) == len(set(found)), f"{table}: rows twice"
        assert set(found) == wanted, f"{table}: lost {wanted - set(found)}, too many {set(found) - wanted}"


def check_ids(rig, writers, hashes):
    """The new owner hands out no identity and no serial that the old owner handed out (A20)."""
    (shard,) = (s for s in rig.routing()["shards"] if s["name"] == "s3")
    ranges = [(int(r["lo"]), int(r["hi"])) for r in shard["ranges"]]
    mine = {account for account, h in hashes.items() if any(lo <= h <= hi for lo, hi in ranges)}
    moved = sorted((when, t, n) for w in writers for a, t, n, when in w.ids if a in mine)
    for place in (1, 2):
        ids = [entry[place] for entry in moved]
        assert len(ids) == len(set(ids)), "an id was handed out twice"
    query = "SELECT last_value FROM pg_sequences WHERE sequencename = 'tickets_ticket_id_seq'"
    assert rig.sql("s3", query)[0][0] >= max(t for _, t, _ in moved)
