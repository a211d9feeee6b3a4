"""What the tests against a real API server share."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the test cluster makes namespaces and mounts: needs root")


def build_folder():
    return Path(os.environ.get("SHARDHERD_BUILD") or ROOT / "build" / "release")


def wait_until(condition, timeout=20.0, what="condition", interval=0.02):
    """Calls condition until it returns something true and returns that; fails after timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            pytest.fail(f"{what}: not true within {timeout} s")
        time.sleep(interval)


class Watcher:
    """watch_tool on one kind; `lines` grows as it prints."""

    def __init__(self, kubeconfig, path, *more, log):
        self.log = log
        self.out = log.open("wb")
        self.process = subprocess.Popen(
            [build_folder() / "tests" / "watch_tool", str(kubeconfig), "watch", path, *more],
            stdout=self.out,
            stderr=subprocess.STDOUT,
        )

    def lines(self):
        return self.log.read_text().splitlines()

    def has(self, start):
        return any(line.startswith(start) for line in self.lines())

    def wait(self, start, timeout=20.0):
        wait_until(lambda: self.has(start), timeout, f"line {start!r} of the watch")

    def end(self):
        """Ends it orderly and returns its report."""
        self.process.terminate()
        assert self.process.wait(timeout=10) == 0, self.log.read_text()
        self.out.close()
        return json.loads(self.lines()[-1])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
