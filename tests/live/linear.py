"""Histories of clients, and tests/linear, which says whether they are linearizable; built once from Go modules."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "linear"


def checker():
    """The program, out of the cache if it was built from the same sources; skips where there is no Go."""
    content = b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardherd"
    path = base / f"linear-{hashlib.sha256(content).hexdigest()[:16]}"
    if not path.exists():
        if shutil.which("go") is None:
            pytest.skip("histories are checked by a program in Go 1.21 or newer (package golang)")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        subprocess.run(["go", "build", "-ldflags", "-s -w", "-o", partial, "."], cwd=SOURCE, check=True)
        partial.rename(path)
    return path


class Verdict:
    """What the checker said: linearizable (or not), the keys that are not, and how many plain reads were what."""

    def __init__(self, done):
        self.text = done.stdout + done.stderr
        assert done.returncode in (0, 1), self.text
        self.linearizable = done.returncode == 0
        self.bad = re.findall(r"^key (\S+): NOT linearizable", done.stdout, re.M)
        counts = re.search(
            r"^(\d+) keys, (\d+) operations: (\d+) ok, (\d+) fail, (\d+) unknown\n"
            r"(\d+) plain: (\d+) stale, (\d+) lost$",
            done.stdout,
            re.M,
        )
        names = ("keys", "operations", "ok", "fail", "unknown", "plain", "stale", "lost")
        self.counts = dict(zip(names, map(int, counts.groups()), strict=True))
        assert self.linearizable != bool(self.bad), self.text


def judge(path, operations, *options):
    """Writes the history to path and has it checked."""
    with path.open("w") as file:
        for operation in operations:
            known = {name: value for name, value in operation.items() if name != "reign"}
            file.write(json.dumps(known) + "\n")
    return Verdict(subprocess.run([checker(), *options, path], capture_output=True, text=True))
