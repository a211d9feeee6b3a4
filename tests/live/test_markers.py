"""Markers: what came with one stays, though the subscription that brought it does not wait for its disk."""

import contextlib

import psycopg
import pytest
from conftest import VERSIONS, wait_until
from guarded import MOST, Shard, start_server
from pair import ACCOUNTS, SETTINGS, standby_of

pytestmark = pytest.mark.beside
NAME = "shardherd_shop_m1_f"
COUNT = 5


@pytest.fixture(params=VERSIONS, ids=lambda version: f"pg{version}")
def source(request, pg_factory):
    return start_server(pg_factory, request.param)


def follow(source, target):
    """Two shards; the target follows what is written to the source, as in a move that has copied nothing."""
    s, t = Shard(source, "markers"), Shard(target, "markert")
    s.make(ACCOUNTS, accounts="k")
    t.make(ACCOUNTS, ranges=(), accounts="k")
    s.run("SELECT shardherd.publish_range(1, 'm1', %s, 0, %s)", NAME, MOST)
    s.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", NAME)
    t.run("SELECT shardherd.await_markers(1, 'm1', %s)", NAME)
    t.run(
        f"CREATE SUBSCRIPTION {NAME} CONNECTION '{source.conninfo(s.name)}' PUBLICATION {NAME} "
        "WITH (copy_data = false, create_slot = false, synchronous_commit = 'off')"
    )
    return s, t


def write_rows(s, t):
    s.run("INSERT INTO accounts SELECT unnest(%s::bigint[])", s.owned[:COUNT])
    there = lambda: t.value("SELECT count(*) FROM accounts") == COUNT  # noqa: E731
    wait_until(there, timeout=30, what="the rows", interval=0.005)


def write_marker(s, number):
    s.run(f"INSERT INTO shardherd.{NAME} VALUES ({number})")


def test_what_came_before_a_marker_survives_a_crash_of_the_target(source, pg_factory):
    """The target flushes nothing by itself for ten seconds."""
    late = {"wal_level": "logical", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "autovacuum": "off"}
    target = pg_factory(source.version, **late)
    s, t = follow(source, target)
    write_rows(s, t)
    unflushed = t.value("SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()")
    assert unflushed, "the rows are on the disk already: nothing is shown by what follows"
    write_marker(s, 1)
    came = lambda: t.value(f"SELECT count(*) FROM shardherd.{NAME}") == 1  # noqa: E731
    wait_until(came, timeout=30, what="the marker", interval=0.001)
    target.kill9()
    source.stop("immediate")  # nothing comes again
    target.start()
    assert target.psql("SELECT count(*) FROM accounts", dbname=t.name) == [(COUNT,)]
    assert target.psql(f"SELECT n FROM shardherd.{NAME}", dbname=t.name) == [(1,)]


def test_A7_a_promoted_target_that_lacks_rows_takes_no_marker(source, pg_factory):
    """The slot has forgotten them, so nothing else would ever show it."""
    target = pg_factory(source.version, **SETTINGS)
    s, t = follow(source, target)
    standby = standby_of(target, pg_factory)
    write_marker(s, 1)
    came = f"SELECT count(*) FROM shardherd.{NAME}"
    wait_until(lambda: standby.value(came, dbname=t.name) == 1, timeout=30, what="the first marker on the standby")
    standby.stop()
    write_rows(s, t)
    written = s.value("SELECT pg_current_wal_insert_lsn()")
    forgotten = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    wait_until(lambda: s.value(forgotten, written, NAME), timeout=30, what="S to forget")
    target.kill9()
    standby.start()
    standby.psql("SELECT pg_promote()")
    write_marker(s, 2)
    with contextlib.closing(standby.connect(t.name)) as promoted:
        errors = "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = %s"
        wait_until(lambda: promoted.execute(errors, [NAME]).fetchone()[0] > 0, timeout=30, what="the marker's error")
        assert promoted.execute("SELECT count(*) FROM accounts").fetchone() == (0,)  # the hole
        assert promoted.execute(came).fetchone() == (1,)
        with pytest.raises(psycopg.Error, match="promoted since it follows") as refused:
            promoted.execute("SELECT shardherd.refuse_promoted(%s)", [NAME])
        assert refused.value.sqlstate == "55000"
