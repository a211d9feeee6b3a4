"""A whole Kubernetes cluster for tests: the real control plane, and nodes whose pods are processes of this machine.

Everything lives in a network namespace of its own that has no name and no way out: it is gone when the last process in
it is. Pods are in 10.244.0.0/16 behind a bridge, services in 10.96.0.0/16. The nodes, their pods, the proxy on the
cluster addresses, DNS and the volumes are one program (tools/cmd/kubelet), built into the cache by the hash of its
sources. Needs root.
"""

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

from control_plane import TOOLS, ControlPlane, cache_dir

ADDRESS = "10.244.0.1"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
CLUSTER_WIDE = (
    "Node",
    "Namespace",
    "PersistentVolume",
    "StorageClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
)
PLURALS = {"s": "ses", "y": "ies"}  # by the last letter
GROUPS = {
    "Deployment": "/apis/apps/v1",
    "StatefulSet": "/apis/apps/v1",
    "Role": "/apis/rbac.authorization.k8s.io/v1",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1",
    "PodDisruptionBudget": "/apis/policy/v1",
    "Job": "/apis/batch/v1",
    "NetworkPolicy": "/apis/networking.k8s.io/v1",
    "EndpointSlice": "/apis/discovery.k8s.io/v1",
    "Lease": "/apis/coordination.k8s.io/v1",
    "StorageClass": "/apis/storage.k8s.io/v1",
}


def build_kubelet():
    """The test kubelet, from the cache or built now (seconds when Kubernetes itself was built before)."""
    sources = sorted((TOOLS / "cmd" / "kubelet").glob("*.go")) + [TOOLS / "go.mod"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    out = cache_dir() / f"kubelet-{digest}"
    if not out.exists():
        for old in cache_dir().glob("kubelet-*"):
            if time.time() - old.stat().st_mtime > 86400:
                old.unlink()
        partial = out.with_name(f".{out.name}.{os.getpid()}")
        subprocess.run(["go", "build", "-ldflags", "-s -w", "-o", partial, "./cmd/kubelet"], cwd=TOOLS, check=True)
        partial.rename(out)
    return out


def postgres_image(version=15, program=None):
    """An image with this machine's PostgreSQL, running as uid 999; with `program`, also that as shardherd."""
    env = {"PATH": f"/usr/lib/postgresql/{version}/bin:/usr/local/bin:/usr/bin:/bin"}
    binds = {}
    if program is not None:
        binds["/usr/local/bin/shardherd"] = str(program)
        for line in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines():
            name, _, place = line.strip().partition(" => ")
            library = place.split(" (")[0]
            if library and not library.startswith(("/lib", "/usr/lib")):  # one that was built with it
                binds[f"/usr/local/lib/shardherd/{name}"] = os.path.realpath(library)
                env["LD_LIBRARY_PATH"] = "/usr/local/lib/shardherd"
    return {
        "User": "999:999",
        "Env": env,
        "Binds": binds,
        "Dirs": {"/run/postgresql": "3777"},
        "Passwd": ["postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/sh"],
    }


def check(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


class Namespace:
    """A network namespace held by a descriptor."""

    def __init__(self):
        def make():
            check(LIBC.unshare(CLONE_NEWNET), "unshare")
            self.fd = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)

        self.fd = -1
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if self.fd < 0:
            raise RuntimeError("no network namespace could be made: the tests in tests/kube need root")

    def path(self):
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def wrap(self, argv):
        return ["nsenter", f"--net={self.path()}", *argv]

    def join(self):
        """The calling thread, and those that it starts, are inside from here on."""
        check(LIBC.setns(self.fd, CLONE_NEWNET), "setns")

    def connect(self, address, timeout):
        """A connection made inside: the thread goes there for it and comes back."""
        with open(f"/proc/self/task/{threading.get_native_id()}/ns/net", "rb") as home:
            check(LIBC.setns(self.fd, CLONE_NEWNET), "setns")
            try:
                return socket.create_connection(address, timeout)
            finally:
                check(LIBC.setns(home.fileno(), CLONE_NEWNET), "setns")

    def close(self):
        os.close(self.fd)


# Waits for the end of its input, which comes with the end of whoever holds the pipe, and kills what is in a namespace.
GUARD = """
cat
for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/ns/net")" = "$1" ]; then kill -9 "${process#/proc/}"; fi
done
"""


class Guard:
    """Ends everything in a namespace when this program ends, however it does."""

    def __init__(self, namespace):
        target = os.readlink(namespace.path())
        if not target.startswith("net:") or target == os.readlink("/proc/self/ns/net"):
            raise RuntimeError("not a namespace of the tests")
        self.process = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Control(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("kubelet", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        directory = os.open(self.path.parent, os.O_PATH)  # the path of a unix socket is short
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self.path.name}")
        finally:
            os.close(directory)


class Cluster(ControlPlane):
    """`with Cluster(directory, images=...)`: ready nodes, and nothing left of it afterwards.

    images: name -> {"Entrypoint", "Cmd", "Env", "User", "Binds", "Dirs", "Passwd"} (see tools/cmd/kubelet/main.go).
    quick: node failures are noticed in seconds instead of Kubernetes' 50.
    """

    address = ADDRESS
    counter = 0

    def __init__(self, directory, nodes=3, images=None, quick=True, backoff=10.0, api_flags=()):
        Cluster.counter += 1
        self.name = f"{os.getpid()}-{Cluster.counter}"
        self.nodes, self.images, self.quick, self.backoff = nodes, images or {}, quick, backoff
        flags = ["--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true"]
        super().__init__(directory, [*flags, *api_flags])
        self.kubelet = build_kubelet()
        self.namespace = None

    # ---- start and end ----

    def __enter__(self):
        self.namespace = Namespace()
        self.guard = Guard(self.namespace)
        try:
            self.remove_old_cgroups()
            self.make_network()
            super().__enter__()
            self.start_others()
            self.start_kubelet()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        kubelet = self.parts.pop("kubelet", None)
        if kubelet is not None and kubelet.process is not None:
            kubelet.kill(signal.SIGCONT)
            kubelet.process.terminate()
            try:
                kubelet.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                kubelet.kill()  # its pods die with it
        super().__exit__()
        self.guard.close()
        self.namespace.close()
        self.remove_cgroups(self.name)
        for name in ("pods", "volumes"):
            shutil.rmtree(self.dir / name, ignore_errors=True)

    def remove_old_cgroups(self):
        """Those of a test run that was killed, with what its guard did not end."""
        for path in Path("/sys/fs/cgroup").rglob("shardherd-*-*"):
            name = path.name.removeprefix("shardherd-")
            if Path("/proc", name.split("-")[0]).exists():
                continue
            for process in [pid for procs in path.rglob("cgroup.procs") for pid in procs.read_text().split()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            self.remove_cgroups(name)

    def remove_cgroups(self, name):
        """What a kubelet that was killed left; a killed process leaves its cgroup a moment later."""
        for path in Path("/sys/fs/cgroup").rglob(f"shardherd-{name}"):
            deadline = time.monotonic() + 10
            for inner in [*path.glob("*/"), path]:
                while True:
                    try:
                        inner.rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.02)

    def make_network(self):
        lines = [
            "link set lo up",
            "link add br0 address 02:00:0a:f4:00:01 type bridge",
            f"addr add {ADDRESS}/16 dev br0",
            "link set br0 up",
            "route add local 10.96.0.0/16 dev lo",
        ]
        self.inside(["ip", "-batch", "-"], input="\n".join(lines) + "\n")
        switches = {"ip_forward": 1, "conf/all/send_redirects": 0, "conf/br0/send_redirects": 0}
        script = "".join(f"echo {value} > /proc/sys/net/ipv4/{name};" for name, value in switches.items())
        self.inside(["sh", "-ec", script])

    def start_others(self):
        grace = ["--node-monitor-period=500ms", "--node-monitor-grace-period=6s"] if self.quick else []
        common = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false"]
        self.add(
            "kube-controller-manager",
            [
                self.bin / "kube-controller-manager",
                *common,
                "--secure-port=0",
                f"--service-account-private-key-file={self.dir / 'sa.key'}",
                f"--root-ca-file={self.dir / 'ca.crt'}",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
                *grace,
            ],
        ).start()
        self.add(
            "kube-scheduler",
            [self.bin / "kube-scheduler", *common, "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"],
        ).start()

    def start_kubelet(self):
        path = self.dir / "kubelet.json"
        path.write_text(
            json.dumps(
                {
                    "Name": self.name,
                    "Dir": str(self.dir),
                    "Kubeconfig": str(self.kubeconfig),
                    "Nodes": self.nodes,
                    "Images": self.images,
                    "LeaseSeconds": 1 if self.quick else 10,
                    "BackoffSeconds": self.backoff,
                }
            )
        )
        part = self.add("kubelet", [self.kubelet, path])
        part.start()
        self.wait(lambda: self.control("GET", "/ready") is None, 30, "the test kubelet")
        self.wait(lambda: len(self.ready_nodes()) == self.nodes, 60, "ready nodes")
        self.wait(lambda: self.get("ServiceAccount", "default") is not None, 30, "the default service account")

    def wrap(self, argv):
        return self.namespace.wrap(argv)

    def connect(self, address, timeout):
        return self.namespace.connect(address, timeout)

    def inside(self, argv, **kwargs):
        """Runs a program of this machine in the rig's network, where pods and services can be reached."""
        done = subprocess.run(self.wrap(argv), text=True, capture_output=True, check=False, **{"timeout": 60, **kwargs})
        if done.returncode != 0:
            raise RuntimeError(f"{argv}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def succeeds(self, argv):
        return subprocess.run(self.wrap(argv), capture_output=True, timeout=60, check=False).returncode == 0

    # ---- waiting ----

    def wait(self, condition, timeout, what):
        """Calls condition until it returns something true; fails after timeout seconds, or when a part has ended."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                value = condition()
            except (OSError, http.client.HTTPException):
                value = None
            if value:
                return value
            for part in self.parts.values():
                if part.name == "kubelet" and part.process.poll() is not None:
                    raise RuntimeError(f"{part.name} ended with {part.process.returncode}:\n{part.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout} s\n{self.describe()}")
            time.sleep(0.05)

    def describe(self):
        """What a failed wait shows: pods, events, the kubelet's last words."""
        lines = []
        for pod in self.list("Pod", None):
            states = [c.get("state") for c in pod["status"].get("containerStatuses", [])]
            lines.append(
                f"{pod['metadata']['namespace']}/{pod['metadata']['name']} {pod['status'].get('phase')} {states}"
            )
        for event in self.list("Event", None)[-30:]:
            lines.append(f"{event['involvedObject'].get('name')} {event['reason']}: {event.get('message')}")
        if "kubelet" in self.parts:
            lines.append(self.parts["kubelet"].tail())
        return "\n".join(lines)

    # ---- objects ----

    @staticmethod
    def path(kind, namespace="default", name=None, api=None):
        plural = PLURALS.get(kind[-1], kind[-1] + "s")
        plural = kind[:-1].lower() + plural
        base = (f"/apis/{api}" if api and "/" in api else None) or GROUPS.get(kind, "/api/v1")
        where = f"/namespaces/{namespace}" if namespace and kind not in CLUSTER_WIDE else ""
        return f"{base}{where}/{plural}" + (f"/{name}" if name else "")

    def apply(self, *objects, namespace="default"):
        """Server-side apply of each."""
        for one in objects:
            meta = one["metadata"]
            where = self.path(one["kind"], meta.get("namespace", namespace), meta["name"], one["apiVersion"])
            self.must(
                "PATCH", f"{where}?fieldManager=test&force=true", one, content_type="application/apply-patch+yaml"
            )

    def get(self, kind, name, namespace="default"):
        status, answer = self.request("GET", self.path(kind, namespace, name))
        return answer if status == 200 else None

    def list(self, kind, namespace="default", **query):
        return self.must("GET", self.path(kind, namespace) + "?" + urlencode(query))["items"]

    def delete(self, kind, name, namespace="default", **options):
        self.must("DELETE", self.path(kind, namespace, name), options or None)

    def condition(self, kind, name, which, namespace="default"):
        """The status of a condition: "True", "False", "Unknown", or None."""
        found = self.get(kind, name, namespace) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == which), None)

    def ready_nodes(self):
        names = [node["metadata"]["name"] for node in self.list("Node")]
        return [name for name in names if self.condition("Node", name, "Ready") == "True"]

    def wait_ready_pods(self, *names, namespace="default", timeout=60):
        for name in names:
            self.wait(
                lambda name=name: self.condition("Pod", name, "Ready", namespace) == "True",
                timeout,
                f"pod {name} ready",
            )

    # ---- the nodes ----

    def control(self, method, path, body=None, timeout=120):
        connection = Control(self.dir / "control.sock", timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {text}")
        return json.loads(text) if text else None

    def node(self, name, verb):
        """cut, restore, freeze, thaw, kill, start."""
        self.control("POST", f"/nodes/{name}/{verb}")

    def pod(self, name, verb, namespace="default"):
        """cut, restore, freeze, thaw, tokens."""
        self.control("POST", f"/pods/{namespace}/{name}/{verb}")

    def crash(self, name, container="", number=signal.SIGKILL, namespace="default"):
        query = urlencode({"container": container, "number": int(number)})
        self.control("POST", f"/pods/{namespace}/{name}/signal?{query}")

    def info(self, name, namespace="default"):
        return self.control("GET", f"/pods/{namespace}/{name}")

    def exec(self, name, *command, container="", stdin="", timeout=30, namespace="default"):
        """Runs a command in a container; returns an object with code, out and err."""
        query = urlencode({"container": container, "timeout": timeout})
        answer = self.control(
            "POST",
            f"/pods/{namespace}/{name}/exec?{query}",
            {"Command": list(command), "Stdin": stdin},
            timeout=max(120, timeout + 30),
        )
        return subprocess.CompletedProcess(command, answer["Code"], answer["Stdout"], answer["Stderr"])

    def logs(self, name, namespace="default"):
        """The output of all containers and runs of pods of that name, oldest run first."""
        files = sorted((self.dir / "logs").glob(f"{namespace}_{name}_*.log"), key=lambda f: f.stat().st_mtime)
        return "".join(f.read_text(errors="replace") for f in files)
