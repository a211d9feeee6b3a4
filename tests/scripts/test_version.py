"""cmake/Version.cmake: the commit in --version is that of the build, and nothing is rebuilt while it stays the same."""

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "cmake").mkdir()
    for name in ("Version.cmake", "version.h.in"):
        (tmp_path / "cmake" / name).write_text((REPO / "cmake" / name).read_text())
    (tmp_path / ".gitignore").write_text("build/\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    return tmp_path, git


def header(root, commit=""):
    out = root / "build" / "version.h"
    out.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["cmake", f"-DROOT={root}", f"-DOUTPUT={out}", "-DPROJECT_VERSION=1.2.3", f"-DCOMMIT={commit}"]
        + ["-P", root / "cmake" / "Version.cmake"],
        check=True,
        capture_output=True,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)},
    )
    return out


def test_a_new_commit_makes_a_new_header(tree):
    root, git = tree
    first = header(root).read_text()
    assert '"1.2.3"' in first and f'"{git("rev-parse", "--short=12", "HEAD").strip()}"' in first
    stamp = (root / "build" / "version.h").stat().st_mtime_ns
    assert header(root).read_text() == first and (root / "build" / "version.h").stat().st_mtime_ns == stamp
    (root / "file").write_text("x")
    git("add", ".")
    assert "-dirty" in header(root).read_text()
    git("commit", "-q", "-m", "two")
    second = header(root).read_text()
    assert second != first and f'"{git("rev-parse", "--short=12", "HEAD").strip()}"' in second


def test_outside_of_git(tree, tmp_path):
    root, _ = tree
    assert '"abc123"' in header(root, "abc123").read_text()
    subprocess.run(["rm", "-rf", root / ".git"], check=True)
    assert '"unknown"' in header(root).read_text()
