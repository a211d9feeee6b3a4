"""What was begun before a change of owner, and every way of writing, at every isolation level: none leaks.

A write either is refused, or its transaction holds the fence off and its rows are on the new owner afterwards.
"""

import contextlib
import itertools

import psycopg
import pytest
from conftest import TRIED, wait_until
from guarded import LEAST, MOST
from pair import SETTINGS, Pair

pytestmark = pytest.mark.beside

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
_number = itertools.count(1)

# e has partitions, and a trigger that rewrites the key when it is told to by a value of v
SCHEMA = """
CREATE TABLE accounts (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0);
CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, v bigint, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);
CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10);
CREATE TABLE e2 PARTITION OF e DEFAULT;
CREATE TABLE r (k bigint PRIMARY KEY, v bigint);
CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF NEW.v > 1000000 THEN NEW.k := NEW.v; END IF; RETURN NEW; END';
CREATE TRIGGER zzz_rewrite BEFORE INSERT OR UPDATE ON r FOR EACH ROW EXECUTE FUNCTION rewrite();
CREATE FUNCTION put(x bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE n int; BEGIN UPDATE accounts SET v = v + 1 WHERE k = x; GET DIAGNOSTICS n = ROW_COUNT; RETURN n; END $$;
"""
TABLES = {"accounts": "k", "e": "k", "r": "k"}

# Each writes something of the moving range: {key} is a key of it that is there, {new} one that is not, {stays} one of
# the other half, which the old owner keeps.
WRITES = {
    "insert": "INSERT INTO accounts VALUES ({new})",
    "update": "UPDATE accounts SET v = v + 1 WHERE k = {key}",
    "delete": "DELETE FROM accounts WHERE k = {key}",
    "upsert": "INSERT INTO accounts VALUES ({key}) ON CONFLICT (k) DO UPDATE SET v = accounts.v + 1",
    "upsert new": "INSERT INTO accounts VALUES ({new}) ON CONFLICT DO NOTHING",
    "merge update": "MERGE INTO accounts a USING (SELECT {key}::bigint AS k) s ON a.k = s.k "
    "WHEN MATCHED THEN UPDATE SET v = 7 WHEN NOT MATCHED THEN INSERT (k) VALUES (s.k)",
    "merge insert": "MERGE INTO accounts a USING (SELECT {new}::bigint AS k) s ON a.k = s.k "
    "WHEN MATCHED THEN UPDATE SET v = 7 WHEN NOT MATCHED THEN INSERT (k) VALUES (s.k)",
    "merge delete": "MERGE INTO accounts a USING (SELECT {key}::bigint AS k) s ON a.k = s.k WHEN MATCHED THEN DELETE",
    "with": "WITH w AS (UPDATE accounts SET v = v + 1 WHERE k = {key} RETURNING k) SELECT count(*) FROM w",
    "function": "SELECT put({key})",
    "do": "DO $$ BEGIN UPDATE accounts SET v = v + 1 WHERE k = {key}; END $$",
    "key inside": "UPDATE accounts SET k = {new} WHERE k = {key}",
    "key into": "UPDATE accounts SET k = {new} WHERE k = {stays}",
    "key out of": "UPDATE accounts SET k = {gone} WHERE k = {key}",
    "partition": "INSERT INTO e1 VALUES ({new}, 1)",
    "other partition": "UPDATE e SET at = at + 10 WHERE k = {key} AND at < 10",
    "key and partition": "UPDATE e SET k = {new}, at = at + 10 WHERE k = {stays} AND at < 10",
    "rewritten insert": "INSERT INTO r VALUES ({stays}, {new})",
    "rewritten update": "UPDATE r SET v = {new} WHERE k = {stays} AND k < 1000000",
}


@pytest.fixture(scope="module", params=TRIED, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return pg_factory_module(request.param, **SETTINGS)


@pytest.fixture
def pair(server):
    with Pair(server, f"i{next(_number)}_", SCHEMA, **TABLES) as made:
        s = made.source
        s.run("INSERT INTO accounts SELECT generate_series(1, 400)")
        s.run("INSERT INTO e SELECT n, n % 10 FROM generate_series(1, 400) n")
        s.run("INSERT INTO r SELECT generate_series(1, 200)")
        found = s.run("SELECT n, hashint8extended(n, 0) >= 0 FROM generate_series(1000001, 1000400) n")
        made.new = [n for n, inside in found if inside]
        made.gone = [n for n, inside in found if not inside]
        yield made


def texts(pair, n):
    """The statements for the n-th client: rows of its own, so that none waits for another's."""
    keys = {"key": pair.inside[n], "new": pair.new[n], "stays": pair.outside[n], "gone": pair.gone[n]}
    return {name: sql.format(**keys) for name, sql in WRITES.items()}


def contents(shard):
    return {table: shard.run(f"SELECT x::text FROM {table} x ORDER BY 1") for table in TABLES}


def write(shard, sql, client, begun):
    """What came of it: the SQLSTATE, or the number of rows. Nothing is committed that was refused."""
    try:
        cursor = client.execute(sql)
        answer = cursor.fetchone()[0] if cursor.description else cursor.rowcount
        client.execute("COMMIT") if begun else None
        return answer
    except psycopg.Error as error:
        client.rollback() if begun else None
        return error.sqlstate


AGES = ("new", "begun", "prepared", "savepoint", "cursor")


def begin(shard, client, level, age, sql, key):
    """Up to the moment before the owner changes; returns what is executed after it."""
    shard.run(f"SET default_transaction_isolation = '{level.lower()}'", on=client)
    if age == "new":
        return sql
    if age == "prepared":
        if sql.startswith("DO"):
            return sql
        shard.run(f"PREPARE p AS {sql}", on=client)
        shard.run("BEGIN", on=client)
        with contextlib.suppress(psycopg.errors.DatabaseError):  # planned and executed once, where it is allowed
            shard.run("EXECUTE p", on=client)
        shard.run("ROLLBACK", on=client)
        return "EXECUTE p"
    shard.run("BEGIN", on=client)
    shard.run("SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM e), (SELECT count(*) FROM r)", on=client)
    if age == "savepoint":
        shard.run(f"SAVEPOINT s; SELECT v FROM accounts WHERE k = {key} FOR SHARE; ROLLBACK TO s", on=client)
    if age == "cursor":
        shard.run(f"DECLARE c CURSOR FOR SELECT * FROM accounts WHERE k = {key} FOR UPDATE; FETCH c", on=client)
    return sql


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("age", AGES)
def test_nothing_leaks_on_the_old_owner(pair, level, age):
    """Every way of writing, by who began before the fence: with the fence's guards awake, and settled."""
    s = pair.source
    pair.replicate()
    pair.close_gate()
    clients = []
    for n, name in enumerate(WRITES):
        for settled in (False, True):
            client = s.connect()
            own = 2 * n + settled
            sql = texts(pair, own)[name]
            clients.append((settled, name, client, begin(s, client, level, age, sql, pair.inside[own])))
    before = contents(s)
    pair.cut_over()
    for settled in (False, True):
        for _, name, client, sql in [c for c in clients if c[0] is settled]:
            begun = age not in ("new", "prepared")
            assert write(s, sql, client, begun) == "SHR01", (name, age, settled)
        if not settled:
            pair.settle()
    assert contents(s) == before


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("age", ["new", "begun", "prepared"])
def test_nothing_leaks_on_the_new_owner(pair, level, age):
    """Before the opening all is refused, and so is what has a snapshot from before it; afterwards the range is written,
    and still no other."""
    t = pair.target
    pair.replicate()
    t.run("ANALYZE")
    pair.close_gate()
    early, late = [], []
    for n, name in enumerate(WRITES):
        for clients, own in ((early, 2 * n), (late, 2 * n + 1)):
            client = t.connect()
            clients.append((name, client, begin(t, client, level, age, texts(pair, own)[name], pair.inside[own])))
    # rows of the other half are not here: statements that begin with one of them find nothing
    nothing = ("key into", "key and partition", "rewritten update")
    before = contents(t)
    begun = age not in ("new", "prepared")
    for name, client, sql in early:
        assert write(t, sql, client, begun) == (0 if name in nothing else "SHR01"), (name, age)
    assert contents(t) == before
    pair.cut_over()
    old_snapshot = begun and level != "READ COMMITTED"
    for name, client, sql in late:
        answer = write(t, sql, client, begun)
        if name in nothing:
            assert answer == 0, (name, answer)
        elif old_snapshot or name == "key out of":
            assert answer == "SHR01", (name, answer)
        else:
            assert answer in (1, -1), (name, answer)
    with t.refused("SHR01"):
        t.run(f"INSERT INTO accounts VALUES ({pair.outside[0]})")
    held = t.value("SELECT count(*) FROM accounts WHERE hashint8extended(k, 0) < 0")
    assert held == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", ["two writes", "copy", "for update", "rows locked and written", "written elsewhere"])
def test_transactions_across_the_fence(pair, level, how):
    """Several statements, some before the fence and some after: what has written holds the fence off, and all of it is
    on the new owner; what has only read is passed by, and its next write is refused."""
    s, t = pair.source, pair.target
    pair.replicate()
    pair.close_gate()
    one, two = pair.inside[0], pair.inside[1]
    client = s.connect()
    s.run(f"BEGIN ISOLATION LEVEL {level}", on=client)
    change = "UPDATE accounts SET v = 10 WHERE k = %s"
    copy = None
    if how == "copy":
        copy = client.cursor().copy("COPY accounts (k, v) FROM STDIN")
        sink = copy.__enter__()
        sink.write_row((pair.new[0], 10))
        holds = (
            "SELECT count(*) FROM pg_locks WHERE pid = %s AND relation = 'accounts'::regclass AND mode ~ 'RowExclusive'"
        )
        wait_until(lambda: s.value(holds, client.info.backend_pid), what="COPY to begin")
    elif how == "for update":
        s.run("SELECT v FROM accounts WHERE k = %s FOR UPDATE", one, on=client)
    elif how == "written elsewhere":
        s.run("CREATE TEMP TABLE mine (n int); INSERT INTO mine VALUES (1)", on=client)
    else:
        s.run("SELECT v FROM accounts WHERE k = %s FOR UPDATE", one, on=client)
        s.run(change, one, on=client)
    if how in ("for update", "written elsewhere"):
        pair.cut_over()
        with s.refused("SHR01"):
            s.run(change, one, on=client)
        client.rollback()
        pair.assert_equal()
        return
    fence = s.connect(options="-c statement_timeout=100")
    with s.refused("57014"):
        s.run("BEGIN; LOCK TABLE accounts, e, r IN SHARE ROW EXCLUSIVE MODE", on=fence)
    fence.rollback()
    if copy is not None:
        sink.write_row((pair.new[1], 10))
        copy.__exit__(None, None, None)
    else:
        s.run(change, two, on=client)
    s.run("COMMIT", on=client)
    pair.cut_over()
    written = (pair.new if how == "copy" else pair.inside)[:2]
    assert t.value("SELECT count(*) FROM accounts WHERE k = ANY (%s) AND v = 10", written) == 2
    pair.assert_equal()


def test_serializable_and_others_side_by_side(pair):
    """Clients at all levels write through fence and opening with transactions of several statements: the sums agree."""
    s, t = pair.source, pair.target
    pair.replicate()
    pair.close_gate()
    clients = []
    for n, level in enumerate(LEVELS * 2):
        client = s.connect(options=f"-c default_transaction_isolation={level.lower().replace(' ', chr(92) + ' ')}")
        clients.append((pair.inside[2 * n], pair.inside[2 * n + 1], client))
    both = "UPDATE accounts SET v = v + 1 WHERE k = {}; UPDATE accounts SET v = v - 1 WHERE k = {}"
    rounds = 3
    for _ in range(rounds):
        for a, b, client in clients:
            s.run(f"BEGIN; {both.format(a, b)}; COMMIT", on=client)
    for a, _, client in clients:
        s.run(f"BEGIN; SELECT v FROM accounts WHERE k = {a}", on=client)
    pair.cut_over()
    for a, b, client in clients:
        with s.refused("SHR01"):
            s.run(
                f"UPDATE accounts SET v = v + 1 WHERE k = {a}; UPDATE accounts SET v = v - 1 WHERE k = {b}", on=client
            )
        client.rollback()
    assert t.value("SELECT sum(v) FROM accounts WHERE v > 0") == rounds * len(clients)
    assert t.value("SELECT sum(v) FROM accounts") == 0
    assert s.ranges() == (2, [(LEAST, -1)]) and t.ranges() == (1, [])
    pair.settle()
    assert t.ranges() == (2, [(0, MOST)])
