"""Attacks that would lose a row, let two shards accept it, or slip past a guard [A1 to A21].

Each test is named after its item; docs/protocol/attacks.md says what every item is, and where the others are tested.
"""

import time

import psycopg
import pytest
from conftest import TRIED, wait_until
from guarded import LEAST, MOST, Shard
from pair import (
    ACCOUNTS,
    REPEATABLE_READ,
    SETTINGS,
    Pair,
    no_standby,
    setting,
    standby_of,
    waits_for_standby,
)

pytestmark = pytest.mark.beside

_number = iter(range(1, 100000))


@pytest.fixture(scope="module", params=TRIED, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    started = pg_factory_module(request.param, **SETTINGS)
    started.psql("CREATE ROLE app LOGIN")
    return started


@pytest.fixture
def pair(server):
    with Pair(server, f"a{next(_number)}_") as made:
        yield made


@pytest.fixture
def shard(server):
    made = Shard(server, f"a{next(_number)}")
    yield made
    made.close()


# ---- A2: a TOASTed column that did not change is not in the stream ----

TOAST = ACCOUNTS + "; ALTER TABLE accounts ALTER pad SET STORAGE EXTERNAL"
NOT_NULL = "; ALTER TABLE accounts ALTER pad SET NOT NULL"
CROSS = "UPDATE accounts SET k = %s WHERE k = %s"


@pytest.mark.parametrize("nullable", [True, False], ids=["null", "not-null"])
def test_A2_what_the_freeze_spares_the_target(server, nullable):
    """Refused while a move runs. Without the freeze the column arrives as NULL; where that is forbidden, apply stops
    at it for ever (this was only argued)."""
    with Pair(server, f"a{next(_number)}_", TOAST + ("" if nullable else NOT_NULL)) as pair:
        outside, inside = pair.outside[0], pair.inside[0]
        pair.source.run("INSERT INTO accounts VALUES (%s, 0, repeat('x', 100000))", outside)
        pair.freeze()
        pair.replicate()
        with pair.source.refused("SHR02"):
            pair.source.run(CROSS, inside, outside)
        pair.unfreeze()
        pair.source.run(CROSS, inside, outside)
        if nullable:
            pair.marker()
            assert pair.target.run("SELECT k, pad FROM accounts") == [(inside, None)]
            return
        marker = pair.write_marker()
        wait_until(lambda: pair.apply_errors() > 1, what="apply to stop again and again")
        assert not pair.came(marker)


def test_A2_the_freeze_holds_on_the_new_owner(server):
    """The same on the way back, for as long as the old owner follows the new one (argued): T refuses it as well."""
    halves = {"source": ((0, MOST),), "target": ((LEAST, -1),)}
    with Pair(server, f"a{next(_number)}_", TOAST, **halves) as pair:
        pair.source.run("INSERT INTO accounts VALUES (%s, 0, repeat('x', 100000))", pair.inside[0])
        pair.target.run("INSERT INTO accounts VALUES (%s, 0, repeat('y', 100000))", pair.outside[0])
        pair.freeze()
        pair.replicate()
        pair.close_gate()
        pair.cut_over()
        for settled in (False, True):
            for becomes, was in ((pair.outside[1], pair.inside[0]), (pair.inside[1], pair.outside[0])):
                with pair.target.refused("SHR02", "operation m1"):
                    pair.target.run(CROSS, becomes, was)
            if not settled:
                pair.settle()
        pair.unfreeze()
        assert pair.target.run(CROSS, pair.outside[1], pair.inside[0]) == 1


# ---- A3: statements that touch no row ----


def test_A3_a_target_that_is_not_open_says_nothing_of_the_range(pair):
    """The routing table is published inside the fence: a strict client that read it may be faster than the last rows.
    A row that was acknowledged on S and is not on T yet is no reason for "0 rows"."""
    s, t = pair.source, pair.target
    pair.copy()
    s.run("INSERT INTO accounts VALUES (%s)", pair.inside[0])  # acknowledged, and not yet on T
    pair.close_gate()
    plain, strict = t.connect("app"), t.connect("app")
    t.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
    t.run("SET shardherd.epoch = '2'", on=strict)
    for sql in ("UPDATE accounts SET v = 1 WHERE k = %s", "DELETE FROM accounts WHERE k = %s"):
        assert t.run(sql, pair.inside[0], on=plain) == 0  # documented: a row trigger has no row to refuse
        with t.refused("SHR01", "routed with epoch 2"):
            t.run(sql, pair.inside[0], on=strict)
    pair.subscribe()
    pair.cut_over()
    assert t.run("UPDATE accounts SET v = 1 WHERE k = %s", pair.inside[0], on=strict) == 1
    assert t.run("DELETE FROM accounts WHERE k = %s", pair.outside[0], on=strict) == 0
    pair.settle()
    assert t.run("UPDATE accounts SET v = 1 WHERE k = %s", pair.inside[0], on=strict) == 1


def test_A3_a_snapshot_from_before_the_copy(pair):
    """It sees none of the rows: "0 rows" for whoever is not strict, an error for a strict client until it is settled.
    Afterwards nothing can tell it: the routing table is to be read before a transaction begins, not in it."""
    s, t = pair.source, pair.target
    pair.fill()
    clients = [t.connect(autocommit=False) for _ in range(3)]
    for client in clients:
        client.isolation_level = REPEATABLE_READ
        assert t.run("SELECT count(*) FROM accounts", on=client) == [(0,)]
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    change = "UPDATE accounts SET v = 1 WHERE k = %s"
    t.run("SET LOCAL shardherd.epoch = '2'", on=clients[0])
    with t.refused("SHR01", "routed with epoch 2"):
        t.run(change, pair.inside[0], on=clients[0])
    assert t.run(change, pair.inside[0], on=clients[1]) == 0
    clients[1].rollback()
    pair.settle()
    t.run("SET LOCAL shardherd.epoch = '1'", on=clients[2])
    with t.refused("SHR01", "routed with epoch 1", "epoch 2"):
        t.run(change, pair.inside[0], on=clients[2])
    assert pair.rows(s, "accounts") == pair.rows(t, "accounts")


def test_A3_a_guard_before_insert_catches_do_nothing(shard):
    """Argued, and true; it is not what we install, since it ends multi-row insertion and costs COPY a third."""
    shard.make(ACCOUNTS, accounts="k")
    shard.place("INSERT INTO accounts VALUES (%s)", shard.foreign[0])
    statement = "INSERT INTO accounts VALUES (%s) ON CONFLICT DO NOTHING"
    assert shard.run(statement, shard.foreign[0]) == 0
    shard.run(
        "CREATE TRIGGER early BEFORE INSERT ON accounts FOR EACH ROW WHEN (NOT (hashint8extended(NEW.k, 0) >= 0)) "
        "EXECUTE FUNCTION shardherd.guard('k', 'bigint', '1')"
    )
    with shard.refused("SHR01"):
        shard.run(statement, shard.foreign[0])


# ---- A4: durability of the two commits ----


def test_A4_a_position_beyond_the_end_of_the_log_skips_writes(pair):
    """Why the opening's position is only ever read back from T: an origin set past it swallows what comes (argued)."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    pair.marker()
    pair.pause_apply()
    t.run(
        "SELECT pg_replication_origin_advance(format('pg_%%s', oid), (SELECT pg_current_wal_insert_lsn() + 100000000)) "
        "FROM pg_subscription WHERE subname = %s",
        pair.slot,
    )
    s.run("UPDATE accounts SET v = 7")
    marker = pair.write_marker()
    pair.go_on_applying()
    working = "SELECT count(*) FROM pg_stat_subscription WHERE subname = %s AND last_msg_receipt_time IS NOT NULL"
    wait_until(lambda: t.value(working, pair.slot), what="the worker to be sent something")
    time.sleep(0.5)  # that something does not come has no condition
    assert not pair.came(marker)
    assert t.value("SELECT sum(v) FROM accounts") == 0


# ---- A6, A7: who may be promoted must have it ----


def test_A6_A7_promoted_standby_of_both(server, pg_factory):
    """With a synchronous standby neither fence nor opening is acknowledged before it has them, and what the slot was
    told is there; after the death of the primary S' refuses and T' accepts. (An asynchronous standby that is
    promoted by hand knows of neither.)"""
    primary = pg_factory(server.version, **SETTINGS)
    standby = standby_of(primary, pg_factory)
    primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    primary.psql("SELECT pg_reload_conf()")
    in_step = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
    wait_until(lambda: primary.value(in_step), what="the standby to be synchronous")
    pair = Pair(primary, "a_")
    pair.fill()
    pair.replicate()
    pair.close_gate()
    fence, opener = pair.lock()
    pair.give_away(fence)
    pair.marker()
    standby.pause_all()
    answer = pair.source.later("COMMIT", on=fence)
    wait_until(lambda: waits_for_standby(primary, fence.info.backend_pid), what="the fence to wait for its standby")
    assert answer == []
    standby.resume()
    wait_until(lambda: answer, what="the fence")
    pair.open(opener)
    assert pair.target.run("UPDATE accounts SET v = 5 WHERE k = %s", pair.inside[0]) == 1
    primary.kill9()
    standby.psql("SELECT pg_promote()")
    with psycopg.connect(standby.conninfo(pair.source.name), autocommit=True) as promoted:
        with pytest.raises(psycopg.Error) as refused:
            promoted.execute("UPDATE accounts SET v = 6 WHERE k = %s", [pair.inside[0]])
        assert refused.value.sqlstate == "SHR01"
        assert promoted.execute("UPDATE accounts SET v = 6 WHERE k = %s", [pair.outside[0]]).rowcount == 1
    with psycopg.connect(standby.conninfo(pair.target.name), autocommit=True) as promoted:
        assert promoted.execute("UPDATE accounts SET v = v + 1 WHERE k = %s", [pair.inside[0]]).rowcount == 1
        assert promoted.execute("SELECT count(*), sum(v) FROM accounts").fetchone() == (len(pair.inside), 6)


def test_A7_a_marker_waits_for_the_targets_standby(pair):
    """Our subscription waits for neither disk nor standby, and S forgets what T's standby does not have; but a marker
    waits for both, and so for all that came before it."""
    s = pair.source
    pair.fill()
    pair.replicate()
    pair.marker()
    with no_standby(pair.server):
        local = s.connect(options="-c synchronous_commit=local")
        s.run("UPDATE accounts SET v = 3", on=local)
        arrived = lambda: pair.target.value("SELECT sum(v) FROM accounts") == 3 * len(pair.inside)  # noqa: E731
        wait_until(arrived, what="rows that wait for no standby")
        marker = pair.write_marker(on=local)
        worker = "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'logical.*worker'"
        wait_until(lambda: s.value(worker + " AND wait_event = 'SyncRep'") > 0, what="the marker to wait for a standby")
        assert not pair.came(marker)
    wait_until(lambda: pair.came(marker), what="the marker")


# ---- A8, A9, A15: rows that are deleted, or that were there before ----


def test_A8_clean_up_that_comes_late(pair):
    """The range is back when a batch of the first move runs again: nothing is deleted."""
    pair.fill()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    pair.settle()
    pair.drop_forward()
    stale, first_slot = pair.source, pair.slot
    assert pair.clean() == len(pair.inside)
    pair.turn()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    with stale.replicating() as late:
        stale.run("SET session_replication_role = replica", on=late)
        batch = "SELECT shardherd.delete_batch(1, %s, 'accounts', 'k', 'bigint', %s, %s, 0, 1000)"
        with stale.refused("55000", "nothing is deleted"):  # the gate is open
            stale.run(batch, first_slot, pair.lo, pair.hi, on=late)
        pair.settle()
        with stale.refused("55000", "nothing is deleted"):  # it is owned
            stale.run(batch, first_slot, pair.lo, pair.hi, on=late)
    assert stale.value("SELECT count(*) FROM accounts") == 400


def test_A9_clean_up_while_the_subscription_lives(pair):
    """It would be replicated: T's rows would go as well."""
    pair.fill()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    pair.settle()
    with pair.source.refused("55000", "still replicates"):
        pair.clean()
    pair.marker()
    assert pair.target.value("SELECT count(*) FROM accounts") == len(pair.inside)
    pair.drop_forward()
    assert pair.clean() == len(pair.inside)
    assert pair.target.value("SELECT count(*) FROM accounts") == len(pair.inside)


# ---- A11: what is of the whole cluster ----


def test_A11_two_databases_of_one_server(pair, server):
    """Slots, origins and subscriptions share one name space for each server; ours are named after database and move. A
    subscription of that very name in another database is neither ours nor touched."""
    other = Shard(server, f"a{next(_number)}")
    try:
        pair.fill()
        foreign = (
            f"CREATE SUBSCRIPTION {pair.slot} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)"
        )
        other.run(foreign)
        oid = other.value("SELECT oid FROM pg_subscription WHERE subname = %s", pair.slot)
        other.run(f"SELECT pg_replication_origin_advance('pg_{oid}', '0/ABCDEF')")
        pair.replicate()
        pair.close_gate()
        pair.cut_over()
        pair.settle()
        pair.drop_forward()
        found = "SELECT remote_lsn::text FROM pg_replication_origin_status WHERE external_id = %s"
        assert other.run(found, f"pg_{oid}") == [("0/ABCDEF",)]
        # the clean-up cannot know whose it is: it waits for a person, and deletes nothing
        with pair.source.refused("55000", "still replicates"):
            pair.clean()
        other.run(f"ALTER SUBSCRIPTION {pair.slot} SET (slot_name = NONE)")
        other.run(f"DROP SUBSCRIPTION {pair.slot}")
        assert pair.clean() == len(pair.inside)
    finally:
        other.close()


# ---- A12, A13: slot and publication ----


def test_A12_a_slot_that_was_lost_brings_no_marker(pair):
    """Nothing is made anew under the copy, so nothing looks caught up."""
    s = pair.source
    pair.fill()
    pair.replicate()
    pair.marker()
    pair.lose_slot()
    s.run("UPDATE accounts SET v = v + 1")
    marker = pair.write_marker()
    wait_until(lambda: f'replication slot "{pair.slot}" does not exist' in pair.server.log_text(), what="the worker")
    assert not pair.came(marker)
    assert s.run("SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s", pair.slot) == []


def lost(pair):
    return pair.source.run("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'", pair.slot)


def test_A12_a_slot_that_was_invalidated_brings_no_marker(pair):
    s = pair.source
    pair.fill()
    pair.replicate()
    pair.marker()
    pair.pause_apply()
    s.run("UPDATE accounts SET v = 1")
    marker = pair.write_marker()
    with setting(pair.server, "max_slot_wal_keep_size", "1MB"):
        for _ in range(4):
            s.run("SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()")
        s.run("CHECKPOINT")
        wait_until(lambda: lost(pair), what="the slot to be invalidated")
    before = len(pair.server.log_text())
    pair.go_on_applying()
    wait_until(lambda: "ERROR" in pair.server.log_text()[before:], what="the worker to fail")
    assert not pair.came(marker) and lost(pair)


def test_A12_a_slot_nobody_uses_times_out(pair):
    """idle_replication_slot_timeout, from 18 (argued): the slot of a target that is away too long is lost like that."""
    if pair.server.version < 18:
        pytest.skip("PostgreSQL 18 has brought it")
    pair.fill()
    pair.replicate()
    pair.marker()
    pair.pause_apply()
    marker = pair.write_marker()
    with setting(pair.server, "idle_replication_slot_timeout", "1s"):

        def timed_out():
            pair.source.run("CHECKPOINT")
            return lost(pair)

        wait_until(timed_out, what="the slot to time out", interval=0.3)
    pair.go_on_applying()
    wait_until(lambda: "idle_replication_slot_timeout" in pair.server.log_text(), what="the worker to fail")
    assert not pair.came(marker)


def test_A13_a_publication_that_was_made_anew(pair):
    """Up to 17 apply never gets past it, from 18 the changes in between are skipped and the marker arrives all the
    same: so ours is never made under a living slot, and the rehearsal looks whether it is the one of the copy."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    pair.marker()
    pair.pause_apply()
    s.run(f"DROP PUBLICATION {pair.slot}")
    s.run("UPDATE accounts SET v = 9")
    with s.refused("55000", "its publication is gone"):
        s.run("SELECT shardherd.publish_range(1, 'm1', %s, %s, %s)", pair.slot, pair.lo, pair.hi)
    s.run(f"CREATE PUBLICATION {pair.slot} FOR TABLE accounts, TABLE shardherd.{pair.slot}")
    marker = pair.write_marker()
    pair.go_on_applying()
    if pair.server.version < 18:
        wait_until(lambda: f'publication "{pair.slot}" does not exist' in pair.server.log_text(), what="the worker")
        assert not pair.came(marker)
    else:
        wait_until(lambda: pair.came(marker), what="the marker")
        assert t.value("SELECT max(v) FROM accounts") == 0  # lost without a word


# ---- A14: a table that is rewritten under the copy ----


def test_A14_what_rewrites_a_table_waits_for_the_keeper(pair):
    """Event triggers do not see VACUUM FULL and CLUSTER (argued), so the freeze cannot refuse them; the keeper's lock
    does. test_attacks_move.py tries it on the manager's own."""
    s = pair.source
    pair.fill()
    pair.freeze()
    rewrite = ("VACUUM FULL accounts", "CLUSTER accounts USING accounts_pkey")
    for sql in rewrite:
        s.run(sql)
    keeper, client = s.connect(autocommit=False), s.connect(options="-c lock_timeout=200")
    s.run("LOCK TABLE accounts IN ACCESS SHARE MODE", on=keeper)
    for sql in rewrite:
        with s.refused("55P03"):
            s.run(sql, on=client)


# ---- A16: TRUNCATE and DDL until the clean-up has ended ----


def test_A16_frozen_on_both_sides_to_the_end(pair):
    pair.fill()
    pair.freeze()
    pair.replicate()
    pair.close_gate()
    pair.cut_over()
    pair.settle()
    for shard in (pair.source, pair.target):
        for sql in ("TRUNCATE accounts", "ALTER TABLE accounts ADD COLUMN x int", "DROP TABLE accounts"):
            with shard.refused("SHR02", "operation m1"):
                shard.run(sql)
    pair.drop_forward()
    assert pair.clean() == len(pair.inside)
    pair.unfreeze()
    pair.target.run("TRUNCATE accounts")


# ---- A17: the opening, seen from older snapshots, settled or not ----


def test_A17_an_old_snapshot_overwrites_nothing_it_has_not_seen(pair):
    """Once the gate is settled the guards let an older transaction pass: what came after its snapshot stops it."""
    s, t = pair.source, pair.target
    pair.fill()
    pair.replicate()
    old = t.connect(autocommit=False)
    old.isolation_level = REPEATABLE_READ
    t.run("SELECT count(*) FROM accounts", on=old)
    pair.close_gate()
    s.run("UPDATE accounts SET v = 10 WHERE k = %s", pair.inside[0])  # after that snapshot
    pair.cut_over()
    pair.settle()
    with t.refused("40001"):
        t.run("UPDATE accounts SET v = v + 1 WHERE k = %s", pair.inside[0], on=old)
    assert t.value("SELECT v FROM accounts WHERE k = %s", pair.inside[0]) == 10


# ---- A18: who might slip past ----


def test_A18_a_client_that_may_set_the_replica_role(shard):
    shard.make(ACCOUNTS, accounts="k")
    shard.place("INSERT INTO accounts VALUES (%s)", shard.foreign[0])
    shard.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT SET ON PARAMETER session_replication_role TO app")
    try:
        client = shard.connect("app")
        shard.run("SET session_replication_role = replica", on=client)
        for sql in (
            "UPDATE accounts SET v = 1 WHERE k = %s",
            "DELETE FROM accounts WHERE k = %s",
            "INSERT INTO accounts VALUES (%s) ON CONFLICT (k) DO UPDATE SET v = 1",
        ):
            with shard.refused("SHR01"):
                shard.run(sql, shard.foreign[0], on=client)
        for name in ("create", "session_setup"):  # an origin would pass, and is not to be had
            with shard.refused("42501"):
                shard.run(f"SELECT pg_replication_origin_{name}('mine')", on=client)
    finally:
        shard.run("REVOKE SET ON PARAMETER session_replication_role FROM app")


def test_A18_a_function_that_swallows_the_error_saves_nothing(shard):
    """It may tell its caller a lie; the row stays as it was. Documented."""
    shard.make(ACCOUNTS, accounts="k")
    shard.place("INSERT INTO accounts VALUES (%s)", shard.foreign[0])
    shard.run(
        "CREATE FUNCTION save(x bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE accounts SET v = 9 WHERE k = x; RETURN 'saved'; EXCEPTION WHEN OTHERS THEN RETURN 'saved'; END $$"
    )
    assert shard.value("SELECT save(%s)", shard.foreign[0]) == "saved"
    assert shard.value("SELECT v FROM accounts WHERE k = %s", shard.foreign[0]) == 0


def test_A18_a_partition_that_was_detached_is_told(shard):
    """Its guards go with DETACH; during a move the freeze refuses it, at other times the periodic look finds it."""
    shard.make(
        "CREATE TABLE e (k bigint NOT NULL, at int NOT NULL, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM (0) TO (10)",
        e="k",
    )
    shard.freeze()
    with shard.refused("SHR02"):
        shard.run("ALTER TABLE e DETACH PARTITION e1")
    shard.unfreeze()
    shard.run("SELECT shardherd.check_guards()")
    assert not shard.value("SELECT shardherd.guards_differ()")
    shard.run("ALTER TABLE e DETACH PARTITION e1")
    assert shard.value("SELECT shardherd.guards_differ()")
    assert shard.run("INSERT INTO e1 VALUES (%s, 1)", shard.foreign[0]) == 1
    found = shard.run("SELECT subject, finding FROM shardherd.check_guards()")
    assert [subject for subject, _ in found] == ["public.e"] and "public.e1 was detached" in found[0][1], found


def test_A18_a_subscription_of_somebody_else_is_told(server, shard):
    """Its apply worker passes the guards by its origin; no move begins while it is there, and the look finds it."""
    other = Shard(server, f"a{next(_number)}")
    slot = f"theirs_{shard.name}"
    try:
        shard.make(ACCOUNTS, accounts="k")
        other.run(ACCOUNTS)
        other.run("CREATE PUBLICATION theirs FOR TABLE accounts")
        other.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
        shard.run("SELECT shardherd.check_guards()")
        assert not shard.value("SELECT shardherd.guards_differ()")
        shard.run(
            f"CREATE SUBSCRIPTION {slot} CONNECTION '{server.conninfo(other.name)}' PUBLICATION theirs "
            "WITH (create_slot = false, copy_data = false)"
        )
        other.run("INSERT INTO accounts VALUES (%s)", shard.foreign[0])
        wait_until(lambda: shard.value("SELECT count(*) FROM accounts") == 1, what="the row to slip past")
        assert shard.value("SELECT shardherd.guards_differ()")
        for found in (shard.run("SELECT * FROM shardherd.check_guards()"), shard.findings()):
            assert [subject for subject, _, _ in found] == ["public.accounts"], found
            assert "drop the subscription" in found[0][2], found
    finally:
        if shard.run("SELECT 1 FROM pg_subscription WHERE subname = %s", slot):
            for what in ("DISABLE", "SET (slot_name = NONE)"):
                shard.run(f"ALTER SUBSCRIPTION {slot} {what}")
            shard.run(f"DROP SUBSCRIPTION {slot}")
        active = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active"
        wait_until(lambda: other.value(active, slot) == 0, what="the slot to be let go")
        other.close()


# ---- A20, A21 ----


def test_A20_identity_and_serial_go_on_above(server):
    """Neither copy nor apply advances them on T: the opening does."""
    schema = (
        "CREATE TABLE t (k bigint NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY (CACHE 100), n serial, "
        "PRIMARY KEY (k, id))"
    )
    with Pair(server, f"a{next(_number)}_", schema, t="k") as pair:
        pair.source.run("INSERT INTO t (k) SELECT generate_series(1, 400)")
        pair.replicate()
        pair.close_gate()
        last = "SELECT max(id), max(n) FROM t"
        given = pair.source.run(last)[0]
        assert pair.target.run("SELECT last_value FROM pg_sequences WHERE schemaname = 'public'") == [(None,), (None,)]
        fence, opener = pair.lock()
        names, values = zip(*pair.source.run("SELECT name, value FROM shardherd.sequences(1000)"), strict=True)
        pair.target.run(
            "SELECT shardherd.raise_sequences(%s::text[], %s::bigint[])", list(names), list(values), on=opener
        )
        pair.give_away(fence)
        pair.marker()
        fence.commit()
        pair.open(opener)
        new = pair.target.run("INSERT INTO t (k) VALUES (%s) RETURNING id, n", pair.inside[0])[0]
        assert all(mine > theirs + 1000 for mine, theirs in zip(new, given, strict=True)), (new, given)


BINARY = {
    "integer": True, "text": True, "integer[]": True, "int4range": True, "uuid": True, "jsonb": True, "bytea": True,
    "mood": True, "small": True, "mood[]": False, "pointing": False, "couple": False, "oid": False, "oid[]": False,
    **dict.fromkeys(("regclass", "regproc", "regtype", "regrole", "regclass[]", "regtype[]", "regnamespace"), False),
}  # fmt: skip


def test_A21_what_holds_an_oid_travels_as_text(server):
    schema = (
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE couple AS (a int, b mood); CREATE DOMAIN small AS int;"
        "CREATE DOMAIN pointing AS regclass; CREATE TABLE pointed (n int);"
        "CREATE TABLE t (k bigint PRIMARY KEY, r regclass, m mood, l mood[], c couple, p pointing)"
    )
    with Pair(server, f"a{next(_number)}_", schema, t="k") as pair:
        s, t = pair.source, pair.target
        for name, binary in BINARY.items():
            assert s.value("SELECT shardherd.binary_travels(%s::regtype)", name) is binary, name
        row = "SELECT n, 'pointed', 'glad', ARRAY['sad', NULL]::mood[], ROW(n, 'sad')::couple, 'pointed'"
        s.run(f"INSERT INTO t {row} FROM generate_series(1, 200) n")
        pair.replicate()
        s.run(f"INSERT INTO t {row} FROM generate_series(201, 400) n")
        pair.marker()
        pair.assert_equal()
        oids = "SELECT 'pointed'::regclass::oid, 'mood'::regtype::oid"
        assert s.run(oids) != t.run(oids)
        assert t.value("SELECT count(*) FROM t WHERE r = 'pointed'::regclass AND p = r AND m = 'glad'") == len(
            pair.inside
        )
