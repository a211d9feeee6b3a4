"""Shards as StatefulSets: the Kubernetes runtime, through runtime_tool, in a cluster whose pods run PostgreSQL."""

import base64
import json
import os
import subprocess

import pytest
import yaml
from cluster import Cluster, postgres_image
from kube import ROOT, build_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the test cluster makes namespaces and mounts: needs root")
KINDS = (
    "StatefulSet Pod Service ConfigMap Secret ServiceAccount Role RoleBinding NetworkPolicy PodDisruptionBudget "
    "PersistentVolumeClaim"
).split()
PLAIN = {"kube-root-ca.crt", "kubernetes", "default"}  # what each namespace has anyway


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    images = {"shardherd:test": postgres_image(program=(build_folder() / "shardherd").resolve())}
    with Cluster(tmp_path_factory.mktemp("cluster"), nodes=2, images=images, backoff=1.0) as cluster:
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

    def start(self, verb, *arguments, timeout="60s", kubeconfig=None, **kwargs):
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
            out, err = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert process.returncode == code, f"{out}\n{err}\n{self.cluster.describe()}"
        return [json.loads(line) for line in out.splitlines()]

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

    def psql(self, sql, user="app", shard="s1", password=None, ca=None, code=0):
        """By the service's name, from inside the cluster's network."""
        host = f"{self.name}-{shard}.default.svc"
        address = self.cluster.get("Service", f"{self.name}-{shard}")["spec"]["clusterIP"]
        ca = ca or self.folder / "ca" / f"{self.name}.crt"
        tls = f"sslmode=verify-full sslrootcert={ca}" if ca.exists() else "sslmode=disable"
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


@pytest.fixture
def rig(cluster, tmp_path, request):
    made = Rig(cluster, tmp_path, "shop")
    yield made
    if made.cluster.request("GET", made.path)[0] == 200:
        made.write()
        made.run("remove", "shop-s1-0", "shop-s2-0")
        cluster.must("DELETE", made.path)
        cluster.wait(lambda: made.objects() == made.before, 30, f"nothing left: {made.objects()}")


def test_two_shards_are_made_used_and_removed(rig):
    rig.write()
    made = rig.ensure("s1", "s2")
    assert sorted(made) == ["shop-s1-0", "shop-s2-0"]
    one = made["shop-s1-0"]
    assert (one["host"], one["port"], one["user"], one["sslmode"]) == (
        "shop-s1.default.svc",
        5432,
        "shardherd",
        "verify-full",
    )
    assert os.stat(one["sslrootcert"]).st_mode & 0o777 == 0o600
    assert made["shop-s2-0"]["password"] != one["password"]
    for shard in ("s1", "s2"):
        rig.psql("CREATE TABLE t(i int); INSERT INTO t VALUES (1)", shard=shard)
        assert (
            rig.psql(
                "SELECT current_user, current_database(), ssl, count(*) FROM t, pg_stat_ssl "
                "WHERE pid = pg_backend_pid() GROUP BY 3",
                shard=shard,
            )
            == "app|shop|t|1"
        )
    assert "password authentication failed" in rig.psql("SELECT 1", password="wrong", code=2)

    before = rig.objects()
    again = rig.ensure("s1", "s2")
    assert again == made
    assert rig.objects() == before
    listed = {line["instance"]: line for line in rig.run("list")}
    assert listed == made

    rig.run("remove", "shop-s2-0")
    assert [line["instance"] for line in rig.run("list")] == ["shop-s1-0"]
    assert rig.psql("SELECT count(*) FROM t") == "1"
    rig.run("remove", "shop-s1-0")
    assert rig.objects() == rig.before
    rig.run("remove", "shop-s1-0")
