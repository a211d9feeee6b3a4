"""Installing into a whole cluster, whose pods run: `kubectl apply -k`, as docs/kubernetes.md has it."""

import shutil
from pathlib import Path

import pytest
import yaml
from cluster import Cluster, postgres_image
from install import DEPLOY, OVERLAYS, SHOP, Kubectl, needs_kubectl
from kube import build_folder, needs_root

NAMESPACE = OVERLAYS["production"]
pytestmark = [
    needs_kubectl,
    pytest.mark.slow,
    needs_root,
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cluster")
    program = Path(shutil.copy(build_folder() / "shardherd", directory)).resolve()
    image = postgres_image(program=program)
    image["Passwd"] = [*image["Passwd"], "shardherd:x:10001:10001::/var/lib/shardherd:/bin/sh"]
    with Cluster(directory / "cluster", images={"shardherd:0.1.0": image}, backoff=1.0) as cluster:
        cluster.kubectl = Kubectl(directory, cluster.kubeconfig, wrap=cluster.namespace.wrap)
        yield cluster


def explain(cluster):
    """What a person would look at."""
    look = ("pods -o wide", "events", "sdb -o yaml")
    return "\n".join(cluster.kubectl.run("get", *w.split(), "-n", NAMESPACE, check=False).stdout for w in look)


def test_S1_S5_production_installs_and_serves_a_database(cluster):
    """Under restricted, quota, limits and the manager's own rights; two managers, of which one leads."""
    kubectl = cluster.kubectl
    done = kubectl.run("apply", "-k", DEPLOY / "kustomize" / "overlays" / "production")
    assert done.stderr == ""
    done = kubectl.run(
        "rollout", "status", "deployment/shardherd-manager", "-n", NAMESPACE, "--timeout=150s", timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + explain(cluster)
    quota = cluster.wait(
        lambda: kubectl.json("get", "resourcequota", "shardherd", "-n", NAMESPACE).get("status", {}).get("used"),
        30,
        "the quota is counted",
    )
    assert int(quota["pods"]) >= 2
    nodes = {p["spec"]["nodeName"] for p in cluster.list("Pod", NAMESPACE)}
    assert len(nodes) == 2, "managers are on different nodes"
    shop = yaml.safe_load(SHOP.replace("NAMESPACE", NAMESPACE))
    shop["spec"].update(instances=1, schema={"inline": "CREATE TABLE orders (customer_id bigint PRIMARY KEY)"})
    kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump(shop))
    done = kubectl.run(
        "wait", "--for=condition=Ready", "sdb/shop", "-n", NAMESPACE, "--timeout=180s", timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + explain(cluster)
    used = kubectl.json("get", "resourcequota", "shardherd", "-n", NAMESPACE)["status"]["used"]
    assert int(used["persistentvolumeclaims"]) == 4, "data and log of two shards"
    refused = [
        e["message"]
        for e in kubectl.json("get", "events", "-n", NAMESPACE)["items"]
        if "forbidden" in e["message"].lower() or "violates" in e["message"]
    ]
    assert not refused
    for pod in cluster.list("Pod", NAMESPACE, labelSelector="app.kubernetes.io/name=shardherd"):
        assert "forbidden" not in cluster.logs(pod["metadata"]["name"], NAMESPACE).lower()
