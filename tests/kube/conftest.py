"""Fixtures of the tests against a real API server."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import ControlPlane
from kube import Watcher, build_folder


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    """An API server for tests that leave it running and as it was."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def own_module_plane(tmp_path_factory):
    """An API server for one file of tests that leaves objects in it."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def own_plane(tmp_path):
    """An API server for one test that kills or changes it."""
    with ControlPlane(tmp_path / "plane") as plane:
        yield plane


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
            [build_folder() / "tests" / "watch_tool", str(kubeconfig), method, path, *body],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
