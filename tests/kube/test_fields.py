"""Every field of a ShardedDatabase that may be changed is changed once; no field of the schema is left out."""

import pytest
import yaml
from kube import ROOT, needs_root
from runtime_rig import runtime_cluster, runtime_rig

pytestmark = needs_root

# what the rules of the schema refuse to change (test_R4_rule), or only ever begin with
FIXED = {
    "ranges", "owner", "tables", "schema", "adopt", "storage.class", "storage.wal.class", "security.runAsUser",
    "security.fsGroup",
}  # fmt: skip
# changed by a test of its own
ELSEWHERE = {
    "shards": "test_manager.py::test_what_can_be_changed",
    "suspended": "test_manager.py::test_what_can_be_changed",
    "instances": "test_members.py",
    "members": "../live/test_ha_manager.py::test_tags",
    "postgresql.version": "test_versions.py::test_every_shard_moves_to_the_newer_version",
    "storage.size": "test_runtime.py::test_volumes_grow",
    "storage.wal.size": "test_runtime.py::test_volumes_grow",
    "storage.snapshotClass": "test_manager.py::test_deletion_leaves_snapshots",
    "credentials.secret": "test_runtime.py::test_passwords_change_without_an_outage",
    "credentials.rotation": "test_runtime.py::test_passwords_change_without_an_outage",
    "tls.mode": "test_runtime_tls.py::test_certificates_are_asked_for_from_now_on_and_no_more",
    "tls.secret": "test_runtime.py::test_a_certificate_that_does_not_do_is_replaced",
    "tls.clientSecret": "test_runtime_tls.py::test_certificates_of_your_own",
    "tls.authorityLifetime": "test_renewal.py::test_the_authority_is_renewed_under_load",
    "tls.certificateLifetime": "test_renewal.py::test_the_authority_is_renewed_under_load",
    "balance": "test_manager.py::test_from_making_to_its_end",
    "backup": "",  # of a later version: nothing reads it yet
}
AWAY = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
    {"weight": 1, "preference": {"matchExpressions": [{"key": "slow", "operator": "DoesNotExist"}]}}
]}}  # fmt: skip
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
GONE = {"key": "gone", "operator": "Exists", "effect": "NoSchedule"}
# field -> (its new value, the kind that shows it, where, and how if not as it is)
POD = "/spec/template/spec"
PROBES = f"{POD}/containers/0"
CHANGED = {
    "postgresql.image": ("shardherd:next", "StatefulSet", f"{POD}/containers/0/image"),
    "postgresql.imagePullPolicy": ("Never", "StatefulSet", f"{POD}/containers/0/imagePullPolicy"),
    "postgresql.imagePullSecrets": ([{"name": "pull"}], "StatefulSet", f"{POD}/imagePullSecrets"),
    "postgresql.parameters": ({"work_mem": "9MB"}, "ConfigMap", "/data", lambda v: "work_mem = '9MB'" in str(v)),
    "resources.requests": ({"cpu": "11m", "memory": "200Mi"}, "StatefulSet", f"{POD}/containers/0/resources/requests"),
    "resources.limits": ({"memory": "300Mi"}, "StatefulSet", f"{POD}/containers/0/resources/limits"),
    "scheduling.nodeSelector": ({"kubernetes.io/os": "linux"}, "StatefulSet", f"{POD}/nodeSelector"),
    "scheduling.tolerations": ([GONE], "StatefulSet", f"{POD}/tolerations"),
    "scheduling.affinity": (AWAY, "StatefulSet", f"{POD}/affinity"),
    "scheduling.topologySpreadConstraints": ([SPREAD], "StatefulSet", f"{POD}/topologySpreadConstraints"),
    "scheduling.priorityClassName": ("shards", "StatefulSet", f"{POD}/priorityClassName"),
    "security.seLinuxOptions": ({"level": "s0:c1"}, "StatefulSet", f"{POD}/securityContext/seLinuxOptions"),
    "probes.startupSeconds": (1200, "StatefulSet", f"{PROBES}/startupProbe",
                              lambda p: p["periodSeconds"] * p["failureThreshold"] == 1200),
    "probes.livenessSeconds": (40, "StatefulSet", f"{PROBES}/livenessProbe",
                               lambda p: p["periodSeconds"] * p["failureThreshold"] == 40),
    "probes.readinessSeconds": (3, "StatefulSet", f"{PROBES}/readinessProbe/periodSeconds"),
    "service.type": ("NodePort", "Service", "/spec/type"),
    "service.annotations": ({"team": "a"}, "Service", "/metadata/annotations/team", lambda v: v == "a"),
    "network.policy": (True, "NetworkPolicy", "/spec/ingress", bool),
    "network.allowedLabels": ({"may": "in"}, "NetworkPolicy", "/spec/ingress", lambda v: "'may': 'in'" in str(v)),
    "labels": ({"team": "b"}, "PodDisruptionBudget", "/metadata/labels/team", lambda v: v == "b"),
    "annotations": ({"note": "c"}, "StatefulSet", "/spec/template/metadata/annotations/note", lambda v: v == "c"),
    "update.strategy": ("OnDelete", "StatefulSet", "/spec/updateStrategy/type"),
    "deletionPolicy": ("retain", "StatefulSet", "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted",
                       lambda v: v == "Retain"),
}  # fmt: skip


def leaves(schema, path=""):
    """The fields of the specification; one whose parts are somebody else's, or the user's own, is one."""
    for name, field in schema["properties"].items():
        below = f"{path}.{name}".lstrip(".")
        if "properties" in field and below not in {*FIXED, *ELSEWHERE}:
            yield from leaves(field, below)
        else:
            yield below


def test_no_field_is_left_out():
    crd = yaml.safe_load((ROOT / "deploy/crd/shardherd.io_shardeddatabases.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    listed = [*FIXED, *ELSEWHERE, *CHANGED]
    assert sorted(leaves(schema)) == sorted(listed)
    for place in filter(None, ELSEWHERE.values()):
        file, _, test = place.partition("::")
        assert f"def {test}" in (ROOT / "tests" / "kube" / file).read_text(), place


def nested(fields):
    """{"a.b": 1} as {"a": {"b": 1}}"""
    spec = {}
    for path, value in fields.items():
        *above, last = path.split(".")
        place = spec
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return spec


def find(value, pointer):
    for name in pointer.strip("/").split("/"):
        value = value[int(name)] if isinstance(value, list) else (value or {}).get(name)
    return value


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with runtime_cluster(tmp_path_factory.mktemp("cluster"), more=["shardherd:next"]) as cluster:
        priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "shards"}}
        cluster.must("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {**priority, "value": 7})
        yield cluster


def test_every_field_that_may_be_changed(cluster, tmp_path):
    """All at once; the pod is made anew by it, with the rows it had, and everything shows what it is to show."""
    with runtime_rig(cluster, tmp_path) as rig:
        rig.write(shards=1, network={"policy": False})
        rig.ensure("s1")
        rig.psql("CREATE TABLE kept AS SELECT 1 AS n")
        before = {kind: cluster.get(kind, "shop-s1") for kind in {row[1] for row in CHANGED.values()}}
        uid = cluster.get("Pod", "shop-s1-0")["metadata"]["uid"]

        fields = {path: row[0] for path, row in CHANGED.items()}
        fields["update.strategy"] = "RollingUpdate"  # last, since it keeps the pod as it is
        rig.write(shards=1, **nested(fields))
        rig.ensure("s1")
        assert cluster.get("Pod", "shop-s1-0")["metadata"]["uid"] != uid
        assert rig.psql("SELECT n, current_setting('work_mem') FROM kept") == "1|9MB"

        rig.write(shards=1, **nested({path: row[0] for path, row in CHANGED.items()}))
        rig.ensure("s1")
        for path, (value, kind, pointer, *how) in CHANGED.items():
            shows = how[0] if how else lambda seen, value=value: seen == value
            assert not shows_before(before[kind], pointer, shows), f"{path} was so before"
            assert shows(find(cluster.get(kind, "shop-s1"), pointer)), path


def shows_before(item, pointer, shows):
    try:
        return item is not None and shows(find(item, pointer))
    except (TypeError, KeyError, AttributeError):
        return False
