"""Light guards: where it is proved that nothing foreign is in a table, and for no longer."""

import itertools
import os

import psycopg
import pytest
from conftest import VERSIONS
from guarded import LEAST, MOST, Shard, open_gate, settle, start_server
from rig import Rig

pytestmark = pytest.mark.beside

_number = itertools.count()

SCHEMA = """
CREATE TABLE accounts (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0);
CREATE TABLE "Odd, {""Name}" ("the 'key'" bigint PRIMARY KEY, v int NOT NULL DEFAULT 0);
CREATE TABLE parts (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0) PARTITION BY HASH (k);
CREATE TABLE parts0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
GRANT CREATE ON SCHEMA public TO app;
ALTER TABLE accounts OWNER TO app;
"""
ODD = '"Odd, {""Name}"'
ODD_KEY = "the 'key'"


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return start_server(pg_factory_module, request.param)


@pytest.fixture
def shard(server):
    made = Shard(server, f"l{next(_number)}")
    made.run(SCHEMA)
    made.make(None, accounts="k", parts="k")
    made.run("SELECT shardherd.add_table(1, %s, %s)", f"public.{ODD}", ODD_KEY)
    made.own([(0, MOST)])
    for table, key in (("accounts", "k"), (ODD, f'"{ODD_KEY}"'), ("parts", "k")):
        made.run(f"INSERT INTO {table} ({key}) SELECT unnest(%s::bigint[])", made.owned)
    yield made
    made.close()


def light(shard):
    return {name for (name,) in shard.run("SELECT name FROM shardherd.tables WHERE shardherd.is_light(name::regclass)")}


ALL = {"public.accounts", f"public.{ODD}"}


def prove(shard):
    """As the manager does at the end of a move. The tables it looked through."""
    seen, last = [], ""
    while (last := shard.value("SELECT shardherd.prove_pure(1, %s)", last)) is not None:
        seen.append(last)
    steps = 1
    while not shard.value("SELECT shardherd.lighten(1, 1)"):
        steps += 1
        assert steps < 9
    return seen


@pytest.fixture
def lit(shard):
    assert prove(shard) == sorted(ALL)
    assert light(shard) == ALL
    assert shard.findings() == []
    return shard


def refuses_foreign(shard, **on):
    """What brings a foreign row into accounts, in whatever way."""
    ours, foreign = shard.owned[0], shard.foreign[0]
    for sql in (
        f"INSERT INTO accounts VALUES ({foreign})",
        f"INSERT INTO accounts SELECT unnest(ARRAY[{ours + 100000}, {foreign}])",
        f"UPDATE accounts SET k = {foreign} WHERE k = {ours}",
        f"UPDATE accounts SET (v, k) = (SELECT 1, {foreign}) WHERE k = {ours}",
        f"INSERT INTO accounts VALUES ({ours}) ON CONFLICT (k) DO UPDATE SET k = {foreign}",
        f"MERGE INTO accounts a USING (VALUES ({ours})) x(k) ON a.k = x.k WHEN MATCHED THEN UPDATE SET k = {foreign}",
        f"MERGE INTO accounts a USING (VALUES ({foreign})) x(k) ON a.k = x.k WHEN NOT MATCHED THEN INSERT VALUES (x.k)",
    ):
        with shard.refused("SHR01", "accounts", "epoch 1"):
            shard.run(sql, **on)


def test_what_would_be_foreign_is_refused(lit):
    refuses_foreign(lit)
    with lit.sql.cursor() as cursor, lit.refused("SHR01"):
        with cursor.copy("COPY accounts FROM STDIN") as copy:
            copy.write(f"{lit.foreign[0]}\t0\n")
    a, b = lit.owned[:2]
    assert lit.run("UPDATE accounts SET v = v + 1 WHERE k = %s", a) == 1
    assert lit.run("DELETE FROM accounts WHERE k = %s", b) == 1
    assert lit.run("UPDATE accounts SET k = %s WHERE k = %s", b, a) == 1  # from owned to owned
    for key in (f'"{ODD_KEY}"',):
        with lit.refused("SHR01"):
            lit.run(f"UPDATE {ODD} SET {key} = %s WHERE {key} = %s", lit.foreign[0], b)
        with lit.refused("SHR01"):
            lit.run(f"INSERT INTO {ODD} VALUES (%s)", lit.foreign[0])


def test_a_key_that_comes_by_a_cascade_is_looked_at(lit):
    lit.run(
        "CREATE TABLE parents (k bigint PRIMARY KEY);"
        "CREATE TABLE children (k bigint PRIMARY KEY REFERENCES parents ON UPDATE CASCADE)"
    )
    lit.run("SELECT shardherd.add_table(1, 'public.children', 'k'); SELECT shardherd.install_guards()")
    lit.run("INSERT INTO parents VALUES (%s)", lit.owned[0])
    lit.run("INSERT INTO children VALUES (%s)", lit.owned[0])
    prove(lit)
    assert "public.children" in light(lit)
    with lit.refused("SHR01", "children"):
        lit.run("UPDATE parents SET k = %s", lit.foreign[0])


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_nobody_passes_not_even_who_has_a_replication_origin(lit, role):
    with lit.replicating() as connection:
        lit.run(f"SET session_replication_role = {role}", on=connection)
        refuses_foreign(lit, on=connection)
        assert lit.run("UPDATE accounts SET v = 1 WHERE k = %s", lit.owned[0], on=connection) == 1
        assert lit.run("DELETE FROM accounts WHERE k = %s", lit.owned[0], on=connection) == 1


REWRITES = """
CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.v = 77 THEN NEW.k := {}; END IF; RETURN NEW; END $$;
CREATE TRIGGER rewrite BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION rewrite();
"""


@pytest.mark.parametrize("when", ["before", "after", "after, by who may", "in the replica role"])
def test_a_trigger_that_rewrites_the_key(shard, when):
    if when == "before":
        shard.run(REWRITES.format(shard.foreign[0]))
    prove(shard)
    session = shard.connect(user="app") if when == "after, by who may" else shard.sql
    if when == "in the replica role":
        shard.run("SET session_replication_role = replica")
    if when != "before":
        shard.run(REWRITES.format(shard.foreign[0]), on=session)
    shard.run("SET session_replication_role = origin")
    assert light(shard) == ALL
    with shard.refused("SHR01", "accounts"):
        shard.run("UPDATE accounts SET v = 77 WHERE k = %s", shard.owned[0])
    assert shard.run("UPDATE accounts SET v = 7 WHERE k = %s", shard.owned[0]) == 1
    assert shard.findings() == []


def test_a_table_with_a_foreign_row_and_partitions_stay_as_they_are(shard):
    shard.place("INSERT INTO accounts VALUES (%s)", shard.foreign[0])
    assert prove(shard) == sorted(ALL)
    assert light(shard) == {f"public.{ODD}"}
    with shard.refused("SHR01"):
        shard.run("UPDATE accounts SET v = 1 WHERE k = %s", shard.foreign[0])
    shard.place("DELETE FROM accounts WHERE k = %s", shard.foreign[0])
    assert prove(shard) == ["public.accounts"]
    assert light(shard) == ALL


def test_a_move_makes_them_whole_before_rows_come(lit):
    """On its target, and light again at the end without another look: what it brought is owned."""
    lit.freeze(lo=LEAST, hi=-1)
    assert light(lit) == set()
    assert prove(lit) == [] and light(lit) == set()  # not while it is here
    lit.place("INSERT INTO accounts SELECT unnest(%s::bigint[])", lit.foreign)
    with lit.refused("SHR01"):
        lit.run("UPDATE accounts SET v = 1 WHERE k = %s", lit.foreign[0])
    with lit.refused("SHR01"):
        lit.run("DELETE FROM accounts WHERE k = %s", lit.foreign[0])
    lit.run("SELECT shardherd.close_gate(1, 'm1', %s, -1)", LEAST)
    open_gate(lit, lo=LEAST, hi=-1)
    settle(lit, LEAST, -1)
    assert light(lit) == set()
    lit.unfreeze()
    assert prove(lit) == [] and light(lit) == ALL
    assert lit.run("UPDATE accounts SET v = 1 WHERE k = %s", lit.foreign[0]) == 1


@pytest.mark.parametrize("cleaned", [True, False])
def test_source_of_a_move_is_looked_through(lit, cleaned):
    middle = 2**61
    away = lit.value("SELECT min(k) FROM accounts WHERE hashint8extended(k, 0) >= %s", middle)
    lit.freeze(lo=middle)
    lit.fence(middle, MOST)
    lit.run("SELECT shardherd.settle_fence(1, 'm1')")
    if cleaned:
        for table, key in (("accounts", "k"), (ODD, f'"{ODD_KEY}"'), ("parts", "k")):
            lit.place(f"DELETE FROM {table} WHERE hashint8extended({key}, 0) >= %s", middle)
    lit.unfreeze()
    assert prove(lit) == sorted(ALL)
    assert light(lit) == (ALL if cleaned else set())
    for sql in (f"UPDATE accounts SET v = 1 WHERE k = {away}", f"DELETE FROM accounts WHERE k = {away}"):
        if cleaned:
            assert lit.run(sql) == 0
        else:
            with lit.refused("SHR01", "epoch 2"):
                lit.run(sql)
    with lit.refused("SHR01" if cleaned else "23505"):
        lit.run("INSERT INTO accounts VALUES (%s)", away)


def test_two_moves_at_a_time_and_one_that_goes_back(lit):
    lit.freeze("m1", LEAST, -2)
    lit.place("INSERT INTO accounts VALUES (%s)", lit.foreign[0])
    lit.freeze("m2", 0, MOST)
    lit.unfreeze("m2")  # taken back before its fence: what it is about is owned
    assert prove(lit) == [] and light(lit) == set()
    lit.unfreeze("m1")  # its rows are still here
    assert prove(lit) == sorted(ALL) and light(lit) == {f"public.{ODD}"}


@pytest.mark.parametrize("how", ["promoted", "owner", "guard off", "anew", "older"])
def test_what_makes_them_whole(lit, how):
    if how == "promoted":
        assert lit.value("SELECT shardherd.settle_promoted(1, 2, ARRAY[0::bigint], ARRAY[9::bigint])") == "settled"
    elif how == "owner":
        lit.own([(0, 9)], 2)
    elif how == "guard off":
        lit.run("ALTER TABLE accounts DISABLE TRIGGER shardherd_guard_update")
        assert [f[0] for f in lit.findings()] == ["public.accounts"]
        assert [f[0] for f in lit.run("SELECT * FROM shardherd.check_guards()")] == ["public.accounts"]
        lit.run("SELECT shardherd.install_guards()")
    elif how == "anew":
        lit.run("DROP TABLE accounts; CREATE TABLE accounts (k bigint PRIMARY KEY, v int)")
        lit.run("INSERT INTO accounts VALUES (%s)", lit.foreign[0])
        lit.run("SELECT shardherd.install_guards()")
    else:  # frozen by a version that knew of no ranges
        lit.freeze()
        lit.run("UPDATE shardherd.freeze SET lo = NULL, hi = NULL")
        lit.unfreeze()
    shared = {f"public.{ODD}"} if how in ("guard off", "anew") else set()
    lit.run("SELECT shardherd.lighten(1)")
    assert light(lit) == shared


def test_an_older_leader_proves_and_lightens_nothing(shard):
    shard.run("SELECT shardherd.raise_term(2)")
    with shard.refused("SHR03"):
        shard.run("SELECT shardherd.prove_pure(1, '')")
    with shard.refused("SHR03"):
        shard.run("SELECT shardherd.lighten(1)")


def test_the_trigger_for_strict_clients_stays_off_where_it_is_switched_off(lit):
    """By who has none: through a whole move."""
    lit.run("ALTER TABLE accounts DISABLE TRIGGER shardherd_strict")
    client = lit.connect()
    lit.run("SET shardherd.epoch = 9", on=client)

    def strict():
        try:
            lit.run("UPDATE accounts SET v = 1 WHERE false", on=client)
        except psycopg.Error as error:
            assert error.sqlstate == "SHR01", error
            return True
        return False

    middle = 2**61
    steps = (
        lambda: None,
        lambda: lit.freeze(lo=middle),
        lambda: lit.prepare_fence(middle, MOST),
        lambda: lit.fence(middle, MOST),
        lambda: lit.run("SELECT shardherd.settle_fence(1, 'm1')"),
        lit.unfreeze,
        lambda: prove(lit),
    )
    for step in steps:
        step()
        assert not strict()
        with lit.refused("SHR01", "routed with epoch 9"):
            lit.run(f"UPDATE {ODD} SET v = 1 WHERE false", on=client)
    lit.run("ALTER TABLE accounts ENABLE TRIGGER shardherd_strict")
    assert strict()


def test_strict_clients_are_held_to_the_epoch(lit):
    client = lit.connect()
    lit.run("SET shardherd.epoch = 9", on=client)
    with lit.refused("SHR01", "routed with epoch 9"):
        lit.run("UPDATE accounts SET v = 1 WHERE false", on=client)


def test_a_manager_makes_them_light_and_whole(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-light-{os.getpid()}")

    def states(shard):
        query = (
            "SELECT DISTINCT shardherd.is_light(c.oid) FROM shardherd.tables JOIN pg_class c ON c.oid = name::regclass"
        )
        return [state for (state,) in rig.sql(shard, query)]

    try:
        rig.start()
        rig.make_shop(customers=300)
        assert states("s1") == states("s2") == [True]
        rig.start_load("--clients", "2", "--rate", "100")
        op_id = rig.start_move(kind="split", shard="s1", bake="10m")
        rig.wait_baking(op_id)
        assert states("s1") == states("s3") == [False] and states("s2") == [True]
        rig.post(f"/v1/operations/{op_id}/rollback", None)
        assert rig.wait_operation(op_id)["status"] == "undone"
        assert states("s1") == [True]
        for kind, shard, more in (("split", "s1", {}), ("rebalance", "s1", {"target": "s2"})):
            op_id = rig.start_move(kind=kind, shard=shard, bake="0s", **more)
            assert rig.wait_operation(op_id)["status"] == "done"
            assert states("s1") == states("s2") == states("s3") == [True]
        result = rig.stop_load()
        assert [result[name] for name in ("lost", "duplicated", "misplaced", "resurrected")] == [0] * 4, result
        rig.assert_consistent()
    finally:
        rig.clean_up()
