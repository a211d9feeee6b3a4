"""A real API server full of pods, for the benchmarks of the Kubernetes client; the peer is client-go."""

import json
import os
import subprocess
import sys
import time

from benchmarks import ROOT, Unmeasured, process_cpu_ns, resident_mib

sys.path.insert(0, str(ROOT / "tests" / "kube"))
PODS = 10_000


def informer():
    """The peer, built once from Go modules."""
    from control_plane import cache_dir

    source = ROOT / "bench" / "informer"
    path = cache_dir() / "bench-informer"
    newest = max(file.stat().st_mtime for file in source.iterdir())
    if not path.exists() or path.stat().st_mtime < newest:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        done = subprocess.run(
            ["go", "build", "-ldflags", "-s -w", "-o", partial, "."], cwd=source, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Unmeasured(f"the informer cannot be built (package golang): {done.stderr[-2000:]}")
        partial.rename(path)
    return path


class Cluster:
    """An API server with PODS pods of some 16 kB; `update()` changes them."""

    def __init__(self, bench, pods=PODS):
        from control_plane import ControlPlane

        bench.note("starting etcd and kube-apiserver")
        self.bench, self.informer = bench, informer()
        # nobody makes service accounts here
        flags = ["--disable-admission-plugins=ServiceAccount"]
        self.plane = bench.stack.enter_context(ControlPlane(bench.directory / "plane", flags))
        start = time.monotonic()
        made = json.loads(self.run("make", str(pods), f"http://127.0.0.1:{self.plane.etcd_port}"))
        self.bytes = made["bytes"]
        bench.note(f"{pods} pods of {self.bytes} bytes made in {time.monotonic() - start:.0f} s")

    def run(self, *arguments):
        done = subprocess.run(
            [self.informer, self.plane.kubeconfig, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Unmeasured(f"informer {' '.join(arguments)}: {done.stderr[-1000:]}")
        return done.stdout


class Watcher:
    """One client that watches all pods: ours (a program of bench/) or the peer."""

    def __init__(self, cluster, *argv):
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            [str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        cluster.bench.stack.callback(self.end)
        line = self.process.stdout.readline()
        if not line:
            raise Unmeasured(f"{argv} ended before it was in step")
        self.seconds = time.monotonic() - self.start
        self.cpu_ms = process_cpu_ns(self.process.pid) / 1e6
        self.objects = json.loads(line)["synced"]

    def ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def cpu_now_ms(self):
        return process_cpu_ns(self.process.pid) / 1e6

    def resident_mib(self):
        return resident_mib(self.process.pid)

    def peak_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
