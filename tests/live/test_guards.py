"""Guards: what a shard refuses, however it is asked. Names in brackets are items of the attacks on the protocol."""

import random
import string
import uuid

import psycopg
import pytest
from conftest import VERSIONS, wait_until
from guarded import HASHES, LEAST, MOST, SHARD_SQL, Shard, start_server, with_accounts

pytestmark = pytest.mark.beside

_number = iter(range(1, 100000))


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return start_server(pg_factory_module, request.param)


@pytest.fixture
def shard(server):
    made = Shard(server, f"g{next(_number)}")
    yield made
    made.close()


@pytest.fixture
def accounts(shard):
    """Owned rows from 0 to max, and, as after a move before its clean-up, rows that are not owned."""
    with_accounts(shard)
    shard.place("INSERT INTO accounts (k) SELECT unnest(%s::bigint[])", shard.foreign)
    return shard


# ---- hashes ----


def values_of(type_):
    rng = random.Random(7)
    if type_ == "uuid":
        return [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(50)] + [str(uuid.UUID(int=0))]
    if type_ in ("text", "varchar"):
        texts = ["", " ", "a", "A", "ä", "日本", "x" * 3000, "'", "\\", '"', "a\nb", "%s"]
        return texts + ["".join(rng.choices(string.printable, k=rng.randrange(70))) for _ in range(50)]
    bits = {"smallint": 16, "integer": 32, "bigint": 64}[type_]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return [str(n) for n in (low, high, 0, 1, -1, *(rng.randint(low, high) for _ in range(50)))]


@pytest.mark.parametrize("type_", HASHES)
def test_hash_of_every_key_type(shard, type_):
    """hash_value() is the server's function, and the guard lets exactly that hash pass."""
    shard.make(f"CREATE TABLE t (k {type_} NOT NULL)", ranges=(), t="k")
    for value in values_of(type_):
        expected = shard.value(f"SELECT {HASHES[type_]}", value)
        assert shard.value("SELECT shardherd.hash_value(%s, %s)", type_, value) == expected
    for value in values_of(type_)[:6]:
        expected = shard.value(f"SELECT {HASHES[type_]}", value)
        with shard.refused("SHR01", f"hash {expected} of public.t"):
            shard.run(f"INSERT INTO t VALUES (%s::{type_})", value)
        shard.own([(expected, expected)])  # an isolated key: a range of width 1
        assert shard.run(f"INSERT INTO t VALUES (%s::{type_})", value) == 1
        shard.own([])


@pytest.mark.parametrize(
    ("ranges", "inside", "outside"),
    [
        ([(LEAST, MOST)], [LEAST, 0, MOST], []),
        ([(LEAST, -1)], [LEAST, -1], [0, MOST]),
        ([(0, MOST)], [0, MOST], [LEAST, -1]),
        ([(-10, 10)], [-10, 10], [-11, 11, LEAST, MOST]),
        ([(LEAST, LEAST), (MOST, MOST)], [LEAST, MOST], [LEAST + 1, 0, MOST - 1]),
        ([], [], [LEAST, 0, MOST]),
    ],
)
def test_condition_at_the_edges(shard, ranges, inside, outside):
    los, his = [lo for lo, _ in ranges], [hi for _, hi in ranges]
    text = shard.value("SELECT shardherd.inside('h', %s::bigint[], %s::bigint[])", los, his)
    for hash_ in inside + outside:
        held = shard.value(f"SELECT ({text}) FROM (SELECT %s::bigint AS h) x", hash_)
        assert held == (hash_ in inside), (text, hash_)


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        ([(LEAST, MOST)], "false"),
        ([(LEAST, -1), (0, MOST)], "false"),
        ([], "true"),
        ([(LEAST, -1)], "h >= '0'::bigint"),
        ([(0, MOST)], "h < '0'::bigint"),
        ([(0, 10), (11, MOST)], "h < '0'::bigint"),
        ([(LEAST, 4), (6, MOST)], "h <@ '[5,6)'::int8range"),
        ([(LEAST + 1, MOST)], f"h < '{LEAST + 1}'::bigint"),
        ([(LEAST, MOST - 1)], f"h >= '{MOST}'::bigint"),
        ([(-10, 10)], "h <@ '{(,-10),[11,)}'::int8multirange"),
        ([(LEAST, -5), (5, 9), (MOST, MOST)], f"h <@ '{{[-4,5),[10,{MOST})}}'::int8multirange"),
    ],
)
def test_guards_ask_one_thing(shard, ranges, wanted):
    """One comparison for all that is not owned, and the contrary of inside() for every hash."""
    los, his = [lo for lo, _ in ranges], [hi for _, hi in ranges]
    text = shard.value("SELECT shardherd.outside_briefly('h', %s::bigint[], %s::bigint[])", los, his)
    assert text == wanted
    inside = shard.value("SELECT shardherd.inside('h', %s::bigint[], %s::bigint[])", los, his)
    edges = {h for end in [*los, *his, LEAST, MOST, 0] for h in (end - 1, end, end + 1) if LEAST <= h <= MOST}
    for hash_ in edges:
        assert shard.value(f"SELECT ({text}) <> ({inside}) FROM (SELECT %s::bigint AS h) x", hash_), hash_


# ---- every statement that writes ----

WRITES = {
    "insert": "INSERT INTO accounts VALUES (1000000 + {absent})",
    "insert_many": "INSERT INTO accounts SELECT i FROM generate_series(1001, 1100) i",
    "update": "UPDATE accounts SET v = v + 1 WHERE k = {foreign}",
    "update_all": "UPDATE accounts SET v = v + 1",
    "update_into": "UPDATE accounts SET k = 1000000 + {absent} WHERE k = {owned}",
    "update_out_of": "UPDATE accounts SET k = 1000000 + {present} WHERE k = {foreign}",
    "delete": "DELETE FROM accounts WHERE k = {foreign}",
    "upsert": "INSERT INTO accounts VALUES ({foreign}) ON CONFLICT (k) DO UPDATE SET v = 7",
    "merge_update": "MERGE INTO accounts a USING (SELECT {foreign} AS k) s ON a.k = s.k "
    "WHEN MATCHED THEN UPDATE SET v = 7",
    "merge_delete": "MERGE INTO accounts a USING (SELECT {foreign} AS k) s ON a.k = s.k WHEN MATCHED THEN DELETE",
    "merge_insert": "MERGE INTO accounts a USING (SELECT 1000000 + {absent} AS k) s ON a.k = s.k "
    "WHEN NOT MATCHED THEN INSERT (k) VALUES (s.k)",
    "cte": "WITH w AS (UPDATE accounts SET v = 7 WHERE k = {foreign} RETURNING k) SELECT count(*) FROM w",
    "do": "DO $$ BEGIN UPDATE accounts SET v = 7 WHERE k = {foreign}; END $$",
}


@pytest.mark.parametrize("statement", WRITES)
@pytest.mark.parametrize("user", ["app", "postgres"])
def test_D5_every_statement_is_refused(accounts, statement, user):
    shard = accounts
    absent = next(n for n in range(1, 100) if shard.value("SELECT hashint8extended(1000000 + %s, 0) < 0", n))
    present = next(n for n in range(1, 100) if shard.value("SELECT hashint8extended(1000000 + %s, 0) >= 0", n))
    sql = WRITES[statement].format(foreign=shard.foreign[0], owned=shard.owned[0], absent=absent, present=present)
    before = shard.run("SELECT * FROM accounts ORDER BY k")
    client = shard.connect(user)
    with shard.refused("SHR01", "public.accounts", "epoch 1"):
        shard.run(sql, on=client)
    assert shard.run("SELECT * FROM accounts ORDER BY k") == before


def test_owned_rows_pass(accounts):
    shard, client = accounts, accounts.connect("app")
    key = shard.owned[0]
    assert shard.run("UPDATE accounts SET v = 7 WHERE k = %s", key, on=client) == 1
    assert shard.run("DELETE FROM accounts WHERE k = %s", key, on=client) == 1
    assert shard.run("INSERT INTO accounts VALUES (%s) ON CONFLICT (k) DO UPDATE SET v = 1", key, on=client) == 1
    assert shard.run("UPDATE accounts SET k = %s WHERE k = %s", 10**9 + owned_above(shard), key, on=client) == 1


def owned_above(shard):
    return next(n for n in range(1, 100) if shard.value("SELECT hashint8extended(1000000000 + %s, 0) >= 0", n))


def test_D5_copy_is_refused_as_a_whole(accounts):
    shard, client = accounts, accounts.connect("app")
    before = shard.value("SELECT count(*) FROM accounts")
    with shard.refused("SHR01"), client.cursor() as cursor, cursor.copy("COPY accounts (k) FROM STDIN") as copy:
        for key in range(5000, 6000):
            copy.write_row((key,))
    assert shard.value("SELECT count(*) FROM accounts") == before


def test_D5_cascade_from_a_local_table_is_refused(shard):
    shard.make(
        "CREATE TABLE region (id int PRIMARY KEY); INSERT INTO region VALUES (1), (2);"
        "CREATE TABLE t (k bigint PRIMARY KEY, r int REFERENCES region ON DELETE CASCADE ON UPDATE CASCADE)",
        t="k",
    )
    shard.place("INSERT INTO t VALUES (%s, 1)", shard.foreign[0])
    with shard.refused("SHR01"):
        shard.run("DELETE FROM region WHERE id = 1")
    with shard.refused("SHR01"):
        shard.run("UPDATE region SET id = 3 WHERE id = 1")
    assert shard.value("SELECT count(*) FROM t") == 1


def test_cascade_between_distributed_tables_passes_when_owned(shard):
    shard.make(
        "CREATE TABLE p (k bigint PRIMARY KEY);"
        "CREATE TABLE c (k bigint REFERENCES p ON DELETE CASCADE, n int, PRIMARY KEY (k, n))",
        p="k",
        c="k",
    )
    shard.run("INSERT INTO p VALUES (%s)", shard.owned[0])
    shard.run("INSERT INTO c VALUES (%s, 1), (%s, 2)", shard.owned[0], shard.owned[0])
    shard.run("DELETE FROM p")
    assert shard.value("SELECT count(*) FROM c") == 0


# ---- triggers of the user that change the row under the guard's eyes [D4] ----


def test_D4_before_trigger_that_rewrites_the_key(accounts):
    shard = accounts
    shard.run(
        "CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN NEW.k := {shard.foreign[3]}; RETURN NEW; END $$;"
        "CREATE TRIGGER zzz_rewrite BEFORE INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION rewrite()"
    )
    shard.place("DELETE FROM accounts WHERE k = %s", shard.foreign[3])
    with shard.refused("SHR01"):
        shard.run("INSERT INTO accounts VALUES (%s) ON CONFLICT DO NOTHING", shard.owned[0] + 10**6)
    with shard.refused("SHR01"):
        shard.run("UPDATE accounts SET v = 1 WHERE k = %s", shard.owned[0])


def test_D4_after_trigger_behind_the_guard(accounts):
    shard = accounts
    shard.run(
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.v = 5 THEN UPDATE accounts SET v = 6, k = {shard.foreign[0]} WHERE k = NEW.k; END IF; "
        "RETURN NULL; END $$;"
        "CREATE TRIGGER zzz_later AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION later()"
    )
    shard.place("DELETE FROM accounts WHERE k = %s", shard.foreign[0])
    with shard.refused("SHR01"):
        shard.run("UPDATE accounts SET v = 5 WHERE k = %s", shard.owned[0])


def test_D4_deferred_constraint_trigger_writes_at_commit(accounts):
    shard = accounts
    shard.run(
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"UPDATE accounts SET v = 9 WHERE k = {shard.owned[1]}; RETURN NULL; END $$; CREATE TABLE log (n int);"
        "CREATE CONSTRAINT TRIGGER c AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION at_commit()"
    )
    client = shard.connect(autocommit=False)
    shard.run("INSERT INTO log VALUES (1)", on=client)
    shard.fence(0, MOST)
    with shard.refused("SHR01", "epoch 2"):
        client.commit()
    assert shard.value("SELECT v FROM accounts WHERE k = %s", shard.owned[1]) == 0


# ---- transactions begun before the change [D1] ----

BEFORE = {
    "only_read": "SELECT count(*) FROM accounts",
    "wrote_elsewhere": "INSERT INTO elsewhere VALUES (1)",
    "select_for_update": "SELECT * FROM accounts WHERE k = {key} FOR UPDATE",
    "prepared": "PREPARE p AS {write}; COMMIT; SELECT 1",
    "prepared_and_executed": "PREPARE p AS {write}; EXECUTE p; ROLLBACK; SELECT 1",
    "cursor": "DECLARE c CURSOR FOR SELECT * FROM accounts WHERE k = {key} FOR UPDATE; FETCH c",
    "savepoint": "SAVEPOINT s; {write}; ROLLBACK TO SAVEPOINT s",
}
ACTS = {
    "insert": ("INSERT INTO accounts VALUES ({new})", None),
    "update": ("UPDATE accounts SET v = 7 WHERE k = {key}", "UPDATE accounts SET v = 7 WHERE CURRENT OF c"),
    "update_key": ("UPDATE accounts SET k = {new} WHERE k = {key}", "UPDATE accounts SET k = {new} WHERE CURRENT OF c"),
    "delete": ("DELETE FROM accounts WHERE k = {key}", "DELETE FROM accounts WHERE CURRENT OF c"),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("level", psycopg.IsolationLevel, ids=lambda level: level.name.lower())
def test_D1_transactions_begun_before_the_fence(accounts, level, act):
    """The text of the guard counts, not the snapshot: the first write after the fence is refused."""
    shard = accounts
    shard.run("CREATE TABLE elsewhere (n int)")
    values = {"key": shard.owned[0], "new": 10**9 + owned_above(shard)}
    clients = []
    for name, sql in BEFORE.items():
        plain, at_cursor = (text and text.format(**values) for text in ACTS[act])
        if name == "cursor" and at_cursor is None:
            continue
        client = shard.connect(autocommit=False)
        client.isolation_level = level
        # row locks of one another would make them wait: each has a row of its own
        values["key"] = shard.owned[len(clients)]
        plain, at_cursor = (text and text.format(**values) for text in ACTS[act])
        for part in sql.format(write=plain, **values).split("; "):
            shard.run(part, on=client)
        shard.run("SELECT count(*) FROM accounts", on=client)  # the snapshot of REPEATABLE READ is taken
        write = "EXECUTE p" if "prepared" in name else at_cursor if name == "cursor" else plain
        clients.append((name, client, write))
    rows = shard.run("SELECT * FROM accounts ORDER BY k")
    shard.fence(0, MOST)
    for name, client, write in clients:
        try:
            shard.run(write, on=client)
            pytest.fail(f"{name}: {write} passed after the fence")
        except psycopg.Error as error:
            assert error.sqlstate == "SHR01", (name, error)
        client.rollback()
    assert shard.run("SELECT * FROM accounts ORDER BY k") == rows


def test_D1_cached_plan_of_a_function(accounts):
    shard = accounts
    shard.run(
        "CREATE FUNCTION put(x bigint) RETURNS int LANGUAGE plpgsql AS $$ DECLARE n int; BEGIN "
        "UPDATE accounts SET v = v + 1 WHERE k = x; GET DIAGNOSTICS n = ROW_COUNT; RETURN n; END $$"
    )
    client = shard.connect()
    for _ in range(8):
        assert shard.value("SELECT put(%s)", shard.owned[0], on=client) == 1
    shard.fence(0, MOST)
    with shard.refused("SHR01"):
        shard.run("SELECT put(%s)", shard.owned[0], on=client)


def test_D2_prepared_transaction_holds_the_fence_off(accounts):
    shard = accounts
    client = shard.connect(autocommit=False)
    shard.run("UPDATE accounts SET v = 3 WHERE k = %s", shard.owned[0], on=client)
    shard.run("PREPARE TRANSACTION 'two'", on=client)
    client.autocommit = False
    fence = shard.connect(options="-c statement_timeout=200")
    with shard.refused("55P03"):
        shard.prepare_fence(0, MOST)
    with shard.refused("57014"):
        shard.fence(0, MOST, on=fence, prepared=False)
    shard.run("COMMIT PREPARED 'two'")
    shard.fence(0, MOST)
    assert shard.value("SELECT v FROM accounts WHERE k = %s", shard.owned[0]) == 3


def test_D3_fence_waits_for_a_copy_in_progress(accounts):
    shard, client = accounts, accounts.connect(autocommit=False)
    fence = shard.connect()
    with client.cursor() as cursor, cursor.copy("COPY accounts (k) FROM STDIN") as copy:
        copy.write_row((10**9 + owned_above(shard),))
        wait_until(
            lambda: shard.value(
                "SELECT count(*) FROM pg_locks WHERE relation = 'accounts'::regclass AND mode = 'RowExclusiveLock'"
            ),
            what="the COPY to have begun",
        )
        answer = shard.later(
            "BEGIN; LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE;"
            f"SELECT shardherd.fence('m1', 0, {MOST}, 1, 2); COMMIT",
            on=fence,
        )
        shard.wait_for_lock_of(fence)
    client.commit()
    wait_until(lambda: answer, what="the fence")
    assert not isinstance(answer[0], psycopg.Error), answer
    assert shard.value("SELECT count(*) FROM accounts WHERE k > 1000000000") == 1


# ---- partitions [D8] ----

PARTITIONED = (
    "CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, v int, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);"
    "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE e2 PARTITION OF e FOR VALUES FROM (10) TO (20) PARTITION BY LIST (at);"
    "CREATE TABLE e2a PARTITION OF e2 DEFAULT"
)


@pytest.fixture
def events(shard):
    shard.make(PARTITIONED, e="k")
    shard.run("INSERT INTO e VALUES (%s, 1), (%s, 11)", shard.owned[0], shard.owned[0])
    shard.place("INSERT INTO e VALUES (%s, 1), (%s, 11)", shard.foreign[0], shard.foreign[0])
    return shard


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO e VALUES ({new}, 1)",
        "INSERT INTO e1 VALUES ({new}, 1)",
        "INSERT INTO e2a VALUES ({new}, 11)",
        "UPDATE e SET v = 1 WHERE k = {foreign}",
        "UPDATE e2a SET v = 1 WHERE k = {foreign}",
        "DELETE FROM e1 WHERE k = {foreign}",
        "UPDATE e SET at = 15 WHERE k = {foreign} AND at < 10",  # into another partition
        "UPDATE e SET k = {new}, at = 15 WHERE k = {owned} AND at < 10",
    ],
)
@pytest.mark.parametrize("replica", [False, True], ids=["origin", "replica"])
def test_D8_partitions(events, sql, replica):
    shard, client = events, events.connect()
    if replica:
        shard.run("SET session_replication_role = replica", on=client)
    text = sql.format(new=shard.foreign[1], foreign=shard.foreign[0], owned=shard.owned[0])
    with shard.refused("SHR01"):
        shard.run(text, on=client)


@pytest.mark.parametrize("replica", [False, True], ids=["origin", "replica"])
def test_D8_attached_and_new_partitions(events, replica):
    shard, client = events, events.connect()
    shard.run(
        "CREATE TABLE e3 (k bigint NOT NULL, at int NOT NULL, v int, PRIMARY KEY (k, at));"
        "ALTER TABLE e ATTACH PARTITION e3 FOR VALUES FROM (20) TO (30);"
        "CREATE TABLE e4 PARTITION OF e FOR VALUES FROM (30) TO (40)"
    )
    if replica:
        shard.run("SET session_replication_role = replica", on=client)
    for table, at in (("e3", 25), ("e4", 35), ("e", 25), ("e", 35)):
        with shard.refused("SHR01"):
            shard.run(f"INSERT INTO {table} VALUES ({shard.foreign[1]}, {at})", on=client)
    shard.fence(0, MOST)  # written anew, all of them
    for table, at in (("e1", 2), ("e3", 25), ("e", 35)):
        with shard.refused("SHR01", "epoch 2"):
            shard.run(f"INSERT INTO {table} VALUES ({shard.owned[1]}, {at})", on=client)


def test_D8_owned_row_moves_between_partitions(events):
    assert events.run("UPDATE e SET at = 12 WHERE k = %s AND at = 1", events.owned[0]) == 1


# ---- who passes, who does not [A18] ----


def test_A18_replica_role_of_a_client_is_refused(accounts):
    client = accounts.connect()
    accounts.run("SET session_replication_role = replica", on=client)
    for sql in ("UPDATE accounts SET v = 1 WHERE k = %s", "DELETE FROM accounts WHERE k = %s"):
        with accounts.refused("SHR01"):
            accounts.run(sql, accounts.foreign[0], on=client)


def test_A18_session_with_an_origin_passes(accounts):
    with accounts.replicating() as client:
        assert accounts.run("UPDATE accounts SET v = 1 WHERE k = %s", accounts.foreign[0], on=client) == 1
        assert accounts.run("DELETE FROM accounts WHERE k = %s", accounts.foreign[0], on=client) == 1
        accounts.run("SET session_replication_role = replica", on=client)
        assert accounts.run("INSERT INTO accounts VALUES (%s)", accounts.foreign[0], on=client) == 1


def test_A18_temporary_objects_cannot_stand_in(accounts):
    """Tables and functions of the client's own, in pg_temp and first in its search_path."""
    shard = accounts
    shard.server.psql("GRANT TEMPORARY ON DATABASE " + shard.name + " TO app", dbname=shard.name)
    client = shard.connect("app")
    shard.run(
        "CREATE TEMP TABLE shard AS SELECT true AS one, 'x' AS database, 'x' AS name, 9 AS epoch, "
        f"ARRAY[{LEAST}] AS los, ARRAY[{MOST}] AS his;"
        f"CREATE TEMP TABLE gate AS SELECT 'm1' AS move, {LEAST} AS lo, {MOST} AS hi, true AS open;"
        "CREATE FUNCTION pg_temp.hashint8extended(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';"
        "CREATE FUNCTION pg_temp.hash_value(text, text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';"
        "CREATE FUNCTION pg_temp.pg_replication_origin_session_is_setup() RETURNS bool LANGUAGE sql AS 'SELECT true';"
        "SET search_path = pg_temp, shardherd, public",
        on=client,
    )
    with shard.refused("SHR01"):
        shard.run("UPDATE public.accounts SET v = 1 WHERE k = %s", shard.foreign[0], on=client)
    shard.run("SELECT shardherd.close_gate(1, 'm1', %s, -1)", LEAST)
    with shard.refused("SHR01"):
        shard.run("UPDATE public.accounts SET v = 1 WHERE k = %s", shard.foreign[0], on=client)


def test_A18_application_may_change_nothing_of_ours(accounts):
    client = accounts.connect("app")
    for sql in (
        "UPDATE shardherd.shard SET epoch = 9",
        "UPDATE shardherd.gate SET open = true",
        "SELECT shardherd.set_shard(99, 'x', 'x', 9, '{}', '{}')",
        "SELECT shardherd.raise_term(99)",
        "SELECT shardherd.freeze(99, 'x', 0, 1)",
        "SELECT shardherd.announce(99, '{}')",
        "ALTER TABLE accounts DISABLE TRIGGER ALL",
    ):
        with accounts.refused("42501"):
            accounts.run(sql, on=client)
    accounts.run("SELECT shardherd.announce(5, %s)", '{"epoch": "5"}')
    assert accounts.value("SELECT epoch FROM shardherd.routing", on=client) == 5


OLDER = """
CREATE OR REPLACE TRIGGER shardherd_guard_insert AFTER INSERT ON e FOR EACH ROW
    WHEN (NOT (hashint8extended(NEW.k, 0) >= 0) AND NOT pg_replication_origin_session_is_setup())
    EXECUTE FUNCTION shardherd.guard('k', 'bigint', '1');
CREATE OR REPLACE TRIGGER shardherd_strict BEFORE INSERT OR UPDATE OR DELETE ON e FOR EACH STATEMENT
    WHEN (current_setting('shardherd.epoch', true) <> '1') EXECUTE FUNCTION shardherd.stale_epoch('1');
ALTER TABLE e ENABLE ALWAYS TRIGGER shardherd_guard_insert, ENABLE ALWAYS TRIGGER shardherd_guard_update,
    ENABLE ALWAYS TRIGGER shardherd_guard_delete;
DROP TRIGGER shardherd_guard_replica ON e
"""


def test_guards_of_an_older_version(events):
    """Three that always fire do without the one for the replica role, until they are made anew, of parts as well."""
    states = "SELECT tgname, string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgname ~ '^sh' GROUP BY 1"
    newer = sorted(events.run(states))
    assert newer == [
        ("shardherd_guard_delete", "O"),
        ("shardherd_guard_insert", "O"),
        ("shardherd_guard_replica", "R"),
        ("shardherd_guard_update", "O"),
        ("shardherd_strict", "O"),
    ]
    events.run(OLDER)
    assert events.findings() == []
    stale = strict(events, 7)
    events.run("GRANT ALL ON e TO app")
    with events.refused("SHR01", "routed with epoch 7"):
        events.run("DELETE FROM e WHERE false", on=stale)
    for role in ("origin", "replica"):
        client = events.connect()
        events.run(f"SET session_replication_role = {role}", on=client)
        with events.refused("SHR01"):
            events.run("INSERT INTO e1 VALUES (%s, 1)", events.foreign[1], on=client)
    events.run("ALTER TABLE e2a ENABLE TRIGGER shardherd_guard_delete")
    assert any("shardherd_guard_replica is missing" in f[1] for f in events.findings())
    events.run("SELECT shardherd.install_guards()")
    assert sorted(events.run(states)) == newer and events.findings() == []


def test_A18_disabled_and_missing_guards_are_found(events):
    shard = events
    assert shard.findings() == []
    shard.run("ALTER TABLE e1 DISABLE TRIGGER USER; ALTER TABLE e2 ENABLE REPLICA TRIGGER shardherd_guard_insert")
    found = shard.findings()
    assert {f[0] for f in found} == {"public.e"}
    assert sum("is missing or disabled" in f[1] for f in found) >= 4
    shard.run("SELECT shardherd.install_guards()")  # the remedy
    assert shard.findings() == []


# ---- strict clients [A3] ----


def strict(shard, epoch):
    client = shard.connect("app")
    if epoch is not None:
        shard.run(f"SET shardherd.epoch = '{epoch}'", on=client)
    return client


def test_A3_zero_rows_from_a_stale_client_are_an_error(accounts):
    shard = accounts
    absent = 10**9
    for sql in (
        "UPDATE accounts SET v = 1 WHERE k = %s",
        "DELETE FROM accounts WHERE k = %s",
        "INSERT INTO accounts SELECT %s WHERE false",
    ):
        assert shard.run(sql, absent, on=strict(shard, None)) == 0
        assert shard.run(sql, absent, on=strict(shard, "")) == 0
        assert shard.run(sql, absent, on=strict(shard, 1)) == 0
        with shard.refused("SHR01", "routed with epoch 7", "epoch 1"):
            shard.run(sql, absent, on=strict(shard, 7))
    client = strict(shard, 1)
    shard.fence(1, MOST)
    with shard.refused("SHR01", "routed with epoch 1", "epoch 2"):
        shard.run("UPDATE accounts SET v = 1 WHERE k = %s", absent, on=client)
    assert shard.run("UPDATE accounts SET v = 1 WHERE k = %s", absent, on=strict(shard, 2)) == 0


def test_A3_names_of_a_strict_client_cannot_stand_in(accounts):
    """What every statement calls has no search_path of its own."""
    shard, client = accounts, strict(accounts, 7)
    shard.run("CREATE SCHEMA mine AUTHORIZATION app")
    shard.run(
        "CREATE FUNCTION mine.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';"
        "CREATE FUNCTION mine.same(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';"
        "CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same);"
        "SET search_path = mine, pg_catalog, public",
        on=client,
    )
    for prepared in (False, True):
        with shard.refused("SHR01", "routed with epoch 7"):
            shard.run("UPDATE public.accounts SET v = 1 WHERE false", on=client)
        if not prepared:
            shard.prepare_fence(0, MOST)


def test_A3_strict_client_that_may_call_nothing_of_ours_by_default(accounts):
    """What is called in everybody's name says so itself."""
    shard = accounts
    shard.run("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA shardherd FROM PUBLIC")
    shard.server.run(
        "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f", SHARD_SQL, "-d", shard.server.conninfo(shard.name)
    )
    for prepared in (False, True):
        with shard.refused("SHR01", "routed with epoch 7"):
            shard.run("UPDATE accounts SET v = 1 WHERE false", on=strict(shard, 7))
        assert shard.run("UPDATE accounts SET v = 1 WHERE false", on=strict(shard, 1)) == 0
        if not prepared:
            shard.prepare_fence(0, MOST)


def test_A3_do_nothing_and_merge_are_errors_for_a_strict_client(accounts):
    shard = accounts
    for sql in (
        "INSERT INTO accounts VALUES (%s) ON CONFLICT DO NOTHING",
        "MERGE INTO accounts a USING (SELECT %s::bigint AS k) s ON a.k = s.k "
        "WHEN NOT MATCHED THEN INSERT (k) VALUES (s.k)",
    ):
        # the row is there: nothing is written, so the row triggers see nothing (documented)
        assert shard.run(sql, shard.foreign[0], on=strict(shard, None)) == 0
        with shard.refused("SHR01"):
            shard.run(sql, shard.foreign[0], on=strict(shard, 9))


def test_A3_epoch_of_a_transaction_that_was_rolled_back(accounts):
    """After SET LOCAL and a rollback the setting is an empty text, not NULL: that is no epoch."""
    client = accounts.connect("app", autocommit=False)
    accounts.run("SET LOCAL shardherd.epoch = '1'", on=client)
    client.rollback()
    assert accounts.value("SELECT current_setting('shardherd.epoch', true)", on=client) == ""
    assert accounts.run("UPDATE accounts SET v = 1 WHERE k = %s", accounts.owned[0], on=client) == 1


def test_A3_strict_does_not_stop_replication(accounts):
    with accounts.replicating() as client:
        accounts.run("SET session_replication_role = replica", on=client)
        accounts.run("SET shardherd.epoch = '9'", on=client)
        assert accounts.run("UPDATE accounts SET v = 1 WHERE k = %s", accounts.foreign[0], on=client) == 1


# ---- what cannot be distributed ----


@pytest.mark.parametrize(
    ("schema", "table", "key", "state", "word"),
    [
        ("", "public.nothing", "k", "42P01", "does not exist"),
        ("CREATE TABLE t (k bigint NOT NULL)", "public.t", "other", "42703", "no column"),
        ("CREATE TABLE t (k bigint)", "public.t", "k", "0A000", "may be null"),
        ("CREATE TABLE t (k numeric NOT NULL)", "public.t", "k", "0A000", "has type numeric"),
        ("CREATE TABLE t (k char(5) NOT NULL)", "public.t", "k", "0A000", "has type character(5)"),
        ("CREATE DOMAIN d AS bigint; CREATE TABLE t (k d NOT NULL)", "public.t", "k", "0A000", "has type public.d"),
        (
            "CREATE TABLE t (a bigint, k bigint GENERATED ALWAYS AS (a + 1) STORED NOT NULL)",
            "public.t", "k", "0A000", "generated",
        ),
        (
            "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
            "CREATE TABLE t (k text COLLATE blind NOT NULL)", "public.t", "k", "0A000", "nondeterministic",
        ),
        ("CREATE VIEW t AS SELECT 1::bigint AS k", "public.t", "k", "42809", "ordinary table"),
        ("CREATE TABLE t (k bigint NOT NULL); CREATE TABLE c () INHERITS (t)", "public.t", "k", "0A000", "inherit"),
        ("CREATE TABLE p (k bigint NOT NULL); CREATE TABLE t () INHERITS (p)", "public.t", "k", "0A000", "inherit"),
        (
            "CREATE TABLE p (k bigint NOT NULL) PARTITION BY RANGE (k); CREATE TABLE t PARTITION OF p DEFAULT",
            "public.t", "k", "0A000", "partition",
        ),
        ("CREATE TEMP TABLE t (k bigint NOT NULL)", "pg_temp.t", "k", "42809", "ordinary table"),
    ],
)  # fmt: skip
def test_A18_B16_refused_tables(shard, schema, table, key, state, word):
    try:
        shard.run(schema or "SELECT 1")
    except psycopg.Error as error:
        if "ICU" in str(error):
            pytest.skip("this server is built without ICU")
        raise
    with shard.refused(state, word):
        shard.run("SELECT shardherd.add_table(1, %s, %s)", table, key)
    assert shard.value("SELECT count(*) FROM shardherd.tables") == 0


def test_odd_names(shard):
    shard.run('CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."O\'d ""t""" ("K ey" text NOT NULL, b int, h int)')
    shard.run("SELECT shardherd.add_table(1, %s, 'K ey')", '"My Schema"."O\'d ""t"""')
    shard.own([])
    with shard.refused("SHR01"):
        shard.run('INSERT INTO "My Schema"."O\'d ""t""" VALUES (\'a\')')
    shard.freeze(lo=LEAST, hi=0)
    shard.run("SELECT shardherd.publish_range(1, 'm1', 'shardherd_x', %s, 0)", LEAST)
    assert shard.value("SELECT count(*) FROM shardherd.heaps()") == 1


def test_a_lent_server_with_rows_of_its_own_is_refused(shard):
    shard.run("CREATE TABLE t (k bigint PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
    shard.make("", t="k")
    with shard.refused("55000", "public.t holds", "shard s1 does not own"):
        shard.run("SELECT shardherd.refuse_misplaced()")
    shard.own([(LEAST, MOST)])
    shard.run("SELECT shardherd.refuse_misplaced()")
    shard.run("SELECT shardherd.refuse_other('shop', 's1', %s, %s)", LEAST, MOST)
    for other in (("shop", "s2", LEAST, MOST), ("web", "s1", LEAST, MOST), ("shop", "s1", 0, MOST)):
        with shard.refused("55000", "is shard s1 of database shop already"):
            shard.run("SELECT shardherd.refuse_other(%s, %s, %s, %s)", *other)


def test_installing_again_changes_nothing(accounts):
    shard = accounts
    shard.run("SELECT shardherd.raise_term(5)")
    before = shard.run("SELECT * FROM shardherd.shard"), shard.run("SELECT * FROM shardherd.tables")
    shard.server.run(
        "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f", SHARD_SQL, "-d", shard.server.conninfo(shard.name)
    )
    assert before == (shard.run("SELECT * FROM shardherd.shard"), shard.run("SELECT * FROM shardherd.tables"))
    assert shard.value("SELECT term FROM shardherd.control") == 5
    with shard.refused("SHR01"):
        shard.run("DELETE FROM accounts WHERE k = %s", shard.foreign[0])
