"""What a manager asks of the API server: 100 shards applied at once; and, with pods that run, the steady state."""

import collections
import json
import os
import subprocess
import time
import urllib.request

import kube_peer  # noqa: F401 (finds tests/kube)
from benchmarks import ROOT, Unmeasured, process_cpu_ns, resident_mib, rounded

TITLE = (
    "100 shards applied at once, without nodes: requests, and time until all objects are there; and a cluster at rest"
)
GOAL = "at rest nothing is asked for again but watches and the lease; requests per shard and seconds are shown"
STEADY_SHARDS = 4
STEADY_WINDOW = 60
SHARDS = 100
WINDOW = 30
KINDS = {
    "statefulsets": "/apis/apps/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}
DATABASES = "/apis/shardherd.io/v1alpha1/namespaces/default/shardeddatabases"


class Manager:
    """A manager beside an API server, as a user of its own; the audit log says what it asks for."""

    def __init__(self, bench):
        import yaml
        from control_plane import ControlPlane, free_port

        directory = bench.directory
        policy = directory / "audit.yaml"
        policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n"
                          "rules: [{level: Metadata, users: [manager]}, {level: None}]\n")  # fmt: skip
        self.audit = directory / "audit.log"
        flags = ["--disable-admission-plugins=ServiceAccount", f"--audit-policy-file={policy}",
                 f"--audit-log-path={self.audit}"]  # fmt: skip

        class Plane(ControlPlane):
            def make_pki(self):
                super().make_pki()
                with (self.dir / "tokens.csv").open("a") as tokens:
                    tokens.write("manager-token,manager,9,system:masters\n")

        bench.note("starting etcd and kube-apiserver")
        self.plane = plane = bench.stack.enter_context(Plane(directory / "plane", flags))
        for path in sorted((ROOT / "deploy" / "crd").glob("*.yaml")):
            document = yaml.safe_load(path.read_text())
            if document.get("kind") == "CustomResourceDefinition":
                plane.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", document)
        deadline = time.monotonic() + 30
        while plane.request("GET", DATABASES)[0] != 200:
            if time.monotonic() > deadline:
                raise Unmeasured("the API of ShardedDatabase objects does not answer")
            time.sleep(0.1)
        config = plane.write_kubeconfig("manager.kubeconfig", {"token": "manager-token"})
        state = directory / "state"
        state.mkdir(mode=0o700)
        self.port = free_port()
        settings = {
            "state_directory": state, "store.kind": "kubernetes", "runtime.kind": "kubernetes",
            "runtime.image": "shardherd:bench", "kubernetes.kubeconfig": config, "kubernetes.namespace": "default",
            "listen.public_port": free_port(), "listen.admin_port": free_port(), "listen.metrics_port": self.port,
        }  # fmt: skip
        argv = [str(bench.program("shardherd")), "manager"]
        for name, value in settings.items():
            argv += ["--set", f"{name}={value}"]
        self.log = directory / "manager.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        bench.stack.callback(self.end)
        self.pid = self.process.pid

    def wait(self, condition, timeout, what):
        deadline = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Unmeasured(f"{what}: not within {timeout} s\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz?verbose", timeout=5) as answer:
                return "[+]balancer ok" in answer.read().decode()
        except OSError:
            return False

    def apply(self, shards):
        self.plane.must("POST", DATABASES, {
            "apiVersion": "shardherd.io/v1alpha1", "kind": "ShardedDatabase",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {
                "shards": shards, "tables": [{"name": "customers", "key": "customer_id"}],
                "postgresql": {"version": "15"}, "storage": {"size": "1Gi"},
                "resources": {"requests": {"memory": "256Mi"}},
            },
        })  # fmt: skip

    def count(self, kind):
        path = f"{KINDS[kind]}/namespaces/default/{kind}?labelSelector=shardherd.io/database%3Dshop"
        return len(self.plane.must("GET", path)["items"])

    def requests(self):
        """(verb, resource) -> how often, and the paths of each write."""
        found, writes = collections.Counter(), collections.Counter()
        for line in self.audit.read_text().splitlines() if self.audit.exists() else []:
            event = json.loads(line)
            reference = event.get("objectRef", {})
            resource = reference.get("resource", event["requestURI"])
            found[event["verb"], resource] += 1
            if event["verb"] not in ("get", "list", "watch"):
                writes[event["verb"], resource, reference.get("name", "")] += 1
        return found, writes

    def cpu_ns(self):
        return process_cpu_ns(self.pid)

    def resident_mib(self):
        return resident_mib(self.pid)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def steady(bench):
    """Requests of a manager whose shards run, but watches and the lease; None where the test cluster cannot be."""
    if os.geteuid() != 0:
        print("the steady state needs pods that run, and the test cluster needs root: not measured")
        return None
    os.environ.setdefault("SHARDHERD_BUILD", str(bench.program("shardherd").parent))  # the program of the pods
    from manager_rig import DATABASES as OBJECTS
    from manager_rig import ManagerCluster, database

    policy, audit = bench.directory / "steady.yaml", bench.directory / "steady.log"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n"
                      "  - {level: Metadata, users: ['system:serviceaccount:default:shardherd-manager']}\n"
                      "  - {level: None}\n")  # fmt: skip
    bench.note(f"starting a cluster with {STEADY_SHARDS} shards that run")
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={audit}"]
    with ManagerCluster(bench.directory / "steady", nodes=2, api_flags=flags) as rig:
        rig.must("POST", OBJECTS, database(shards=STEADY_SHARDS, balance={"split": "off", "merge": "off"}))
        rig.wait_database(shards=STEADY_SHARDS, timeout=180)
        time.sleep(20)  # Events of the making, the first lists
        since = len(audit.read_text().splitlines())
        time.sleep(STEADY_WINDOW)
        found = collections.Counter()
        for line in audit.read_text().splitlines()[since:]:
            event = json.loads(line)
            found[event["verb"], event.get("objectRef", {}).get("resource", event["requestURI"])] += 1
    show(bench, f"{STEADY_SHARDS} shards that run, {STEADY_WINDOW} s", found)
    return sum(n for (verb, resource), n in found.items() if verb != "watch" and resource != "leases")


def show(bench, what, found):
    rows = [(f"{verb} {resource}", count) for (verb, resource), count in sorted(found.items(), key=lambda x: -x[1])]
    bench.table((what, "requests"), rows or [("none", 0)])


def measure(bench):
    manager = Manager(bench)
    manager.wait(manager.ready, 60, "a manager that leads")
    before, _ = manager.requests()
    start = time.monotonic()
    manager.apply(SHARDS)
    manager.wait(lambda: manager.count("statefulsets") >= SHARDS, 300, f"{SHARDS} StatefulSets")
    seconds = time.monotonic() - start
    time.sleep(2)
    made, writes = manager.requests()
    made = made - before
    counts = {kind: manager.count(kind) for kind in KINDS}
    bench.sample_load()
    cpu = manager.cpu_ns()
    time.sleep(WINDOW)
    waiting = manager.requests()[0] - made - before
    cpu = (manager.cpu_ns() - cpu) / 1e7 / WINDOW
    show(bench, f"{SHARDS} shards", made)
    show(bench, f"{WINDOW} s after, while it waits for pods", waiting)
    repeated = {f"{verb} {resource}/{name}": n for (verb, resource, name), n in writes.items() if n > 3 and name}
    state = f"{cpu:.1f} % of a core, {manager.resident_mib():.1f} MiB"
    print(f"all StatefulSets after {seconds:.1f} s; {state}; made: {counts}")
    print(f"written more than three times: {dict(list(repeated.items())[:8])}")
    total = sum(made.values())
    leases = sum(n for (_, resource), n in waiting.items() if resource == "leases")
    at_rest = steady(bench)
    return {
        "ours": rounded(total / SHARDS),
        "unit": "API requests per shard until all objects are there",
        "seconds": rounded(seconds),
        "waiting_requests_per_minute": rounded((sum(waiting.values()) - leases) * 60 / WINDOW),
        **({} if at_rest is None else {"repeated_at_rest": at_rest}),
        "steady_lease_requests_per_minute": rounded(leases * 60 / WINDOW),
        "rss_mib": rounded(manager.resident_mib()),
    }
