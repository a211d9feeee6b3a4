"""Applications that the manager finds through a real API server."""

import base64
import json

from kube import wait_until
from outside import Manager

NS = "/api/v1/namespaces/apps"
PASSWORD = "hunter2-should-be-nowhere"
LITERAL = "hunter3-in-the-open"  # readable for whoever may read the Deployment


def secret(name, **data):
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


def workload(kind, name, env=(), env_from=()):
    api = "batch/v1" if kind == "CronJob" else "apps/v1"
    container = {"name": "main", "image": "app", "env": list(env), "envFrom": list(env_from)}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if kind == "CronJob":
        template["spec"]["restartPolicy"] = "Never"
        spec = {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": template}}}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec}


def make(plane, body):
    plural = {"CronJob": "cronjobs", "Deployment": "deployments", "StatefulSet": "statefulsets"}[body["kind"]]
    path = f"/apis/{body['apiVersion']}/namespaces/apps/{plural}"
    plane.must("POST", path, body)
    return f"{path}/{body['metadata']['name']}"


def literal(name, value):
    return {"name": name, "value": value}


def from_secret(name, which, key):
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": which, "key": key}}}


def from_map(name, which, key):
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": which, "key": key}}}


def service(name):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "labels": {"shardherd.io/discover": "true"},
            "annotations": {"shardherd.io/database": "shop", "shardherd.io/shard": "s1"},
        },
        "spec": {"ports": [{"port": 5432}]},
    }


def only(application):
    (connection,) = application["connections"]
    return connection


def test_applications_of_all_kinds(plane, tmp_path):
    plane.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps"}})
    plane.must("POST", f"{NS}/services", service("shop-db"))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {"DB_HOST": "shop-db"}}
    plane.must("POST", f"{NS}/configmaps", config)
    plane.must(
        "POST",
        f"{NS}/secrets",
        secret("login", url=f"postgres://app:{PASSWORD}@shop-db.apps/orders", DB_USER="app", DB_PASSWORD=PASSWORD),
    )
    make(plane, workload("Deployment", "web", [literal("DATABASE_URL", f"postgres://me:{LITERAL}@shop-db/orders")]))
    worker = make(plane, workload("StatefulSet", "worker", [from_secret("DATABASE_URL", "login", "url")]))
    env_from = [{"configMapRef": {"name": "config"}}, {"secretRef": {"name": "login"}}]
    make(plane, workload("CronJob", "nightly", [literal("DB_PORT", "5432")], env_from))
    make(plane, workload("Deployment", "broken", [from_secret("PGHOST", "nowhere", "host")]))
    make(plane, workload("Deployment", "other", [literal("PGHOST", "db.example.com")]))
    make(plane, workload("Deployment", "plain", [literal("LOG_LEVEL", "debug")]))
    settings = {"discovery.namespaces": "apps", "kubernetes.namespace": "apps"}
    with Manager(tmp_path / "m", plane.kubeconfig, **settings) as manager:

        def resolved():
            found = manager.applications()
            return len(found) == 5 and not any(a["pending"] for a in found.values()) and found

        found = wait_until(resolved, 15, "all applications")
        web = only(found["apps/Deployment/web"])
        assert (web["state"], web["host"], web["port"], web["dbname"], web["user"]) == (
            "known",
            "shop-db",
            5432,
            "orders",
            "me",
        )
        assert (web["instance"], web["database"], web["shard"]) == ("shop-db", "shop", "s1")
        assert only(found["apps/StatefulSet/worker"])["from"] == "Secret login key url"
        assert only(found["apps/StatefulSet/worker"])["state"] == "known"
        nightly = {c["variable"]: c for c in found["apps/CronJob/nightly"]["connections"]}
        assert (nightly["DB_HOST"]["state"], nightly["DB_HOST"]["user"]) == ("known", "app")
        broken = only(found["apps/Deployment/broken"])
        assert broken["state"] == "unresolved"
        assert "Secret nowhere key host" in broken["why"]
        assert "404" in broken["why"]
        assert only(found["apps/Deployment/other"])["state"] == "foreign"
        assert set(manager.get("/v1/applications?database=shop")["items"][0]) >= {"id", "connections"}
        assert len(manager.get("/v1/applications?database=shop")["items"]) == 3
        # what is shown of a change
        plane.must("DELETE", worker)
        wait_until(lambda: "apps/StatefulSet/worker" not in manager.applications(), 10, "it is gone")
        check_cli(manager)
        everything = manager.log.read_text() + json.dumps(manager.applications()) + manager.metrics()
        assert PASSWORD not in everything
        assert LITERAL not in everything
        assert in_memory(manager.process.pid, PASSWORD) == 0


def check_cli(manager):
    table = manager.cli("get", "applications")
    assert table.returncode == 0, table.stderr
    rows = {line.split()[2]: line for line in table.stdout.splitlines()}
    assert "known" in rows["web"]
    assert "shop/s1" in rows["web"]
    assert "WHY" in manager.cli("get", "app", "-o", "wide").stdout
    names = manager.cli("get", "applications", "-o", "name").stdout.split()
    assert "application/apps/Deployment/web" in names
    one = json.loads(manager.cli("get", "application/apps/Deployment/web", "-o", "json").stdout)
    assert one["name"] == "web"
    assert "kind: Deployment" in manager.cli("get", "applications", "web", "-o", "yaml").stdout
    assert manager.cli("get", "application", "nothing").returncode != 0


def in_memory(pid, text):
    """How often a text is in what the process can write to: values of Secrets are wiped."""
    count = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw") or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            memory.seek(start)
            try:
                count += memory.read(end - start).count(text.encode())
            except OSError:
                continue
    return count


def test_without_a_cluster_it_says_how(plane, tmp_path):
    with Manager(tmp_path / "m", plane.kubeconfig, **{"discovery.kubernetes": "off"}) as manager:
        status, text = manager.request("public", "GET", "/v1/applications")
        assert status == 404
        assert "discovery.applications" in text
