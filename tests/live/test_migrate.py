"""`shardherd migrate`: DDL on all shards, once on each, stopped where one refuses, resumed."""

import os
import subprocess
import threading
import time

import pytest
from rig import Problem, Rig

pytestmark = pytest.mark.beside

ADD = "ALTER TABLE customers ADD COLUMN note text NOT NULL DEFAULT 'none'; CREATE INDEX ON customers (note);"
COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attname LIKE 'note%'"


EVERY = ("s1", "s2", "s3")


def make(shardherd, name):
    rig = Rig(shardherd, f"/tmp/shardherd-{name}-{os.getpid()}")
    rig.start()
    rig.make_shop(customers=300, shards=3)
    return rig


@pytest.fixture(scope="module")
def fleet(shardherd):
    rig = make(shardherd, "migrate")
    try:
        yield rig
    finally:
        rig.clean_up()


@pytest.fixture
def rig(fleet):
    """The same fleet for all, as it was: no stopped migration, no column of another test."""
    yield fleet
    for op in fleet.operations():
        if op["status"] == "running":
            fleet.post(f"/v1/operations/{op['id']}/cancel", None)
            fleet.wait_operation(op["id"])
    for shard in EVERY:
        fleet.sql(shard, "ALTER TABLE customers DROP COLUMN IF EXISTS note")


@pytest.fixture
def own(shardherd):
    rig = make(shardherd, "migrate-own")
    try:
        yield rig
    finally:
        rig.clean_up()


def cli(rig, command, *words, script=None, code=0):
    done = subprocess.run(
        [rig.shardherd, command, "--state", str(rig.state), *words],
        input=script,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def migrate(rig, script, *words, code=0):
    return cli(rig, "migrate", "-f", "-", *words, script=script, code=code)


def words(done):
    """What it printed, without the widths of columns."""
    return " ".join(done.stdout.split())


def columns(rig):
    return {shard: [row[0] for row in rig.sql(shard, COLUMNS)] for shard in EVERY}


def last(rig):
    return next(op for op in rig.operations() if op["kind"] == "migrate")


def states(op):
    return {s["name"]: s["state"] for s in op["record"]["shards"]}


def test_all_shards_get_it_and_a_new_one_too(own):
    rig = own
    done = migrate(rig, ADD, "--wait")
    assert "done: migrate shop" in done.stdout
    assert columns(rig) == {"s1": ["note"], "s2": ["note"], "s3": ["note"]}
    op = last(rig)
    assert states(op) == {"s1": "applied", "s2": "applied", "s3": "applied"} and op["progress"] == 1
    assert "script" not in op["record"]  # it is not for everybody who may read
    owner = rig.sql("s1", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'customers_note_idx'")
    assert owner == rig.sql("s1", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'customers'")
    split = rig.wait_operation(rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s1"})["id"])
    assert split["status"] == "done", split
    assert [row[0] for row in rig.sql("s4", COLUMNS)] == ["note"]
    rig.assert_consistent()


def test_a_script_the_first_shard_refuses_changes_nothing(rig):
    done = migrate(rig, ADD + "ALTER TABLE nonsense ADD COLUMN x int;", "--wait", code=1)
    assert 'relation "nonsense" does not exist' in done.stderr and "shard s1" in done.stderr
    assert columns(rig) == {"s1": [], "s2": [], "s3": []}
    op = last(rig)
    assert op["status"] == "failed" and states(op) == {"s1": "failed", "s2": "waiting", "s3": "waiting"}
    migrate(rig, ADD, "--wait")  # nothing is in the way of the next


def test_it_stops_at_the_shard_that_refuses_and_goes_on_from_there(rig):
    rig.sql("s2", "ALTER TABLE customers ADD COLUMN note int")
    done = migrate(rig, ADD, "--wait", code=1)
    assert "on s1 already, not yet on s2, s3" in done.stderr and "already exists" in done.stderr
    assert "s2 failed" in words(done) and "s3 waiting" in words(done)
    op = last(rig)
    assert (op["status"], op["state"]) == ("running", "stopped")
    with pytest.raises(Problem, match="wait for it or cancel it"):  # no two schemas meet
        rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s1"})
    rig.stop()
    rig.start()  # a restart leaves it as it is
    assert last(rig)["state"] == "stopped" and columns(rig)["s3"] == []
    assert "stopped" in cli(rig, "describe", "operation", op["id"]).stdout
    rig.sql("s2", "ALTER TABLE customers DROP COLUMN note")
    cli(rig, "migrate", "--resume", op["id"], "--wait")
    assert columns(rig) == {"s1": ["note"], "s2": ["note"], "s3": ["note"]}
    assert last(rig)["status"] == "done"
    rig.assert_consistent()


def test_giving_it_up_says_who_has_it(rig):
    rig.sql("s3", "ALTER TABLE customers ADD COLUMN note int")
    migrate(rig, ADD, "--wait", code=1)
    cli(rig, "cancel", last(rig)["id"], "--wait")
    op = last(rig)
    assert op["status"] == "failed" and op["error"]["message"].startswith("given up: on s1, s2 already, not yet on s3")
    cli(rig, "migrate", "--resume", op["id"], code=4)  # it has ended


def test_a_lock_is_waited_for_in_short_turns(rig):
    """Writers behind us are not held for longer than the lock timeout, and it comes through in the end."""
    holder = subprocess.Popen(
        ["psql", "-X", "-q", rig.dsn("s2"), "-c", "BEGIN; SELECT count(*) FROM customers; SELECT pg_sleep(3)"],
        stdout=subprocess.DEVNULL,
    )
    longest, stop = [0.0], threading.Event()

    def write():
        while not stop.is_set():
            start = time.monotonic()
            rig.sql("s2", "UPDATE customers SET name = name WHERE false")
            longest[0] = max(longest[0], time.monotonic() - start)

    deadline = time.monotonic() + 20
    while not rig.sql("s2", "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        assert time.monotonic() < deadline, "the lock was not taken"
    writer = threading.Thread(target=write)
    writer.start()
    try:
        migrate(rig, ADD, "--lock-timeout", "100ms", "--wait")
    finally:
        stop.set()
        writer.join()
        holder.wait()
    assert columns(rig) == {"s1": ["note"], "s2": ["note"], "s3": ["note"]}
    assert longest[0] < 2, longest  # not the 3 s that the lock was held


def test_a_lock_that_does_not_come_ends_it(rig):
    holder = subprocess.Popen(
        ["psql", "-X", "-q", rig.dsn("s1"), "-c", "BEGIN; LOCK TABLE customers; SELECT pg_sleep(60)"],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not rig.sql("s1", "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
            assert time.monotonic() < deadline
        done = migrate(rig, ADD, "--lock-timeout", "50ms", "--attempts", "3", "--wait", code=1)
    finally:
        holder.kill()
        holder.wait()
        rig.sql("s1", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    assert "lock timeout" in done.stderr
    assert columns(rig) == {"s1": [], "s2": [], "s3": []}


def test_a_dry_run_asks_everyone_and_changes_nothing(rig):
    rig.sql("s2", "ALTER TABLE customers ADD COLUMN note int")
    done = migrate(rig, ADD, "--dry-run", code=1)
    assert all(said in words(done) for said in ("s1 applied", "s2 failed", "s3 applied"))
    assert columns(rig) == {"s1": [], "s2": ["note"], "s3": []}
    rig.sql("s2", "ALTER TABLE customers DROP COLUMN note")
    migrate(rig, ADD, "--dry-run")
    assert columns(rig) == {"s1": [], "s2": [], "s3": []}


@pytest.mark.parametrize(
    "script, said",
    [
        (
            "DROP TABLE orders; CREATE TABLE orders (customer_id int NOT NULL)",
            "changes the type of the shard key",
        ),
        ("ALTER TABLE orders ALTER customer_id TYPE int", "cannot alter type of a column used in a trigger definition"),
        ("ALTER TABLE orders RENAME TO purchases", "table public.orders does not exist"),
        ("ALTER TABLE orders DROP CONSTRAINT orders_pkey; COMMIT", "EXECUTE of transaction commands"),
        (
            "CREATE INDEX CONCURRENTLY ON customers (name)",
            "CREATE INDEX CONCURRENTLY cannot run inside a transaction block",
        ),
        ("ALTER TABLE orders DROP COLUMN customer_id CASCADE", "no column customer_id to shard by"),
        ("   ;\n", "the script is empty"),
    ],
)
def test_what_the_guards_could_not_hold_is_refused(rig, script, said):
    before = rig.sql("s1", "SELECT count(*) FROM pg_attribute")
    done = migrate(rig, script, "--wait", code=2 if "empty" in said else 1)
    assert said in done.stderr, done
    assert rig.sql("s1", "SELECT count(*) FROM pg_attribute") == before


def test_guards_that_the_script_took_away_are_there_again(rig):
    migrate(rig, "ALTER TABLE customers DISABLE TRIGGER USER; ALTER TABLE orders DISABLE TRIGGER USER", "--wait")
    for shard in EVERY:
        assert rig.sql(shard, "SELECT * FROM shardherd.guard_findings()") == []


@pytest.mark.parametrize(
    "place", ["migrate:state:planned:0", "migrate:after:shard", "migrate:state:applying:1", "migrate:state:done:3"]
)
def test_a_killed_manager_runs_it_once_on_each(own, place):
    rig = own
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": place})
    script = "CREATE TABLE ran (n int); INSERT INTO ran VALUES (1); ALTER TABLE customers ADD COLUMN note text"
    with pytest.raises((Problem, OSError)):
        rig.wait_operation(
            rig.fetch("/v1/databases/shop/migrations", "POST", script.encode(), mime="application/sql")["id"]
        )
    rig.wait_dead()
    rig.start()
    op = rig.wait_operation(last(rig)["id"])
    assert op["status"] == "done", op
    for shard in EVERY:
        assert rig.sql(shard, "SELECT count(*) FROM ran") == [(1,)]
    assert columns(rig) == {"s1": ["note"], "s2": ["note"], "s3": ["note"]}


def test_a_move_that_runs_is_waited_for(own):
    rig = own
    split = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s1", "bake": "10s"})
    done = migrate(rig, ADD, "--wait", code=4)
    assert f"operation {split['id']} runs on database shop" in done.stderr
    rig.wait_operation(split["id"])
