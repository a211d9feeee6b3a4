"""Installing: the overlays of deploy/kustomize, built, and applied to a real API server."""

import os
import re
import subprocess

import pytest
import yaml
from install import DEPLOY, OVERLAYS, Kubectl, build, find, needs_kubectl, objects, pod_of, render
from kube import build_folder, wait_until

pytestmark = needs_kubectl
FIXTURES = DEPLOY.parent / "tests" / "kube" / "fixtures"
CLUSTER_WIDE = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "part-of", "managed-by")}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    return Kubectl(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def built(offline):
    return {overlay: objects(build(offline, f"kustomize/overlays/{overlay}")[0]) for overlay in OVERLAYS}


# ---- K: what is built ----


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_K1_builds_without_a_word_and_always_alike(offline, overlay):
    first = build(offline, f"kustomize/overlays/{overlay}")
    assert first[1] == ""
    assert build(offline, f"kustomize/overlays/{overlay}") == first


def test_K2_manifests_are_those_of_the_overlays(offline):
    for path, name in [("crd", "crds"), *((f"kustomize/overlays/{o}", o) for o in OVERLAYS)]:
        text = (DEPLOY / "manifests" / f"{name}.yaml").read_text()
        assert text.partition("\n")[2] == build(offline, path)[0], f"{name}.yaml: run deploy/manifests/generate"


def test_K4_production(built):
    production, development = built["production"], built["development"]
    deployment = find(production, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] >= 2
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    budget = find(production, "PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert 1 <= budget["minAvailable"] < deployment["spec"]["replicas"], "a drain must be possible"
    (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert pod["topologySpreadConstraints"]
    kinds = {o["kind"] for o in production}
    assert {"NetworkPolicy", "ResourceQuota", "LimitRange"} <= kinds
    only_development = {(o["kind"], o["metadata"]["name"]) for o in development} - {
        (o["kind"], o["metadata"]["name"]) for o in built["staging"]
    }
    development_only = {name for kind, name in only_development if "development" in name and kind != "Namespace"}
    assert development_only, "else this looks at nothing"
    assert not [name for name in development_only if name in str(production)]
    assert "debug" not in str(production)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_labelled_and_in_the_namespace(built, overlay):
    for one in built[overlay]:
        meta = one["metadata"]
        if one["kind"] not in CLUSTER_WIDE:
            assert meta["namespace"] == OVERLAYS[overlay], meta
        if one["kind"] != "CustomResourceDefinition":  # served by whoever installed it last
            assert set(meta.get("labels", {})) >= LABELS, meta
    selector = find(built[overlay], "Deployment")["spec"]["selector"]["matchLabels"]
    assert set(selector) == {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_shards_run_the_image_of_the_manager(built, overlay):
    (container,) = find(built[overlay], "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert env["SHARDHERD_RUNTIME_IMAGE"] == container["image"]
    assert re.fullmatch(r"[^:]+:[0-9.]+", container["image"]), "a version, not a moving tag"
    version = re.search(r"project\(shardherd VERSION ([0-9.]+)", (DEPLOY.parent / "CMakeLists.txt").read_text())[1]
    assert container["image"].endswith(":" + version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_configuration_is_one_the_manager_takes(built, overlay, tmp_path):
    config = next(o for o in built[overlay] if o["metadata"]["name"].startswith("shardherd-config-"))
    file = tmp_path / "shardherd.yaml"
    file.write_text(config["data"]["shardherd.yaml"])
    done = subprocess.run([build_folder() / "shardherd", "check-config", "-c", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(config["data"]["shardherd.yaml"])
    assert read["listen"]["admin_address"] == "127.0.0.1", "what changes things stays inside the pod"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_credential_is_among_the_objects(built, overlay):
    assert not [o for o in built[overlay] if o["kind"] == "Secret"]
    assert not re.search(
        r"password|token:", str([o for o in built[overlay] if o["kind"] == "ConfigMap"]), re.IGNORECASE
    )


def test_overlay_of_the_documentation(offline, tmp_path):
    """The kustomization.yaml that docs/kubernetes.md tells to write, with names in place of those in capitals."""
    text = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    block = re.search(r"```yaml\n# kustomization.yaml\n(.*?)```", text, re.DOTALL)[1]
    root = os.path.relpath(DEPLOY.parent, tmp_path.resolve())
    block = block.replace("[PATH/deploy", f"[{root}/deploy").replace("REGISTRY", "registry.example/team")
    (tmp_path / "kustomization.yaml").write_text(block)
    done = offline.run("kustomize", tmp_path)
    assert done.stderr == ""
    (container,) = find(objects(done.stdout), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/team/shardherd:0.1.0"
    assert container["image"] in str(container["env"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_S4_what_changes_things_is_not_exposed(built, overlay):
    kinds = {o["kind"] for o in built[overlay]}
    assert not kinds & {"Ingress", "HTTPRoute", "Gateway"}
    services = [o for o in built[overlay] if o["kind"] == "Service"]
    ports = {p["port"] for o in services for p in o["spec"]["ports"]}
    assert ports <= {8080, 9090}
    assert all(o["spec"].get("type", "ClusterIP") == "ClusterIP" for o in services)


# ---- S: what a real API server makes of it ----


@pytest.fixture(scope="module")
def installed(own_module_plane, tmp_path_factory):
    """All overlays side by side; what kubectl said about each."""
    kubectl = Kubectl(tmp_path_factory.mktemp("home"), own_module_plane.kubeconfig)
    said = {}
    for overlay in OVERLAYS:
        done = kubectl.run("apply", "-k", DEPLOY / "kustomize" / "overlays" / overlay)
        said[overlay] = done.stdout, done.stderr
    wait_until(
        lambda: kubectl.run("get", "sdb,sop", "-A", check=False).returncode == 0, what="the API of the custom resources"
    )
    kubectl.said = said
    kubectl.plane = own_module_plane
    return kubectl


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_S1_install_and_again(installed, overlay):
    out, err = installed.said[overlay]
    assert err == "", "warnings, of pod security for one"
    assert "deployment.apps/shardherd-manager created" in out
    path = DEPLOY / "kustomize" / "overlays" / overlay
    again = installed.run("apply", "-k", path)
    assert again.stderr == ""
    lines = [line for line in again.stdout.splitlines() if "poddisruptionbudget" not in line]  # always sent again
    assert {line.split()[-1] for line in lines} == {"unchanged"}, again.stdout
    assert installed.run("diff", "-k", path).stdout == ""


def admitted(plane, pod):
    """Status, warnings and answer for a pod, without making it."""
    return plane.answer("POST", f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods?dryRun=All", pod)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_S1_pods_are_admitted_under_restricted(installed, built, overlay):
    namespace = OVERLAYS[overlay]
    found = installed.json("get", "namespace", namespace)
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    shards = render(build_folder() / "shardherd", namespace)
    installed.run("apply", "-f", "-", stdin=yaml.safe_dump_all(o for o in shards if o["kind"] == "ServiceAccount"))
    workloads = [find(built[overlay], "Deployment"), *(o for o in shards if o["kind"] == "StatefulSet")]
    assert len(workloads) == 3
    for workload in workloads:
        pod = pod_of(workload)
        status, warnings, answer = admitted(installed.plane, pod)
        assert (status, warnings) == (201, []), answer
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    status, _, answer = admitted(installed.plane, pod)
    assert status == 403, "restricted is not enforced"
    assert "restricted" in answer["message"]


def rights(kubectl, account, namespace):
    """What auth can-i --list says, as {group/resource: verbs}; URLs and what has a name of its own included."""
    done = kubectl.run(
        "auth", "can-i", "--list", "--no-headers", f"--as=system:serviceaccount:{account}", "-n", namespace
    )
    found = {}
    for line in done.stdout.splitlines():
        what, urls, names, verbs = re.match(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]", line).groups()
        resource, _, group = what.partition(".")
        resource, _, part = resource.partition("/")
        if group and "/" in group:
            group, _, part = group.partition("/")
        key = "/".join(x for x in (group, resource, part) if x) + (f" {names}" if names else "") + (urls or "")
        found[key] = set(verbs.split())
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_S2_rights_are_those_of_the_table(installed, overlay):
    namespace = OVERLAYS[overlay]
    table = yaml.safe_load((FIXTURES / "rbac.yaml").read_text())
    installed.run("apply", "-f", "-", stdin=yaml.safe_dump_all(render(build_folder() / "shardherd", namespace)))
    everybody = rights(installed, f"{namespace}:nobody", namespace)
    for account, wanted in table.items():
        if account != "shardherd-manager" and overlay != "production":
            continue  # the same objects
        mine = rights(installed, f"{namespace}:{account}", namespace)
        own = {what: verbs for what, verbs in mine.items() if everybody.get(what) != verbs}
        assert own == {what: set(verbs) for what, verbs in wanted.items()}, account
        assert "*" not in str(own)
        assert rights(installed, f"{namespace}:{account}", "default") == everybody, "nothing in other namespaces"
    others = {o["metadata"]["name"] for o in installed.json("get", "serviceaccounts", "-n", namespace)["items"]}
    assert others - {"shop-s2"} <= set(table), "an account that the table does not know"


def test_S2_rights_are_enough_to_make_a_shard(installed):
    """The API server refuses a role that grants more than its maker may do: tried as the manager's account."""
    namespace = OVERLAYS["production"]
    account = f"--as=system:serviceaccount:{namespace}:shardherd-manager"
    made = yaml.safe_dump_all(render(build_folder() / "shardherd", namespace))
    arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=shardherd-provision", "-f", "-"]
    installed.run(*arguments, account, stdin=made)
    installed.run("delete", "-f", "-", account, stdin=made)
    for what in (
        "list secrets",
        "watch secrets",
        "get nodes",
        "create pods/exec",
        "escalate roles",
        "impersonate users",
    ):
        done = installed.run("auth", "can-i", *what.split(), account, "-n", namespace, check=False)
        assert done.stdout.strip() == "no", what


def test_S2_people_get_theirs_by_aggregation(built):
    roles = {o["metadata"]["name"]: o for o in built["production"] if o["kind"] == "ClusterRole"}
    assert set(roles) == {"shardherd-view", "shardherd-edit", "shardherd-discovery"}
    for name in ("shardherd-view", "shardherd-edit"):
        assert [r["apiGroups"] for r in roles[name]["rules"]] == [["shardherd.io"]]
        assert roles[name]["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"] == "true"
    reading = roles["shardherd-discovery"]
    assert not any(label.startswith("rbac.") for label in reading["metadata"]["labels"])
    assert all(set(r["verbs"]) <= {"get", "list", "watch"} for r in reading["rules"])
    assert "secrets" not in str(reading["rules"])
    assert all(set(r["verbs"]) == {"get", "list", "watch"} for r in roles["shardherd-view"]["rules"])


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_S5_every_container_has_requests_and_limits(built, overlay):
    pod = find(built[overlay], "Deployment")["spec"]["template"]["spec"]
    for container in pod["containers"] + pod.get("initContainers", []):
        for which in ("requests", "limits"):
            assert set(container["resources"][which]) >= {"cpu", "memory", "ephemeral-storage"}


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_S5_pods_without_figures_get_those_of_the_namespace(installed, overlay):
    namespace = OVERLAYS[overlay]
    shards = render(build_folder() / "shardherd", namespace)
    installed.run("apply", "-f", "-", stdin=yaml.safe_dump_all(o for o in shards if o["kind"] == "ServiceAccount"))
    pod = pod_of(find(shards, "StatefulSet"))
    del pod["spec"]["containers"][0]["resources"]
    status, warnings, answer = admitted(installed.plane, pod)
    assert (status, warnings) == (201, []), answer
    given = answer["spec"]["containers"][0]["resources"]
    assert set(given["limits"]) == set(given["requests"]) == {"cpu", "memory", "ephemeral-storage"}
