"""The manager as a pod under its own service account: ShardedDatabase objects from their making to their end."""

import json
import threading
import time

import pytest
from kube import needs_root
from manager_rig import DATABASES, OPERATIONS, ManagerCluster, database

pytestmark = needs_root
QUICK = {
    "SHARDHERD_BALANCE_BAKE": "1s",
    "SHARDHERD_BALANCE_COOLDOWN": "2s",
    "SHARDHERD_BALANCE_WINDOW": "5",
    "SHARDHERD_BALANCE_SAMPLE": "1s",
    "SHARDHERD_BALANCE_MERGE_AFTER": "5s",
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("manager"), nodes=2, variables=QUICK) as rig:
        yield rig


def make(rig, name="shop", **spec):
    if rig.database(name) is not None:
        remove(rig, name)  # what a test left that failed
    rig.must("POST", DATABASES, database(name, **spec))
    return rig.wait_database(name, shards=spec.get("shards", 2))


def remove(rig, name="shop", timeout=60):
    rig.patch(f"{DATABASES}/{name}", {"spec": {"deletionPolicy": "delete"}})
    rig.must("DELETE", f"{DATABASES}/{name}")
    rig.wait(lambda: rig.database(name) is None, timeout, f"{name} deleted")
    rig.wait(lambda: rig.belongings(name) == [], timeout, f"nothing left of {name}: {rig.belongings(name)}")


def names(rig, kind="StatefulSet"):
    return sorted(b.partition("/")[2] for b in rig.belongings() if b.startswith(kind + "/"))


def moves(rig, status, before=()):
    """Newest first, but for those of an earlier database of that name."""
    items, known = rig.public("/v1/operations")["items"], {o["id"] for o in before}
    wanted = [o for o in items if o["status"] == status and o["kind"] not in ("provision", "retire")]
    return [o for o in wanted if o["id"] not in known]


def start(rig, name, **spec):
    rig.must(
        "POST",
        OPERATIONS,
        {
            "apiVersion": "shardherd.io/v1alpha1",
            "kind": "ShardOperation",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"database": "shop", **spec},
        },
    )


def ended(rig, name, reason, timeout=90):
    def look():
        item = rig.operation(name)
        complete = rig.condition_of(item, "Complete")
        return item if complete.get("status") in ("True", "False") else None

    item = rig.wait(look, timeout, f"operation {name}: {rig.operation(name)}")
    complete = rig.condition_of(item, "Complete")
    assert complete["reason"] == reason, complete
    return item


class Load(threading.Thread):
    """shardherd load in the client pod, beside what the test does."""

    def __init__(self, rig, seconds, *more):
        super().__init__()
        self.rig, self.seconds, self.more, self.done = rig, seconds, more, None
        self.start()

    def run(self):
        more = ["--duration", f"{self.seconds}s", *self.more, "--json"]
        self.done = self.rig.load("client", *more, timeout=self.seconds + 90)

    def result(self):
        self.join()
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        return json.loads(self.done.stdout)


def test_in_short(rig):
    """Two shards, a few writes, one of them split by an object, nothing lost, nothing left."""
    make(rig, balance={"split": "off", "merge": "off"}, deletionPolicy="delete")
    client = rig.client_pod()
    assert rig.load(client, "init").returncode == 0
    start(rig, "in-short", kind="split", shard="s2", bakeSeconds=0)
    done = rig.load(client, "--duration", "4s", "--clients", "2", "--rate", "200", "--no-check")
    assert done.returncode == 0, done.stdout + done.stderr
    item = ended(rig, "in-short", "Done")
    assert (item["status"]["target"], item["status"]["progress"]) == ("s3", 100)
    rig.wait_database(shards=3)
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    rig.delete("Pod", client)
    remove(rig)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_certificates_of_clients(rig):
    """tls.mode mutual, then on and mutual again: polled all the time, split, written to by who has a certificate."""
    item = make(rig, balance={"split": "off", "merge": "off"}, deletionPolicy="delete", tls={"mode": "mutual"})
    assert item["status"]["clientSecret"] == "shop-client"
    client = rig.client_pod(certificate="shop-client")
    files = ("--sslmode", "verify-full", "--sslrootcert", "/certificate/ca.crt")
    mine = (*files, "--sslcert", "/certificate/tls.crt", "--sslkey", "/certificate/tls.key")
    refused = rig.load(client, "init", *files)
    assert refused.returncode != 0
    assert "requires a valid client certificate" in refused.stdout + refused.stderr
    done = rig.load(client, "init", *mine)
    assert done.returncode == 0, done.stdout + done.stderr

    # a third server copies from the second
    start(rig, "certified", kind="split", shard="s2", bakeSeconds=0)
    done = rig.load(client, "--duration", "4s", "--clients", "2", "--rate", "200", "--no-check", *mine)
    assert done.returncode == 0, done.stdout + done.stderr
    ended(rig, "certified", "Done")
    rig.wait_database(shards=3)

    # pods restart; the manager is never shut out, in whichever of the two modes a shard is
    for mode in ("on", "mutual"):
        rig.patch(f"{DATABASES}/shop", {"spec": {"tls": {"mode": mode}}})
        rig.wait_database(shards=3, timeout=150)
        done = rig.load(client, "check", *mine)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "valid client certificate" not in rig.logs(rig.leader()["metadata"]["name"])
    items = rig.public("/v1/instances")["items"]
    assert len(items) == 3 and {i["health"] for i in items} == {"up"}, items
    rig.delete("Pod", client)
    remove(rig)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_making_to_its_end(rig):
    """Two shards, load, a hot one that is split by itself into a third StatefulSet, no lost write, merged by itself,
    removed."""
    earlier = moves(rig, "done")
    # 270 of 300 operations a second go to s1: above the threshold now, half of them below it
    item = make(rig, balance={"threshold": 180, "split": "auto", "merge": "off"}, deletionPolicy="delete")
    assert item["status"]["epoch"] == "1"
    assert {s["name"] for s in item["status"]["routing"]["shards"]} == {"s1", "s2"}
    assert rig.condition_of(item, "Available")["status"] == "True"
    assert not rig.condition_of(item, "Reconciling") and not rig.condition_of(item, "Stalled")
    client = rig.client_pod()
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stderr
    load = Load(rig, 90, "--clients", "4", "--rate", "300", "--skew", "hot-shard=s1:0.9", "--no-check")
    rig.wait(lambda: moves(rig, "running"), 80, "a split that nobody asked for")
    rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"split": "off"}}})  # one is enough
    item = rig.wait_database(shards=3, timeout=120)
    assert load.is_alive(), "the load ended before the split: it shows nothing"
    report = load.result()
    rig.wait(lambda: not moves(rig, "running"), 120, "the split with its cleaning ended")
    assert [o["kind"] for o in moves(rig, "done", earlier)] == ["split"], rig.public("/v1/operations")
    assert names(rig) == ["shop-s1", "shop-s2", "shop-s3"]
    assert int(item["status"]["epoch"]) >= 2
    assert report["acked_writes"] > 1000 and report["routing_changes"] >= 1, report
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr  # none of them lost
    told = [e["note"] for e in rig.events("Decided")]
    assert any("shard s1" in note and "rule" in note for note in told), told
    # nobody writes any more: two neighbours become one again, by themselves as well
    rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"merge": "auto"}}})
    # the busy minutes must be over
    rig.wait(lambda: moves(rig, "running"), 200, "a merge that nobody asked for")
    rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"merge": "off"}}})
    rig.wait_database(shards=2, timeout=120)
    rig.wait(lambda: not moves(rig, "running"), 120, "the merge with its cleaning ended")
    assert [o["kind"] for o in moves(rig, "done", earlier)] == ["merge", "split"], rig.public("/v1/operations")
    rig.wait(lambda: len(names(rig)) == 2, 60, "one StatefulSet less")
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    rig.delete("Pod", client)
    remove(rig)


@pytest.mark.slow
def test_what_can_be_changed(rig):
    """Scale, operations by objects, a parameter, suspended and back, refusals; each is in the status."""
    make(rig, shards=1, balance={"split": "off", "merge": "off"}, deletionPolicy="delete")
    path = f"{DATABASES}/shop"

    # more shards are asked for, by the scale subresource as kubectl scale does
    rig.patch(f"{path}/scale", {"spec": {"replicas": 2}})
    item = rig.wait_database(shards=2)
    assert item["status"]["requestedShards"] == 2 and names(rig) == ["shop-s1", "shop-s2"]
    assert rig.events("ScalingUp")

    # an operation as an object
    start(rig, "try-it", kind="split", shard="s1", dryRun=True)
    item = ended(rig, "try-it", "Done")
    assert item["status"]["step"] == "done" and item["status"]["observedGeneration"] == 1
    start(rig, "no-such", kind="split", shard="s9")
    item = ended(rig, "no-such", "Refused")
    assert "s9" in item["status"]["message"]
    start(rig, "over", kind="switchover", shard="s1")
    assert "standbys" in ended(rig, "over", "Refused")["status"]["message"]
    start(rig, "back", kind="merge", shard="s2", target="s1", bakeSeconds=0)
    item = ended(rig, "back", "Done")
    assert item["status"]["progress"] == 100 and item["status"]["target"] == "s1"
    rig.wait_database(shards=1)

    # a parameter reaches the server
    rig.patch(path, {"spec": {"postgresql": {"parameters": {"work_mem": "7MB"}}}})
    item = rig.wait_database(shards=1)
    assert item["status"]["observedGeneration"] == item["metadata"]["generation"]

    # what cannot be changed is said, and taken back
    tables = item["spec"]["tables"]
    rig.patch(path, {"spec": {"tables": tables[:1]}})
    stalled = rig.wait(lambda: rig.condition_of(rig.database(), "Stalled"), 20, "stalled")
    assert stalled["reason"] == "InvalidSpec" and "tables" in stalled["message"]
    rig.patch(path, {"spec": {"tables": tables}})
    rig.wait_database(shards=1)

    # to zero and back
    rig.patch(path, {"spec": {"suspended": True}})
    rig.wait(lambda: rig.condition_of(rig.database(), "Ready").get("reason") == "Suspended", 60, "suspended")
    rig.wait(lambda: not [b for b in rig.belongings() if b.startswith("Pod/")], 60, "no pod")
    rig.patch(path, {"spec": {"suspended": False}})
    rig.wait_database(shards=1)

    # a steady state writes nothing
    before = rig.database()["metadata"]["resourceVersion"]
    deadline = time.monotonic() + 5
    rig.wait(lambda: time.monotonic() > deadline, 10, "five seconds")
    assert rig.database()["metadata"]["resourceVersion"] == before
    remove(rig)


SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots"
SNAPSHOT_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "volumesnapshots.snapshot.storage.k8s.io",
        "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter/pull/814"
        },
    },
    "spec": {
        "group": "snapshot.storage.k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "VolumeSnapshot", "plural": "volumesnapshots", "singular": "volumesnapshot"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


def stalled_or_tried(rig, words):
    """What hinders, once the conditions say these words."""

    def found():
        said = [c["message"] for c in (rig.database() or {}).get("status", {}).get("conditions", [])]
        return next((text for text in said if words in text), None)

    return rig.wait(found, 60, words)


def say_of(rig, taken, **status):
    """As a snapshot controller would."""
    for snapshot in taken.values():
        rig.patch(f"{SNAPSHOTS}/{snapshot['metadata']['name']}/status", {"status": status})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deletion_leaves_snapshots(rig):
    """The volumes go only when every snapshot of the shard is ready; the test is the snapshot controller."""
    storage = {"size": "1Gi", "snapshotClass": "gold"}
    make(rig, deletionPolicy="snapshot", storage=storage, balance={"split": "off"})
    claims = sorted(n for n in names(rig, "PersistentVolumeClaim"))
    assert len(claims) == 2, claims
    rig.must("DELETE", f"{DATABASES}/shop")
    stalled_or_tried(rig, "this cluster has no VolumeSnapshots (snapshot.storage.k8s.io/v1): install")
    assert names(rig, "PersistentVolumeClaim") == claims and len(names(rig)) == 2

    rig.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", SNAPSHOT_CRD)
    try:
        rig.wait(lambda: rig.request("GET", SNAPSHOTS)[0] == 200, 30, "the API of snapshots")
        rig.wait(lambda: len(rig.must("GET", SNAPSHOTS)["items"]) == 2, 120, "a snapshot of each shard's volume")
        taken = {s["spec"]["source"]["persistentVolumeClaimName"]: s for s in rig.must("GET", SNAPSHOTS)["items"]}
        assert sorted(taken) == claims
        assert all(s["spec"]["volumeSnapshotClassName"] == "gold" for s in taken.values())
        assert names(rig, "Pod") == [], "a snapshot was asked for while a pod may write"
        say_of(rig, taken, readyToUse=False, error={"message": "the disk array is tired"})
        stalled_or_tried(rig, "is not ready to use: the disk array is tired")
        assert names(rig, "PersistentVolumeClaim") == claims and rig.database() is not None
        say_of(rig, taken, readyToUse=True, error=None)
        rig.wait(lambda: rig.database() is None, 60, "shop deleted")
        assert {b for b in rig.belongings() if b.partition("/")[0] not in ("Secret", "PersistentVolumeClaim")} == set()
        rig.wait(lambda: names(rig, "PersistentVolumeClaim") == [], 30, "no volume left")
        assert {"shop-owner", "shop-s1-credentials", "shop-s2-credentials"} <= set(names(rig, "Secret"))
        assert len(rig.must("GET", SNAPSHOTS)["items"]) == 2
    finally:
        crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/volumesnapshots.snapshot.storage.k8s.io"
        rig.must("DELETE", crd)
        for name in names(rig, "Secret"):
            rig.delete("Secret", name)
