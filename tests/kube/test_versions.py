"""A newer major version of PostgreSQL is asked for: shards move to it, one after the other, and write on meanwhile."""

from pathlib import Path

import pytest
from kube import ROOT, needs_root
from manager_rig import DATABASES, IMAGE, ManagerCluster
from test_manager import QUICK, Load, ended, make, remove, start

NEWER, NEWER_IMAGE = 16, "shardherd:0.1.0-pg16"
PLACES = (Path(f"/usr/lib/postgresql/{NEWER}/bin"), ROOT / "build" / "pg" / str(NEWER) / "bin")
PROGRAMS = next((p for p in PLACES if (p / "postgres").exists()), None)
pytestmark = [
    needs_root,
    pytest.mark.skipif(PROGRAMS is None, reason=f"no PostgreSQL {NEWER}"),
]
# the PostgreSQL 16 of the tests was built without TLS
PLAIN = {"balance": {"split": "off", "merge": "off"}, "deletionPolicy": "delete", "tls": {"mode": "off"}}
ASK = {"postgresql": {"version": str(NEWER), "image": NEWER_IMAGE}}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    quick = {**QUICK, "SHARDHERD_MOVES_RETIRE_WAIT": "1s"}
    rig = ManagerCluster(tmp_path_factory.mktemp("versions"), nodes=2, variables=quick)
    newer = {"Env": {**rig.images[IMAGE]["Env"], "PATH": f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin"}}
    rig.images[NEWER_IMAGE] = {**rig.images[IMAGE], **newer}
    with rig:
        yield rig


def images(rig):
    """Of the pods of the shards, by name."""
    pods = rig.list("Pod", labelSelector="shardherd.io/database=shop")
    return {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in pods}


def versions(rig):
    owners = {s["name"] for s in rig.public("/v1/databases/shop/routing")["shards"] if s["ranges"]}
    items = rig.public("/v1/instances")["items"]
    return {i["shard"]: int(float(i["version"])) for i in items if i["shard"] in owners}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_shard_moves_to_the_newer_version(rig):
    make(rig, **PLAIN)
    client = rig.client_pod()
    assert rig.load(client, "init").returncode == 0
    assert set(images(rig).values()) == {IMAGE} and set(versions(rig).values()) == {15}
    restarts = {p: rig.get("Pod", p)["metadata"]["uid"] for p in images(rig)}

    load = Load(rig, 40, "--clients", "2", "--rate", "200")
    rig.patch(f"{DATABASES}/shop", {"spec": ASK})
    seen = []

    def upgraded():
        for name, image in images(rig).items():  # nobody's files are opened by another version
            assert image == (IMAGE if name in restarts else NEWER_IMAGE), name
            pod = rig.get("Pod", name)
            assert pod is None or restarts.get(name, pod["metadata"]["uid"]) == pod["metadata"]["uid"], name
        reason = rig.condition_of(rig.database(), "Ready").get("reason")
        seen.append(reason)
        return rig.is_ready(shards=2) and set(versions(rig).values()) == {NEWER}

    rig.wait(upgraded, 150, "both shards at the newer version")
    load.result()  # nothing that was acknowledged is lost
    assert "Upgrading" in seen and len(rig.events("Upgrading")) >= 1
    rig.wait(lambda: set(images(rig).values()) == {NEWER_IMAGE} and len(images(rig)) == 2, 60, "the old ones gone")
    rig.delete("Pod", client)
    remove(rig)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_person_says_when(rig):
    """update.strategy OnDelete: nothing moves by itself, the status names the shard, an object moves it."""
    make(rig, shards=1, update={"strategy": "OnDelete"}, **PLAIN)
    rig.patch(f"{DATABASES}/shop", {"spec": ASK})
    found = rig.wait(lambda: condition(rig, "OlderVersion"), 60, "the status")
    assert "shard s1 runs an older PostgreSQL than 16" in found["message"] and found["status"] == "True"
    assert images(rig) == {"shop-s1-0": IMAGE} and not [e for e in rig.events("Upgrading") if "s9" in e["note"]]
    start(rig, "newer", kind="upgrade", shard="s1", bakeSeconds=0)
    assert ended(rig, "newer", "Done")
    rig.wait_database(shards=1)
    assert versions(rig) == {"s2": NEWER}
    rig.wait(lambda: images(rig) == {"shop-s2-0": NEWER_IMAGE}, 60, "the old one gone")
    remove(rig)


def condition(rig, reason):
    ready = rig.condition_of(rig.database(), "Ready")
    return ready if ready.get("reason") == reason else None
