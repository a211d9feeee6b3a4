"""When the custom resources count as healthy: kstatus (Flux and others), and Argo CD by deploy/argocd."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from install import DEPLOY, ROOT, Kubectl, build_tool, needs_kubectl
from kube import wait_until

HEALTH = Path(__file__).parent / "fixtures" / "health"
KINDS = ("ShardedDatabase", "ShardOperation")
LUA = ROOT / "build" / "tools" / "usr" / "bin" / "lua5.4"
needs_lua = pytest.mark.skipif(
    not LUA.exists() and shutil.which("lua5.4") is None, reason="lua5.4 is not here: scripts/install-deps gets it"
)


def thing(kind, case):
    """The object of a fixture, its conditions written out."""
    spec = {"shards": 2, "tables": [{"name": "orders", "key": "id"}]}
    if kind == "ShardOperation":
        spec = {"database": "shop", "kind": "split", "shard": "s1"}
    made = {
        "apiVersion": "shardherd.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "shop", "namespace": "default", "generation": 2, **case.get("metadata", {})},
        "spec": {**spec, **case.get("spec", {})},
    }
    if "status" in case:
        made["status"] = dict(case["status"])
        made["status"]["conditions"] = [
            dict(
                zip(("status", "reason"), text.split(), strict=True),
                type=name,
                observedGeneration=case["status"]["observedGeneration"],
                lastTransitionTime="2026-01-01T00:00:00Z",
                message="a sentence",
            )
            for name, text in case["status"].get("conditions", {}).items()
        ]
    return made


def cases():
    return [(kind, case) for kind in KINDS for case in yaml.safe_load((HEALTH / f"{kind}.yaml").read_text())]


def name_of(value):
    return value if isinstance(value, str) else value["name"].replace(" ", "-")


@pytest.fixture(scope="module")
def kstatus():
    """kstatus(objects) returns its verdicts."""
    program = build_tool("kstatus")

    def ask(things):
        done = subprocess.run([program], input=json.dumps(things), capture_output=True, text=True, check=True)
        return [one["status"] for one in json.loads(done.stdout)]

    return ask


def test_R2_kstatus(kstatus):
    """An object that the API server made has a status; one without is not asked about."""
    wanted = [(kind, case) for kind, case in cases() if case.get("live", True)]
    said = kstatus([thing(kind, case) for kind, case in wanted])
    got = {(kind, case["name"]): status for (kind, case), status in zip(wanted, said, strict=True)}
    assert got == {(kind, case["name"]): case["kstatus"] for kind, case in wanted}


@pytest.mark.parametrize("kind", KINDS)
def test_R2_in_progress_from_the_first_moment(plane, kstatus, kind):
    """As a real API server makes it, before anybody looked; without the default it would count as done."""
    plural = {"ShardedDatabase": "shardeddatabases", "ShardOperation": "shardoperations"}[kind]
    definition = yaml.safe_load((DEPLOY / "crd" / f"shardherd.io_{plural}.yaml").read_text())
    where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    things = f"/apis/shardherd.io/v1alpha1/namespaces/default/{plural}"
    plane.must("POST", where, definition)
    try:
        wait_until(lambda: plane.request("GET", things)[0] == 200, what="the new API")
        made = plane.must("POST", things, thing(kind, {"name": "new"}))
        assert kstatus([made]) == ["InProgress"]
        del made["status"]
        assert kstatus([made]) == ["Current"], "what the default of the status is for"
        plane.must("DELETE", f"{things}/shop")
    finally:
        plane.must("DELETE", f"{where}/{plural}.shardherd.io")


def lua_text(value):
    """A value as a Lua expression."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{json.dumps(k)}] = {lua_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(lua_text, value)) + "}"
    return json.dumps(value)


@needs_lua
@pytest.mark.parametrize(("kind", "case"), cases(), ids=name_of)
def test_R8_argocd(kind, case):
    script = DEPLOY / "argocd" / kind / "health.lua"
    program = (
        f"obj = {lua_text(thing(kind, case))}\n"
        f"local r = assert(loadfile({json.dumps(str(script))}))()\n"
        "print(r.status)\nprint(r.message)"
    )
    lua = LUA if LUA.exists() else "lua5.4"
    done = subprocess.run([lua, "-"], input=program, capture_output=True, text=True, check=True)
    status, message = done.stdout.splitlines()
    assert status == case["argocd"]
    assert message or status == "Healthy"


def test_R8_every_state_has_a_fixture():
    for kind in KINDS:
        names = {case["name"] for case in yaml.safe_load((HEALTH / f"{kind}.yaml").read_text())}
        assert names >= {"no status", "stale generation", "deleting"}
        assert names & {"ready", "done"}
        assert names & {"stalled", "failed"}
    assert "suspended" in {case["name"] for case in yaml.safe_load((HEALTH / "ShardedDatabase.yaml").read_text())}


@needs_kubectl
def test_argocd_config_map_has_a_script_for_each_kind(tmp_path):
    done = Kubectl(tmp_path).run("kustomize", DEPLOY / "argocd")
    assert done.stderr == ""
    (made,) = list(yaml.safe_load_all(done.stdout))
    assert made["metadata"]["name"] == "argocd-cm", "no suffix: the name is Argo CD's"
    for kind in KINDS:
        text = made["data"][f"resource.customizations.health.shardherd.io_{kind}"]
        assert text == (DEPLOY / "argocd" / kind / "health.lua").read_text()
