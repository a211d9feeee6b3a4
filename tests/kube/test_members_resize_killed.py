"""The manager is killed at each place of a change of spec.instances, once: the next one ends what it began."""

import os
import random

import pytest
from kube import needs_root
from manager_rig import NAME, SHOP, ManagerCluster
from members import pods, primaries, wait_whole
from test_manager_faults import only_manager_killed_at
from test_members import gap, hand_over, make_shop, sql
from test_members_resize import CLAIMS, claims

pytestmark = [
    needs_root,
    pytest.mark.slow,
]
MORE = ["resize:before:walk", "resize:after:walk", "resize:before:record", "resize:after:record"]
FEWER = [
    *(f"switchover:{place}" for place in ("before:fence", "after:chosen", "before:promote", "after:open")),
    *("resize:before:record", "resize:after:record", "resize:before:take", "resize:after:take"),
]
SEED = int(os.environ.get("SHARDHERD_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)
DEPLOYMENT = f"/apis/apps/v1/namespaces/default/deployments/{NAME}"


def chosen():
    """With SHARDHERD_TEST_FULL all of them, each way as often as the other; else two, one each way."""
    if os.environ.get("SHARDHERD_TEST_FULL"):
        return [(MORE[i % len(MORE)], fewer) for i, fewer in enumerate(FEWER)]
    print(f"test_members_resize_killed: seed {SEED}")
    draw = random.Random(SEED)
    return [(draw.choice(MORE), draw.choice(FEWER))]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("resized"), nodes=3) as rig:
        yield rig


@pytest.fixture(scope="module")
def client(rig):
    client = make_shop(rig, 2)
    wait_whole(rig, count=2)
    return client


def resize(rig, client, to, place):
    """With the manager killed there; returns the longest gap in milliseconds."""
    manager = only_manager_killed_at(rig, place)
    wait_whole(rig, count=len(pods(rig)))

    def container():
        return rig.get("Pod", manager)["status"]["containerStatuses"][0]

    def killed():
        status = container()
        return status["restartCount"] == 1 and status["lastState"]["terminated"]

    assert container()["restartCount"] == 0, "it was killed before"

    def fault():
        rig.patch(SHOP, {"spec": {"instances": to}})
        end = rig.wait(killed, 60, f"killed at {place}")
        assert end["exitCode"] == 137, (place, end)
        rig.wait(lambda: rig.is_ready() and len(pods(rig)) == to, 150, f"{to} instances, and Ready")

    try:
        report = gap(rig, client, 50, fault)
        primary = wait_whole(rig, 120, count=to)
    except TimeoutError as error:
        raise TimeoutError(f"{place}: {error}\n{rig.database()['status']}\n{rig.manager_logs()[-8000:]}") from None
    assert primaries(rig) == [primary], place
    assert sql(rig, client, "SHOW synchronous_standby_names").count("shop-s1-") == to - 1, place
    return round(report["longest_write_gap_ms"])


def bring_to(rig, count):
    """From what the test before left."""
    if len(pods(rig)) != count:
        rig.patch(SHOP, {"spec": {"instances": count}})
        rig.wait(lambda: rig.is_ready() and len(pods(rig)) == count, 150, f"{count} instances, and Ready")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("more", "fewer"), chosen())
def test_the_manager_is_killed_within_a_resize(rig, client, more, fewer):
    bring_to(rig, 2)
    gaps = {f"more {more}": resize(rig, client, 3, more)}
    hand_over(rig, "shop-s1-2")  # the one that is to go leads
    gaps[f"fewer {fewer}"] = resize(rig, client, 2, fewer)
    print(f"milliseconds without writes, by the place where the manager was killed: {gaps}")
    assert max(gaps.values()) < 20000, gaps
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_the_manager_dies_while_volumes_grow_and_one_is_to_go(rig, client):
    """The StatefulSet is gone then, and fewer instances are asked for than there are, the last of which leads."""
    bring_to(rig, 3)
    hand_over(rig, "shop-s1-2")
    before = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}

    def fault():
        rig.patch(DEPLOYMENT, {"spec": {"replicas": 0}})
        rig.wait(lambda: not rig.managers(), 60, "no manager")
        rig.patch(SHOP, {"spec": {"instances": 2, "storage": {"size": "2Gi"}}})
        for claim in claims(rig):  # that is done first
            rig.patch(f"{CLAIMS}/{claim}", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
        rig.delete("StatefulSet", "shop-s1", propagationPolicy="Orphan")
        rig.wait(lambda: rig.get("StatefulSet", "shop-s1") is None, 20, "no StatefulSet")
        rig.patch(DEPLOYMENT, {"spec": {"replicas": 1}})
        rig.wait(lambda: rig.is_ready() and len(pods(rig)) == 2, 150, "2 instances, and Ready")

    report = gap(rig, client, 60, fault)
    assert report["longest_write_gap_ms"] < 10000, report
    assert wait_whole(rig, count=2) in ("shop-s1-0", "shop-s1-1")
    now = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    assert now.items() < before.items(), "nobody was made anew"
    logs = rig.manager_logs()
    assert "the primary is to be removed, and hands over" in logs, logs[-4000:]  # and was not simply taken away
    made = rig.get("StatefulSet", "shop-s1")["spec"]
    assert made["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi", made
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
