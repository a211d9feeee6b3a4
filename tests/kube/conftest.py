"""Fixtures of the tests against a real API server."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import ControlPlane

ROOT = Path(__file__).parents[2]


def build_dir():
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


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    """An API server for tests that leave it running and as it was."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def own_plane(tmp_path):
    """An API server for one test that kills or changes it."""
    with ControlPlane(tmp_path / "plane") as plane:
        yield plane


class Watcher:
    """watch_tool on one kind; `lines` grows as it prints."""

    def __init__(self, kubeconfig, path, *more, log):
        self.log = log
        self.out = log.open("wb")
        self.process = subprocess.Popen(
            [build_dir() / "tests" / "watch_tool", str(kubeconfig), "watch", path, *more],
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
        import json

        self.process.terminate()
        assert self.process.wait(timeout=10) == 0, self.log.read_text()
        self.out.close()
        return json.loads(self.lines()[-1])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def watch(tmp_path):
    """watch(kubeconfig, path, ...) starts a Watcher; all end with the test."""
    started = []

    def start(kubeconfig, path, *more):
        started.append(Watcher(kubeconfig, path, *more, log=tmp_path / f"watch{len(started)}.log"))
        return started[-1]

    yield start
    for watcher in started:
        watcher.kill()


@pytest.fixture
def call():
    """call(kubeconfig, method, path, body) through the client; returns the finished process."""

    def run(kubeconfig, method, path, *body, timeout=60):
        return subprocess.run(
            [build_dir() / "tests" / "watch_tool", str(kubeconfig), method, path, *body],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
