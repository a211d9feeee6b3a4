"""A real control plane on loopback: etcd, kube-apiserver, and on demand controller-manager and scheduler.

The programs are built once from Go modules (tests/kube/tools pins the versions) into a cache outside the build
folder. Every part can be killed and started again on the same data.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TOOLS = Path(__file__).parent / "tools"
KUBERNETES = "v1.35.4"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "shardherd" / "kube" / KUBERNETES


def build_programs(names=("etcd", *PROGRAMS)):
    """Builds what the cache lacks: some 5 minutes on two processors, once."""
    out = cache_dir()
    out.mkdir(parents=True, exist_ok=True)
    version = "k8s.io/component-base/version"
    flags = f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor=35"
    wanted = {name: ["-ldflags", flags, f"k8s.io/kubernetes/cmd/{name}"] for name in PROGRAMS}
    wanted["etcd"] = ["-ldflags", "-s -w", "./cmd/etcd"]
    for name, arguments in wanted.items():
        if name not in names or (out / name).exists():
            continue
        if shutil.which("go") is None:
            raise RuntimeError("the tests in tests/kube build Kubernetes and need Go 1.25 or newer (package golang)")
        print(f"building {name} {KUBERNETES}: minutes, once", file=sys.stderr, flush=True)
        partial = out / f".{name}.{os.getpid()}"
        subprocess.run(["go", "build", "-o", partial, *arguments], cwd=TOOLS, check=True)
        partial.rename(out / name)
    return out


def go_module(name):
    """The folder of a module's sources, with its version: from the cache of Go, or from its proxy now."""
    out = subprocess.run(
        ["go", "mod", "download", "-json", name], cwd="/", capture_output=True, text=True, check=True
    ).stdout
    return Path(json.loads(out)["Dir"])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def make_certificate(directory, name, subject, ca="ca", san=None, days=30):
    """NAME.crt and NAME.key, signed by CA (or by itself)."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    if name == ca:
        openssl(
            "req",
            "-x509",
            *key,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.crt",
            "-subj",
            subject,
            "-days",
            str(days),
            cwd=directory,
        )
        return
    openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject, cwd=directory)
    extensions = directory / f"{name}.ext"
    extensions.write_text(f"subjectAltName={san}\n" if san else "basicConstraints=CA:FALSE\n")
    openssl(
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        "-CA",
        f"{ca}.crt",
        "-CAkey",
        f"{ca}.key",
        "-CAcreateserial",
        "-out",
        f"{name}.crt",
        "-days",
        str(days),
        "-extfile",
        extensions.name,
        cwd=directory,
    )


class Connection(http.client.HTTPSConnection):
    """HTTPS over sockets that `connector(address, timeout)` makes."""

    def __init__(self, host, connector, **kwargs):
        super().__init__(host, **kwargs)
        self._create_connection = lambda address, timeout, _source=None: connector(address, timeout)


class Opener(urllib.request.HTTPSHandler):
    def __init__(self, connector, context):
        super().__init__(context=context)
        self.connector, self.ssl = connector, context

    def https_open(self, request):
        return self.do_open(lambda host, **kw: Connection(host, self.connector, context=self.ssl, **kw), request)


class Part:
    """One process of the control plane."""

    def __init__(self, name, argv, log):
        self.name, self.argv, self.log = name, argv, log
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, start_new_session=True)

    def kill(self, number=signal.SIGKILL):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.process.wait()

    def tail(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class ControlPlane:
    """etcd and an API server in `directory`; `with` starts and ends them.

    `address` is what the API server calls itself towards others; a subclass may wrap commands and connections to
    have all of it in another network namespace.
    """

    address = "127.0.0.1"

    def __init__(self, directory, api_flags=()):
        self.dir = Path(directory)
        self.bin = build_programs()
        self.api_flags = list(api_flags)
        self.etcd_port, self.peer_port, self.port = free_port(), free_port(), free_port()
        self.url = f"https://{self.address}:{self.port}"
        self.parts = {}

    def __enter__(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        self.make_pki()
        self.add("etcd", self.etcd_argv())
        self.add("kube-apiserver", self.api_argv())
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for part in reversed(self.parts.values()):
            part.kill()

    def wrap(self, argv):
        return argv

    def connect(self, address, timeout):
        return socket.create_connection(address, timeout)

    def add(self, name, argv):
        self.parts[name] = Part(name, self.wrap(argv), self.dir / f"{name}.log")
        return self.parts[name]

    # ---- identities ----

    def make_pki(self):
        make_certificate(self.dir, "ca", "/CN=test-ca")
        make_certificate(
            self.dir,
            "server",
            "/CN=kube-apiserver",
            san=f"DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:{self.address}",
        )
        make_certificate(self.dir, "admin", "/O=system:masters/CN=admin")
        openssl("genrsa", "-out", "sa.key", "2048", cwd=self.dir)
        openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub", cwd=self.dir)
        (self.dir / "tokens.csv").write_text("admin-token,admin,1,system:masters\nnobody-token,nobody,2\n")
        self.kubeconfig = self.write_kubeconfig("admin.kubeconfig", {"token": "admin-token"})

    def write_kubeconfig(self, name, user, cluster=None):
        """A kubeconfig (JSON is YAML) for the user; returns its path."""
        path = self.dir / name
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": "ca.crt", **(cluster or {})}}
            ],
            "users": [{"name": "test", "user": user}],
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path

    # ---- processes ----

    def etcd_argv(self):
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        return [
            self.bin / "etcd",
            "--name=test",
            f"--data-dir={self.dir / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--log-level=warn",
        ]

    def api_argv(self):
        return [
            self.bin / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.dir / 'server.crt'}",
            f"--tls-private-key-file={self.dir / 'server.key'}",
            f"--client-ca-file={self.dir / 'ca.crt'}",
            f"--token-auth-file={self.dir / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self.dir / 'sa.key'}",
            f"--service-account-key-file={self.dir / 'sa.pub'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--enable-aggregator-routing=true",
            "--shutdown-delay-duration=0s",
            *self.api_flags,
        ]

    def start(self):
        for part in self.parts.values():
            if part.process is None or part.process.poll() is not None:
                part.start()
        self.wait_ready()

    def wait_ready(self, timeout=90):
        deadline = time.monotonic() + timeout
        while True:
            for part in self.parts.values():
                if part.process.poll() is not None:
                    raise RuntimeError(f"{part.name} ended with {part.process.returncode}:\n{part.tail()}")
            try:
                status, _ = self.request("GET", "/readyz")
                if status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"the API server is not ready:\n{self.parts['kube-apiserver'].tail()}")
            time.sleep(0.05)

    # ---- the API, as an administrator ----

    def compact(self):
        """What etcd remembers of before now is gone."""

        def ask(path, body):
            url = f"http://127.0.0.1:{self.etcd_port}/v3/kv/{path}"
            connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=30)
            connection.sock = self.connect(("127.0.0.1", self.etcd_port), 30)
            connection.request("POST", url, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {text}")
            return json.loads(text)

        revision = ask("range", {"key": "AA==", "limit": 1})["header"]["revision"]
        ask("compaction", {"revision": revision, "physical": True})

    def request(
        self, method, path, body=None, content_type="application/json", token="admin-token", timeout=30, accept=""
    ):
        """Status and body, JSON where it is JSON."""
        status, _, answer = self.answer(method, path, body, content_type, token, timeout, accept)
        return status, answer

    def answer(
        self, method, path, body=None, content_type="application/json", token="admin-token", timeout=30, accept=""
    ):
        """Status, warnings and body."""
        context = ssl.create_default_context(cafile=str(self.dir / "ca.crt"))
        data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", content_type)
        if accept:
            request.add_header("Accept", accept)
        try:
            opener = urllib.request.build_opener(Opener(self.connect, context))
            with opener.open(request, timeout=timeout) as answer:
                status, headers, text = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, headers, text = error.code, error.headers, error.read()
        warnings = headers.get_all("Warning") or []
        try:
            return status, warnings, json.loads(text)
        except ValueError:
            return status, warnings, text.decode(errors="replace")

    def must(self, method, path, body=None, **kwargs):
        status, answer = self.request(method, path, body, **kwargs)
        assert 200 <= status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def config_map(self, name, namespace="default", **data):
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": data,
        }


if __name__ == "__main__":
    print(f"etcd and Kubernetes {KUBERNETES} are in {build_programs()}")
