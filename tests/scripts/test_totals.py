"""How scripts/test counts: a stage that failed is never counted as none."""

import subprocess
import sys
from pathlib import Path

import pytest

TOTALS = Path(__file__).resolve().parents[2] / "scripts/lib/totals.py"
CTEST = '<testsuite name="x" tests="5" failures="1" disabled="1" skipped="1"/>'
PYTEST = '<testsuites><testsuite tests="4" failures="1" errors="1" skipped="1"/></testsuites>'


@pytest.mark.parametrize(
    ("status", "junit", "log", "expected"),
    [
        (1, CTEST, "", "2 1 2"),
        (1, PYTEST, "", "1 2 1"),
        (0, '<testsuite tests="3"/>', "", "3 0 0"),
        (2, '<testsuite tests="3"/>', "", "3 1 0"),
        (124, None, "half a log\n", "0 1 0"),
        (1, "<testsuite", "", "0 1 0"),
        (0, None, "built\n", "1 0 0"),
        (0, None, "x\n7 passed, 0 failed, 2 skipped\n", "7 0 2"),
        (1, None, "7 passed, 0 failed, 2 skipped\n", "7 1 2"),
        (0, None, "7 passed, 0 failed, 2 skipped\nmore\n", "1 0 0"),
    ],
)
def test_counts(tmp_path, status, junit, log, expected):
    if junit is not None:
        (tmp_path / "r.xml").write_text(junit)
    (tmp_path / "log").write_text(log)
    done = subprocess.run(
        [sys.executable, str(TOTALS), str(status), str(tmp_path / "r.xml"), str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
