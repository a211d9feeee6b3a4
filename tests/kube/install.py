"""What the tests of deploy/ share: kubectl, and the overlays as objects."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from control_plane import TOOLS, cache_dir

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = {"development": "shardherd-development", "staging": "shardherd-staging", "production": "shardherd"}
SHOP = """
apiVersion: shardherd.io/v1alpha1
kind: ShardedDatabase
metadata: {name: shop, namespace: NAMESPACE}
spec:
  shards: 2
  instances: 2
  tables: [{name: orders, key: customer_id}]
  storage: {size: 1Gi, wal: {size: 512Mi}}
  resources:
    requests: {cpu: 100m, memory: 256Mi, ephemeral-storage: 64Mi}
    limits: {cpu: "1", memory: 256Mi, ephemeral-storage: 256Mi}
"""


def find_kubectl():
    """That of scripts/install-deps, whose version is known; never another one of the machine."""
    found = ROOT / "build" / "tools" / "usr" / "bin" / "kubectl"
    return found if found.exists() else None


needs_kubectl = pytest.mark.skipif(
    find_kubectl() is None, reason="kubectl is not in build/tools: scripts/install-deps gets it by npm"
)


def build_tool(name):
    """A program of tests/kube/tools/cmd, from the cache or built now: seconds, once."""
    sources = sorted((TOOLS / "cmd" / name).glob("*.go")) + [TOOLS / "go.mod"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    out = cache_dir() / f"{name}-{digest}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.{os.getpid()}")
        subprocess.run(["go", "build", "-ldflags", "-s -w", "-o", partial, f"./cmd/{name}"], cwd=TOOLS, check=True)
        partial.rename(out)
    return out


class Kubectl:
    """kubectl with a home of its own; `wrap` runs it somewhere else."""

    def __init__(self, directory, kubeconfig=None, wrap=list):
        self.directory, self.kubeconfig, self.wrap = Path(directory), kubeconfig, wrap

    def run(self, *arguments, stdin=None, check=True, timeout=120):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory)}
        if self.kubeconfig is not None:
            environment["KUBECONFIG"] = str(self.kubeconfig)
        done = subprocess.run(
            self.wrap([str(find_kubectl()), *map(str, arguments)]),
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "-o", "json").stdout)


def build(kubectl, path):
    """The objects that kustomize makes of a folder below deploy/, and what it said."""
    done = kubectl.run("kustomize", DEPLOY / path)
    return done.stdout, done.stderr


def objects(text):
    return [one for one in yaml.safe_load_all(text) if one is not None]


def find(all_of_them, kind, name=None):
    found = [o for o in all_of_them if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert found, f"no {kind} {name or ''}"
    return found[0]


def render(program, namespace, text=SHOP):
    """The objects of the shards, as the manager applies them."""
    done = subprocess.run(
        [program, "render", "/dev/stdin"],
        input=text.replace("NAMESPACE", namespace),
        capture_output=True,
        text=True,
        check=True,
    )
    return objects(done.stdout)


def pod_of(workload, number=0):
    """The pod that a Deployment's or StatefulSet's controller would make."""
    meta, template = workload["metadata"], workload["spec"]["template"]
    name = f"{meta['name']}-{number}"
    spec = json.loads(json.dumps(template["spec"]))
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        volume = claim["metadata"]["name"]
        spec.setdefault("volumes", []).append(
            {"name": volume, "persistentVolumeClaim": {"claimName": f"{volume}-{name}"}}
        )
    metadata = {"name": name, "namespace": meta["namespace"], **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def have(program):
    return shutil.which(program) is not None
