"""What checkers of policies say about what is installed and about what the manager makes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from control_plane import cache_dir
from install import DEPLOY, find, objects, pod_of, render
from kube import build_folder
from netpol import Peer, allowed
from test_crd import PLURALS, schema, walk

FIXTURES = Path(__file__).parent / "fixtures"
KUBE_SCORE = "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"
CHECKOV = "checkov==3.3.30"
WORKLOADS = ("Deployment", "StatefulSet")


def exceptions(tool):
    listed = yaml.safe_load((FIXTURES / "policy-exceptions.yaml").read_text())[tool]
    assert all(one["reason"] for one in listed)
    return {(one["check"], one["object"]) for one in listed}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The overlay production and two shards in one file; `shardherd render` gives the namespace."""
    made = objects((DEPLOY / "manifests" / "production.yaml").read_text())
    shards = render(build_folder() / "shardherd", "shardherd")
    for one in shards:
        if one["kind"] == "StatefulSet":
            one["spec"]["template"]["spec"]["containers"][0]["image"] = "shardherd:0.1.0"  # as the manager is told
    path = tmp_path_factory.mktemp("policy") / "all.yaml"
    path.write_text(yaml.safe_dump_all(made + shards))
    return path


# ---- S3 ----


def peers(everything):
    """Pods that are installed, and some around them."""
    made = objects(everything.read_text())
    inside = {"kubernetes.io/metadata.name": "shardherd"}

    def from_workload(name, kind, workload):
        (container,) = (pod := pod_of(find(made, kind, workload)))["spec"]["containers"]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        return Peer(name, "shardherd", pod["metadata"]["labels"], inside, ports)

    manager = from_workload("manager", "Deployment", "shardherd-manager")
    clients = {"kubernetes.io/metadata.name": "clients", "shardherd.io/clients": "true"}
    monitoring = {"kubernetes.io/metadata.name": "monitoring", "shardherd.io/monitoring": "true"}
    elsewhere = {"kubernetes.io/metadata.name": "elsewhere"}
    other = {"shardherd.io/database": "other", "shardherd.io/shard": "s1"}
    return [
        manager,
        from_workload("shop-s1", "StatefulSet", "shop-s1"),
        from_workload("shop-s2", "StatefulSet", "shop-s2"),
        Peer("other-s1", "shardherd", other, inside),
        Peer("neighbour", "shardherd", {"app": "shop"}, inside),
        Peer("client", "clients", {"app": "shop"}, clients),
        Peer("prometheus", "monitoring", {"app": "prometheus"}, monitoring),
        Peer("elsewhere", "elsewhere", {"app": "shop"}, elsewhere),
        Peer("impostor", "elsewhere", manager.labels, elsewhere),
        Peer("dns", "kube-system", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
        Peer("api-server"),
    ]


PORTS = {
    "manager": (8080, 8081, 9090),
    "shop-s1": (5432, 8008),
    "shop-s2": (5432, 8008),
    "dns": (53,),
    "api-server": (443, 6443, 5432),
}


def test_S3_only_listed_sources_reach_a_port(everything):
    policies = [o for o in objects(everything.read_text()) if o["kind"] == "NetworkPolicy"]
    who = {peer.name: peer for peer in peers(everything)}
    wanted = yaml.safe_load((FIXTURES / "reach.yaml").read_text())
    for source, targets in wanted.items():
        got = [
            f"{name}:{port}"
            for name, ports in PORTS.items()
            for port in ports
            # what a pod of another namespace may do at its own end is not ours to say: only what we let in counts
            if (who[name].namespace == "shardherd" or who[source].namespace == "shardherd")
            and allowed(policies, who[source], who[name], port)
        ]
        assert sorted(got) == sorted(targets), source


def test_S3_every_pod_is_denied_both_ways_by_default(everything):
    policies = [o for o in objects(everything.read_text()) if o["kind"] == "NetworkPolicy"]
    default = next(p for p in policies if p["metadata"]["name"] == "shardherd-default-deny")
    assert default["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    stranger = Peer("new", "shardherd", {"app": "new"})
    for other in peers(everything):
        assert not allowed(policies, other, stranger, 80) or other.namespace is None
        assert not allowed(policies, stranger, other, 80)


def test_S3_clients_of_a_shard_can_be_named(everything):
    made = objects(everything.read_text())
    text = (
        "apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {name: shop, namespace: shardherd}\n"
        "spec: {shards: 1, tables: [{name: orders, key: id}], network: {allowedLabels: {app: shop}}}\n"
    )
    named = [o for o in render(build_folder() / "shardherd", "shardherd", text) if o["kind"] == "NetworkPolicy"]
    any_pod = [o for o in made if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "shop-s1"]
    who = {peer.name: peer for peer in peers(everything)}
    for policies, wanted in ((named, False), (any_pod, True)):
        assert allowed(policies, who["neighbour"], who["shop-s1"], 5432)
        assert allowed(policies, who["other-s1"], who["shop-s1"], 5432) == wanted
        assert allowed(policies, who["manager"], who["shop-s1"], 8008)
        for name in ("client", "elsewhere", "impostor"):
            assert not allowed(policies, who[name], who["shop-s1"], 5432), name
            assert not allowed(policies, who[name], who["shop-s1"], 8008), name


# ---- S6 ----


def build_kube_score():
    """From its Go module into the cache: half a minute of two processors, once."""
    out = cache_dir().parent / "policy" / KUBE_SCORE.rpartition("@")[2]
    if not (out / "kube-score").exists():
        partial = out.with_name(f".{out.name}.{os.getpid()}")
        environment = {**os.environ, "GOBIN": str(partial), "GOFLAGS": "-mod=mod"}
        subprocess.run(["go", "install", "-ldflags", "-s -w", KUBE_SCORE], env=environment, check=True)
        out.mkdir(parents=True, exist_ok=True)
        (partial / "kube-score").rename(out / "kube-score")
        partial.rmdir()
    return out / "kube-score"


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_S6_kube_score(everything):
    done = subprocess.run(
        [build_kube_score(), "score", "--output-format=json", everything], capture_output=True, text=True, check=False
    )
    found = {
        (check["check"]["id"], f"{one['type_meta']['kind']}/{one['object_meta']['name']}")
        for one in json.loads(done.stdout)
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < 10
    }
    assert found == exceptions("kube-score")


@pytest.mark.slow
def test_S6_checkov(everything, tmp_path):
    """Some 100 Python packages, 290 MB: in full runs."""
    out = cache_dir().parent / "policy" / CHECKOV.replace("==", "-")
    if not (out / "ready").exists():
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(["python3", "-m", "venv", out], check=True)
        subprocess.run([out / "bin" / "pip", "install", "-q", "--disable-pip-version-check", CHECKOV], check=True)
        (out / "ready").touch()
    done = subprocess.run(
        [out / "bin" / "checkov", "--framework", "kubernetes", "-f", everything, "--compact", "-o", "json"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 150, "else it looked at nothing"
    found = set()
    for check in report["results"]["failed_checks"]:
        kind, _, name = check["resource"].split(".")[:3]
        found.add((check["check_id"], f"{kind}/{name}"))
    assert found == exceptions("checkov")


# ---- R7 ----


def test_R7_schema_rules():
    """The rules of openshift's crd-schema-checker that need no earlier release; the API server checks the costs."""
    found = set()
    for plural in PLURALS:
        top = schema(plural)
        assert "status" in top["properties"], "MustHaveStatus"
        for where, node in walk(top):
            here = f"{plural} {where}"
            if node.get("type") == "array":
                merge = node.get("x-kubernetes-list-type")
                assert merge in ("map", "set", "atomic"), f"ListsMustHaveSSATags: {here}"
                assert merge != "map" or node["x-kubernetes-list-map-keys"], here
                assert "maxItems" in node, f"a list without a bound: {here}"
            if node.get("type") == "number" or node.get("format") in ("float", "double"):
                found.add(("NoFloats", here))
            if node.get("format", "").startswith("uint"):
                found.add(("NoUints", here))
            if node.get("type") == "boolean":
                found.add(("NoBools", here))
            if "additionalProperties" in node:
                found.add(("NoMaps", here))
                assert "maxProperties" in node, f"a map without a bound: {here}"
            if node.get("type") == "string" and where.startswith(".spec") and not where.endswith("[]"):
                assert "maxLength" in node or "enum" in node, f"a text without a bound: {here}"
    assert found == exceptions("crd")
