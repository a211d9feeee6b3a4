"""The API objects against a real API server: what they accept, refuse, default and show."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from kube import wait_until

CRD = Path(__file__).parents[2] / "deploy" / "crd"
PATH = "/apis/shardherd.io/v1alpha1/namespaces/default/shardeddatabases"
LEAST = {
    "apiVersion": "shardherd.io/v1alpha1",
    "kind": "ShardedDatabase",
    "metadata": {"name": "shop"},
    "spec": {"shards": 2, "tables": [{"name": "orders", "key": "customer_id"}]},
}


@pytest.fixture(scope="module")
def crd(plane):
    for path in sorted(CRD.glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        assert len(json.dumps(document, separators=(",", ":"))) < 200_000
        plane.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", document)
    wait_until(lambda: plane.request("GET", PATH)[0] == 200, what="the new API")
    yield plane


def changed(**spec):
    document = copy.deepcopy(LEAST)
    document["spec"].update(spec)
    return {**document, "spec": {k: v for k, v in document["spec"].items() if v is not None}}


def refused(plane, document, part):
    status, answer = plane.request("POST", PATH + "?dryRun=All&fieldValidation=Strict", document)
    assert status in (400, 422), answer
    assert part in answer["message"], answer["message"]


def accepted(plane, document):
    return plane.must("POST", PATH + "?dryRun=All&fieldValidation=Strict", document)


def test_every_field_has_a_description(crd):
    missing = []

    def walk(schema, path):
        if "description" not in schema and path:
            missing.append(path)
        for name, inner in schema.get("properties", {}).items():
            walk(inner, f"{path}.{name}")
        if isinstance(schema.get("items"), dict):
            walk(schema["items"], path + "[]")

    for path in CRD.glob("*.yaml"):
        for version in yaml.safe_load(path.read_text())["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            walk(schema["properties"]["spec"], ".spec")
            walk(schema["properties"]["status"], ".status")
    assert not missing


def test_the_least_and_its_defaults(crd):
    spec = accepted(crd, LEAST)["spec"]
    assert spec["postgresql"]["version"] == "16"
    assert (spec["instances"], spec["deletionPolicy"], spec["tls"]["mode"]) == (1, "retain", "on")
    assert spec["balance"] == {
        "split": "auto",
        "merge": "recommend",
        "rebalance": "recommend",
        "objective": "query_rate",
    }


def test_R4_what_is_refused(crd):
    halves = [
        {"name": "a", "lo": "-9223372036854775808", "hi": "-1"},
        {"name": "b", "lo": "0", "hi": "9223372036854775807"},
    ]
    accepted(crd, changed(shards=None, ranges=halves))
    refused(crd, changed(ranges=halves), "either shards")
    refused(crd, changed(shards=None), "either shards")
    refused(crd, changed(shards=0), "spec.shards")
    refused(crd, changed(shards=None, ranges=[{"name": "a", "lo": "5", "hi": "1"}]), "lo must not be above hi")
    refused(crd, changed(tables=[]), "spec.tables")
    refused(crd, changed(tabels=[]), "tabels")
    refused(crd, changed(schema={"inline": "x", "secret": {"name": "s", "key": "k"}}), "exactly one of")
    refused(crd, changed(postgresql={"version": "14"}), "spec.postgresql.version")
    refused(crd, changed(postgresql={"parameters": {"port": "1"}}), "managed by shardherd")
    refused(crd, {**LEAST, "metadata": {"name": "x" * 33}}, "at most 32 characters")


def test_R4_what_cannot_be_changed(crd):
    made = crd.must("POST", PATH, changed(storage={"size": "2Gi", "class": "fast"}, postgresql={"version": "16"}))
    item = f"{PATH}/shop"

    def patch(spec):
        return crd.request("PATCH", item, {"spec": spec}, content_type="application/merge-patch+json")

    try:
        assert made["status"]["observedGeneration"] == -1
        for spec, message in (
            ({"owner": "other"}, "owner cannot be changed"),
            ({"storage": {"class": "slow"}}, "storage class"),
            ({"storage": {"size": "1Gi"}}, "not shrink"),
            ({"postgresql": {"version": "15"}}, "can only grow"),
        ):
            status, answer = patch(spec)
            assert status == 422, answer
            assert message in answer["message"]
        assert patch({"storage": {"size": "3Gi"}})[0] == 200
        assert patch({"postgresql": {"version": "18"}})[0] == 200
    finally:
        crd.must("DELETE", item)


def test_R6_status_and_scale_are_their_own(crd):
    crd.must("POST", PATH, LEAST)
    item = f"{PATH}/shop"
    try:
        answer = crd.must("PATCH", item, {"status": {"shards": 7}}, content_type="application/merge-patch+json")
        assert "shards" not in answer["status"]
        answer = crd.must(
            "PATCH",
            f"{item}/status",
            {"status": {"shards": 7}, "spec": {"shards": 9}},
            content_type="application/merge-patch+json",
        )
        assert (answer["status"]["shards"], answer["spec"]["shards"]) == (7, 2)
        scale = crd.must("GET", f"{item}/scale")
        assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 7)
        crd.must("PATCH", f"{item}/scale", {"spec": {"replicas": 3}}, content_type="application/merge-patch+json")
        assert crd.must("GET", item)["spec"]["shards"] == 3
    finally:
        crd.must("DELETE", item)
