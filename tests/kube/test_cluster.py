"""The test cluster itself: what it claims to do for the tests that use it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster, postgres_image
from kube import needs_root, wait_until

PG = "/usr/lib/postgresql/15/bin"
IMAGES = {"base": {}, "postgres:15": postgres_image()}
pytestmark = [
    needs_root,
    pytest.mark.slow,  # the equipment's own tests: in full runs, until the manager is tested in it
]
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), images=IMAGES, backoff=1.0) as cluster:
        yield cluster


def pod(name, script, image="base", **spec):
    """A pod that runs a shell script; keys of the container go in `container`."""
    container = {"name": "main", "image": image, "command": ["sh", "-ec", script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": spec.pop("labels", {})},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def status(cluster, name):
    return (cluster.get("Pod", name) or {}).get("status", {})


def container_status(cluster, name):
    return (status(cluster, name).get("containerStatuses") or [{}])[0]


def remove(cluster, *names):
    for name in names:
        cluster.delete("Pod", name)
    for name in names:
        cluster.wait(lambda name=name: cluster.get("Pod", name) is None, 20, f"{name} gone")


SERVE = "exec python3 -m http.server --bind 0.0.0.0 --directory /srv 8080"


# ---- PostgreSQL ----

INIT = """
test -s $PGDATA/PG_VERSION && exit
initdb -A trust --no-sync >/dev/null
echo "host all all all trust" >> $PGDATA/pg_hba.conf
"""


def stateful_set(name):
    labels = {"app": name}
    mount = [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]
    common = {
        "image": "postgres:15",
        "volumeMounts": mount,
        "env": [
            {"name": "PGDATA", "value": "/var/lib/postgresql/data/pg"},
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": f"{name}-mode", "key": "mode"}}},
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": f"{name}-word", "key": "word"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "BOTH", "value": "$(POD)-$(MODE)"},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    ready = {"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1"]}, "periodSeconds": 1}
    spread = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
            ]
        }
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "replicas": 3,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "securityContext": {"runAsNonRoot": True, "fsGroup": 999},
                    "affinity": spread,
                    "initContainers": [{"name": "init", "command": ["sh", "-ec", INIT], **common}],
                    "containers": [
                        {
                            "name": "postgres",
                            "args": ["-c", "listen_addresses=*"],
                            "command": ["postgres"],
                            "readinessProbe": ready,
                            "ports": [{"name": "pg", "containerPort": 5432}],
                            **common,
                        }
                    ],
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                }
            ],
        },
    }


def service(name, selector, port, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": port}], **spec},
    }


@pytest.fixture(scope="module")
def postgres(cluster):
    cluster.apply(
        config_map("pg-mode", mode="calm"),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg-word"}, "stringData": {"word": "hush"}},
        service("pg", {"app": "pg"}, 5432, clusterIP="None"),
        service("pg-any", {"app": "pg"}, 5432),
        stateful_set("pg"),
    )
    names = [f"pg-{i}" for i in range(3)]
    cluster.wait_ready_pods(*names)
    return names


def psql(cluster, host, sql, pod="pg-0"):
    done = cluster.exec(pod, "psql", "-XAtq", "-h", host, "-d", "postgres", "-c", sql)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_postgresql_is_reached_by_address_name_and_cluster_address(cluster, postgres):
    nodes = {cluster.info(name)["node"] for name in postgres}
    assert len(nodes) == 3, "anti-affinity"
    address = status(cluster, "pg-1")["podIP"]
    assert psql(cluster, address, "SELECT inet_server_addr()").startswith(address)
    assert psql(cluster, "pg-1.pg", "SELECT inet_server_addr()").startswith(address)
    assert psql(cluster, "pg-1.pg.default.svc.cluster.local", "SELECT inet_server_addr()").startswith(address)
    every = {status(cluster, name)["podIP"] for name in postgres}
    found = cluster.exec("pg-0", "getent", "ahostsv4", "pg").stdout
    assert {line.split()[0] for line in found.splitlines()} == every
    cluster_ip = cluster.get("Service", "pg-any")["spec"]["clusterIP"]
    seen = {psql(cluster, host, "SELECT host(inet_server_addr())") for host in (cluster_ip, "pg-any") for _ in range(6)}
    assert seen == every, "the proxy takes turns"
    assert cluster.inside([f"{PG}/psql", "-XAtq", "-h", address, "-U", "postgres", "-c", "SELECT 1"]).strip() == "1"
    assert cluster.exec("pg-0", "getent", "hosts", "nothing.default").returncode != 0


def test_the_container_is_what_its_spec_says(cluster, postgres):
    got = dict(line.split("=", 1) for line in cluster.exec("pg-2", "env").stdout.splitlines())
    assert (got["MODE"], got["WORD"], got["BOTH"]) == ("calm", "hush", "pg-2-calm")
    assert got["ADDRESS"] == status(cluster, "pg-2")["podIP"]
    proc = cluster.exec("pg-2", "cat", "/proc/1/status").stdout
    assert re.search(r"Uid:\s999\s999", proc)
    assert "NoNewPrivs:\t1" in proc
    assert re.search(r"CapBnd:\s0+$", proc, re.MULTILINE)
    assert re.search(r"Groups:\s999", proc)
    assert cluster.exec("pg-2", "hostname").stdout.strip() == "pg-2"
    assert status(cluster, "pg-2")["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
    assert "database system is ready" in cluster.logs("pg-2")
    seen = cluster.must("GET", "/api/v1/namespaces/default/pods/pg-2/log?container=postgres")
    assert "database system is ready" in seen


def test_a_deleted_pod_is_back_with_its_data(cluster, postgres):
    before = cluster.get("Pod", "pg-0")
    psql(cluster, "pg-0.pg", "CREATE TABLE kept AS SELECT 42 AS n", pod="pg-1")
    cluster.delete("Pod", "pg-0")
    cluster.wait(
        lambda: (cluster.get("Pod", "pg-0") or before)["metadata"]["uid"] != before["metadata"]["uid"],
        60,
        "another pg-0",
    )
    cluster.wait_ready_pods("pg-0")
    assert psql(cluster, "127.0.0.1", "SELECT n FROM kept") == "42"
    assert status(cluster, "pg-0")["podIP"] != before["status"]["podIP"]
    assert "received smart shutdown request" in cluster.logs("pg-0"), "SIGTERM came before SIGKILL"


def test_a_claim_grows_and_goes(cluster):
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "grow"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.apply(claim)

    def capacity():
        return cluster.get("PersistentVolumeClaim", "grow")["status"].get("capacity", {}).get("storage")

    cluster.wait(lambda: capacity() == "1Gi", 20, "bound")
    volume = cluster.get("PersistentVolumeClaim", "grow")["spec"]["volumeName"]
    claim["spec"]["resources"]["requests"]["storage"] = "2Gi"
    cluster.apply(claim)
    cluster.wait(lambda: capacity() == "2Gi", 20, "grown")
    assert (cluster.dir / "volumes" / volume).is_dir()
    cluster.delete("PersistentVolumeClaim", "grow")
    cluster.wait(lambda: not (cluster.dir / "volumes" / volume).exists(), 20, "its directory gone")


# ---- volumes and tokens ----

ASK = f"""
import os, ssl, sys, urllib.error, urllib.request
server = "https://" + os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
namespace, token = open("{TOKEN}/namespace").read(), open("{TOKEN}/token").read()
url = server + "/api/v1/namespaces/" + namespace + "/" + sys.argv[1]
request = urllib.request.Request(url, headers={{"Authorization": "Bearer " + token}})
try:
    print(urllib.request.urlopen(request, context=ssl.create_default_context(cafile="{TOKEN}/ca.crt")).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_a_token_gets_what_rbac_allows(cluster):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}
    rbac = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{rbac}/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
    }
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
    }
    cluster.apply(account, role, binding, pod("token", "sleep 1000", serviceAccountName="reader"))
    cluster.wait_ready_pods("token")

    def ask(what):
        return cluster.exec("token", "python3", "-c", ASK, what).stdout.strip()

    assert ask("configmaps") == "200"
    assert ask("secrets") == "403"
    before = cluster.exec("token", "cat", f"{TOKEN}/token").stdout
    cluster.pod("token", "tokens")
    cluster.wait(lambda: cluster.exec("token", "cat", f"{TOKEN}/token").stdout not in (before, ""), 10, "another token")
    assert ask("configmaps") == "200"
    cluster.delete("RoleBinding", "reader")
    cluster.wait(lambda: ask("configmaps") == "403", 10, "taken away")
    remove(cluster, "token")


def test_config_maps_and_labels_reach_their_files(cluster):
    cluster.apply(config_map("shown", a="1", b="2"))
    volumes = [
        {"name": "map", "configMap": {"name": "shown"}},
        {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts = [
        {"name": "map", "mountPath": "/map"},
        {"name": "down", "mountPath": "/down"},
        {"name": "scratch", "mountPath": "/scratch/deep"},
    ]
    script = "cat /map/a /map/b > /scratch/deep/read; ! touch /sealed 2>/dev/null; sleep 1000"
    cluster.apply(
        pod(
            "files",
            script,
            labels={"tier": "one"},
            volumes=volumes,
            container={"volumeMounts": mounts, "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 1234}},
        )
    )
    cluster.wait_ready_pods("files")

    def read(path):
        return cluster.exec("files", "cat", path).stdout

    wait_until(lambda: read("/scratch/deep/read") == "12")
    assert 'tier="one"' in read("/down/labels")
    cluster.apply(config_map("shown", a="new", c="3"))
    cluster.wait(lambda: read("/map/a") == "new", 10, "the new text")
    assert read("/map/c") == "3"
    assert cluster.exec("files", "ls", "/map").stdout.split() == ["a", "c"]
    assert cluster.exec("files", "readlink", "/map/a").stdout.strip() == "..data/a"
    cluster.request(
        "PATCH",
        cluster.path("Pod", name="files"),
        {"metadata": {"labels": {"tier": "two"}}},
        content_type="application/merge-patch+json",
    )
    cluster.wait(lambda: 'tier="two"' in read("/down/labels"), 10, "the new label")
    remove(cluster, "files")


# ---- life and death of containers ----


def test_liveness_restarts_and_readiness_takes_out_of_service(cluster):
    get = {"httpGet": {"path": "/ok", "port": "web"}, "periodSeconds": 1, "timeoutSeconds": 2}
    probes = {
        "livenessProbe": {**get, "failureThreshold": 3, "httpGet": {"path": "/alive", "port": 8080}},
        "readinessProbe": {**get, "failureThreshold": 1},
        "ports": [{"name": "web", "containerPort": 8080}],
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60},
    }
    volumes = {"volumes": [{"name": "srv", "emptyDir": {}}]}
    probes["volumeMounts"] = [{"name": "srv", "mountPath": "/srv"}]
    cluster.apply(
        service("site", {"app": "web"}, 8080),
        pod("web", f"touch /srv/ok /srv/alive; {SERVE}", labels={"app": "web"}, container=probes, **volumes),
    )
    cluster.wait_ready_pods("web")
    url = "http://site:8080/ok"
    probe = ["python3", "-c", f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=3).status)"]
    cluster.wait(lambda: cluster.exec("web", *probe).stdout == "200\n", 10, "through the service")
    cluster.exec("web", "rm", "/srv/ok")
    cluster.wait(lambda: cluster.condition("Pod", "web", "Ready") == "False", 10, "not ready")
    cluster.wait(lambda: "refused" in cluster.exec("web", *probe).stderr, 10, "out of the service")
    assert container_status(cluster, "web")["restartCount"] == 0
    cluster.exec("web", "touch", "/srv/ok")
    cluster.wait_ready_pods("web")
    cluster.exec("web", "rm", "/srv/alive")
    cluster.wait(lambda: container_status(cluster, "web").get("restartCount") == 1, 30, "restarted by liveness")
    cluster.wait_ready_pods("web")
    remove(cluster, "web")


def test_crashes_back_off_and_jobs_end(cluster):
    cluster.apply(
        pod("crash", "echo out of luck > /dev/termination-log; exit 3"),
        pod("once", "exit 0", restartPolicy="Never"),
        pod("fails", "exit 7", restartPolicy="Never"),
        pod("nocommand", "", container={"command": ["/no/such/program"]}),
        pod("noimage", "", image="nothing:1"),
        pod("nomap", "", container={"envFrom": [{"configMapRef": {"name": "absent"}}]}),
    )
    cluster.wait(lambda: container_status(cluster, "crash").get("restartCount", 0) >= 2, 30, "restarts")

    def waiting(name, where="state"):
        return container_status(cluster, name).get(where, {}).get("waiting", {}).get("reason")

    cluster.wait(lambda: waiting("crash") == "CrashLoopBackOff", 10, "back-off")
    last = container_status(cluster, "crash")["lastState"]["terminated"]
    assert (last["exitCode"], last["message"], last["reason"]) == (3, "out of luck\n", "Error")
    cluster.wait(lambda: status(cluster, "once").get("phase") == "Succeeded", 10, "succeeded")
    cluster.wait(lambda: status(cluster, "fails").get("phase") == "Failed", 10, "failed")
    assert container_status(cluster, "fails")["state"]["terminated"]["exitCode"] == 7
    cluster.wait(lambda: "no such file" in json.dumps(container_status(cluster, "nocommand")), 10, "says why")
    cluster.wait(lambda: waiting("noimage") == "ErrImagePull", 10, "no image")
    cluster.wait(lambda: waiting("nomap") == "CreateContainerConfigError", 10, "no map")
    cluster.apply(config_map("absent", K="v"))
    cluster.wait(
        lambda: (
            container_status(cluster, "nomap").get("state", {}).get("terminated")
            or container_status(cluster, "nomap").get("restartCount")
        ),
        20,
        "goes on when the map is there",
    )
    remove(cluster, "crash", "once", "fails", "nocommand", "noimage", "nomap")


def test_grace_is_given_and_ends(cluster):
    cluster.apply(
        pod("polite", "trap 'echo asked; exit 0' TERM; sleep 1000 & wait", terminationGracePeriodSeconds=60),
        pod("stubborn", "trap '' TERM; sleep 1000 & while :; do wait; done", terminationGracePeriodSeconds=2),
    )
    cluster.wait_ready_pods("polite", "stubborn")
    wait_until(lambda: cluster.exec("stubborn", "sh", "-c", "grep SigIgn /proc/1/status").stdout.strip()[-4] != "0")
    start = time.monotonic()
    remove(cluster, "polite")
    assert time.monotonic() - start < 15
    assert "asked" in cluster.logs("polite")
    start = time.monotonic()
    remove(cluster, "stubborn")
    assert time.monotonic() - start > 1.9


def test_memory_is_limited(cluster):
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and not Path("/sys/fs/cgroup/memory").exists():
        pytest.skip("this machine limits nothing")
    script = "python3 -c 'x = bytearray(200_000_000)'"
    cluster.apply(pod("hungry", script, restartPolicy="Never", container={"resources": {"limits": {"memory": "50Mi"}}}))
    cluster.wait(lambda: status(cluster, "hungry").get("phase") == "Failed", 20, "killed")
    assert container_status(cluster, "hungry")["state"]["terminated"]["exitCode"] in (137, 1)
    remove(cluster, "hungry")


# ---- faults ----


def test_a_cut_pod_hangs_and_comes_back(cluster, postgres):
    address = status(cluster, "pg-1")["podIP"]
    cluster.pod("pg-1", "cut")
    done = cluster.exec("pg-0", "env", "PGCONNECT_TIMEOUT=4", "psql", "-h", address, "-c", "SELECT 1")
    assert "timeout expired" in done.stderr, "a cut hangs, it does not refuse"
    assert cluster.condition("Pod", "pg-1", "Ready") == "True", "the probe runs inside the pod"
    cluster.pod("pg-1", "restore")
    assert psql(cluster, address, "SELECT 1") == "1"


def test_a_frozen_pod_answers_again(cluster, postgres):
    cluster.pod("pg-1", "freeze")
    address = status(cluster, "pg-1")["podIP"]
    done = cluster.exec("pg-0", "env", "PGCONNECT_TIMEOUT=2", "psql", "-h", address, "-c", "SELECT 1")
    assert "timeout expired" in done.stderr
    cluster.pod("pg-1", "thaw")
    wait_until(lambda: cluster.exec("pg-0", "pg_isready", "-h", address).returncode == 0)
    cluster.wait_ready_pods("pg-1")


def test_a_crashed_container_is_started_in_its_pod(cluster, postgres):
    before = cluster.get("Pod", "pg-2")
    count = container_status(cluster, "pg-2")["restartCount"]
    cluster.crash("pg-2")
    cluster.wait(lambda: container_status(cluster, "pg-2").get("restartCount") == count + 1, 20, "a restart")
    cluster.wait_ready_pods("pg-2")
    after = cluster.get("Pod", "pg-2")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert container_status(cluster, "pg-2")["lastState"]["terminated"]["exitCode"] == 137


def test_a_killed_node_is_missed_and_comes_back(cluster, postgres):
    victim = cluster.info("pg-2")["node"]
    pid = cluster.info("pg-2")["pids"]["postgres"]
    uid = cluster.get("Pod", "pg-2")["metadata"]["uid"]
    cluster.node(victim, "kill")
    assert not Path(f"/proc/{pid}").exists()
    cluster.wait(lambda: cluster.condition("Node", victim, "Ready") == "Unknown", 30, "NotReady")
    cluster.wait(lambda: cluster.condition("Pod", "pg-2", "Ready") == "False", 30, "its pod not ready")
    cluster.node(victim, "start")
    cluster.wait(lambda: cluster.condition("Node", victim, "Ready") == "True", 30, "ready again")
    cluster.wait_ready_pods("pg-2")
    assert cluster.get("Pod", "pg-2")["metadata"]["uid"] == uid
    assert container_status(cluster, "pg-2")["restartCount"] >= 1
    assert psql(cluster, "pg-2.pg", "SELECT 1") == "1"


def test_a_cut_node_is_missed_while_its_pods_run(cluster, postgres):
    victim = cluster.info("pg-1")["node"]
    pid = cluster.info("pg-1")["pids"]["postgres"]
    cluster.node(victim, "cut")
    cluster.wait(lambda: cluster.condition("Node", victim, "Ready") == "Unknown", 30, "NotReady")
    assert Path(f"/proc/{pid}").exists()
    cluster.node(victim, "restore")
    cluster.wait(lambda: cluster.condition("Node", victim, "Ready") == "True", 60, "ready again")
    cluster.wait_ready_pods("pg-1")
    assert cluster.info("pg-1")["pids"]["postgres"] == pid


def test_a_frozen_node_neither_beats_nor_obeys(cluster, postgres):
    victim = cluster.info("pg-0")["node"]
    cluster.node(victim, "freeze")
    uid = cluster.get("Pod", "pg-0")["metadata"]["uid"]
    cluster.delete("Pod", "pg-0", gracePeriodSeconds=1)
    cluster.wait(lambda: cluster.condition("Node", victim, "Ready") == "Unknown", 30, "NotReady")
    assert cluster.get("Pod", "pg-0")["metadata"]["uid"] == uid, "still terminating"
    cluster.node(victim, "thaw")
    cluster.wait(
        lambda: (cluster.get("Pod", "pg-0") or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, 60, "new"
    )
    cluster.wait_ready_pods("pg-0")


def test_pods_and_services_outlive_the_api_server(cluster, postgres):
    api = cluster.parts["kube-apiserver"]
    api.kill()
    assert psql(cluster, "pg-any", "SELECT 1") == "1"
    pid = cluster.info("pg-2")["pids"]["postgres"]
    cluster.crash("pg-2")
    wait_until(lambda: cluster.info("pg-2")["pids"].get("postgres", pid) != pid, what="restarted without an API server")
    cluster.start()
    cluster.wait_ready_pods(*postgres)
    assert container_status(cluster, "pg-2")["lastState"]["terminated"]["exitCode"] == 137
    assert len(cluster.ready_nodes()) == 3


def test_a_node_port_is_open_on_every_node(cluster, postgres):
    cluster.apply(service("pg-out", {"app": "pg"}, 5432, type="NodePort"))
    port = cluster.get("Service", "pg-out")["spec"]["ports"][0]["nodePort"]
    for node in cluster.list("Node"):
        address = node["status"]["addresses"][0]["address"]
        ready = [f"{PG}/pg_isready", "-q", "-h", address, "-p", str(port)]
        cluster.wait(lambda ready=ready: cluster.succeeds(ready), 10, f"{address}:{port}")
    cluster.delete("Service", "pg-out")


# ---- the end ----


def leftovers(name):
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    groups = list(Path("/sys/fs/cgroup").rglob(f"shardherd-{name}*"))
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.encode() in path.read_bytes():
                processes.append(path)
        except OSError:
            continue
    return mounts, groups, processes


@pytest.mark.parametrize("how", ["orderly", "kubelet killed"])
def test_nothing_is_left(tmp_path, how):
    marker = f"marker-{os.getpid()}-{how.split()[0]}"
    with Cluster(tmp_path / "c", nodes=1, images=IMAGES) as own:
        own.apply(pod("busy", "", container={"command": ["bash", "-c", f"exec -a {marker} sleep 1000"]}))
        own.wait_ready_pods("busy")
        assert leftovers(marker)[2], "the pod runs"
        if how == "kubelet killed":
            own.parts["kubelet"].kill()
    wait_until(lambda: leftovers(own.name)[:2] == ([], []) and not leftovers(marker)[2], what="nothing left")
    assert not leftovers(str(tmp_path))[0]
    assert not leftovers(str(tmp_path))[2]
    shutil.rmtree(tmp_path / "c")
    assert "br0" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


def test_nothing_runs_on_when_the_tests_are_killed(tmp_path):
    marker = f"marker-{os.getpid()}-orphan"
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cluster import Cluster
with Cluster({str(tmp_path / "c")!r}, nodes=1, images={{"base": {{}}}}) as own:
    container = {{"name": "main", "image": "base", "command": ["bash", "-c", "exec -a {marker} sleep 1000"]}}
    spec = {{"containers": [container]}}
    own.apply({{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "busy"}}, "spec": spec}})
    own.wait_ready_pods("busy")
    print("up", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "up\n"
        assert leftovers(marker)[2], "the pod runs"
        child.kill()
    wait_until(lambda: not leftovers(str(tmp_path))[2] and not leftovers(marker)[2], what="all ended")
    with Cluster(tmp_path / "d", nodes=1, images=IMAGES):
        assert not leftovers(str(child.pid))[1], "the next cluster removes what is left of cgroups"
