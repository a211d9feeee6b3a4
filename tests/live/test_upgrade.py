"""A move between shards that an older version made: both get the functions and guards of this one."""

import os

import pytest
from rig import Rig

# what version 0.1.0 had not in the beginning
NEWER = """
DROP FUNCTION shardherd.prepare_fence, shardherd.settle_fence, shardherd.wake_fence, shardherd.sleep_fence,
              shardherd.fence_table, shardherd.opened, shardherd.warm_up_fence, shardherd.warm_up_opening;
DROP TABLE shardherd.prepared_fence;
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


def test_a_dry_run_leaves_an_older_version_alone(rig):
    rig.make_shop(customers=300)
    rig.sql("s2", NEWER)
    split = {"kind": "split", "shard": "s2", "dryRun": True}
    op = rig.wait_operation(rig.post("/v1/databases/shop/operations", split)["id"])
    assert op["status"] == "done", op
    assert rig.sql("s2", VERSION) == [(None,)]
