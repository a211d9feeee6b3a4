"""A cluster for the Kubernetes runtime, run through runtime_tool, and one database in it."""

import base64
import contextlib
import json
import os
import subprocess
import threading

import pytest
import yaml
from cluster import Cluster, postgres_image
from kube import ROOT, build_folder

KINDS = (
    "StatefulSet Pod Service ConfigMap Secret ServiceAccount Role RoleBinding NetworkPolicy PodDisruptionBudget "
    "PersistentVolumeClaim"
).split()
PLAIN = {"kube-root-ca.crt", "kubernetes", "default"}  # what each namespace has anyway


@contextlib.contextmanager
def runtime_cluster(folder, more=()):
    """With the CRD, and an image of PostgreSQL and shardherd, also under the names of `more`."""
    image = postgres_image(program=(build_folder() / "shardherd").resolve())
    images = dict.fromkeys(["shardherd:test", *more], image)
    with Cluster(folder, nodes=2, images=images, backoff=1.0) as cluster:
        crd = yaml.safe_load((ROOT / "deploy/crd/shardherd.io_shardeddatabases.yaml").read_text())
        cluster.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        cluster.wait(
            lambda: cluster.request("GET", "/apis/shardherd.io/v1alpha1/shardeddatabases")[0] == 200, 30, "the CRD"
        )
        yield cluster


class Rig:
    """One database in the cluster, and the runtime as processes."""

    def __init__(self, cluster, folder, name):
        self.cluster, self.folder, self.name = cluster, folder, name
        self.path = f"/apis/shardherd.io/v1alpha1/namespaces/default/shardeddatabases/{name}"
        self.before = self.objects()
        (folder / "resolv.conf").write_text("nameserver 10.96.0.10\nsearch cluster.local\n")

    def write(self, **spec):
        """Creates or replaces the ShardedDatabase; the file is what the API server made of it."""
        body = {
            "apiVersion": "shardherd.io/v1alpha1",
            "kind": "ShardedDatabase",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "shards": 2,
                "tables": [{"name": "orders", "key": "id"}],
                "storage": {"size": "1Gi"},
                "resources": {"limits": {"memory": "256Mi"}},
                "deletionPolicy": "delete",
                **spec,
            },
        }
        answer = self.cluster.must(
            "PATCH", f"{self.path}?fieldManager=test&force=true", body, content_type="application/apply-patch+yaml"
        )
        (self.folder / "database.json").write_text(json.dumps(answer))

    def start(self, verb, *arguments, timeout="150s", kubeconfig=None, **kwargs):
        """runtime_tool, inside the cluster's network and with its names."""
        script = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
        argv = [
            *self.cluster.wrap(["unshare", "-m", "sh", "-ec", script, "sh", self.folder / "resolv.conf"]),
            build_folder() / "tests" / "runtime_tool",
            kubeconfig or self.cluster.kubeconfig,
            self.folder / "database.json",
            self.folder / "ca",
            timeout,
            verb,
            *arguments,
        ]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

    def run(self, verb, *arguments, code=0, **kwargs):
        """The lines it printed."""
        process = self.start(verb, *arguments, **kwargs)
        try:
            out, err = process.communicate(timeout=240)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert process.returncode == code, f"{out}\n{err}\n{self.cluster.describe()}"
        return [json.loads(line) for line in out.splitlines()]

    def wait_progress(self, message, *arguments, timeout=90):
        """Starts the tool and ends it orderly when it has said that it waits for this; returns the whole text."""
        process = self.start(*arguments, timeout="300s")
        deadline = threading.Timer(timeout, process.kill)
        deadline.start()
        said = []
        try:
            for line in process.stdout:
                said.append(json.loads(line).get("message", ""))
                if said[-1].startswith(message):
                    process.terminate()
                    out, err = process.communicate(timeout=30)
                    assert process.returncode == 1, err
                    assert json.loads(out.splitlines()[-1]) == {"error": "canceled", "message": "canceled"}
                    return said[-1]
        finally:
            deadline.cancel()
            if process.poll() is None:
                process.kill()
            process.wait()
        pytest.fail(f"it never said {message!r}, but {said}")

    def ensure(self, *shards, **kwargs):
        """instance name -> what is said of it"""
        return {line["instance"]: line for line in self.run("ensure", *shards, **kwargs) if "instance" in line}

    def objects(self):
        """(kind, name) -> resourceVersion of what the namespace has."""
        found = {}
        for kind in KINDS:
            for one in self.cluster.list(kind):
                if one["metadata"]["name"] not in PLAIN:
                    found[(kind, one["metadata"]["name"])] = one["metadata"]["resourceVersion"]
        return found

    def secret(self, name, key):
        return base64.b64decode(self.cluster.get("Secret", name)["data"][key]).decode()

    def files_of(self, name):
        """The values of a Secret as files, as its volume has them."""
        folder = self.folder / "secrets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for key in self.cluster.get("Secret", name)["data"]:
            path = folder / key
            path.touch(mode=0o600)
            path.write_text(self.secret(name, key))
        return folder

    def psql(self, sql, user="app", shard="s1", password=None, ca=None, code=0, certificate=None):
        """By the service's name, from inside the cluster's network; certificate: a folder as files_of() makes it."""
        host = f"{self.name}-{shard}.default.svc"
        address = self.cluster.get("Service", f"{self.name}-{shard}")["spec"]["clusterIP"]
        ca = ca or self.folder / "ca" / f"{self.name}-{shard}.crt"
        tls = f"sslmode=verify-full sslrootcert={ca}" if ca.exists() else "sslmode=disable"
        tls += f" sslcert={certificate}/tls.crt sslkey={certificate}/tls.key" if certificate else ""
        target = f"host={host} hostaddr={address} user={user} dbname={self.name} {tls}"
        done = subprocess.run(
            self.cluster.wrap(["psql", "-XAtq", target, "-c", sql]),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PGPASSWORD": password or self.secret(f"{self.name}-owner", "password")},
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip() if code == 0 else done.stderr


@contextlib.contextmanager
def runtime_rig(cluster, folder):
    """Nothing is left of its database."""
    made = Rig(cluster, folder, "shop")
    yield made
    if made.cluster.request("GET", made.path)[0] == 200:
        answer = cluster.must(
            "PATCH",
            made.path,
            {"spec": {"deletionPolicy": "delete"}},
            content_type="application/merge-patch+json",
        )
        (folder / "database.json").write_text(json.dumps(answer))
        made.run("remove", "shop-s1-0", "shop-s2-0")
        cluster.must("DELETE", made.path)
        cluster.wait(lambda: made.objects() == made.before, 30, f"nothing left: {made.objects()}")


def refusal(lines):
    """The error that the tool printed, and its message."""
    found = [line for line in lines if "error" in line]
    assert len(found) == 1, lines
    return found[0]["error"], found[0]["message"]
