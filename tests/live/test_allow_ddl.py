"""--allow-ddl: until its rehearsal a move gives way to DDL, and goes back; after that it refuses DDL like any other."""

import os

import psycopg
import pytest
from rig import Rig
from test_attacks_move import Move, two_shards_again
from test_faults import go_on, rig_address, sql

pytestmark = pytest.mark.beside

ADD = "ALTER TABLE customers ADD COLUMN note text"
DROP = "ALTER TABLE customers DROP COLUMN IF EXISTS note"


@pytest.fixture(scope="module")
def rig(shardherd):
    made = Rig(shardherd, f"/tmp/shardherd-ddl-{os.getpid()}")
    try:
        made.start()
        made.make_shop(customers=1000)
        yield made
    finally:
        go_on(made) if made.process else None
        made.clean_up()


@pytest.fixture(autouse=True)
def two_shards(rig):
    yield
    two_shards_again(rig)
    for shard in ("s1", "s2"):
        rig.sql(shard, DROP)
    rig.assert_consistent()


@pytest.mark.parametrize("place", ["move:after:freeze", "move:after:copy", "move:after:verify"])
def test_it_goes_back(rig, place):
    move = Move(rig, place, body={"kind": "split", "shard": "s2", "bake": "0s", "allowDdl": True})
    sql(rig, "s2", ADD)
    move.go_on()
    ended, _ = move.end("undone")
    assert "ALTER TABLE on public.customers was done on shard s2 meanwhile" in ended["error"]["message"], ended
    assert rig.sql("s2", "SELECT count(*) FROM shardherd.freeze") == [(0,)]
    assert rig.sql("s2", "SELECT count(*) FROM customers WHERE note IS NULL") != [(0,)]  # it stays


def test_on_the_target(rig):
    body = {
        "kind": "rebalance",
        "shard": "s2",
        "target": "s1",
        "lo": "9000000000000000000",
        "bake": "0s",
        "allowDdl": True,
    }
    move = Move(rig, "move:after:verify", body=body)
    sql(rig, "s1", ADD)
    move.go_on()
    ended, _ = move.end("undone")
    assert "was done on shard s1 meanwhile" in ended["error"]["message"], ended


def test_near_the_fence_it_is_refused(rig):
    move = Move(rig, "move:after:rehearse", body={"kind": "split", "shard": "s2", "bake": "0s", "allowDdl": True})
    with pytest.raises(psycopg.Error) as refused:
        sql(rig, "s2", ADD)
    assert refused.value.sqlstate == "SHR02"
    move.go_on()
    move.end("done")


def test_what_is_not_committed_yet_is_seen(rig):
    """It holds what the rehearsal writes, so the rehearsal waits for its end."""
    move = Move(rig, "move:after:verify", body={"kind": "split", "shard": "s2", "bake": "0s", "allowDdl": True})
    with psycopg.connect(rig_address(rig, "s2")) as conn:
        conn.execute("SET lock_timeout = '20s'")
        conn.execute(ADD)
        move.go_on()
        move.error("lock timeout")
        conn.commit()
    ended, _ = move.end("undone")
    assert "ALTER TABLE on public.customers" in ended["error"]["message"], ended


def test_without_it_ddl_is_refused(rig):
    move = Move(rig, "move:after:freeze", body={"kind": "split", "shard": "s2", "bake": "0s"})
    with pytest.raises(psycopg.Error) as refused:
        sql(rig, "s2", ADD)
    assert refused.value.sqlstate == "SHR02"
    move.go_on()
    move.end("done")


def test_one_that_refuses_beside_one_that_gives_way(rig):
    """Of two moves of one shard's neighbours: the stricter one counts, and the other one does not go back for it."""
    rig.sql("s2", "INSERT INTO shardherd.freeze (move, gives_way) VALUES ('another', false)")
    try:
        move = Move(rig, "move:after:freeze", body={"kind": "split", "shard": "s2", "bake": "0s", "allowDdl": True})
        with pytest.raises(psycopg.Error) as refused:
            sql(rig, "s2", ADD)
        assert refused.value.sqlstate == "SHR02"
        move.go_on()
        move.end("done")
    finally:
        rig.sql("s2", "DELETE FROM shardherd.freeze WHERE move = 'another'")
