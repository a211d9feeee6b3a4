"""The SQL of a move, function by function: gate, fence, term, freeze, checks, clean-up. (Comparison: test_verify_sql.py.)"""

# ruff: noqa: E501 - tables of SQL texts

import threading

import psycopg
import pytest
from conftest import VERSIONS, wait_until
from guarded import ACCOUNTS, LEAST, MOST, Shard, open_gate, settle, start_server, with_accounts, write

pytestmark = pytest.mark.beside

_number = iter(range(1, 100000))


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return start_server(pg_factory_module, request.param)


@pytest.fixture
def shard(server):
    made = Shard(server, f"m{next(_number)}")
    yield made
    made.close()


@pytest.fixture
def source(shard):
    """Owns 0 to max."""
    return with_accounts(shard)


@pytest.fixture
def target(shard):
    """Owns nothing, holds the rows of 0 to max, as after the copy; its gate for them is closed."""
    shard.make(ACCOUNTS, ranges=(), accounts="k")
    shard.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
    shard.place("INSERT INTO accounts (k) SELECT unnest(%s::bigint[])", shard.owned)
    shard.run("SELECT shardherd.close_gate(1, 'm1', 0, %s)", MOST)
    return shard


# ---- gate ----


def test_gate_closed_open_settled(target):
    shard, client = target, target.connect("app")
    for sql in ("UPDATE accounts SET v = 1 WHERE k = %s", "DELETE FROM accounts WHERE k = %s"):
        with shard.refused("SHR01"):
            shard.run(sql, shard.owned[0], on=client)
    first = open_gate(shard)
    assert write(shard, client) == 1
    with shard.refused("SHR01"):  # open for its range only
        shard.run("INSERT INTO accounts VALUES (%s)", shard.foreign[0], on=client)
    with shard.refused("SHR01"):
        shard.run("UPDATE accounts SET k = %s WHERE k = %s", shard.foreign[0], shard.owned[0], on=client)
    assert open_gate(shard) == first  # again, after a crash: X is only ever read back
    settle(shard)
    assert shard.ranges() == (2, [(0, MOST)])
    assert shard.value("SELECT count(*) FROM shardherd.gate") == 0
    assert write(shard, client) == 1
    with shard.refused("SHR01", "epoch 2"):
        shard.run("INSERT INTO accounts VALUES (%s)", shard.foreign[0], on=client)
    settle(shard, epoch=9)  # again: nothing
    assert shard.ranges() == (2, [(0, MOST)])
    assert open_gate(shard) is not None  # again, settled already


def test_gate_beside_what_the_target_owns(target):
    """A target that owns other ranges goes on serving them, gate or no gate; strict clients that routed by a table
    which is published already wait for the opening [A3]."""
    shard = target
    shard.run("SELECT shardherd.burn_gate(1, 'm1')")
    shard.own([(LEAST, -1)])
    shard.run("SELECT shardherd.close_gate(1, 'm1', 0, %s)", MOST)
    client, early = shard.connect("app"), shard.connect("app")
    shard.run("SET shardherd.epoch = '1'", on=client)
    shard.run("SET shardherd.epoch = '77'", on=early)
    assert shard.run("INSERT INTO accounts VALUES (%s)", shard.foreign[0], on=client) == 1
    with shard.refused("SHR01", "routed with epoch 77"):
        shard.run("DELETE FROM accounts WHERE k = %s", shard.foreign[0], on=early)
    with shard.refused("SHR01"):
        write(shard, client)
    new = next(n for n in range(10**9, 2 * 10**9) if shard.value("SELECT hashint8extended(%s, 0) >= 0", n))
    with shard.refused("SHR01"):
        shard.run("UPDATE accounts SET k = %s WHERE k = %s", new, shard.foreign[0], on=client)
    open_gate(shard)
    for one in (client, early):
        assert write(shard, one) == 1


def test_A1_old_snapshot_does_not_see_a_gate_open(target):
    """There and back and there again: each move has a row of its own, which an older snapshot cannot see."""
    shard = target
    open_gate(shard)
    oldest, old = shard.connect(autocommit=False), shard.connect(autocommit=False)
    oldest.isolation_level = old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    shard.run("SELECT count(*) FROM accounts", on=oldest)  # sees the gate of m1 open
    settle(shard)
    assert write(shard) == 1
    shard.run("SELECT count(*) FROM accounts", on=old)  # sees R owned here
    shard.fence(0, MOST, 2, 3)
    shard.run("SELECT shardherd.close_gate(1, 'm2', 0, %s)", MOST)
    for number, client in enumerate((oldest, old)):
        with shard.refused("SHR01"):
            write(shard, client, key=number + 1)
    old.rollback()
    shard.run("SELECT count(*) FROM accounts", on=old)  # sees the gate of m2 closed
    open_gate(shard, "m2")
    with shard.refused("SHR01"):
        write(shard, old)
    old.rollback()
    assert write(shard, old) == 1
    old.commit()


def test_A1_a_gate_is_never_closed_again(target):
    open_gate(target)
    with target.refused("55000", "is open"):
        target.run("SELECT shardherd.close_gate(1, 'm1', 0, %s)", MOST)
    with target.refused("55000", "can only go forward"):
        target.run("SELECT shardherd.burn_gate(1, 'm1')")
    assert write(target) == 1


def test_A1_a_burned_gate_cannot_be_opened(target):
    target.run("SELECT shardherd.burn_gate(1, 'm1')")
    target.run("SELECT shardherd.burn_gate(1, 'm1')")  # again
    with target.refused("55000", "has no gate here"):
        open_gate(target)
    with target.refused("55000", "has no open gate here"):
        settle(target)
    with target.refused("SHR01"):
        write(target)


def test_A17_statement_that_began_before_the_opening_is_refused(target):
    shard, client, other = target, target.connect("app"), target.connect()
    shard.run("SELECT pg_advisory_lock(1)", on=other)
    answer = shard.later(
        "UPDATE accounts SET v = 100 FROM (SELECT pg_advisory_xact_lock(1) OFFSET 0) s WHERE k = %s",
        shard.owned[0],
        on=client,
    )
    shard.wait_for_lock_of(client)
    open_gate(shard)
    shard.run("SELECT pg_advisory_unlock(1)", on=other)
    wait_until(lambda: answer, what="the statement")
    assert isinstance(answer[0], psycopg.Error) and answer[0].sqlstate == "SHR01", answer
    assert write(shard, client) == 1


# ---- fence ----


@pytest.mark.parametrize(
    ("owned", "lo", "hi", "left"),
    [
        ([(0, MOST)], 0, MOST, []),
        ([(0, MOST)], 0, 5, [(6, MOST)]),
        ([(0, MOST)], 7, MOST, [(0, 6)]),
        ([(0, MOST)], 7, 9, [(0, 6), (10, MOST)]),
        ([(LEAST, MOST)], LEAST, LEAST, [(LEAST + 1, MOST)]),
        ([(LEAST, -1), (5, 9), (20, MOST)], 5, 9, [(LEAST, -1), (20, MOST)]),
        ([(LEAST, MOST)], MOST, MOST, [(LEAST, MOST - 1)]),
    ],
)
def test_fence_gives_away_exactly_the_range(source, owned, lo, hi, left):
    source.own(owned)
    source.fence(lo, hi)
    assert source.ranges() == (2, left)
    assert not source.value("SELECT shardherd.owns(%s, %s)", lo, hi)
    for low, high in left:
        assert source.value("SELECT shardherd.owns(%s, %s)", low, high)


def test_A19_fence_compares_the_epoch(source):
    source.fence(0, 9)
    with source.refused("55000", "is at epoch 2, not 1"):
        source.fence(10, 19, old=1, new=3)
    with source.refused("55000", "does not own"):
        source.fence(0, 9, old=2, new=3)
    with source.refused("55000", "does not own"):
        source.fence(5, 19, old=2, new=3)  # half of it is gone
    assert source.ranges() == (2, [(10, MOST)])
    source.fence(10, 19, old=2, new=3)
    assert source.ranges() == (3, [(20, MOST)])


def test_fence_that_is_rolled_back_changes_nothing(source):
    client = source.connect(autocommit=False)
    source.run("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE", on=client)
    source.run("SELECT shardherd.fence('m1', 0, %s, 1, 2)", MOST, on=client)
    writer = source.connect("app")
    answer = source.later("UPDATE accounts SET v = 5 WHERE k = %s", source.owned[0], on=writer)
    source.wait_for_lock_of(writer)
    client.rollback()
    wait_until(lambda: answer, what="the writer")
    assert answer == [1]
    assert source.ranges() == (1, [(0, MOST)])


def test_writer_that_waits_for_the_fence_is_refused(source):
    client = source.connect(autocommit=False)
    source.run("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE", on=client)
    writer = source.connect("app")
    answer = source.later("UPDATE accounts SET v = 5 WHERE k = %s", source.owned[0], on=writer)
    source.wait_for_lock_of(writer)
    source.run("SELECT shardherd.fence('m1', 0, %s, 1, 2)", MOST, on=client)
    client.commit()
    wait_until(lambda: answer, what="the writer")
    assert isinstance(answer[0], psycopg.Error) and answer[0].sqlstate == "SHR01", answer


# ---- term ----


def test_A5_an_older_leader_can_do_nothing(target):
    shard = target
    shard.run("SELECT shardherd.raise_term(5)")
    shard.run("SELECT shardherd.raise_term(5)")
    for sql in (
        "SELECT shardherd.check_term(4)",
        "SELECT shardherd.raise_term(4)",
        "SELECT shardherd.open_gate(4, 'm1', 0, 9, '{}', '{}')",
        "SELECT shardherd.close_gate(4, 'm2', 0, 9)",
        "SELECT shardherd.burn_gate(4, 'm1')",
        "SELECT shardherd.settle(4, 'm1', 0, 9, 2)",
        "SELECT shardherd.freeze(4, 'm1', 0, 9)",
        "SELECT shardherd.unfreeze(4, 'm1')",
        "SELECT shardherd.publish_range(4, 'm1', 'p', 0, 9)",
        "SELECT shardherd.set_shard(4, 'shop', 's1', 1, '{}', '{}')",
        "SELECT shardherd.add_table(4, 'accounts', 'k')",
        "SELECT shardherd.delete_batch(4, 'p', 'accounts', 'k', 'bigint', 0, 9, 0, 9)",
    ):
        with shard.refused("SHR03", "term 4 is over, term 5 leads"):
            shard.run(sql)
    assert shard.value("SELECT term FROM shardherd.control") == 5
    assert shard.value("SELECT open FROM shardherd.gate") is False
    with shard.refused("SHR01"):
        write(shard)


def test_A5_an_opening_in_flight_makes_the_new_leader_wait(target):
    old, new = target.connect(autocommit=False), target.connect()
    open_gate(target, on=old)
    answer = target.later("SELECT shardherd.raise_term(2)", on=new)
    target.wait_for_lock_of(new)
    old.commit()
    wait_until(lambda: answer, what="the new leader")
    assert not isinstance(answer[0], psycopg.Error)
    with target.refused("55000", "can only go forward"):  # it was opened: the new leader sees it
        target.run("SELECT shardherd.burn_gate(2, 'm1')")


# ---- clean-up ----


def delete(shard, lo=0, hi=MOST, on=None, slot="no_slot"):
    return shard.value(
        "SELECT sum(shardherd.delete_batch(1, %s, relation::regclass, key, type, %s, %s, 0, blocks)) FROM shardherd.heaps()",
        slot, lo, hi, on=on,
    )  # fmt: skip


def test_A8_a_stale_batch_deletes_nothing_on_the_owner(source):
    with source.replicating() as cleaner:
        source.run("SET session_replication_role = replica", on=cleaner)
        for lo, hi in ((0, MOST), (LEAST, 0), (5, 5), (MOST, MOST), (LEAST, MOST)):
            with source.refused("55000", "nothing is deleted"):
                delete(source, lo, hi, on=cleaner)
        source.fence(0, MOST)
        assert delete(source, on=cleaner) == len(source.owned)
    assert source.value("SELECT count(*) FROM accounts") == 0


def test_A8_not_under_an_open_gate(target):
    open_gate(target)
    with target.replicating() as cleaner, target.refused("55000", "nothing is deleted"):
        delete(target, on=cleaner)
    assert target.value("SELECT count(*) FROM accounts") == len(target.owned)


def test_A8_only_the_rows_of_the_range(source):
    source.own([])
    source.place("INSERT INTO accounts (k) SELECT unnest(%s::bigint[])", source.foreign)
    with source.replicating() as cleaner:
        assert delete(source, on=cleaner) == len(source.owned)
        assert delete(source, on=cleaner) == 0
    assert source.value("SELECT count(*) FROM accounts") == len(source.foreign)


def test_A8_a_client_cannot_do_it(source):
    """Without an origin the guards refuse even us."""
    source.own([])
    with source.refused("SHR01"):
        delete(source)


def test_A9_not_while_the_move_replicates(source):
    source.fence(0, MOST)
    slot = f"slot_{source.name}"
    source.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
    with source.replicating() as cleaner:
        with source.refused("55000", "still replicates"):
            delete(source, on=cleaner, slot=slot)
        source.run("SELECT pg_drop_replication_slot(%s)", slot)
        source.run(
            f"CREATE SUBSCRIPTION {slot} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)"
        )
        with source.refused("55000", "still replicates"):
            delete(source, on=cleaner, slot=slot)
        source.run(f"ALTER SUBSCRIPTION {slot} SET (slot_name = NONE)")
        source.run(f"DROP SUBSCRIPTION {slot}")
        assert delete(source, on=cleaner, slot=slot) == len(source.owned)


def test_partitions_are_cleaned_leaf_by_leaf(shard):
    shard.make(
        "CREATE TABLE e (k bigint, at int, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE e2 PARTITION OF e DEFAULT",
        e="k",
    )
    shard.run("INSERT INTO e SELECT k, at FROM unnest(%s::bigint[]) k, (VALUES (1), (99)) v(at)", shard.owned)
    assert {r for (r,) in shard.run("SELECT relation FROM shardherd.heaps()")} == {"public.e1", "public.e2"}
    shard.own([])
    with shard.replicating() as cleaner:
        assert delete(shard, on=cleaner) == 2 * len(shard.owned)


# ---- freeze ----


def test_A2_update_across_the_boundary(shard):
    shard.make(ACCOUNTS, ranges=((LEAST, MOST),), accounts="k")
    shard.run("INSERT INTO accounts (k) SELECT generate_series(1, 400)")
    shard.freeze()
    inside, outside = shard.owned, shard.foreign
    shard.run("DELETE FROM accounts WHERE k IN (%s, %s)", inside[5], outside[5])
    for was, becomes in ((inside[0], outside[5]), (outside[0], inside[5])):
        client = shard.connect()
        for role in ("origin", "replica"):
            shard.run(f"SET session_replication_role = {role}", on=client)
            with shard.refused("SHR02", "operation m1"):
                shard.run("UPDATE accounts SET k = %s WHERE k = %s", becomes, was, on=client)
    for was, becomes in ((inside[0], inside[5]), (outside[0], outside[5])):
        assert shard.run("UPDATE accounts SET k = %s WHERE k = %s", becomes, was) == 1
    assert shard.run("UPDATE accounts SET v = 1") == 398
    shard.unfreeze()
    assert shard.run("UPDATE accounts SET k = %s WHERE k = %s", outside[0], inside[1]) == 1


FROZEN_SCHEMA = """
CREATE TYPE colour AS ENUM ('red');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, c colour, p pair, n positive, d int DEFAULT 7,
    PRIMARY KEY (k, at), CHECK (twice(at) >= 0)) PARTITION BY RANGE (at);
CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10);
CREATE INDEX by_at ON e (at);
CREATE TRIGGER touch BEFORE UPDATE ON e FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE plain (k bigint PRIMARY KEY, t text);
CREATE TABLE spare (LIKE e INCLUDING ALL);
CREATE TABLE local (id int PRIMARY KEY, t text);
CREATE TYPE other AS ENUM ('x');
CREATE FUNCTION unrelated() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW seen AS SELECT id FROM local;
CREATE TABLE gone (id serial PRIMARY KEY, t text);
"""

REFUSED_DDL = [
    "ALTER TABLE e ADD COLUMN x int",
    "ALTER TABLE e1 ALTER COLUMN d SET DEFAULT 8",
    "ALTER TABLE plain ALTER COLUMN t TYPE varchar",
    "ALTER TABLE plain DROP COLUMN t",
    "ALTER TABLE plain RENAME TO plainer",
    "ALTER TABLE plain RENAME COLUMN t TO u",
    "ALTER TABLE plain DISABLE TRIGGER ALL",
    "ALTER TABLE plain REPLICA IDENTITY NOTHING",
    "ALTER TABLE plain SET UNLOGGED",
    "ALTER TABLE plain DROP CONSTRAINT plain_pkey",
    "ALTER TABLE e DETACH PARTITION e1",
    "ALTER TABLE e ATTACH PARTITION spare FOR VALUES FROM (10) TO (20)",
    "CREATE TABLE e9 PARTITION OF e FOR VALUES FROM (90) TO (99)",
    "CREATE TABLE heir () INHERITS (plain)",
    "CREATE INDEX late ON plain (t)",
    "CREATE UNIQUE INDEX late ON e1 (k, at)",
    "CREATE TRIGGER late BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE POLICY late ON plain USING (true)",
    "CREATE RULE late AS ON DELETE TO plain DO INSTEAD NOTHING",
    "CREATE TABLE child (k bigint REFERENCES plain)",
    "ALTER TABLE local ADD FOREIGN KEY (id) REFERENCES plain (k)",
    "DROP TABLE plain",
    "DROP TABLE e1",
    "DROP TABLE gone, plain",
    "DROP INDEX by_at",
    "DROP TRIGGER touch ON e",
    "DROP TYPE colour CASCADE",
    "DROP FUNCTION twice CASCADE",
    "DROP TRIGGER shardherd_guard_insert ON plain",
    "ALTER TYPE colour ADD VALUE 'blue'",
    "ALTER TYPE colour RENAME VALUE 'red' TO 'rot'",
    "ALTER TYPE pair ADD ATTRIBUTE c int CASCADE",
    "ALTER DOMAIN positive DROP CONSTRAINT positive_check",
    "ALTER FUNCTION twice(int) RENAME TO thrice",
    "CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 3'",
    "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
]
ALLOWED_DDL = [
    "CREATE TABLE fresh (id serial PRIMARY KEY, t text)",
    "ALTER TABLE local ADD COLUMN more text",
    "CREATE INDEX ON local (t)",
    "CREATE TRIGGER mine BEFORE UPDATE ON local FOR EACH ROW EXECUTE FUNCTION touch()",
    "DROP TABLE gone",
    "DROP VIEW seen",
    "ALTER TYPE other ADD VALUE 'y'",
    "DROP TYPE other",
    "CREATE OR REPLACE FUNCTION unrelated() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "DROP FUNCTION unrelated",
    "CREATE TEMP TABLE t (id int, t text); DROP TABLE t",
    "CREATE TABLE of_type (c colour); DROP TABLE of_type",
    "DROP TABLE local CASCADE",
    "GRANT SELECT ON plain TO app",
    "COMMENT ON TABLE plain IS 'x'",
    "REINDEX TABLE plain",
    "VACUUM plain",
    "ANALYZE e",
]


@pytest.fixture
def frozen(shard):
    shard.make(FROZEN_SCHEMA, ranges=((LEAST, MOST),), e="k", plain="k")
    shard.freeze()
    return shard


def test_B12_ddl_is_refused(frozen):
    """One server for all of them: what is refused changes nothing."""
    before = frozen.run("SELECT class, object FROM shardherd.used_objects() ORDER BY 1, 2")
    passed = []
    for sql in REFUSED_DDL:
        try:
            frozen.run(sql)
            passed.append(sql)
        except psycopg.Error as error:
            if error.sqlstate != "SHR02" or "operation m1" not in str(error):
                passed.append((sql, error.sqlstate, str(error)))
    assert passed == []
    assert frozen.run("SELECT class, object FROM shardherd.used_objects() ORDER BY 1, 2") == before
    frozen.unfreeze()
    for sql in ("ALTER TABLE plain ADD COLUMN x int", "DROP TABLE e1", "ALTER TYPE colour ADD VALUE 'blue'"):
        frozen.run(sql)


def test_B12_other_ddl_passes(frozen):
    for sql in ALLOWED_DDL:
        for part in sql.split("; "):
            frozen.run(part)


def test_A16_truncate_of_table_and_partition(frozen):
    frozen.run(f"INSERT INTO plain VALUES ({frozen.owned[0]})")
    for sql in ("TRUNCATE plain", "TRUNCATE e", "TRUNCATE e1", "TRUNCATE local, plain"):
        for role in ("origin", "replica"):
            client = frozen.connect()
            frozen.run(f"SET session_replication_role = {role}", on=client)
            with frozen.refused("SHR02", "TRUNCATE of public", "operation m1"):
                frozen.run(sql, on=client)
    frozen.run("TRUNCATE local")
    frozen.unfreeze()
    for sql in ("TRUNCATE plain", "TRUNCATE e1", "TRUNCATE e"):
        frozen.run(sql)


def test_operations_of_ours_pass_the_freeze(frozen):
    """A superuser session that names its operation, as the manager does; nobody else by naming one."""
    frozen.run("BEGIN; SET LOCAL shardherd.operation = 'm1'; CREATE INDEX late ON plain (t); COMMIT")
    frozen.run("SELECT shardherd.publish_range(1, 'm1', 'shardherd_x', 0, %s)", MOST)
    frozen.run("SELECT shardherd.close_gate(1, 'm1', 0, 5)")
    frozen.run("SELECT shardherd.burn_gate(1, 'm1')")
    frozen.fence(0, MOST)
    frozen.run("BEGIN; SET LOCAL shardherd.operation = 'm1'; ALTER TABLE plain OWNER TO app; COMMIT")
    client = frozen.connect("app")
    frozen.run("SET shardherd.operation = 'm1'", on=client)
    with frozen.refused("SHR02"):
        frozen.run("ALTER TABLE plain ADD COLUMN x int", on=client)


def test_freeze_twice_and_of_two_moves(frozen):
    frozen.freeze()
    frozen.freeze("m2", LEAST, -1)
    frozen.unfreeze()
    with frozen.refused("SHR02", "operation m2"):
        frozen.run("ALTER TABLE plain ADD COLUMN x int")
    frozen.unfreeze("m2")
    frozen.unfreeze("m2")
    frozen.run("ALTER TABLE plain ADD COLUMN x int")
    assert frozen.value("SELECT count(*) FROM shardherd.frozen") == 0


def test_freeze_gives_way_to_writers(source):
    """It may not make a client wait long, nor be the reason that a client's transaction is ended."""
    client = source.connect(autocommit=False)
    write(source, client)
    with source.refused("55P03"):
        source.freeze()
    client.rollback()
    source.freeze()


# ---- checks ----

FINDINGS = {
    "A18 nullable key": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ALTER k DROP NOT NULL; ALTER TABLE t REPLICA IDENTITY FULL",
        "may be null", "ALTER TABLE t ALTER k SET NOT NULL"),
    "column gone": ("ALTER TABLE t DROP COLUMN k CASCADE; ALTER TABLE t REPLICA IDENTITY FULL", "column k is gone", None),
    "table gone": ("DROP TABLE t", "the table is gone", "CREATE TABLE t (k bigint PRIMARY KEY, v int);"
                   "SELECT shardherd.install_guards()"),
    "unlogged": ("ALTER TABLE t SET UNLOGGED", "is unlogged", "{remedy}"),
    "A18 inheritance": ("CREATE TABLE heir () INHERITS (t)", "inheritance children", "DROP TABLE heir"),
    "B11 identity nothing": ("ALTER TABLE t REPLICA IDENTITY NOTHING", "replica identity of public.t does not contain",
                         "ALTER TABLE t REPLICA IDENTITY DEFAULT"),
    "B11 identity of another index": (
        "ALTER TABLE t ALTER v SET NOT NULL; CREATE UNIQUE INDEX by_v ON t (v); ALTER TABLE t REPLICA IDENTITY USING INDEX by_v;"
        "DROP INDEX IF EXISTS none; ", "replica identity", None),
    "B11 deferrable primary key": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (k) DEFERRABLE", "replica identity",
        "CREATE UNIQUE INDEX i ON t (k); ALTER TABLE t REPLICA IDENTITY USING INDEX i"),
    "B10 unique without key": ("CREATE UNIQUE INDEX by_v ON t (v)", "unique index public.by_v does not contain", "DROP INDEX by_v"),
    "B10 exclusion": ("ALTER TABLE t ADD EXCLUDE USING btree (v WITH =)", "does not contain the shard key",
                  "ALTER TABLE t DROP CONSTRAINT t_v_excl"),
    "B18 foreign key to a local table": (
        "CREATE TABLE local (id int PRIMARY KEY); ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (v) REFERENCES local",
        "foreign key f does not join", "ALTER TABLE t DROP CONSTRAINT f"),
    "B18 foreign key from a local table": (
        "CREATE TABLE local (k bigint CONSTRAINT f REFERENCES t)", "foreign key f does not join", "DROP TABLE local"),
    "B13 always trigger": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW! END $$;"
        "CREATE TRIGGER mine BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER mine",
        "trigger mine fires in apply workers", "{remedy}"),
    "A18 guard disabled": ("ALTER TABLE t DISABLE TRIGGER shardherd_guard_delete", "guard shardherd_guard_delete is missing",
                       "SELECT shardherd.install_guards()"),
    "A18 guard dropped": ("DROP TRIGGER shardherd_guard_update ON t", "guard shardherd_guard_update is missing",
                      "SELECT shardherd.install_guards()"),
    "A18 guard reset": ("ALTER TABLE t ENABLE TRIGGER shardherd_guard_replica", "guard shardherd_guard_replica is missing",
                    "SELECT shardherd.install_guards()"),
    "A18 guard for another role": (
        "ALTER TABLE t ENABLE REPLICA TRIGGER shardherd_guard_insert", "guard shardherd_guard_insert is missing",
        "SELECT shardherd.install_guards()"),
    "B11 full with json": ("ALTER TABLE t ADD COLUMN j json; ALTER TABLE t REPLICA IDENTITY FULL", "has type json",
                       "ALTER TABLE t REPLICA IDENTITY DEFAULT"),
    "A18 foreign subscription": (
        "CREATE SUBSCRIPTION {sub} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false);"
        "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT oid, 't'::regclass, 'r' FROM pg_subscription "
        "WHERE subname = '{sub}'", "another subscription writes",
        "ALTER SUBSCRIPTION {sub} SET (slot_name = NONE); DROP SUBSCRIPTION {sub}"),
    "D2 prepared transaction": ("BEGIN; INSERT INTO t VALUES (1000); PREPARE TRANSACTION '{sub}'", "a prepared transaction is open",
                             "ROLLBACK PREPARED '{sub}'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FINDINGS)
def test_check_finds_it_once_and_the_remedy_works(shard, case):
    sql, word, remedy = FINDINGS[case]
    shard.make("CREATE TABLE t (k bigint PRIMARY KEY, v int)", ranges=((LEAST, MOST),), t="k")
    assert shard.findings() == []
    admin = shard.connect(options="-c allow_system_table_mods=on")
    for part in sql.format(sub=f"sub_{shard.name}").split(";"):
        if part.strip():
            shard.run(part.replace("!", ";"), on=admin)
    found = shard.findings()
    assert sum(word in finding for _, finding, _ in found) == 1, found
    assert len(found) == len(set(found)), found
    text = next(remedy for _, finding, remedy in found if word in finding)
    assert text
    if remedy is not None:
        for part in remedy.format(remedy=text, sub=f"sub_{shard.name}").split(";"):
            shard.run(part, on=admin)
        assert shard.findings() == []


def test_check_of_a_partitioned_table(shard):
    shard.make(
        "CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE e2 PARTITION OF e DEFAULT PARTITION BY LIST (at); CREATE TABLE e2a PARTITION OF e2 DEFAULT",
        ranges=((LEAST, MOST),),
        e="k",
    )
    assert shard.findings() == []
    shard.run("ALTER TABLE e1 REPLICA IDENTITY NOTHING; ALTER TABLE e2a REPLICA IDENTITY NOTHING")
    found = shard.findings()
    assert len(found) == 2 and all("replica identity of e" in f[1] or "public.e" in f[1] for f in found), found
    shard.run("ALTER TABLE e1 REPLICA IDENTITY DEFAULT; ALTER TABLE e2a REPLICA IDENTITY FULL")
    assert shard.findings() == []


def test_check_with_foreign_keys_on_the_shard_key(shard):
    shard.make(
        "CREATE TABLE p (k bigint PRIMARY KEY); CREATE TABLE c (k bigint REFERENCES p, n int, PRIMARY KEY (k, n));"
        "CREATE TABLE d (k bigint, n int, m int, PRIMARY KEY (k, m), FOREIGN KEY (k, n) REFERENCES c)",
        ranges=((LEAST, MOST),),
        p="k", c="k", d="k",
    )  # fmt: skip
    assert shard.findings() == []


# ---- sequences ----


def test_A20_sequences_are_never_lower(target):
    shard = target
    shard.run(
        "CREATE SEQUENCE up; CREATE SEQUENCE ahead; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE fresh;"
        "SELECT setval('ahead', 5000); SELECT setval('down', -10)"
    )
    names = ["public.up", "public.ahead", "public.down", "public.fresh", "public.not_here"]
    open_gate(shard, names=names, values=[700, 800, -900, 20, 5])
    assert [shard.value(f"SELECT nextval('{n}')") for n in ("up", "ahead", "down", "fresh")] == [701, 5001, -901, 21]
    open_gate(shard, names=names, values=[600, 6000, -5, 10, 5])  # the second of a resumed opening
    assert [shard.value(f"SELECT nextval('{n}')") for n in ("up", "down", "fresh")] == [702, -902, 22]


def test_A20_what_the_source_says(source):
    source.run(
        "CREATE SEQUENCE plain; CREATE SEQUENCE cached CACHE 100; CREATE SEQUENCE down INCREMENT -2; CREATE SEQUENCE unused;"
        f"CREATE SEQUENCE last MAXVALUE {MOST}; CREATE SEQUENCE small AS smallint;"
        f"SELECT nextval('plain'), nextval('cached'), nextval('down'), setval('last', {MOST - 5}), setval('small', 32000)"
    )
    said = dict(source.run("SELECT name, value FROM shardherd.sequences(1000)"))
    connections = int(source.value("SHOW max_connections"))
    assert said == {
        "public.plain": 1 + 1000 + connections,
        "public.cached": 100 + 1000 + 100 * connections,
        "public.down": -1 - 2 * (1000 + connections),
        "public.last": MOST,
        "public.small": 32767,
    }


# ---- settling ----


@pytest.mark.parametrize(
    ("owned", "lo", "hi", "merged"),
    [
        ([], 0, MOST, [(0, MOST)]),
        ([(LEAST, -1)], 0, MOST, [(LEAST, MOST)]),
        ([(0, MOST)], LEAST, -1, [(LEAST, MOST)]),  # the least hash
        ([(LEAST, LEAST)], LEAST + 1, -1, [(LEAST, -1)]),
        ([(0, 9), (20, 29)], 10, 19, [(0, 29)]),
        ([(0, 9), (30, 39)], 11, 19, [(0, 9), (11, 19), (30, 39)]),
        ([(LEAST, -5), (5, 9)], 10, MOST, [(LEAST, -5), (5, MOST)]),
        ([(20, 29)], LEAST, LEAST, [(LEAST, LEAST), (20, 29)]),
    ],
)
def test_settle_merges_neighbours(target, owned, lo, hi, merged):
    shard = target
    shard.run("SELECT shardherd.burn_gate(1, 'm1')")
    shard.own(owned)
    shard.run("SELECT shardherd.close_gate(1, 'm2', %s, %s)", lo, hi)
    open_gate(shard, "m2", lo=lo, hi=hi)
    settle(shard, lo, hi, 4, "m2")
    assert shard.ranges() == (4, merged)
    assert shard.value("SELECT shardherd.owns(%s, %s)", lo, hi)


# ---- publication, routing ----


def test_A13_a_publication_is_not_made_anew_under_a_living_slot(source):
    name = f"shardherd_{source.name}"
    first = source.value("SELECT shardherd.publish_range(1, 'm1', %s, 0, %s)", name, MOST)
    assert source.value("SELECT shardherd.publish_range(1, 'm1', %s, 0, %s)", name, MOST) == first
    source.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)
    source.run(f"DROP PUBLICATION {name}")
    with source.refused("55000", "its publication is gone"):
        source.run("SELECT shardherd.publish_range(1, 'm1', %s, 0, %s)", name, MOST)


def test_announce_keeps_the_newest_and_notifies(source):
    listener = source.connect()
    source.run("LISTEN shardherd_routing", on=listener)
    for epoch in (4, 6, 5):
        source.run("SELECT shardherd.announce(%s, %s)", epoch, f'{{"epoch": "{epoch}"}}')
    assert source.run("SELECT epoch, document FROM shardherd.routing") == [(6, {"epoch": "6"})]
    assert [n.payload for n in listener.notifies(timeout=5, stop_after=3)] == ["4", "6", "5"]


def test_concurrent_moves_lose_nothing(source):
    """Writers against fences that come and go: what was acknowledged is there, nothing passes while R is away."""
    stop, counted, errors = threading.Event(), [0] * 4, []

    def work(n):
        client = source.connect("app")
        while not stop.is_set():
            try:
                counted[n] += source.run("UPDATE accounts SET v = v + 1 WHERE k = %s", source.owned[n], on=client)
            except psycopg.Error as error:
                if error.sqlstate != "SHR01":
                    errors.append(error)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    fence = source.connect()
    for round_ in range(10):
        before = sum(counted)
        wait_until(lambda before=before: sum(counted) > before + 20, what="writes to go on")
        source.fence(0, MOST, 2 * round_ + 1, 2 * round_ + 2, on=fence)
        held = source.run("SELECT sum(v) FROM accounts")
        assert source.run("SELECT sum(v) FROM accounts") == held
        source.own([(0, MOST)], 2 * round_ + 3)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert errors == []
    for n in range(4):
        assert source.value("SELECT v FROM accounts WHERE k = %s", source.owned[n]) == counted[n]
