"""The SQL of the way back: where the source begins to follow, and what must not replicate meanwhile."""

import pytest
from conftest import TRIED
from guarded import MOST, Shard, open_gate, settle

pytestmark = pytest.mark.beside

ACCOUNTS = "CREATE TABLE accounts (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0)"


@pytest.fixture(scope="module", params=TRIED, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return pg_factory_module(request.param, wal_level="logical")


@pytest.fixture
def source(server, request):
    made = Shard(server, f"r{abs(hash(request.node.name)) % 10**8}")
    made.make(ACCOUNTS, accounts="k")
    yield made
    made.close()


@pytest.fixture
def target(source):
    """Owns nothing; its gate is closed."""
    source.own([])
    source.run("SELECT shardherd.close_gate(1, 'm1', 0, %s)", MOST)
    return source


def delete(shard, slot):
    return shard.run("SELECT shardherd.delete_batch(1, %s, 'accounts', 'k', 'bigint', 0, %s, 0, 9)", slot, MOST)


def follower(shard, name="m_r"):
    """A subscription that is not enabled and asks no server."""
    shard.run(f"CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p "
              "WITH (connect = false, enabled = false, create_slot = false, slot_name = NONE)")  # fmt: skip
    return name


def position(shard, name):
    return shard.value("SELECT pg_replication_origin_progress('pg_' || oid, false)::text FROM pg_subscription "
                       "WHERE subname = %s", name)  # fmt: skip


def test_B7_the_position_is_never_set_backward(source):
    name = follower(source)
    try:
        assert position(source, name) is None
        for opened, expected in (("0/200", "0/200"), ("0/100", "0/200"), ("0/200", "0/200"), ("0/300", "0/300")):
            source.run("SELECT shardherd.follow_from(1, %s, %s)", name, opened)
            assert position(source, name) == expected
        with source.refused("SHR03"):
            source.run("SELECT shardherd.raise_term(5)")
            source.run("SELECT shardherd.follow_from(1, %s, '0/400')", name)
    finally:
        source.run(f"DROP SUBSCRIPTION {name}")


def test_A10_not_while_the_other_direction_replicates(source):
    """Neither a slot here nor a subscription here; of this database only (A11)."""
    source.run("SELECT shardherd.refuse_replication('m_f')")
    source.run("SELECT pg_create_logical_replication_slot('m_f', 'pgoutput')")
    try:
        with source.refused("55006"):
            source.run("SELECT shardherd.refuse_replication('m_f')")
    finally:
        source.run("SELECT pg_drop_replication_slot('m_f')")
    follower(source, "m_f")
    try:
        with source.refused("55006"):
            source.run("SELECT shardherd.refuse_replication('m_f')")
    finally:
        source.run("DROP SUBSCRIPTION m_f")
    source.run("SELECT shardherd.refuse_replication('m_f')")


@pytest.mark.parametrize("direction", ["f", "r"])
def test_A9_no_clean_up_while_either_direction_replicates(source, direction):
    source.own([])
    source.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", f"m_{direction}")
    try:
        for slot in ("m_f", "m_r"):
            with source.refused("55000", "still replicates"):
                delete(source, slot)
    finally:
        source.run("SELECT pg_drop_replication_slot(%s)", f"m_{direction}")


def test_the_opening_is_kept_until_the_move_ends(target):
    """What the source follows from: the gate's own position, though the gate is gone."""
    shard = target
    opened = open_gate(shard)
    settle(shard)
    assert shard.value("SELECT lsn FROM shardherd.opening WHERE move = 'm1'") == opened
    settle(shard)
    assert shard.value("SELECT count(*) FROM shardherd.opening") == 1
    shard.run("SELECT shardherd.unfreeze(1, 'm1')")
    assert shard.value("SELECT count(*) FROM shardherd.opening") == 0
