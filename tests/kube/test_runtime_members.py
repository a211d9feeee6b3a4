"""Shards of several instances as the runtime makes them, where there is an API server and nobody runs pods."""

import json
import signal
import subprocess

import pytest
from kube import build_folder, wait_until

CORE = "/api/v1/namespaces/default"
CLAIMS = f"{CORE}/persistentvolumeclaims"
GROWS = {"metadata": {"name": "grows"}, "provisioner": "shardherd.io/none", "allowVolumeExpansion": True}
LABELS = {
    "app.kubernetes.io/managed-by": "shardherd",
    "shardherd.io/database": "shop",
    "shardherd.io/shard": "s1",
}


def pod(name, **labels):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {**LABELS, **labels}},
        "spec": {"containers": [{"name": "postgresql", "image": "shardherd:test"}]},
    }


@pytest.fixture
def shop(own_plane, tmp_path):
    """existing(instances): what the runtime makes of a shard that exists and has no StatefulSet: that, or None."""
    own_plane.must("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": "default"}})

    def existing(instances):
        spec = {"instances": instances, "storage": {"size": "2Gi"}, "resources": {"limits": {"memory": "256Mi"}}}
        spec |= {"shards": 1, "tables": [{"name": "orders", "key": "id"}], "postgresql": {"image": "shardherd:test"}}
        path = tmp_path / "database.json"
        path.write_text(json.dumps({"metadata": {"name": "shop", "namespace": "default", "uid": "u1"}, "spec": spec}))
        argv = [
            build_folder() / "tests/runtime_tool",
            own_plane.kubeconfig,
            path,
            tmp_path / "ca",
            "3s",
            "existing",
            "s1",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        status, made = own_plane.request("GET", "/apis/apps/v1/namespaces/default/statefulsets/shop-s1")
        assert status == 200, f"{done.stdout}{done.stderr}"
        return made

    own_plane.must("POST", "/apis/storage.k8s.io/v1/storageclasses", GROWS)
    for number in range(3):
        claim = {
            "metadata": {"name": f"data-shop-s1-{number}", "labels": LABELS},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
                "storageClassName": GROWS["metadata"]["name"],
                "volumeName": f"volume-{number}",
            },
        }
        own_plane.must("POST", CLAIMS, claim)
        bound = {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}
        merge = "application/merge-patch+json"
        own_plane.must("PATCH", f"{CLAIMS}/data-shop-s1-{number}/status", bound, content_type=merge)
    return existing


def sizes(plane):
    return [c["spec"]["resources"]["requests"]["storage"] for c in plane.must("GET", CLAIMS)["items"]]


def test_without_a_statefulset_its_pods_say_how_many_it_has(own_plane, shop):
    """A manager that ended while volumes grew, with fewer instances asked for than there are: none is taken away yet,
    and what was a shard of members stays one."""
    for number, role in enumerate(("standby", "standby", "primary")):
        own_plane.must("POST", f"{CORE}/pods", pod(f"shop-s1-{number}", **{"shardherd.io/role": role}))
    own_plane.must("POST", f"{CORE}/pods", pod("shop-s1-x"))
    made = shop(1)
    assert made["spec"]["replicas"] == 3
    assert made["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert made["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert sizes(own_plane) == ["2Gi"] * 3  # nobody would look at them again: the templates are right by now


def test_a_single_instance_stays_one(own_plane, shop):
    own_plane.must("POST", f"{CORE}/pods", pod("shop-s1-0"))
    made = shop(1)
    assert made["spec"]["replicas"] == 1
    assert made["spec"]["updateStrategy"]["type"] == "RollingUpdate"


def marks_of(plane, name):
    status, found = plane.request("GET", f"{CORE}/pods/{name}")
    return found["metadata"]["labels"].get("shardherd.io/role") if status == 200 else None


def test_a_mark_does_not_hold_for_the_next_pod_of_its_name(own_plane, tmp_path):
    """A shard that was removed before its pod ran, and another one of that name: its keeper says an earlier term, and
    would leave alone what carries a later one."""
    own_plane.must("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": "default"}})
    own_plane.must("POST", f"{CORE}/pods", pod("shop-s1-0"))
    argv = [build_folder() / "tests/runtime_tool", own_plane.kubeconfig, "-", tmp_path / "ca", "3s", "mark"]
    with subprocess.Popen([*argv, "shop-s1-0", "shop-s1-1"]) as tool:
        try:
            wait_until(lambda: marks_of(own_plane, "shop-s1-0") == "standby", 20, "the mark")
            own_plane.must("DELETE", f"{CORE}/pods/shop-s1-0?gracePeriodSeconds=0")
            own_plane.must("POST", f"{CORE}/pods", pod("shop-s1-0"))
            # what is marked after it came, by the same watch
            own_plane.must("POST", f"{CORE}/pods", pod("shop-s1-1"))
            tool.send_signal(signal.SIGHUP)
            wait_until(lambda: marks_of(own_plane, "shop-s1-1") == "standby", 20, "the second one's")
            assert marks_of(own_plane, "shop-s1-0") is None
        finally:
            tool.terminate()
    assert tool.returncode == 0
