"""A cluster with the manager installed from deploy/kustomize/base, and ways to look at it."""

import http.client
import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml
from cluster import Cluster, postgres_image
from kube import build_folder

ROOT = Path(__file__).parents[2]
IMAGE = "shardherd:0.1.0"
NAME = "shardherd-manager"
SPACE = "default"
DATABASES = f"/apis/shardherd.io/v1alpha1/namespaces/{SPACE}/shardeddatabases"
SHOP = f"{DATABASES}/shop"
OPERATIONS = f"/apis/shardherd.io/v1alpha1/namespaces/{SPACE}/shardoperations"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{SPACE}/events"
KINDS = (
    "StatefulSet Service ConfigMap Secret ServiceAccount Role RoleBinding NetworkPolicy PodDisruptionBudget "
    "PersistentVolumeClaim Pod"
).split()
GROUPS = {
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}


def schema_of_load():
    done = subprocess.run(
        [build_folder() / "shardherd", "load", "--print-schema"], capture_output=True, text=True, check=True
    )
    return done.stdout


def database(name="shop", **spec):
    return {
        "apiVersion": "shardherd.io/v1alpha1",
        "kind": "ShardedDatabase",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "shards": 2,
            "tables": [
                {"name": "customers", "key": "customer_id"},
                {"name": "orders", "key": "customer_id"},
            ],
            "schema": {"inline": schema_of_load()},
            "postgresql": {"version": "15", "image": IMAGE},
            "storage": {"size": "1Gi"},
            "resources": {"requests": {"memory": "256Mi"}},
            **spec,
        },
    }


class ManagerCluster(Cluster):
    """`with ManagerCluster(directory, variables={"SHARDHERD_BALANCE_BAKE": "2s"})`: a cluster with a manager."""

    def __init__(self, directory, variables=None, replicas=1, images=None, backoff=1.0, **kwargs):
        Path(directory).mkdir(parents=True, exist_ok=True)
        program = Path(shutil.copy(build_folder() / "shardherd", directory)).resolve()  # a build may go on meanwhile
        image = postgres_image(program=program)
        image["Passwd"] = [*image["Passwd"], "shardherd:x:10001:10001::/var/lib/shardherd:/bin/sh"]
        super().__init__(directory, images={IMAGE: image, "base": {}, **(images or {})}, backoff=backoff, **kwargs)
        self.variables, self.replicas = variables or {}, replicas

    def __enter__(self):
        super().__enter__()
        try:
            self.install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def install(self):
        for path in sorted((ROOT / "deploy" / "crd").glob("*.yaml")):
            document = yaml.safe_load(path.read_text())
            if document.get("kind") == "CustomResourceDefinition":
                self.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", document)
        self.wait(lambda: self.request("GET", DATABASES)[0] == 200, 30, "the API of databases")
        self.wait(lambda: self.request("GET", OPERATIONS)[0] == 200, 30, "the API of operations")
        base = ROOT / "deploy" / "kustomize" / "base"
        self.apply(self.config_map("shardherd-config", **{"shardherd.yaml": (base / "shardherd.yaml").read_text()}))
        for name in ("service-account", "roles", "service"):
            for document in yaml.safe_load_all((base / f"{name}.yaml").read_text()):
                if document["kind"] == "RoleBinding":
                    document["subjects"][0]["namespace"] = SPACE
                if document["kind"] == "Service":
                    document["spec"]["selector"] = {"app": NAME}
                self.apply(document)
        deployment = yaml.safe_load((base / "deployment.yaml").read_text())
        labels = {"app": NAME}
        deployment["spec"]["replicas"] = self.replicas
        deployment["spec"]["selector"]["matchLabels"] = labels
        deployment["spec"]["template"]["metadata"]["labels"] = labels
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        container["image"] = IMAGE
        container["env"] += [{"name": name, "value": value} for name, value in self.variables.items()]
        container["env"].append({"name": "SHARDHERD_LOG_FORMAT", "value": "logfmt"})
        self.apply(deployment)
        self.wait(self.leader, 90, "a manager that leads")

    # ---- managers ----

    def managers(self):
        pods = self.list("Pod", labelSelector=f"app={NAME}")
        return [p for p in pods if p["status"].get("podIP") and not p["metadata"].get("deletionTimestamp")]

    def get_http(self, pod, path, port=9090, timeout=5.0):
        """Status and text of an answer of a pod's port."""
        address = pod["status"]["podIP"] if isinstance(pod, dict) else pod
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        connection.sock = self.connect((address, port), timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def leader(self):
        """The pod whose manager is ready and leads."""
        for pod in self.managers():
            try:
                status, text = self.get_http(pod, "/readyz?verbose")
            except OSError:
                continue
            if status == 200 and re.search(r"^\[\+\]balancer ok$", text, re.MULTILINE):
                return pod
        return None

    def public(self, path):
        status, text = self.get_http(self.leader(), path, 8080)
        assert status == 200, text
        return json.loads(text)

    def manager_logs(self):
        return "\n".join(self.logs(pod["metadata"]["name"]) for pod in self.list("Pod", labelSelector=f"app={NAME}"))

    # ---- objects ----

    def database(self, name="shop"):
        status, answer = self.request("GET", f"{DATABASES}/{name}")
        return answer if status == 200 else None

    def operation(self, name):
        status, answer = self.request("GET", f"{OPERATIONS}/{name}")
        return answer if status == 200 else None

    def patch(self, path, body):
        return self.must("PATCH", path, body, content_type="application/merge-patch+json")

    @staticmethod
    def condition_of(item, which):
        conditions = (item or {}).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == which), {})

    def is_ready(self, name="shop", shards=None):
        item = self.database(name)
        if item is None or item["status"].get("observedGeneration") != item["metadata"]["generation"]:
            return None
        right = self.condition_of(item, "Ready").get("status") == "True"
        return item if right and (shards is None or item["status"]["shards"] == shards) else None

    def wait_database(self, name="shop", shards=None, timeout=90):
        try:
            return self.wait(lambda: self.is_ready(name, shards), timeout, f"database {name} ready")
        except TimeoutError as error:
            item = self.database(name) or {}
            status = json.dumps(item.get("status", {}), indent=1)
            raise TimeoutError(f"{error}\n{status}\n{self.manager_logs()}") from None

    def events(self, reason=None):
        found = self.must("GET", EVENTS)["items"]
        found = [e for e in found if e.get("reportingController") == "shardherd.io/manager"]
        return [e for e in found if reason in (None, e["reason"])]

    def belongings(self, name="shop"):
        """Everything in the namespace that carries the label of a database."""
        found = []
        for kind in KINDS:
            path = GROUPS.get(kind)
            path = path.format(SPACE) if path else self.path(kind, SPACE)
            items = self.must("GET", f"{path}?labelSelector=shardherd.io/database%3D{name}")["items"]
            found += [f"{kind}/{item['metadata']['name']}" for item in items]
        return found

    # ---- load ----

    def load(self, pod, *arguments, timeout=120, name="shop"):
        """shardherd load in a pod of the image; returns the finished process."""
        command = ["shardherd", "load", *arguments, "--database", name, "--routing", self.routing_url()]
        command += ["--ledger", f"/ledgers/{name}.ledger", "--customers", "1000"]
        return self.exec(pod, *command, timeout=timeout)

    def routing_url(self):
        return f"http://shardherd.{SPACE}.svc:8080"

    def client_pod(self, name="client", database_name="shop", certificate=None, secret=None):
        """A pod that can run shardherd load; its password comes from the owner's Secret, or `secret`. certificate: a
        Secret, at /certificate."""
        secret = {"name": secret or f"{database_name}-owner", "key": "password"}
        mounts, volumes = [{"name": "ledgers", "mountPath": "/ledgers"}], [{"name": "ledgers", "emptyDir": {}}]
        if certificate is not None:
            mounts.append({"name": "certificate", "mountPath": "/certificate"})
            volumes.append({"name": "certificate", "secret": {"secretName": certificate, "defaultMode": 0o440}})
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "main",
                            "image": IMAGE,
                            "command": ["sh", "-c", "exec sleep 100000"],
                            "env": [{"name": "SHARDHERD_LOAD_PASSWORD", "valueFrom": {"secretKeyRef": secret}}],
                            "volumeMounts": mounts,
                        }
                    ],
                    "securityContext": {"fsGroup": 999},
                    "volumes": volumes,
                },
            }
        )
        self.wait_ready_pods(name)
        return name
