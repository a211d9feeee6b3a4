"""Attacks that would make a move, or the application, wait for ever [B1 to B18].

docs/protocol/attacks.md says what every item is, and where the others are tested.
"""

import threading
import time

import psycopg
import pytest
from conftest import TRIED, wait_until
from guarded import LEAST, MOST, Shard
from pair import ACCOUNTS, SETTINGS, Pair, no_standby, waits_for_standby

pytestmark = pytest.mark.beside

_number = iter(range(1, 100000))


@pytest.fixture(scope="module", params=TRIED, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    started = pg_factory_module(request.param, **SETTINGS, autovacuum_naptime="1s")
    started.psql("CREATE ROLE app LOGIN")
    return started


@pytest.fixture
def pair(server):
    with Pair(server, f"b{next(_number)}_") as made:
        yield made


@pytest.fixture
def shard(server):
    made = Shard(server, f"b{next(_number)}")
    yield made
    made.close()


# ---- locks ----

SLOW_VACUUM = (
    "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 20, "
    "autovacuum_vacuum_cost_limit = 1"
)


def test_B1_autovacuum_gives_way(shard):
    """It holds a lock that ours conflicts with, and would keep it: PostgreSQL ends it only after deadlock_timeout, a
    second, when our patience is over long ago."""
    shard.make(ACCOUNTS, ranges=((LEAST, MOST),), accounts="k")
    shard.run(f"ALTER TABLE accounts SET ({SLOW_VACUUM})")
    shard.run("INSERT INTO accounts SELECT n, 0, repeat('x', 200) FROM generate_series(1, 20000) n")
    shard.run("DELETE FROM accounts WHERE k % 2 = 0")
    shard.run("SELECT pg_stat_force_next_flush()")
    holds = (
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE a.backend_type = 'autovacuum worker' AND l.relation = 'accounts'::regclass "
        "AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted"
    )
    wait_until(lambda: shard.value(holds), timeout=60, what="autovacuum to come")
    with shard.refused("55P03"):
        patient = shard.connect(autocommit=False, options="-c lock_timeout=250")
        shard.run("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE", on=patient)
    patient.close()
    assert shard.value(holds)
    shard.run("SELECT shardherd.lock_tables()")
    wait_until(lambda: "canceling autovacuum task" in shard.server.log_text(), what="autovacuum to be told off")


def test_B3_a_reader_for_update_on_the_target(pair):
    """FOR UPDATE is refused nowhere, and apply waits for it; so the fence has a bound and is taken back, and writers of
    S go on."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    pair.close_gate()
    reader = t.connect("app", autocommit=False)
    t.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
    assert t.run("SELECT v FROM accounts WHERE k = %s FOR UPDATE", pair.inside[0], on=reader) == [(0,)]
    s.run("UPDATE accounts SET v = 1 WHERE k = %s", pair.inside[0])
    fence, opener = pair.lock()
    pair.give_away(fence)
    marker = pair.write_marker()
    worker = "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'logical.*worker'"
    wait_until(lambda: t.value(worker + " AND wait_event_type = 'Lock'"), what="apply to wait for the reader")
    assert not pair.came(marker)
    fence.rollback()
    opener.rollback()
    assert s.run("UPDATE accounts SET v = 2 WHERE k = %s", pair.inside[0]) == 1
    reader.rollback()
    pair.cut_over()
    assert t.value("SELECT v FROM accounts WHERE k = %s", pair.inside[0]) == 2


TABLES = [f"t{n}" for n in range(6)]


def test_B4_patience_is_for_all_tables_together(shard):
    """Six tables whose holders let go one after the other, each soon enough for a timeout of its own."""
    shard.make(";".join(f"CREATE TABLE {t} (k bigint PRIMARY KEY)" for t in TABLES), **dict.fromkeys(TABLES, "k"))
    took = []
    for _ in range(3):  # the machine may stand still once
        holders = [shard.connect(autocommit=False) for _ in TABLES]
        for table, holder in zip(TABLES, holders, strict=True):
            shard.run(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE", on=holder)

        def let_go(holders=holders):
            for holder in holders:
                time.sleep(0.15)
                holder.rollback()

        letting_go = threading.Thread(target=let_go)
        started = time.monotonic()
        letting_go.start()
        with shard.refused("55P03"):
            shard.run("SELECT shardherd.lock_tables()")
        took.append(time.monotonic() - started)
        letting_go.join()
    assert min(took) < 0.6, took
    shard.run("SELECT shardherd.lock_tables()")


def test_B6_markers_are_of_one_move(pair):
    """What a move publishes is its own marker table and no other's: one that comes back would stop the way back."""
    pair.fill()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    pair.settle()
    published = "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1"
    first = pair.slot
    assert pair.source.run(published, first) == [("public.accounts",), (f"shardherd.{first}",)]
    pair.drop_forward()
    pair.turn()
    pair.source.run("SELECT shardherd.publish_range(1, 'm2', %s, %s, %s)", pair.slot, pair.lo, pair.hi)
    assert pair.slot != first
    assert pair.source.run(published, pair.slot) == [("public.accounts",), (f"shardherd.{pair.slot}",)]


def test_B9_a_commit_that_waits_for_a_standby(pair):
    """Until the old backend is gone S shows the old owner, and is not to be believed; a new leader cannot take the
    control row before."""
    s = pair.source
    pair.fill()
    pair.replicate()
    pair.close_gate()
    fence, _ = pair.lock()
    pair.give_away(fence)
    pair.marker()
    with no_standby(pair.server):
        s.later("COMMIT", on=fence)
        pid = fence.info.backend_pid
        wait_until(lambda: waits_for_standby(pair.server, pid), what="the fence to wait for a standby")
        assert s.value("SELECT shardherd.owns(%s, %s)", pair.lo, pair.hi) is True
        new = s.connect(options="-c synchronous_commit=local")
        raised = s.later("SELECT shardherd.raise_term(2)", on=new)
        s.wait_for_lock_of(new)
        assert raised == []
        assert s.value("SELECT pg_terminate_backend(%s, 5000)", pid) is True
        wait_until(lambda: raised, what="the new leader")
        assert not isinstance(raised[0], psycopg.Error), raised
        assert s.value("SELECT shardherd.owns(%s, %s)", pair.lo, pair.hi) is False
        with s.refused("SHR01"):
            s.run("UPDATE accounts SET v = 1 WHERE k = %s", pair.inside[0], on=new)


# ---- what stops apply ----


def test_B10_unique_without_the_key_stops_apply(server):
    """What the check refuses: a row of T's own has the value already."""
    schema = "CREATE TABLE accounts (k bigint PRIMARY KEY, v int); CREATE UNIQUE INDEX by_v ON accounts (v)"
    halves = {"source": ((0, MOST),), "target": ((LEAST, -1),)}
    with Pair(server, f"b{next(_number)}_", schema, **halves) as pair:
        found = [finding for _, finding, _ in pair.source.findings()]
        assert found == ["unique index public.by_v does not contain the shard key k"]
        pair.replicate()
        pair.target.run("INSERT INTO accounts VALUES (%s, 7)", pair.outside[0])
        pair.source.run("INSERT INTO accounts VALUES (%s, 7)", pair.inside[0])
        marker = pair.write_marker()
        wait_until(lambda: pair.apply_errors() > 1, what="apply to stop again and again")
        assert not pair.came(marker)


def test_B12_a_partition_that_only_the_source_has(server):
    """Refused by the freeze. Without it apply finds no place for the row."""
    schema = (
        "CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10)"
    )
    with Pair(server, f"b{next(_number)}_", schema, e="k") as pair:
        late = "CREATE TABLE e2 PARTITION OF e FOR VALUES FROM (10) TO (20)"
        pair.freeze()
        pair.replicate()
        with pair.source.refused("SHR02"):
            pair.source.run(late)
        pair.unfreeze()
        pair.source.run(late)
        pair.source.run("INSERT INTO e VALUES (%s, 15)", pair.inside[0])
        marker = pair.write_marker()
        wait_until(lambda: pair.apply_errors() > 1, what="apply to stop again and again")
        assert not pair.came(marker)
        pair.target.run(late)
        wait_until(lambda: pair.came(marker), what="the marker")


ROW_SECURITY = ACCOUNTS + (
    "; ALTER TABLE accounts OWNER TO app; ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;"
    "ALTER TABLE accounts FORCE ROW LEVEL SECURITY; CREATE POLICY all_rows ON accounts USING (true)"
)


def test_B14_row_level_security_that_holds_for_the_owner(server):
    """From 16 on apply works as the owner of the table, who may not replicate into it; run_as_owner, which the manager
    sets, leaves it with the subscription's owner. test_attacks_move.py has the manager do it."""
    own = {"run_as_owner": "true"} if server.version >= 16 else {}
    with Pair(server, f"b{next(_number)}_", ROW_SECURITY) as pair:
        pair.fill()
        pair.replicate()
        pair.source.run("UPDATE accounts SET v = 1")
        if own:
            marker = pair.write_marker()
            wait_until(lambda: pair.apply_errors() > 1, what="apply to stop again and again")
            assert not pair.came(marker)
            pair.target.run(f"ALTER SUBSCRIPTION {pair.slot} SET (run_as_owner = true)")
        pair.marker()
        pair.assert_equal()


# ---- readers ----


def test_B15_no_step_waits_for_readers(pair):
    """Triggers are replaced, never dropped: a transaction that has read and stays open holds nothing up, and what
    is made meanwhile holds up no reader."""
    s, t = pair.source, pair.target
    pair.fill()
    readers = [shard.connect(autocommit=False, options="-c statement_timeout=1s") for shard in (s, t)]

    def read():
        for shard, reader in zip((s, t), readers, strict=True):
            shard.run("SELECT count(*) FROM accounts", on=reader)

    read()
    pair.freeze()
    pair.replicate()
    pair.close_gate()
    t.run("SELECT shardherd.burn_gate(1, 'm1')")
    pair.close_gate()
    fence, opener = pair.lock()
    pair.give_away(fence)
    read()
    fence.rollback()
    opener.rollback()
    pair.cut_over()
    read()
    pair.settle()
    pair.drop_forward()
    assert pair.clean() == len(pair.inside)
    pair.unfreeze()
    read()


def test_B8_a_slot_waits_for_open_transactions(pair):
    """Also for those that write something else; it comes when they end, and a backend that waits for it can be ended.
    test_attacks_move.py kills the manager in that moment."""
    s = pair.source
    s.run("CREATE TABLE other (n int)")
    writer, exporter = s.connect(autocommit=False), s.connect(replication="database")
    s.run("INSERT INTO other VALUES (1)", on=writer)
    create = f"CREATE_REPLICATION_SLOT \"{pair.slot}\" LOGICAL pgoutput (SNAPSHOT 'export')"
    answer = s.later(create, on=exporter)
    half = "SELECT active, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
    wait_until(lambda: s.run(half, pair.slot) == [(True, None)], what="the slot to be begun")
    assert answer == []
    s.run("SELECT pg_terminate_backend(%s, 5000)", exporter.info.backend_pid)
    wait_until(lambda: answer and s.run(half, pair.slot) == [], what="the half-made slot to go")
    again = s.connect(replication="database")
    answer = s.later(create, on=again)
    wait_until(lambda: s.run(half, pair.slot) == [(True, None)], what="the slot to be begun")
    writer.commit()
    wait_until(lambda: answer, what="the slot")
    assert not isinstance(answer[0], psycopg.Error), answer
