"""Shards of older versions: of shardherd, which get its functions and guards, and of PostgreSQL, which are moved."""

import os

import pytest
from conftest import VERSIONS, pg_bin_dir
from rig import Rig
from test_faults import sql

pytestmark = pytest.mark.beside

# what version 0.1.0 had not in the beginning
NEWER = """
DROP FUNCTION shardherd.prepare_fence, shardherd.give_away, shardherd.settle_fence, shardherd.sleep_fence,
              shardherd.fence_table,
              shardherd.fence_is_ready, shardherd.fence_guard, shardherd.stale_fence, shardherd.fenced,
              shardherd.perhaps_fenced, shardherd.opened, shardherd.warm_up_fence, shardherd.warm_up_opening;
DROP TABLE shardherd.prepared_fence;
DROP SEQUENCE shardherd.fenced;
COMMENT ON SCHEMA shardherd IS NULL
"""
VERSION = "SELECT obj_description('shardherd'::regnamespace, 'pg_namespace')"


@pytest.fixture
def rig(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-upgrade-{os.getpid()}")
    try:
        rig.start()
        yield rig
    finally:
        rig.clean_up()


def test_shards_of_an_older_version_are_brought_up_to_date(rig):
    rig.make_shop(customers=300)
    versions = [rig.sql(shard, VERSION)[0][0] for shard in ("s1", "s2")]
    assert versions[0] == versions[1] and versions[0].startswith("shard.sql "), versions
    for shard in ("s1", "s2"):
        rig.sql(shard, NEWER)
    lowest = {
        "kind": "rebalance",
        "shard": "s1",
        "target": "s2",
        "lo": str(-(2**63)),
        "hi": str(-(2**62)),
        "bake": "0s",
    }
    op = rig.wait_operation(rig.post("/v1/databases/shop/operations", lowest)["id"])
    assert op["status"] == "done", op
    assert [rig.sql(shard, VERSION)[0][0] for shard in ("s1", "s2")] == versions
    rig.assert_consistent()


# what guards do not call, and every move needs before it ends
LATER = """
DROP FUNCTION shardherd.unfreeze, shardherd.install_guards, shardherd.settle_fence;
COMMENT ON SCHEMA shardherd IS NULL
"""


@pytest.mark.parametrize("place", ["move:after:freeze", "move:after:commit", "move:after:open"])
def test_a_move_that_an_older_version_began(rig, place):
    """A manager of this version goes on with it, wherever the older one ended."""
    rig.make_shop(customers=300)
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": place})
    rig.start_load("--clients", "2", "--rate", "100")
    op_id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]
    rig.wait_dead()
    for shard in ("s2", "s3"):
        sql(rig, shard, LATER)
    rig.start()
    assert rig.wait_operation(op_id)["status"] == "done"
    result = rig.stop_load()
    assert (result["lost"], result["duplicated"], result["misplaced"]) == (0, 0, 0), result
    for shard in rig.routing()["shards"]:
        assert rig.sql(shard["name"], "SELECT to_regproc('shardherd.unfreeze') IS NOT NULL") == [(True,)]
    rig.assert_consistent()


def test_a_dry_run_leaves_an_older_version_alone(rig):
    rig.make_shop(customers=300)
    rig.sql("s2", NEWER)
    split = {"kind": "split", "shard": "s2", "dryRun": True}
    op = rig.wait_operation(rig.post("/v1/databases/shop/operations", split)["id"])
    assert op["status"] == "done", op
    assert rig.sql("s2", VERSION) == [(None,)]


def major(rig, shard):
    return rig.sql(shard, "SELECT current_setting('server_version_num')::int / 10000")[0][0]


def test_shards_get_a_newer_postgresql_under_load(rig):
    """Each in turn, from the oldest supported version that is here to the newest; writes go on, none is lost."""
    old, new = VERSIONS[0], VERSIONS[-1]
    rig.stop()
    rig.pg_bin = pg_bin_dir(old)
    rig.start()
    rig.make_shop(customers=500)
    assert {major(rig, shard) for shard in ("s1", "s2")} == {old}
    rig.stop()
    rig.pg_bin = pg_bin_dir(new)
    rig.start()
    rig.start_load("--clients", "4", "--rate", "200")
    for shard in ("s1", "s2"):
        op = rig.wait_operation(rig.post("/v1/databases/shop/operations", {"kind": "upgrade", "shard": shard})["id"])
        assert op["status"] == "done", op
    result = rig.stop_load()
    assert (result["lost"], result["duplicated"], result["misplaced"]) == (0, 0, 0), result
    names = [shard["name"] for shard in rig.routing()["shards"]]
    assert len(names) == 2 and {major(rig, name) for name in names} == {new}
    rig.assert_consistent()


def test_an_upgrade_to_the_same_version_goes_back(rig):
    rig.make_shop(customers=300)
    op = rig.wait_operation(rig.post("/v1/databases/shop/operations", {"kind": "upgrade", "shard": "s1"})["id"])
    assert op["status"] == "undone" and "let new servers be made with a newer one first" in op["error"]["message"], op
    assert [shard["name"] for shard in rig.routing()["shards"]] == ["s1", "s2"]
    rig.assert_consistent()
