"""What `shardherd render` prints is accepted by a real API server, field by field, and does not change."""

import subprocess

import pytest
import yaml
from kube import build_folder

RICH = """
apiVersion: shardherd.io/v1alpha1
kind: ShardedDatabase
metadata: {name: shop, namespace: default}
spec:
  shards: 2
  tables: [{name: orders, key: customer_id}]
  instances: 3
  postgresql:
    version: "16"
    image: registry.example/shardherd:1
    imagePullPolicy: IfNotPresent
    imagePullSecrets: [{name: pull}]
    parameters: {work_mem: 32MB, application_name: "it's"}
  storage: {class: fast, size: 5Gi, wal: {size: 2Gi}}
  resources: {limits: {memory: 2Gi, cpu: "1"}, requests: {memory: 1Gi, cpu: 500m}}
  scheduling:
    nodeSelector: {disk: ssd}
    tolerations: [{key: db, operator: Exists, effect: NoSchedule}]
    topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {a: b}}}
    priorityClassName: high
  security: {runAsUser: 70, fsGroup: 71}
  service: {type: NodePort, annotations: {x: y}}
  network: {allowedLabels: {app: web}}
  labels: {team: a}
  annotations: {note: b}
  update: {strategy: OnDelete}
  deletionPolicy: delete
"""
LEAST = """
apiVersion: shardherd.io/v1alpha1
kind: ShardedDatabase
metadata: {name: shop}
spec: {shards: 1, tables: [{name: orders, key: customer_id}]}
"""


def render(tmp_path, text, *more, code=0):
    path = tmp_path / "sdb.yaml"
    path.write_text(text)
    run = subprocess.run(
        [build_folder() / "shardherd", "render", path, *more], capture_output=True, text=True, timeout=20, check=False
    )
    assert run.returncode == code, run.stderr
    return run.stdout if code == 0 else run.stderr


def collection(document):
    group, _, _ = document["apiVersion"].rpartition("/")
    base = f"/apis/{document['apiVersion']}" if group else "/api/v1"
    plural = {"NetworkPolicy": "networkpolicies"}.get(document["kind"], document["kind"].lower() + "s")
    return f"{base}/namespaces/{document['metadata']['namespace']}/{plural}"


@pytest.mark.parametrize("text", [RICH, LEAST], ids=["rich", "least"])
def test_the_api_server_takes_every_field(plane, tmp_path, text):
    out = render(tmp_path, text)
    assert out == render(tmp_path, text)
    texts = [text for text in out.split("---\n") if yaml.safe_load(text)]
    documents = [yaml.safe_load(text) for text in texts]
    kinds = [document["kind"] for document in documents if document["metadata"]["labels"]["shardherd.io/shard"] == "s1"]
    assert kinds == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Service",
        "ConfigMap",
        "Service",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "StatefulSet",
    ]
    for document, text in zip(documents, texts, strict=True):
        path = f"{collection(document)}/{document['metadata']['name']}"
        answer = plane.must(
            "PATCH",
            f"{path}?fieldManager=test&force=true&dryRun=All&fieldValidation=Strict",
            text,
            content_type="application/apply-patch+yaml",
        )
        assert answer["metadata"]["name"] == document["metadata"]["name"]


def test_pods_satisfy_the_restricted_standard(plane, tmp_path):
    plane.must(
        "POST",
        "/api/v1/namespaces",
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
    )
    for text in (RICH, LEAST):
        for document in yaml.safe_load_all(render(tmp_path, text, "--namespace=strict")):
            if not document or document["kind"] != "StatefulSet":
                continue
            template = document["spec"]["template"]
            volumes = [{"name": name, "emptyDir": {}} for name in ("data", "wal")]
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "try", "namespace": "strict"},
                "spec": {
                    **template["spec"],
                    "serviceAccountName": "default",
                    "priorityClassName": "",
                    "volumes": [*template["spec"]["volumes"], *volumes],
                },
            }
            plane.must(
                "POST",
                "/api/v1/namespaces/strict/serviceaccounts?dryRun=All",
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}},
            )
            status, answer = plane.request("POST", "/api/v1/namespaces/strict/pods?dryRun=All", pod)
            assert status == 201 or "serviceaccount" in str(answer).lower(), answer
            assert "PodSecurity" not in str(answer)


def test_settings_follow_the_memory(tmp_path):
    documents = list(yaml.safe_load_all(render(tmp_path, RICH)))
    settings = next(d for d in documents if d and d["kind"] == "ConfigMap")["data"]["settings.conf"]
    assert "shared_buffers = '524288kB'" in settings
    assert "effective_cache_size = '1572864kB'" in settings
    assert "work_mem = '32MB'" in settings
    assert settings.count("work_mem") == 2  # maintenance_work_mem is the other
    assert "application_name = 'it''s'" in settings
    assert "max_slot_wal_keep_size = '1048576kB'" in settings


def test_what_cannot_be_rendered(tmp_path):
    assert "holds no ShardedDatabase" in render(tmp_path, "kind: Pod\n", code=2)
    assert "sdb.yaml:2:5:" in render(tmp_path, "a:\n  - : : x\n", code=2)
    assert "spec.storage.size" in render(
        tmp_path, LEAST.replace("shards: 1", "shards: 1, storage: {size: big}"), code=2
    )
    assert "spec.shards" in render(tmp_path, LEAST.replace("shards: 1", "shards: many"), code=2)
