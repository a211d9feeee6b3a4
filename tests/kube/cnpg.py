"""CloudNativePG for the test cluster: its manager built from its Go module, its manifests as they are."""

import os
import subprocess

import yaml
from cluster import postgres_image
from control_plane import cache_dir, go_module

VERSION = "1.27.0"
MODULE = f"github.com/cloudnative-pg/cloudnative-pg@v{VERSION}"
SPACE = "cnpg-system"
SERVER = "ghcr.io/cloudnative-pg/postgresql:15"
CLUSTERS = "/apis/postgresql.cnpg.io/v1/namespaces/default/clusters"


def build_manager():
    """Operator and instance manager, one program: from the cache, or built now, minutes, once."""
    out = cache_dir() / f"cnpg-manager-{VERSION}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.{os.getpid()}")
        argv = ["go", "build", "-ldflags", "-s -w", "-o", partial, "./cmd/manager"]
        subprocess.run(argv, cwd=go_module(MODULE), check=True)
        partial.rename(out)
    return out


def images():
    """Both images, for Cluster(images=...); the servers are this machine's."""
    program = str(build_manager())
    binds = {"/manager": program, "/operator/manager_amd64": program}
    servers = postgres_image()
    servers["User"] = "26:26"
    servers["Passwd"] = ["postgres:x:26:26:PostgreSQL:/var/lib/postgresql:/bin/sh"]
    operator = {"Entrypoint": ["/manager"], "User": "65532:65532", "WorkingDir": "/", "Binds": binds}
    return {f"ghcr.io/cloudnative-pg/cloudnative-pg:{VERSION}": operator, SERVER: servers}


def install(cluster, node_selector=None, timeout=120):
    """The operator, ready; on nodes with these labels."""
    text = (go_module(MODULE) / "releases" / f"cnpg-{VERSION}.yaml").read_text()
    for document in filter(None, yaml.safe_load_all(text)):
        if document["kind"] == "Deployment" and node_selector:
            document["spec"]["template"]["spec"]["nodeSelector"] = node_selector
        cluster.apply(document)
    pods = cluster.wait(lambda: cluster.list("Pod", SPACE), timeout, "the pod of CloudNativePG's operator")
    cluster.wait_ready_pods(pods[0]["metadata"]["name"], namespace=SPACE, timeout=timeout)
    cluster.wait(lambda: cluster.request("GET", CLUSTERS)[0] == 200, 30, "the API of CloudNativePG's clusters")
