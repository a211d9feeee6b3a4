"""A manager in its pod, its shards ready, among 10,000 pods that are not its own."""

import json
import os
import subprocess
import time
from pathlib import Path

from benchmarks import Unmeasured, median, process_cpu_ns, resident_mib, rounded, spread
from kube_peer import informer

TITLE = "a manager with ready shards (10; 100 with --full) and 10,000 foreign pods in the cluster, nothing to do"
GOAL = "RSS <= 32 MiB, CPU <= 1 % of a core"
FOREIGN = 10_000
SETTLE_S = 100  # a server where nobody did anything for a minute is at rest (docs/metrics.md)


def manager_pid(program):
    """The process of a pod whose program is this file."""
    wanted = os.stat(program)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found = os.stat(folder / "exe")
            if (found.st_ino, found.st_size) == (wanted.st_ino, wanted.st_size) and b"\0manager\0" in (
                folder / "cmdline"
            ).read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise Unmeasured("no process of the manager was found")


def measure(bench):
    from manager_rig import DATABASES, ManagerCluster, database

    if os.geteuid() != 0:
        raise Unmeasured("the test cluster makes namespaces and mounts: needs root")
    shards = 100 if bench.full else 10
    os.environ["SHARDHERD_BUILD"] = str(bench.program("shardherd").parent)
    bench.note("starting a cluster with a manager")
    directory = bench.directory / "cluster"
    rig = bench.stack.enter_context(ManagerCluster(directory, nodes=2))
    bench.note(f"making {FOREIGN} pods")
    argv = [informer(), rig.kubeconfig, "make", str(FOREIGN), f"http://127.0.0.1:{rig.etcd_port}"]
    made = subprocess.run(rig.wrap(argv), capture_output=True, text=True)
    if made.returncode != 0:
        raise Unmeasured(f"foreign pods: {made.stderr[-500:]}")
    bench.note(f"{shards} shards")
    start = time.monotonic()
    rig.must("POST", DATABASES, database("shop", shards=shards))
    rig.wait_database("shop", shards=shards, timeout=shards * 20)
    ready = time.monotonic() - start
    bench.note(f"ready after {ready:.0f} s")
    time.sleep(SETTLE_S)
    pid = manager_pid(directory / "shardherd")
    used, memory = [], []
    for _ in range(6):
        cpu, since = process_cpu_ns(pid), time.monotonic()
        time.sleep(10)
        used.append((process_cpu_ns(pid) - cpu) / 1e7 / (time.monotonic() - since))
        memory.append(resident_mib(pid))
        bench.sample_load()
    rows = [("CPU, % of a core", f"{median(used):.2f}", f"{min(used):.2f}..{max(used):.2f}"),
            ("RSS, MiB", f"{median(memory):.1f}", f"{min(memory):.1f}..{max(memory):.1f}")]  # fmt: skip
    bench.table(("windows of 10 s", "median", "spread"), rows)
    print(f"{shards} shards; pods of {json.loads(made.stdout)['bytes']} bytes")
    return {
        "ours": rounded(median(memory)),
        "unit": "MiB RSS",
        "spread": spread(memory),
        "cpu_percent": rounded(median(used)),
        "cpu_spread": spread(used),
        "shards": shards,
    }
