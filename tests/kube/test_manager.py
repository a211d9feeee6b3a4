"""The manager as a pod under its own service account: ShardedDatabase objects from their making to their end."""

import json
import os

import pytest
from manager_rig import DATABASES, ManagerCluster, database

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the test cluster makes namespaces and mounts: needs root")
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
    rig.must("POST", DATABASES, database(name, **spec))
    return rig.wait_database(name, shards=spec.get("shards", 2))


def remove(rig, name="shop", timeout=60):
    rig.patch(f"{DATABASES}/{name}", {"spec": {"deletionPolicy": "delete"}})
    rig.must("DELETE", f"{DATABASES}/{name}")
    rig.wait(lambda: rig.database(name) is None, timeout, f"{name} deleted")
    rig.wait(lambda: rig.belongings(name) == [], timeout, f"nothing left of {name}: {rig.belongings(name)}")


def names(rig, kind="StatefulSet"):
    return sorted(b.partition("/")[2] for b in rig.belongings() if b.startswith(kind + "/"))


def test_from_making_to_its_end(rig):
    """Two shards, load, a hot one that is split by itself into a third StatefulSet, no lost write, merged, removed."""
    item = make(rig, balance={"threshold": 150, "split": "auto", "merge": "off"}, deletionPolicy="delete")
    assert item["status"]["epoch"] == "1"
    assert {s["name"] for s in item["status"]["routing"]["shards"]} == {"s1", "s2"}
    assert rig.condition_of(item, "Available")["status"] == "True"
    assert not rig.condition_of(item, "Reconciling") and not rig.condition_of(item, "Stalled")
    client = rig.client_pod()
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stderr
    more = ["--duration", "40s", "--clients", "4", "--rate", "500", "--skew", "hot-shard=s1:0.9", "--json"]
    done = rig.load(client, *more, timeout=150)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{rig.manager_logs()}"
    report = json.loads(done.stdout)
    item = rig.wait_database(shards=3)
    assert names(rig) == ["shop-s1", "shop-s2", "shop-s3"]
    assert report["check"]["lost"] == 0, report
    assert int(item["status"]["epoch"]) >= 2
    told = [e["note"] for e in rig.events("Decided")]
    assert any("shard s1" in note and "rule" in note for note in told), told
    rig.patch(f"{DATABASES}/shop", {"spec": {"balance": {"merge": "auto", "split": "off"}}})
    rig.wait(lambda: rig.is_ready(shards=2), 90, "merged back")
    rig.wait(lambda: len(names(rig)) == 2, 60, "the third StatefulSet gone")
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    rig.delete("Pod", client)
    remove(rig)
