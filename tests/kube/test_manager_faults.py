"""What the manager does when the cluster fails it: the API server gone, rights taken, paused, killed anywhere."""

import json
import re
import signal
import time

import pytest
from kube import needs_root
from manager_rig import DATABASES, NAME, ManagerCluster, database
from test_manager import QUICK, Load, ended, make, remove, start

pytestmark = [
    needs_root,
    pytest.mark.slow,
]
ROLE_BINDING = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
CALM = {"balance": {"split": "off", "merge": "off"}, "deletionPolicy": "delete"}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("faults"), nodes=2, variables=QUICK, replicas=2) as rig:
        yield rig


def name_of(pod):
    return pod["metadata"]["name"]


def text_of(rig, pod):
    return rig.get_http(pod, "/readyz?verbose")[1]


def other(rig, pod):
    return next(p for p in rig.managers() if name_of(p) != name_of(pod))


def test_a_standby_serves_and_a_paused_leader_does_nothing(rig):
    make(rig, **CALM)
    leader = rig.leader()
    standby = other(rig, leader)
    rig.wait(lambda: rig.get_http(standby, "/readyz")[0] == 200, 60, "the standby in service")
    assert "standby" in text_of(rig, standby) and rig.get_http(standby, "/livez")[0] == 200
    ours = rig.wait(lambda: rig.get_http(standby, "/v1/databases/shop/routing", 8080), 20, "its routing table")
    assert ours == rig.get_http(leader, "/v1/databases/shop/routing", 8080)
    term = json.loads(rig.get_http(leader, "/version", 8080)[1])["term"]

    rig.crash(name_of(leader), number=signal.SIGSTOP)
    try:
        rig.wait(lambda: name_of(rig.leader() or leader) == name_of(standby), 60, "the other one leads")
        start(rig, "by-the-new-one", kind="split", shard="s1", bakeSeconds=0)
        ended(rig, "by-the-new-one", "Done")
    finally:
        rig.crash(name_of(leader), number=signal.SIGCONT)
    rig.wait(lambda: "standby" in text_of(rig, leader), 60, "the old one is a standby")
    new = rig.leader()
    assert name_of(new) == name_of(standby)
    assert json.loads(rig.get_http(new, "/version", 8080)[1])["term"] > term
    assert int(rig.wait_database(shards=3)["status"]["epoch"]) > int(json.loads(ours[1])["epoch"])
    operations = json.loads(rig.get_http(new, "/v1/operations", 8080)[1])
    splits = [o for o in operations["items"] if o["kind"] == "split"]
    assert len(splits) == 1, splits
    # a leader that wakes up may write the status once more before it sees that it leads no longer
    epoch = rig.database()["status"]["epoch"]
    rig.patch(f"{DATABASES}/shop/status", {"status": {"epoch": "1", "shards": 2}})
    rig.wait(lambda: rig.is_ready(shards=3) and rig.database()["status"]["epoch"] == epoch, 20, "the status put right")


def test_the_api_server_goes_for_long_under_load(rig):
    """Polls and routing tables go on, the loop never stalls, no write is lost, and it leads again afterwards."""
    if rig.database() is None:
        make(rig, **CALM)
    rig.client_pod()
    assert rig.load("client", "init").returncode == 0
    leader = rig.leader()
    load = Load(rig, 45, "--clients", "2", "--rate", "100", "--check-wait", "60s")
    rig.parts["kube-apiserver"].kill()
    try:
        deadline = time.monotonic() + 22  # well beyond the lease
        while time.monotonic() < deadline:
            status, _ = rig.get_http(leader, "/v1/databases/shop/routing", 8080)
            assert status == 200
            assert rig.get_http(leader, "/livez")[0] == 200
            instances = json.loads(rig.get_http(leader, "/v1/instances", 8080)[1])["items"]
            assert {i["health"] for i in instances} == {"up"}, instances
            time.sleep(0.5)
        loop = json.loads(rig.get_http(leader, "/debug/loop", 8080)[1])
        assert int(loop["longest_turn_us"]) < 1_000_000, loop
    finally:
        rig.start()
    rig.wait(rig.leader, 90, "a manager leads again")
    report = load.result()
    assert report["acked_writes"] > 500, report
    rig.delete("Pod", "client")
    rig.wait_database()


def restarts(pod):
    return [c["restartCount"] for c in pod["status"]["containerStatuses"]]


def test_the_watch_is_too_old(rig):
    """Cut off while objects change, and the API server's memory of the changes is gone (410): all is read anew."""
    if rig.database() is None:
        make(rig, **CALM)
    pods = rig.managers()
    for pod in pods:
        rig.pod(name_of(pod), "cut")
    try:
        for threshold in range(700, 720):
            rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"threshold": threshold}}})
        rig.compact()
        rig.parts["kube-apiserver"].kill()
        rig.start()
    finally:
        for pod in pods:
            rig.pod(name_of(pod), "restore")
    leader = rig.wait(rig.leader, 90, "a manager leads again")
    rig.wait_database()  # as the objects are now
    before = next(p for p in pods if name_of(p) == name_of(leader))
    assert restarts(leader) == restarts(before), "it was not read anew, it was started anew"
    assert "databases, watch watching, begun anew 1 times" in text_of(rig, leader), text_of(rig, leader)


def test_rights_are_taken_and_given_back(rig):
    if rig.database() is None:
        make(rig, **CALM)
    binding = rig.must("GET", f"{ROLE_BINDING}/{NAME}")
    rig.must("DELETE", f"{ROLE_BINDING}/{NAME}")
    for key in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        binding["metadata"].pop(key, None)
    try:
        leader = rig.leader() or rig.managers()[0]
        said = r'msg="the lease cannot be read or renewed, trying again" .* 403 Forbidden: leases'
        rig.wait(lambda: re.search(said, rig.manager_logs()), 30, "the manager says what it may not")
        assert rig.get_http(leader, "/livez")[0] == 200
    finally:
        rig.must("POST", ROLE_BINDING, binding)
    rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"threshold": 4321}}})
    rig.wait(rig.leader, 90, "a manager leads again")
    rig.wait_database()


def test_the_token_changes(rig):
    """Old tokens go on for a while; after 50 s the file is read again."""
    if rig.database() is None:
        make(rig, **CALM)
    leader = rig.leader()
    rig.pod(name_of(leader), "tokens")
    deadline = time.monotonic() + 65
    rig.wait(lambda: time.monotonic() > deadline, 70, "the next reading")
    assert name_of(rig.leader()) == name_of(leader)
    rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"threshold": 1234}}})
    rig.wait_database()
    remove(rig)


# Set once: the second run of the same container (its volume is still there) has no place to end at any more.
ONCE = '[ -e $F ] && unset SHARDHERD_TEST_KILL_AT; touch $F; exec shardherd "$@"'.replace(
    "$F", "/var/lib/shardherd/.killed"
)
PLACES = [
    "state:planned",
    "before:instances",
    "amid:instances",
    "after:instances",
    "amid:schema",
    "after:schema",
    "before:routing",
    "after:routing",
]


def only_manager_killed_at(rig, place):
    """One manager, in a new pod, that ends at this place the first time it comes there."""
    container = {"name": "manager", "command": ["sh", "-c", ONCE, "sh"]}
    container["env"] = [{"name": "SHARDHERD_TEST_KILL_AT", "value": place}]
    spec = {
        "replicas": 1,
        "strategy": {"$patch": "replace", "type": "Recreate"},
        "template": {"spec": {"containers": [container]}},
    }
    path = f"/apis/apps/v1/namespaces/default/deployments/{NAME}"
    rig.must("PATCH", path, {"spec": spec}, content_type="application/strategic-merge-patch+json")

    def alone():
        pods = rig.list("Pod", labelSelector=f"app={NAME}")
        if len(pods) != 1 or container["env"][0] not in pods[0]["spec"]["containers"][0]["env"]:
            return None
        return rig.leader()

    return name_of(rig.wait(alone, 90, "the manager that will be killed"))


@pytest.mark.parametrize("place", PLACES)
def test_killed_in_each_step_of_provisioning(rig, place):
    """Killed once there; the one started in its stead finishes, and nothing is made twice."""
    if rig.database() is not None:
        remove(rig)
    name = only_manager_killed_at(rig, f"provision:{place}")
    before = {o["id"] for o in rig.public("/v1/operations")["items"]}
    rig.must("POST", DATABASES, database(**CALM))

    def killed():
        status = rig.get("Pod", name)["status"]["containerStatuses"][0]
        return status.get("lastState", {}).get("terminated") if status["restartCount"] else None

    end = rig.wait(killed, 90, f"killed at {place}")
    assert end["exitCode"] == 137, end
    assert f"place=provision:{place}" in rig.logs(name)
    item = rig.wait_database(shards=2, timeout=150)
    assert item["status"]["epoch"] == "1"
    assert [rig.get("Pod", name)["status"]["containerStatuses"][0]["restartCount"]] == [1]  # the same pod went on
    made = [o for o in rig.public("/v1/operations")["items"] if o["id"] not in before]
    assert [(o["kind"], o["status"]) for o in made] == [("provision", "done")], made
    for kind in ("StatefulSet", "PersistentVolumeClaim", "Pod"):
        assert len([b for b in rig.belongings() if b.startswith(f"{kind}/")]) == 2, rig.belongings()
    if PLACES.index(place) >= PLACES.index("after:instances"):
        sets = rig.must("GET", "/apis/apps/v1/namespaces/default/statefulsets")["items"]
        assert all(s["metadata"]["creationTimestamp"] <= end["finishedAt"] for s in sets), (end, sets)
    remove(rig)
