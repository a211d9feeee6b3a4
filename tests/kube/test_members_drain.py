"""The node of the primary is cordoned, which moves nothing, and drained, which has the primary hand over first."""

import pytest
from install import Kubectl, needs_kubectl
from kube import needs_root
from manager_rig import ManagerCluster
from members import pods, primaries, wait_whole
from test_members import gap, hand_over, make_shop

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    needs_kubectl,
]
SHARD = "shardherd.io/database=shop"


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    # one for each instance, and one for the manager, the client, and the instance whose node is drained
    with ManagerCluster(tmp_path_factory.mktemp("drain"), nodes=4) as rig:
        yield rig


@pytest.fixture(scope="module")
def shop(rig):
    return make_shop(rig, 3)


@pytest.fixture
def kubectl(rig, tmp_path):
    return Kubectl(tmp_path, rig.kubeconfig, rig.wrap)


def node_of(rig, name):
    return rig.get("Pod", name)["spec"]["nodeName"]


def alone(rig, client):
    """A primary whose node has nothing else on it that the test needs."""
    first = wait_whole(rig)
    needed = {rig.leader()["spec"]["nodeName"], node_of(rig, client)}
    if node_of(rig, first) not in needed:
        return first
    return hand_over(rig, next(name for name in sorted(pods(rig)) if node_of(rig, name) not in needed))


def drain(kubectl, node):
    """As anybody does it; sockets and temporary files of the pods are in volumes that go with them."""
    kubectl.run("drain", node, "--pod-selector", SHARD, "--delete-emptydir-data", "--timeout=90s")


def evict(rig, name):
    """The status that the API server answers to an eviction."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    return rig.request("POST", f"/api/v1/namespaces/default/pods/{name}/eviction", body)[0]


def test_a_cordon_moves_nothing(rig, shop, kubectl):
    first = alone(rig, shop)
    node = node_of(rig, first)
    before = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    report = gap(rig, shop, 15, lambda: kubectl.run("cordon", node))
    assert report["longest_write_gap_ms"] < 1000, report
    assert rig.get("Node", node)["spec"]["unschedulable"]
    assert wait_whole(rig) == first
    assert {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()} == before
    kubectl.run("uncordon", node)


def test_a_drain_moves_the_primary_first(rig, shop, kubectl):
    """Nothing but kubectl drain: the eviction ends the pod, and its agent hands over before its server stops."""
    first = alone(rig, shop)
    node, uid = node_of(rig, first), pods(rig)[first]["metadata"]["uid"]
    known = {o["id"] for o in rig.public("/v1/operations")["items"]}
    try:
        report = gap(rig, shop, 30, lambda: drain(kubectl, node))
        assert report["longest_write_gap_ms"] < 5000, report
        second = wait_whole(rig)
        assert second != first and primaries(rig) == [second]
        assert pods(rig)[first]["metadata"]["uid"] != uid and node_of(rig, first) != node
        made = [o for o in rig.public("/v1/operations")["items"] if o["id"] not in known]
        assert [(o["kind"], o["status"]) for o in made] == [("switchover", "done")], made
        assert f"{first} is to stop, and hands over first" in str(made), made
        assert "hands over" in rig.logs(first) or "another member is to take over first" in rig.logs(first)
    finally:
        kubectl.run("uncordon", node)


def test_one_at_a_time(rig, shop):
    """The budget lets the next pod of a shard go when the one before is ready again; then the last one is a standby."""
    first = wait_whole(rig)
    one, other = (name for name in sorted(pods(rig)) if name != first)
    assert evict(rig, one) == 201
    assert evict(rig, other) == evict(rig, first) == 429
    assert wait_whole(rig) == first
    report = gap(rig, shop, 20, lambda: rig.wait(lambda: evict(rig, first) == 201, 60, "the budget to allow the next"))
    assert report["longest_write_gap_ms"] < 5000, report
    assert wait_whole(rig) != first
    done = rig.load(shop, "check")
    assert done.returncode == 0, done.stdout + done.stderr
