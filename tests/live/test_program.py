"""What the built program itself is: nothing that blocks is linked, and it can be built again alike."""

import re
import shutil
import subprocess

import pytest
from conftest import REPO

pytestmark = pytest.mark.beside

BLOCKING = (
    "PQexec PQexecParams PQexecPrepared PQprepare PQconnectdb PQconnectdbParams PQsetdbLogin PQreset PQcancel PQping "
    "getaddrinfo gethostbyname sleep usleep nanosleep system popen waitpid sprintf strcpy strcat rand random time"
).split()


def test_P6_nothing_that_blocks_is_linked(shardherd):
    """The sources are searched by scripts/lint; this sees what macros, inlining and helpers make of them."""
    if shutil.which("nm") is None:
        pytest.skip("no nm (binutils)")
    out = subprocess.run(["nm", "-D", "--undefined-only", shardherd], capture_output=True, text=True, check=True).stdout
    linked = set(re.findall(r" U (\w+)", out))
    assert "PQconnectStartParams" in linked, "libpq is not linked dynamically: this test sees nothing"
    if "__asan_init" not in linked:  # a sanitizer brings functions of its own
        assert not linked & set(BLOCKING)
    else:
        assert not {name for name in linked & set(BLOCKING) if name.startswith("PQ")}


def test_no_path_of_the_builder_inside(shardherd):
    """But where the libraries below build/ are, which the loader must know."""
    if shutil.which("readelf") is None:
        pytest.skip("no readelf (binutils)")
    if b"__asan_init" in shardherd.read_bytes():
        pytest.skip("a sanitizer's build names its sources")
    loader = subprocess.run(["readelf", "-d", shardherd], capture_output=True, text=True, check=True).stdout
    assert shardherd.read_bytes().count(str(REPO).encode()) <= loader.count(str(REPO))


def test_the_commit_is_one_of_ours(shardherd):
    line = subprocess.run([shardherd, "--version"], capture_output=True, text=True, check=True).stdout
    commit = re.fullmatch(r"shardherd \S+ \((\w+)(-dirty)?\)\n", line)[1]
    if commit == "unknown" or shutil.which("git") is None or not (REPO / ".git").exists():
        pytest.skip("not built from a git repository")
    done = subprocess.run(["git", "-C", REPO, "merge-base", "--is-ancestor", commit, "HEAD"], capture_output=True)
    assert done.returncode == 0, line
