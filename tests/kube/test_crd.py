"""The API objects against a real API server: what they accept, refuse, default and show."""

import json
from pathlib import Path

import pytest
import yaml
from kube import wait_until

ROOT = Path(__file__).parents[2]
CRD = ROOT / "deploy" / "crd"
RULES = Path(__file__).parent / "fixtures" / "rules"
PLURALS = ("shardeddatabases", "shardoperations")
KINDS = {"shardeddatabases": "ShardedDatabase", "shardoperations": "ShardOperation"}
MERGE = "application/merge-patch+json"


def read(plural):
    return yaml.safe_load((CRD / f"shardherd.io_{plural}.yaml").read_text())


def schema(plural):
    (version,) = read(plural)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def fixture(plural):
    return yaml.safe_load((RULES / f"{plural}.yaml").read_text())


def path(plural, name=""):
    return f"/apis/shardherd.io/v1alpha1/namespaces/default/{plural}" + (f"/{name}" if name else "")


@pytest.fixture(scope="module")
def crd(plane):
    names = [read(plural)["metadata"]["name"] for plural in PLURALS]
    where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for plural in PLURALS:
        plane.must("POST", where + "?fieldValidation=Strict", read(plural))
    wait_until(lambda: all(plane.request("GET", path(plural))[0] == 200 for plural in PLURALS), what="the new API")
    yield plane
    for name in names:
        plane.must("DELETE", f"{where}/{name}")
    wait_until(lambda: all(plane.request("GET", f"{where}/{name}")[0] == 404 for name in names), what="no API")


def merged(base, change):
    """JSON merge patch."""
    if not isinstance(change, dict):
        return change
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def thing(plural, *changes, name="shop"):
    spec = fixture(plural)["least"]
    for change in changes:
        spec = merged(spec, change)
    return {
        "apiVersion": "shardherd.io/v1alpha1",
        "kind": KINDS[plural],
        "metadata": {"name": name},
        "spec": spec,
    }


def create(plane, plural, document):
    """What the API server says to it, without making it."""
    return plane.request("POST", path(plural) + "?dryRun=All&fieldValidation=Strict", document)


def change_spec(plane, plural, change):
    """What the API server says to the change of the object shop, without making it."""
    return plane.request("PATCH", path(plural, "shop") + "?dryRun=All", {"spec": change}, content_type=MERGE)


def walk(node, where=""):
    """Every schema below, with its place."""
    yield where, node
    for name, inner in node.get("properties", {}).items():
        yield from walk(inner, f"{where}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            yield from walk(node[name], where + "[]")


# ---- R1 ----


@pytest.mark.parametrize("plural", PLURALS)
def test_R1_conditions(plural):
    status = schema(plural)["properties"]["status"]["properties"]
    conditions = status["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    fields = conditions["items"]["properties"]
    assert set(fields) == {"type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"}
    assert set(conditions["items"]["required"]) == {"type", "status", "lastTransitionTime", "reason", "message"}
    own = {"shardeddatabases": "Available", "shardoperations": "Complete"}[plural]
    for word in ("Ready", own, "Reconciling", "Stalled", "reason"):
        assert word in conditions["description"], word


# ---- R3 ----


@pytest.mark.parametrize("plural", PLURALS)
def test_R3_columns_and_names(crd, plural):
    spec = read(plural)["spec"]
    columns = spec["versions"][0]["additionalPrinterColumns"]
    shown = [c["name"] for c in columns if not c.get("priority")]
    assert shown[-1] == "Age"
    assert shown.index("Ready") + 1 == shown.index("Reason")
    assert [c["name"] for c in columns if c.get("priority") == 1][-1] == "Message"
    assert "shardherd" in spec["names"]["categories"]
    assert spec["names"]["shortNames"] == [{"shardeddatabases": "sdb", "shardoperations": "sop"}[plural]]
    crd.must("POST", path(plural), thing(plural))
    try:
        now = {"lastTransitionTime": "2026-01-01T00:00:00Z", "message": "well"}
        status = {
            "observedGeneration": 1,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Fine", **now}],
        }
        crd.must("PATCH", path(plural, "shop") + "/status", {"status": status}, content_type=MERGE)
        table = crd.must("GET", path(plural), accept="application/json;as=Table;v=v1;g=meta.k8s.io")
        row = dict(zip([c["name"] for c in table["columnDefinitions"]], table["rows"][0]["cells"], strict=True))
        assert (row["Ready"], row["Reason"]) == ("True", "Fine")
    finally:
        crd.must("DELETE", path(plural, "shop"))


# ---- R4 ----


@pytest.mark.parametrize("plural", PLURALS)
def test_R4_every_rule_has_cases(plural):
    messages = {r["message"] for _, s in walk(schema(plural)) for r in s.get("x-kubernetes-validations", [])}
    tested = [rule["message"] for rule in fixture(plural)["rules"]]
    assert not [m for m in messages if not any(m.startswith(t) for t in tested)], "rules without a fixture"
    assert not [t for t in tested if not any(m.startswith(t) for m in messages)], "fixtures without a rule"
    for rule in fixture(plural)["rules"]:
        for case in rule.get("cases", [rule.get("names")]):
            assert case["accept"], rule["message"]
            assert case["reject"], rule["message"]


def rule_ids():
    return [(plural, rule) for plural in PLURALS for rule in fixture(plural)["rules"]]


@pytest.mark.parametrize(("plural", "rule"), rule_ids(), ids=lambda v: v if isinstance(v, str) else v["message"])
def test_R4_rule(crd, plural, rule):
    def check(ask, good, bad):
        for change in good:
            status, answer = ask(change)
            assert status in (200, 201), (change, answer)
        for change in bad:
            status, answer = ask(change)
            assert status == 422, (change, answer)
            assert rule["message"] in answer["message"], (change, answer["message"])

    if "names" in rule:
        names = rule["names"]
        check(lambda n: create(crd, plural, thing(plural, name=n)), names["accept"], names["reject"])
    for case in rule.get("cases", []):
        if "from" not in case:
            check(lambda c: create(crd, plural, thing(plural, c)), case["accept"], case["reject"])
            continue
        crd.must("POST", path(plural), thing(plural, case["from"]))
        try:
            check(lambda c: change_spec(crd, plural, c), case["accept"], case["reject"])
        finally:
            crd.must("DELETE", path(plural, "shop"))


@pytest.mark.parametrize("plural", PLURALS)
def test_R4_what_the_schema_refuses(crd, plural):
    for change, part in fixture(plural)["schema"]:
        status, answer = create(crd, plural, thing(plural, change))
        assert status in (400, 422), answer
        assert part in answer["message"], answer["message"]


def test_R4_largest_object_is_within_the_budget_of_the_rules(crd):
    """The limit at run time is another one than that at the making of the CRD."""
    width = 2**64 // 256
    edges = [-(2**63) + i * width for i in range(256)]
    ranges = [{"name": f"shard{i}", "lo": str(lo), "hi": str(lo + width - 1)} for i, lo in enumerate(edges)]
    tables = [{"name": f"table{i}", "key": "id"} for i in range(1024)]
    document = thing("shardeddatabases", {"shards": None, "ranges": ranges, "tables": tables})
    status, answer = create(crd, "shardeddatabases", document)
    assert status == 201, answer


def test_the_least_and_its_defaults(crd):
    status, answer = create(crd, "shardeddatabases", thing("shardeddatabases"))
    assert status == 201, answer
    spec = answer["spec"]
    assert spec["postgresql"]["version"] == "16"
    assert (spec["instances"], spec["deletionPolicy"], spec["tls"]["mode"]) == (1, "retain", "on")
    assert spec["balance"] == {
        "split": "auto",
        "merge": "recommend",
        "rebalance": "recommend",
        "objective": "query_rate",
    }
    status, answer = create(crd, "shardoperations", thing("shardoperations"))
    assert status == 201, answer
    assert (answer["spec"]["dryRun"], answer["spec"]["cancel"]) == (False, False)


# ---- R5 ----


@pytest.mark.parametrize("plural", PLURALS)
def test_R5_size(plural):
    assert len(json.dumps(read(plural), separators=(",", ":"))) < 200_000


@pytest.mark.parametrize("plural", PLURALS)
def test_R5_every_field_has_a_description(plural):
    missing = [
        where
        for where, node in walk(schema(plural))
        if where and not where.startswith(".metadata") and "description" not in node and not where.endswith("[]")
    ]
    assert not missing


# ---- R6 ----


def test_R6_status_and_scale_are_their_own(crd):
    crd.must("POST", path("shardeddatabases"), thing("shardeddatabases"))
    item = path("shardeddatabases", "shop")
    try:
        answer = crd.must("PATCH", item, {"status": {"shards": 7}}, content_type=MERGE)
        assert "shards" not in answer["status"]
        answer = crd.must(
            "PATCH", f"{item}/status", {"status": {"shards": 7}, "spec": {"shards": 9}}, content_type=MERGE
        )
        assert (answer["status"]["shards"], answer["spec"]["shards"]) == (7, 2)
        scale = crd.must("GET", f"{item}/scale")
        assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 7)
        crd.must("PATCH", f"{item}/scale", {"spec": {"replicas": 3}}, content_type=MERGE)
        assert crd.must("GET", item)["spec"]["shards"] == 3
    finally:
        crd.must("DELETE", item)


@pytest.mark.parametrize("plural", PLURALS)
def test_R2_status_says_that_nobody_looked(crd, plural):
    made = crd.must("POST", path(plural), thing(plural))
    try:
        assert made["status"] == {"observedGeneration": -1}
    finally:
        crd.must("DELETE", path(plural, "shop"))
