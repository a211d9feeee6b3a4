"""kill -9 of the manager at every step of a split, under load, then a restart: the fleet must mend itself.

Each cell: load runs, a split starts in a manager that ends itself with SIGKILL at the named place
(SHARDHERD_TEST_KILL_AT), a manager without the switch is started, and the operation must end - done or undone -
with one owner per range, nothing left over, and no acknowledged write lost, duplicated or misplaced.
"""

import os
import random

import pytest
from rig import Rig

STATES = ["check", "target", "copy", "catch_up", "verify", "rehearse", "fence", "settle", "watch", "clean", "done"]
ACTIONS = [
    "check", "provision", "schema", "freeze", "publish", "copy", "build", "subscribe", "catch_up", "verify",
    "close_gate", "rehearse", "lock", "marker", "route", "fence", "sequences", "prepare_open",
    "commit", "open", "settle", "announce", "drop_forward", "clean_source", "unfreeze",
]  # fmt: skip
CELLS = [f"move:state:{state}" for state in STATES] + [
    f"move:{moment}:{action}" for action in ACTIONS for moment in ("before", "after")
]
# before the fence the move may go either way, after its commit only forward
FORWARD = ["commit", "open", "settle", "announce", "drop_forward", "clean_source", "unfreeze"]
IN_CI = 8


def chosen():
    """All cells in a full run; in CI the states and a few actions by a seed that is printed."""
    if os.environ.get("SHARDHERD_TEST_FULL"):
        return CELLS
    seed = int(os.environ.get("SHARDHERD_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)
    print(f"test_move_crash: seed {seed}")
    return CELLS[: len(STATES)] + sorted(random.Random(seed).sample(CELLS[len(STATES) :], IN_CI))


@pytest.fixture(scope="module")
def rig(shardherd, tmp_path_factory):
    directory = f"/tmp/shardherd-crash-{os.getpid()}"
    rig = Rig(shardherd, directory)
    rig.start()
    rig.make_shop(customers=3000)
    yield rig
    rig.clean_up()


def merge_back(rig):
    """Two shards again, for the next cell."""
    for shard in rig.routing()["shards"]:
        if shard["name"] not in ("s1", "s2"):
            op = rig.post(
                "/v1/databases/shop/operations", {"kind": "merge", "shard": shard["name"], "target": "s2", "bake": "0s"}
            )
            assert rig.wait_operation(op["id"])["status"] == "done"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cell", chosen())
def test_D11_killed_at(rig, cell):
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": cell})
    rig.start_load("--clients", "8", "--rate", "1200")
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})
    assert rig.wait_dead() == -9
    rig.start()
    ended = rig.wait_operation(op["id"])
    result = rig.stop_load()
    assert result["acked_writes"] > 0
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    assert ended["status"] in ("done", "undone"), ended
    place = cell.split(":")[2]
    if (
        place in FORWARD
        and not cell.startswith("move:before:commit")
        or cell in ("move:state:settle", "move:state:clean")
    ):
        assert ended["status"] == "done", ended
    rig.assert_consistent()
    merge_back(rig)
    rig.assert_consistent()
