"""Shards as Clusters of CloudNativePG: what the API server with the real CRD makes of them. The operator is played."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from cnpg import CLUSTERS, MODULE
from control_plane import go_module
from kube import build_folder, wait_until

SECRETS = "/api/v1/namespaces/default/secrets"
MERGE = "application/merge-patch+json"
RICH = {
    "instances": 3,
    "postgresql": {"version": "17", "parameters": {"work_mem": "32MB"}, "imagePullPolicy": "IfNotPresent"},
    "storage": {"class": "fast", "size": "5Gi", "wal": {"size": 1073741824}},
    "resources": {"limits": {"memory": "2Gi", "cpu": "1"}},
    "scheduling": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "db", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "high",
    },
    "labels": {"team": "a"},
    "annotations": {"note": "b"},
    "deletionPolicy": "delete",
}


@pytest.fixture(scope="module")
def crd(plane):
    path = go_module(MODULE) / "config/crd/bases/postgresql.cnpg.io_clusters.yaml"
    definitions, made = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text())
    plane.must("POST", definitions, made)
    wait_until(lambda: plane.request("GET", CLUSTERS)[0] == 200, 30, "the CRD")
    yield
    one = f"{definitions}/{made['metadata']['name']}"
    plane.must("DELETE", one)
    wait_until(lambda: plane.request("GET", one)[0] == 404, 30, "the end of the CRD")
    wait_until(lambda: plane.request("GET", CLUSTERS)[0] == 404, 30, "the end of what it served")


@pytest.fixture
def tool(plane, crd, tmp_path):
    """tool(spec, verb, ...): (exit code, lines); tool.start() without waiting"""

    def start(spec, verb, *arguments, timeout="3s"):
        database = {"metadata": {"name": "shop", "namespace": "default", "uid": "u1"}, "spec": spec}
        (tmp_path / "database.json").write_text(json.dumps(database))
        return subprocess.Popen(
            [
                build_folder() / "tests/runtime_tool",
                plane.kubeconfig,
                tmp_path / "database.json",
                tmp_path / "ca",
                timeout,
                f"cnpg-{verb}",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(*arguments, **kwargs):
        process = start(*arguments, **kwargs)
        out, _ = process.communicate(timeout=60)
        return process.returncode, [json.loads(line) for line in out.splitlines()]

    run.start = start
    return run


def cluster(plane):
    status, answer = plane.request("GET", f"{CLUSTERS}/shop-s1")
    return answer if status == 200 else None


def say(plane, **status):
    """What the operator would."""
    plane.must("PATCH", f"{CLUSTERS}/shop-s1/status", {"status": status}, content_type=MERGE)


def test_a_shard_from_the_object_to_its_end(plane, tool):
    code, lines = tool(RICH, "ensure", "s1")
    assert code == 1
    assert lines[-1]["message"] == (
        "instance shop-s1-0: not ready in time: CloudNativePG has not looked at cluster shop-s1 yet: "
        "is its operator running and watching this namespace?"
    )
    made = cluster(plane)
    spec = made["spec"]
    assert spec["instances"] == 3
    assert spec["imageName"] == "ghcr.io/cloudnative-pg/postgresql:17"
    assert spec["bootstrap"]["initdb"]["database"] == "shop"
    assert spec["bootstrap"]["initdb"]["owner"] == "app"
    assert spec["superuserSecret"]["name"] == "shop-s1-credentials"
    assert (spec["storage"]["size"], spec["walStorage"]["size"]) == ("5Gi", "1073741824")
    assert spec["inheritedMetadata"]["labels"]["shardherd.io/shard"] == "s1"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u1"
    secret = plane.must("GET", f"{SECRETS}/shop-s1-credentials")
    assert secret["type"] == "kubernetes.io/basic-auth"
    assert base64.b64decode(secret["data"]["username"]) == b"postgres"
    assert secret["metadata"]["labels"]["cnpg.io/reload"] == "true"
    assert base64.b64decode(plane.must("GET", f"{SECRETS}/shop-owner")["data"]["username"]) == b"app"

    say(plane, phase="Setting up primary", phaseReason="Creating primary instance shop-s1-1")
    before = cluster(plane)["metadata"]["resourceVersion"]
    code, lines = tool(RICH, "ensure", "s1")
    assert "cluster shop-s1: Setting up primary: Creating primary instance shop-s1-1" in lines[-1]["message"]
    assert cluster(plane)["metadata"]["resourceVersion"] == before  # applied again, and nothing changed

    say(plane, phase="Cluster in healthy state", readyInstances=3)
    authority = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shop-s1-ca"},
        "stringData": {"ca.crt": "the CA\n"},
    }
    plane.must("POST", SECRETS, authority)
    code, lines = tool(RICH, "ensure", "s1")
    assert lines[-1]["error"] == "timeout"
    assert "PostgreSQL does not let us in at shop-s1-rw.default.svc port 5432" in lines[-1]["message"]
    code, lines = tool(RICH, "list")
    assert [(i["instance"], i["user"], i["host"], i["sslmode"]) for i in lines] == [
        ("shop-s1-0", "postgres", "shop-s1-rw.default.svc", "verify-full")
    ]
    assert Path(lines[0]["sslrootcert"]).read_text().strip() == "the CA"

    stopping = tool.start(RICH, "stop", "shop-s1-0", timeout="20s")
    wait_until(
        lambda: cluster(plane)["metadata"]["annotations"]["cnpg.io/hibernation"] == "on", 20, "asked to hibernate"
    )
    assert stopping.poll() is None
    now = "2026-01-01T00:00:00Z"
    condition = {"type": "cnpg.io/hibernation", "reason": "Hibernated", "message": "", "lastTransitionTime": now}
    say(plane, conditions=[{**condition, "status": "True"}])
    assert stopping.wait(timeout=20) == 0

    removing = tool.start(RICH, "remove", "shop-s1-0", timeout="20s")
    wait_until(lambda: "deletionTimestamp" in cluster(plane)["metadata"], 20, "being deleted")
    plane.must("PATCH", f"{CLUSTERS}/shop-s1", {"metadata": {"finalizers": None}}, content_type=MERGE)
    assert removing.wait(timeout=20) == 0
    names = [s["metadata"]["name"] for s in plane.must("GET", SECRETS)["items"]]
    assert not {"shop-s1-credentials", "shop-owner"} & set(names)
    plane.must("DELETE", f"{SECRETS}/shop-s1-ca")


def test_what_is_to_stay_only_hibernates(plane, tool):
    """The garbage collector would take the Cluster with the ShardedDatabase, and the operator the volumes with it."""
    retained = {**RICH, "deletionPolicy": "retain"}
    tool(retained, "ensure", "s1")
    assert "ownerReferences" not in cluster(plane)["metadata"]
    now = "2026-01-01T00:00:00Z"
    condition = {"type": "cnpg.io/hibernation", "reason": "x", "message": "", "lastTransitionTime": now}
    say(plane, conditions=[{**condition, "status": "True"}])
    assert tool(retained, "remove", "shop-s1-0")[0] == 0
    assert cluster(plane)["metadata"]["annotations"]["cnpg.io/hibernation"] == "on"
    assert plane.request("GET", f"{SECRETS}/shop-s1-credentials")[0] == 200
    tool(retained, "ensure", "s1")
    assert cluster(plane)["metadata"]["annotations"]["cnpg.io/hibernation"] == "off"
    for path in (f"{CLUSTERS}/shop-s1", f"{SECRETS}/shop-s1-credentials", f"{SECRETS}/shop-owner"):
        plane.must("DELETE", path)


def test_what_cannot_be_made_is_refused(plane, tool):
    code, lines = tool({**RICH, "scheduling": {"affinity": {}}}, "ensure", "s1")
    assert (code, lines[-1]["error"]) == (1, "invalid")
    assert "spec.scheduling.affinity is not for CloudNativePG" in lines[-1]["message"]
