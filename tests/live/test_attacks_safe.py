"""Attacks that the protocol withstood, to be kept so [D1 to D15], and requirements that were argued [C].

docs/protocol/attacks.md says what every item is, and where the others are tested.
"""

import threading
import time

import psycopg
import pytest
from conftest import TRIED, wait_until
from guarded import HASHES, LEAST, MOST, Shard
from pair import ACCOUNTS, SETTINGS, Pair, no_standby

pytestmark = pytest.mark.beside

_number = iter(range(1, 100000))


@pytest.fixture(scope="module", params=TRIED, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    started = pg_factory_module(request.param, **SETTINGS)
    started.psql("CREATE ROLE app LOGIN")
    return started


@pytest.fixture
def pair(server):
    with Pair(server, f"d{next(_number)}_") as made:
        yield made


@pytest.fixture
def shard(server):
    made = Shard(server, f"d{next(_number)}")
    yield made
    made.close()


# ---- C: what a move needs ----


def test_C_slots_and_senders_are_counted_before(server, shard):
    """Slots, senders and workers that are all in use would let a move hang: the check says so."""
    shard.make(ACCOUNTS, accounts="k")
    assert shard.findings() == []
    slots = [f"taken_{n}" for n in range(int(SETTINGS["max_replication_slots"]) - 3)]
    for name in slots:
        server.psql("SELECT pg_create_physical_replication_slot(%s)", [name])
    try:
        assert [finding for _, finding, _ in shard.findings()] == ["no replication slot is free"]
    finally:
        for name in slots:
            server.psql("SELECT pg_drop_replication_slot(%s)", [name])
    senders = [shard.connect(replication="database") for _ in range(int(server.value("SHOW max_wal_senders")) - 2)]
    assert [finding for _, finding, _ in shard.findings()] == ["no WAL sender is free"]
    for sender in senders:
        sender.close()
    wait_until(lambda: shard.findings() == [], what="the senders to end")


def test_C_no_sender_is_free_later(pair):
    """All of them taken while the move runs: no marker comes, nothing looks caught up, and it goes on when one is."""
    pair.fill()
    pair.replicate()
    pair.marker()
    s = pair.source
    pair.pause_apply()
    senders = []
    with pytest.raises(psycopg.OperationalError):
        while len(senders) < 50:
            senders.append(s.connect(replication="database"))
    s.run("UPDATE accounts SET v = 1")
    marker = pair.write_marker()
    before = len(pair.server.log_text())
    pair.go_on_applying()
    refused = "number of requested standby connections exceeds"
    wait_until(lambda: refused in pair.server.log_text()[before:], what="the worker to be refused")
    assert not pair.came(marker)
    for sender in senders:
        sender.close()
    wait_until(lambda: pair.came(marker), what="the marker")
    pair.assert_equal()


def test_C_commit_order_is_not_the_order_of_visibility(pair):
    """A commit that waits for a standby is on T and not yet to be seen on S: a plain comparison gives a difference that
    is none, hence buckets that differ are read again."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    t.run(f"ALTER SUBSCRIPTION {pair.slot} SET (synchronous_commit = 'local')")
    pair.marker()
    buckets = "SELECT * FROM shardherd.verify_buckets('public.accounts', true, 0, %s) ORDER BY bucket"
    assert s.run(buckets, MOST) == t.run(buckets, MOST)
    with no_standby(pair.server):
        answer = s.later("UPDATE accounts SET v = 1 WHERE k = %s", pair.inside[0], on=s.connect())
        wait_until(lambda: t.value("SELECT sum(v) FROM accounts") == 1, what="the change to arrive")
        assert s.value("SELECT sum(v) FROM accounts") == 0
        differ = sum(a != b for a, b in zip(s.run(buckets, MOST), t.run(buckets, MOST), strict=True))
        assert differ == 1
    wait_until(lambda: answer, what="the commit")
    assert s.run(buckets, MOST) == t.run(buckets, MOST)


def test_C_readers_are_not_refused(pair):
    """S goes on answering reads of what it gave away, row locks and advisory locks among them: they exclude nobody on
    T. Documented."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    locker = s.connect(autocommit=False)
    lock = "SELECT v, pg_advisory_xact_lock(7) IS NULL FROM accounts WHERE k = %s FOR UPDATE"
    assert len(s.run(lock, pair.inside[0], on=locker)) == 1
    writer = t.connect(options="-c lock_timeout=1s")
    assert t.run("UPDATE accounts SET v = 1 WHERE k = %s", pair.inside[0], on=writer) == 1
    locker.rollback()


def test_C_triggers_of_the_user_do_not_fire_in_apply(server):
    """What they fill besides the distributed tables is on S only. Documented."""
    schema = ACCOUNTS + (
        "; CREATE TABLE log (k bigint); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO log VALUES (NEW.k); RETURN NULL; END';"
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note()"
    )
    with Pair(server, f"d{next(_number)}_", schema) as pair:
        pair.fill()
        pair.replicate()
        pair.source.run("UPDATE accounts SET v = 1")
        pair.marker()
        pair.assert_equal()
        assert pair.source.value("SELECT count(*) FROM log") == 800
        assert pair.target.value("SELECT count(*) FROM log") == 0


def test_C_clean_up_can_be_told_from_writes(pair):
    """Its DELETEs have an origin: a consumer of changes that asks for local ones only does not see them."""
    s = pair.source
    pair.fill()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    pair.settle()
    pair.drop_forward()
    s.run("CREATE PUBLICATION mine FOR TABLE accounts")
    s.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", f"cdc_{s.name}")
    assert pair.clean() == len(pair.inside)
    s.run("UPDATE accounts SET v = 1 WHERE k = %s", pair.outside[0])

    def kinds(**options):
        options = {"proto_version": "1", "publication_names": "mine", **options}
        text = ", ".join(f"'{name}', '{value}'" for name, value in options.items())
        changes = f"SELECT data FROM pg_logical_slot_peek_binary_changes('cdc_{s.name}', NULL, NULL, {text})"
        return [bytes(data[:1]).decode() for (data,) in s.run(changes)]

    everything = kinds()
    assert everything.count("D") == len(pair.inside) and everything.count("U") == 1
    if pair.server.version >= 16:  # a consumer of 15 filters by the origin's number, as the plugin gives it
        local = kinds(origin="none")
        assert local.count("D") == 0 and local.count("U") == 1


# ---- D2, D6, D7: what is under way when the fence comes ----


def test_D2_prepared_transactions(pair):
    """With row locks only it holds nobody off and loses nothing; two-phase commits replicate."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    two = s.connect(autocommit=False)
    s.run("UPDATE accounts SET v = 4 WHERE k = %s", pair.inside[1], on=two)
    s.run(f"PREPARE TRANSACTION 'wrote_{s.name}'", on=two)
    s.run(f"COMMIT PREPARED 'wrote_{s.name}'")
    s.run("SELECT v FROM accounts WHERE k = %s FOR UPDATE", pair.inside[0], on=two)
    s.run(f"PREPARE TRANSACTION 'locked_{s.name}'", on=two)
    pair.close_gate()
    pair.cut_over()
    s.run(f"COMMIT PREPARED 'locked_{s.name}'")
    assert t.value("SELECT v FROM accounts WHERE k = %s", pair.inside[1]) == 4
    pair.assert_equal()


def free_key(shard):
    """Of the moving range, and in no table."""
    return next(n for n in range(10**6, 10**7) if shard.value("SELECT hashint8extended(%s, 0) >= 0", n))


class Writer(threading.Thread):
    """Counts what is acknowledged of one key, on whichever of the shards takes it, until it is told to end."""

    def __init__(self, shards, key, options=""):
        super().__init__(daemon=True)
        self.key, self.acknowledged, self.error, self.ending = key, 0, None, threading.Event()
        self.connections = [shard.connect(options=options) for shard in shards]
        self.start()

    def run(self):
        at = 0
        while not self.ending.is_set():
            try:
                cursor = self.connections[at].execute("UPDATE accounts SET v = v + 1 WHERE k = %s", [self.key])
                self.acknowledged += cursor.rowcount
                elsewhere = cursor.rowcount == 0
            except psycopg.Error as error:
                if error.sqlstate != "SHR01":
                    self.error = error
                    return
                elsewhere = True
            if elsewhere:
                at = (at + 1) % len(self.connections)
                time.sleep(0.001)

    def end(self):
        self.ending.set()
        self.join(20)
        assert self.error is None, self.error


def test_D6_clients_that_do_not_wait_for_the_disk(pair):
    pair.fill()
    pair.replicate()
    pair.close_gate()
    writers = [Writer([pair.source], key, "-c synchronous_commit=off") for key in pair.inside[:8]]
    wait_until(lambda: sum(w.acknowledged for w in writers) > 500, what="writes")
    pair.cut_over()
    for writer in writers:
        writer.end()
        found = pair.target.value("SELECT v FROM accounts WHERE k = %s", writer.key)
        assert found == writer.acknowledged > 0
    pair.assert_equal()


@pytest.mark.parametrize("streaming", ["off", "on", "parallel"])
def test_D7_large_transaction_just_before_the_fence(pair, streaming):
    if streaming == "parallel" and pair.server.version < 16:
        pytest.skip("PostgreSQL 16 has brought it")
    pair.fill()
    pair.replicate(streaming=streaming)
    pair.close_gate()
    pair.source.run("INSERT INTO accounts SELECT n, 1, repeat('x', 100) FROM generate_series(1000, 20000) n")
    pair.cut_over()
    pair.assert_equal()
    assert pair.target.value("SELECT count(*) FROM accounts") > 9000


# ---- D8, D9, D12, D13: what replicates ----

PARTITIONED = (
    "CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, v text, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);"
    "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE e2 PARTITION OF e DEFAULT; ALTER TABLE e1 ALTER v SET STORAGE EXTERNAL"
)


def test_D8_updates_from_partition_to_partition(server):
    with Pair(server, f"d{next(_number)}_", PARTITIONED, e="k") as pair:
        s = pair.source
        s.run("INSERT INTO e SELECT n, n % 20, repeat('x', 5000) FROM generate_series(1, 400) n")
        pair.replicate()
        s.run("UPDATE e SET at = (at + 10) % 20")
        s.run("UPDATE e SET at = (at + 10) % 20 WHERE k % 2 = 0")
        s.run(
            "DELETE FROM e2 WHERE at = 15; INSERT INTO e1 SELECT k, 0, 'n' FROM e WHERE at = 12 ON CONFLICT DO NOTHING"
        )
        pair.marker()
        pair.assert_equal()
        assert pair.target.value("SELECT count(*) FROM e1") * pair.target.value("SELECT count(*) FROM e2") > 0
        pair.close_gate()
        pair.cut_over()
        for table, at in (("e", 1), ("e1", 2), ("e2", 12)):  # whichever way it is asked
            with s.refused("SHR01"):
                s.run(f"INSERT INTO {table} VALUES (%s, %s)", free_key(s), at)
        key, at = pair.target.run("SELECT k, at FROM e1 LIMIT 1")[0]
        assert pair.target.run("UPDATE e SET at = 99 WHERE k = %s AND at = %s", key, at) == 1


FAMILY = (
    "CREATE TABLE p (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0, pad text);"
    "CREATE TABLE c (k bigint NOT NULL REFERENCES p ON UPDATE CASCADE ON DELETE CASCADE, n int NOT NULL,"
    "t int DEFAULT 1, twice int GENERATED ALWAYS AS (t * 2) STORED, PRIMARY KEY (k, n));"
    "ALTER TABLE p ALTER pad SET STORAGE EXTERNAL"
)


def test_D9_keys_that_wander_while_it_catches_up(server):
    """Into, out of and inside of the range; all that the freeze refuses but TOAST would replicate rightly as well."""
    with Pair(server, f"d{next(_number)}_", FAMILY, p="k", c="k") as pair:
        s = pair.source
        s.run("INSERT INTO p SELECT n, 0, CASE WHEN n % 2 = 0 THEN NULL ELSE 'x' END FROM generate_series(1, 400) n")
        s.run("INSERT INTO c SELECT k, n FROM p, generate_series(1, 2) n")
        pair.replicate()
        i, o = pair.inside, pair.outside
        s.run("DELETE FROM p WHERE k = ANY (%s)", i[:6] + o[:6])  # with their children; these keys are free now
        rename = "UPDATE p SET k = %s WHERE k = %s"  # with their children
        for becomes, was in ((i[0], o[10]), (o[0], i[10]), (i[1], i[11]), (o[1], o[11])):
            assert s.run(rename, becomes, was) == 1
        with s.connect(autocommit=False) as there_and_back:
            for becomes, was in (
                (i[2], o[12]),
                (o[12], i[2]),
                (o[2], i[12]),
                (i[12], o[2]),
                (i[3], o[13]),
                (i[4], i[3]),
            ):
                s.run(rename, becomes, was, on=there_and_back)
        big = "UPDATE p SET pad = repeat('y', 50000) WHERE k = %s"
        s.run(big, i[20])
        s.run("UPDATE p SET v = v + 1 WHERE k = %s", i[20])  # unchanged TOAST, the key too
        s.run(big, i[21])
        assert s.run(rename, i[5], i[21]) == 1  # unchanged TOAST, inside of the range
        with s.connect(autocommit=False) as client:
            s.run("SAVEPOINT a; UPDATE p SET v = 7 WHERE k % 3 = 0; ROLLBACK TO a; SAVEPOINT b", on=client)
            s.run("UPDATE p SET v = 8 WHERE k % 5 = 0; RELEASE b", on=client)
        s.run("BEGIN; UPDATE p SET v = 9; ROLLBACK")
        pair.marker()
        pair.assert_equal()
        assert pair.target.value("SELECT count(*) FROM p WHERE length(pad) = 50000") == 2
        assert pair.target.value("SELECT bool_and(twice = t * 2) FROM c") is True


def test_D13_row_filters_of_every_key_type(server):
    tables = {f"t_{type_}": "k" for type_ in HASHES}
    schema = ";".join(f"CREATE TABLE t_{type_} (k {type_} PRIMARY KEY)" for type_ in HASHES)
    with Pair(server, f"d{next(_number)}_", schema, **tables) as pair:
        s = pair.source
        fill = {t: f"INSERT INTO t_{t} SELECT n::text::{t} FROM generate_series(%s::int, %s::int) n" for t in HASHES}
        fill["uuid"] = "INSERT INTO t_uuid SELECT md5(n::text)::uuid FROM generate_series(%s::int, %s::int) n"
        for sql in fill.values():
            s.run(sql, 1, 50)
        pair.replicate()
        for sql in fill.values():
            s.run(sql, 51, 300)
        pair.marker()
        for type_ in HASHES:
            rows = s.run(f"SELECT k FROM t_{type_} WHERE {HASHES[type_].replace('%s', 'k')} >= 0 ORDER BY k::text")
            assert 100 < len(rows) < 200
            assert pair.target.run(f"SELECT k FROM t_{type_} ORDER BY k::text") == rows, type_


def test_D14_a_marker_means_all_tables(pair):
    """It would not if a table were still being synchronised: none of ours is, from the beginning, nor refreshed."""
    pair.fill()
    pair.replicate()
    states = "SELECT DISTINCT srsubstate::text FROM pg_subscription_rel"
    assert pair.target.run(states) == [("r",)]
    pair.source.run("UPDATE accounts SET v = 1")
    pair.marker()
    pair.assert_equal()


# ---- D10: a gate that serializable transactions read ----


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_D10_a_transaction_begun_before_the_opening(pair, level):
    """Whether its snapshot sees the gate closed, or does not see it at all."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    clients = [t.connect() for _ in range(6)]

    def begin(some):
        for client in some:
            t.run(f"BEGIN ISOLATION LEVEL {level}", on=client)
            t.run("SELECT count(*) FROM accounts", on=client)

    begin(clients[:3])
    pair.close_gate()
    begin(clients[3:])
    pair.cut_over()
    acts = (
        ("INSERT INTO accounts VALUES (%s)", free_key(s)),
        ("UPDATE accounts SET v = 5 WHERE k = %s", pair.inside[0]),
        ("DELETE FROM accounts WHERE k = %s", pair.inside[0]),
    )
    for client, act in zip(clients, acts * 2, strict=True):
        with t.refused("SHR01"):
            t.run(*act, on=client)
    pair.assert_equal()


def test_D10_serializable_writers_do_not_disturb_one_another(server):
    """They all read the gate's row, and nobody writes it. Their own rows have nothing in common, not even a page of the
    index: an update that finds no room in its row's page writes there."""
    with Pair(server, f"d{next(_number)}_", ACCOUNTS + "; ALTER TABLE accounts SET (fillfactor = 20)") as pair:
        t = pair.target
        pair.fill()
        pair.replicate()
        pair.close_gate()
        pair.cut_over()
        t.run("ALTER INDEX accounts_pkey SET (fillfactor = 10)")
        t.run("REINDEX INDEX accounts_pkey")
        t.run("VACUUM ANALYZE accounts")
        options = "-c default_transaction_isolation=serializable -c enable_seqscan=off -c enable_bitmapscan=off"
        writers = [Writer([t], key, options) for key in pair.inside[:: len(pair.inside) // 4][:4]]
        wait_until(lambda: all(w.error or w.acknowledged > 60 for w in writers), what="writes")
        for writer in writers:
            writer.end()


# ---- D15: there and back ----


def test_D15_five_moves_under_writers(pair):
    """What was acknowledged is there, wherever; the copy left behind was equal each time."""
    pair.fill()
    writers = [Writer([pair.source, pair.target], key) for key in pair.inside[:4]]
    try:
        for _ in range(5):
            before = sum(w.acknowledged for w in writers)
            pair.freeze()
            pair.replicate()
            pair.close_gate()
            wait_until(lambda before=before: sum(w.acknowledged for w in writers) > before + 50, what="writes")
            pair.cut_over()
            assert pair.finish() == len(pair.inside)
            pair.unfreeze()
            pair.turn()
    finally:
        for writer in writers:
            writer.ending.set()
    for writer in writers:
        writer.end()
        assert pair.source.value("SELECT v FROM accounts WHERE k = %s", writer.key) == writer.acknowledged > 0
    assert pair.source.value("SELECT count(*) FROM accounts") == len(pair.inside)
    assert pair.target.value("SELECT count(*) FROM accounts") == len(pair.outside)
    assert pair.source.ranges()[1] == [(0, MOST)] and pair.target.ranges()[1] == [(LEAST, -1)]
