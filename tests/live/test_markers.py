"""Markers: what came with one stays, though the subscription that brought it does not wait for its disk."""

import pytest
from conftest import VERSIONS, wait_until
from guarded import MOST, Shard, start_server
from pair import ACCOUNTS

pytestmark = pytest.mark.beside
NAME = "shardherd_shop_m1_f"


@pytest.fixture(params=VERSIONS, ids=lambda version: f"pg{version}")
def servers(request, pg_factory):
    """The target flushes nothing by itself for ten seconds."""
    late = {"wal_level": "logical", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "autovacuum": "off"}
    return start_server(pg_factory, request.param), pg_factory(request.param, **late)


def test_what_came_before_a_marker_survives_a_crash_of_the_target(servers):
    source, target = servers
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
    s.run("INSERT INTO accounts SELECT unnest(%s::bigint[])", s.owned[:5])
    wait_until(lambda: t.value("SELECT count(*) FROM accounts") == 5, timeout=30, what="the rows", interval=0.005)
    late = t.value("SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()")
    assert late, "the rows are on the disk already: nothing is shown by what follows"
    s.run(f"INSERT INTO shardherd.{NAME} VALUES (1)")
    came = lambda: t.value(f"SELECT count(*) FROM shardherd.{NAME}") == 1  # noqa: E731
    wait_until(came, timeout=30, what="the marker", interval=0.001)
    target.kill9()
    source.stop("immediate")  # nothing comes again
    target.start()
    assert target.psql("SELECT count(*) FROM accounts", dbname=t.name) == [(5,)]
    assert target.psql(f"SELECT n FROM shardherd.{NAME}", dbname=t.name) == [(1,)]
