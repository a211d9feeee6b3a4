"""Servers that the manager finds through a real API server. Pods are objects only, unless a test says otherwise."""

import base64
import contextlib
import json
import time

import pytest
from kube import wait_until
from outside import Manager, Postgres, since

NS = "/api/v1/namespaces/default"


def labelled(name, kind="Pod", **annotations):
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"shardherd.io/discover": "true"},
            "annotations": {f"shardherd.io/{key.replace('_', '-')}": str(value) for key, value in annotations.items()},
        },
    }


def pod(name, image="app", container_port=None, **annotations):
    made = labelled(name, **annotations)
    container = {"name": "main", "image": image}
    if container_port:
        container["ports"] = [{"containerPort": container_port}]
    made["spec"] = {"containers": [container]}
    if not annotations:
        made["metadata"]["labels"] = {}
    return made


def secret(name, **data):
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


class Objects:
    """Makes objects through the API, and removes what it made."""

    def __init__(self, plane):
        self.plane, self.made = plane, []

    def make(self, path, body):
        self.plane.must("POST", path, body)
        self.made.append(f"{path}/{body['metadata']['name']}")

    def pod(self, body, address=None):
        self.make(f"{NS}/pods", body)
        if address:
            self.address(body["metadata"]["name"], address)

    def address(self, name, address):
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.plane.must(
            "PATCH", f"{NS}/pods/{name}/status", {"status": status}, content_type="application/merge-patch+json"
        )

    def remove(self, path):
        self.plane.must("DELETE", f"{path}?gracePeriodSeconds=0")
        if path in self.made:
            self.made.remove(path)

    def clear(self):
        for path in reversed(self.made):
            with contextlib.suppress(Exception):
                self.plane.must("DELETE", f"{path}?gracePeriodSeconds=0")


@pytest.fixture
def objects(plane):
    wait_until(lambda: plane.request("GET", f"{NS}/serviceaccounts/default")[0] == 200 or make_account(plane), 20)
    objects = Objects(plane)
    yield objects
    objects.clear()


def make_account(plane):
    """There is no controller-manager that would."""
    plane.must(
        "POST",
        f"{NS}/serviceaccounts",
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
    )


@pytest.fixture(scope="module")
def postgres():
    server = Postgres([f"127.0.0.{n}" for n in range(1, 8)])
    yield server
    server.stop()


def up(manager, name):
    return manager.instances().get(name, {}).get("health") == "up"


def test_a_labelled_pod_is_polled_with_the_password_of_its_secret(plane, objects, postgres, tmp_path):
    objects.make(f"{NS}/secrets", secret("pg-login", username="postgres", password=postgres.password))
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        assert manager.instances() == {}
        objects.pod(
            pod("plain", database="shop", shard="s1", port=postgres.port, secret="pg-login", dbname="postgres"),
            "127.0.0.2",
        )
        wait_until(lambda: up(manager, "plain"), 10, "the pod's server is polled")
        found = manager.instances()["plain"]
        assert (found["source"], found["database"], found["shard"]) == ("label", "shop", "s1")
        assert (found["host"], found["port"]) == ("127.0.0.2", postgres.port)
        ready = manager.request("public", "GET", "/readyz?verbose")[1]
        assert "cluster" in ready
        objects.remove(f"{NS}/pods/plain")
        wait_until(lambda: "plain" not in manager.instances(), 10, "it is gone with its pod")
        assert postgres.password not in manager.log.read_text()


def test_a_secret_that_is_missing_or_changed(plane, objects, postgres, tmp_path):
    objects.pod(pod("late", port=postgres.port, secret="late-login", dbname="postgres"), "127.0.0.3")
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        wait_until(lambda: "late-login" in manager.log.read_text(), 10, "a complaint that names the Secret")
        assert manager.instances() == {}
        objects.make(f"{NS}/secrets", secret("late-login", username="postgres", password=postgres.password))
        wait_until(lambda: up(manager, "late"), 25, "it is found once its Secret is there")


def test_services_and_their_endpoints(plane, objects, tmp_path):
    service = labelled("front", "Service", database="shop", shard="s2")
    service["spec"] = {"ports": [{"port": 6000}]}
    objects.make(f"{NS}/services", service)
    headless = labelled("many", "Service")
    headless["spec"] = {"clusterIP": "None", "ports": [{"port": 5432}]}
    objects.make(f"{NS}/services", headless)
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        found = wait_until(lambda: manager.instances().get("front"), 10, "the service")
        assert (found["host"], found["port"]) == ("front.default.svc", 6000)
        assert set(manager.instances()) == {"front"}

        def slice_of(*addresses):
            return {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "many-1",
                    "labels": {"kubernetes.io/service-name": "many", "shardherd.io/discover": "true"},
                },
                "addressType": "IPv4",
                "ports": [{"port": 5432}],
                "endpoints": [
                    {"addresses": [a], "targetRef": {"kind": "Pod", "name": f"db-{n}"}} for n, a in enumerate(addresses)
                ],
            }

        slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        objects.make(slices, slice_of("10.1.0.1", "10.1.0.2"))
        wait_until(lambda: set(manager.instances()) == {"front", "db-0", "db-1"}, 10, "both endpoints")
        assert manager.instances()["db-1"]["host"] == "10.1.0.2"
        plane.must("PUT", f"{slices}/many-1", slice_of("10.1.0.7"))
        moment = time.monotonic()
        wait_until(lambda: manager.instances()["db-0"]["host"] == "10.1.0.7", 5, "the new address")
        assert since(moment) < 1
        assert set(manager.instances()) == {"front", "db-0"}


def shop(instance):
    return json.dumps(
        {
            "apiVersion": "shardherd.io/v1alpha1",
            "kind": "ShardedDatabase",
            "metadata": {"name": "shop"},
            "spec": {
                "shards": [{"name": "s1", "instance": instance}],
                "tables": [{"name": "orders", "key": "customer_id"}],
                "schema": "CREATE TABLE orders (customer_id bigint PRIMARY KEY)",
            },
        }
    )


def primary(manager):
    status, text = manager.request("public", "GET", "/v1/databases/shop/routing")
    return json.loads(text)["shards"][0]["primary"]["host"] if status == 200 else None


def test_the_routing_table_follows_a_pod_within_a_second(plane, objects, postgres, tmp_path):
    annotations = dict(database="shop", shard="s1", port=postgres.port, secret="pg-shop", dbname="postgres")
    objects.make(f"{NS}/secrets", secret("pg-shop", username="postgres", password=postgres.password))
    assert postgres.succeeds("CREATE ROLE app; GRANT CREATE ON SCHEMA public TO app")
    objects.pod(pod("db-0", **annotations), "127.0.0.4")
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        wait_until(lambda: up(manager, "db-0"), 10, "the server")
        status, text = manager.request("admin", "PUT", "/v1/databases/shop", shop("db-0"))
        assert status in (200, 201, 202), text
        wait_until(lambda: primary(manager) == "127.0.0.4", 30, "the routing table")
        # the same name at another address, as a StatefulSet makes it
        objects.remove(f"{NS}/pods/db-0")
        wait_until(lambda: "db-0" not in manager.instances(), 10, "the pod is gone")
        assert primary(manager) == "127.0.0.4"  # nobody else has it
        objects.pod(pod("db-0", **annotations))
        objects.address("db-0", "127.0.0.5")
        moment = time.monotonic()
        wait_until(lambda: primary(manager) == "127.0.0.5", 10, "the routing table follows")
        took = since(moment)
        print(f"the routing table followed after {took * 1000:.0f} ms")
        assert took < 1
        # another name, as a Deployment makes it; while the manager is away
    objects.remove(f"{NS}/pods/db-0")
    objects.pod(pod("db-x7", **annotations), "127.0.0.6")
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        wait_until(lambda: primary(manager) == "127.0.0.6", 10, "the routing table follows after a restart")


CNPG_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusters.postgresql.cnpg.io"},
    "spec": {
        "group": "postgresql.cnpg.io",
        "names": {"kind": "Cluster", "listKind": "ClusterList", "plural": "clusters", "singular": "cluster"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


def test_cloudnativepg_clusters(plane, objects, tmp_path):
    objects.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", CNPG_CRD)
    clusters = "/apis/postgresql.cnpg.io/v1/namespaces/default/clusters"
    wait_until(lambda: plane.request("GET", clusters)[0] == 200, 20, "the API of CloudNativePG")
    objects.make(
        clusters,
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Cluster",
            "metadata": {"name": "acme", "annotations": {"shardherd.io/database": "shop", "shardherd.io/shard": "a"}},
            "spec": {"instances": 2, "bootstrap": {"initdb": {"database": "orders", "owner": "orders"}}},
            "status": {"writeService": "acme-rw"},
        },
    )
    objects.make(f"{NS}/secrets", secret("acme-app", username="orders", password="x-pw"))
    for name, role, address in (("acme-1", "primary", "10.2.0.1"), ("acme-2", "replica", "10.2.0.2")):
        body = pod(name)
        body["metadata"]["labels"] = {"cnpg.io/cluster": "acme", "cnpg.io/instanceRole": role}
        objects.pod(body, address)
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        wait_until(lambda: len(manager.instances()) == 2, 10, "both pods of the cluster")
        found = manager.instances()
        assert found["acme-1"]["host"] == "acme-rw.default.svc"
        assert found["acme-2"]["host"] == "10.2.0.2"
        assert {i["source"] for i in found.values()} == {"cnpg"}
        assert found["acme-1"]["database"] == "shop"


def test_ours_by_label_and_others_by_image(plane, objects, tmp_path):
    managed = {"app.kubernetes.io/managed-by": "shardherd", "shardherd.io/database": "shop", "shardherd.io/shard": "s9"}
    template = {
        "metadata": {"labels": managed},
        "spec": {"containers": [{"name": "postgresql", "image": "shardherd-postgres"}]},
    }
    objects.make(f"{NS}/secrets", secret("shop-s9-credentials", password="x-pw"))
    objects.make(
        "/apis/apps/v1/namespaces/default/statefulsets",
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "shop-s9", "labels": managed},
            "spec": {
                "replicas": 1,
                "serviceName": "shop-s9-pods",
                "selector": {"matchLabels": managed},
                "template": template,
            },
        },
    )
    objects.pod(pod("old-db", image="docker.io/library/postgres:16", container_port=5432), "10.3.0.1")
    objects.pod(pod("exporter", image="quay.io/postgres_exporter:1", container_port=5432), "10.3.0.2")
    objects.pod(pod("elsewhere", image="postgres:16", container_port=9999), "10.3.0.3")
    with Manager(tmp_path / "a", plane.kubeconfig) as manager:
        found = wait_until(lambda: manager.instances().get("shop-s9-0"), 10, "ours")
        assert (found["source"], found["host"]) == ("kubernetes", "shop-s9.default.svc")
        assert set(manager.instances()) == {"shop-s9-0"}
    with Manager(tmp_path / "b", plane.kubeconfig, **{"discovery.by_image": "true"}) as manager:
        wait_until(lambda: set(manager.instances()) == {"shop-s9-0", "old-db"}, 10, "the pod with the image")
        assert manager.instances()["old-db"]["source"] == "image"


def test_without_rights_it_says_so_and_goes_on(plane, objects, tmp_path):
    nobody = plane.write_kubeconfig("nobody-discovery.kubeconfig", {"token": "nobody-token"})
    with Manager(tmp_path / "m", nobody) as manager:
        wait_until(lambda: "403 Forbidden" in manager.log.read_text(), 20, "a line about the rights")
        assert "403 Forbidden" in manager.request("public", "GET", "/readyz?verbose")[1]
        assert manager.instances() == {}


PODS_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "pods.metrics.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, objects of the same shape for a test"},
    },
    "spec": {
        "group": "metrics.k8s.io",
        "names": {"kind": "PodMetrics", "listKind": "PodMetricsList", "plural": "pods", "singular": "pod"},
        "scope": "Namespaced",
        "versions": [{**CNPG_CRD["spec"]["versions"][0], "name": "v1beta1"}],
    },
}


def test_usage_of_pods_from_the_metrics_api(plane, objects, postgres, tmp_path):
    """The API server answers as metrics-server would; nothing else of it is needed."""
    objects.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", PODS_CRD)
    usage = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"
    wait_until(lambda: plane.request("GET", usage)[0] == 200, 20, "the metrics API")
    objects.make(
        usage,
        {
            "apiVersion": "metrics.k8s.io/v1beta1",
            "kind": "PodMetrics",
            "metadata": {"name": "used"},
            "containers": [
                {"name": "a", "usage": {"cpu": "250m", "memory": "1Mi"}},
                {"name": "b", "usage": {"cpu": "500000000n", "memory": "1048576"}},
            ],
        },
    )
    objects.make(f"{NS}/secrets", secret("used-login", username="postgres", password=postgres.password))
    objects.pod(pod("used", port=postgres.port, secret="used-login", dbname="postgres"), "127.0.0.7")
    with Manager(tmp_path / "m", plane.kubeconfig) as manager:
        found = wait_until(lambda: (manager.instances().get("used") or {}).get("pod"), 10, "the pod")
        found = wait_until(
            lambda: (p := manager.instances()["used"]["pod"])["cpu_cores"] and p, 10, "its figures by the API"
        )
        assert (found["source"], found["cpu_cores"], found["memory_bytes"]) == ("metrics.k8s.io", 0.75, 2097152)
        wait_until(lambda: up(manager, "used"), 10, "the server is polled")
        wait_until(lambda: 'shardherd_cpu_cores{db="",shard="",member="used"} 0.75' in manager.metrics(), 9, "series")
