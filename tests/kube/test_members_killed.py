"""The manager is killed at each place of a failover in the test cluster, once: the next one ends what it began."""

import os
import random

import pytest
from kube import needs_root
from manager_rig import ManagerCluster
from members import pods, role, wait_whole
from test_manager_faults import only_manager_killed_at
from test_members import delete_now, gap, make_shop, sql

pytestmark = needs_root
STEPS = ["planned", "claim", "confirm", "chosen", "promote", "settle", "repoint", "open", "route", "done"]
PLACES = [f"{moment}:{step}" for step in STEPS for moment in ("before", "after")]
SEED = int(os.environ.get("SHARDHERD_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)


def chosen():
    """With SHARDHERD_TEST_FULL all of them; else two, one before and one after it is known who is promoted."""
    if os.environ.get("SHARDHERD_TEST_FULL"):
        return PLACES
    print(f"test_members_killed: seed {SEED}")
    draw, middle = random.Random(SEED), PLACES.index("after:chosen")
    return [draw.choice(PLACES[:middle]), draw.choice(PLACES[middle:])]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("killed"), nodes=4) as rig:
        yield rig


@pytest.fixture(scope="module")
def client(rig):
    return make_shop(rig, 3)


def die(rig, name):
    """Not by its pod's deletion alone: an agent that is asked to end hands over if it can, and nothing fails over."""
    rig.crash(name, "postgresql")
    delete_now(rig, name)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", chosen())
def test_the_manager_is_killed_within_a_failover(rig, client, place):
    manager = only_manager_killed_at(rig, f"failover:{place}")
    first = wait_whole(rig, 120)
    report = gap(rig, client, 20, lambda: die(rig, first))
    status = rig.get("Pod", manager)["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1, (status, rig.manager_logs()[-4000:])
    assert status["lastState"]["terminated"]["exitCode"] == 137, status
    # the old one may be back by then, and is as good as another: it has everything
    second = wait_whole(rig, 120)
    assert [name for name, pod in pods(rig).items() if role(pod) == "primary"] == [second]
    assert sql(rig, client, "SELECT pg_is_in_recovery()") == "f"
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    # its Lease, which nobody can give back any more, is not waited for
    assert report["longest_write_gap_ms"] < 12_000, report
