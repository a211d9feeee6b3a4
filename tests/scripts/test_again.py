"""Which failed tests scripts/test may run once more: never one that speaks of data or of memory."""

import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

REPO = Path(__file__).resolve().parents[2]


def ask(tmp_path, *cases):
    """Each case: (classname, name, message or None, text); pytest writes the text into the failure, ctest beside it."""
    body = ""
    for classname, name, message, text in cases:
        inside, beside = (text, "") if "." in classname else ("", f"<system-out>{escape(text)}</system-out>")
        fault = "" if message is None else f"<failure message={quoteattr(message)}>{escape(inside)}</failure>{beside}"
        body += f"<testcase classname={quoteattr(classname)} name={quoteattr(name)}>{fault}</testcase>"
    (tmp_path / "r.xml").write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    return subprocess.run(
        [sys.executable, "scripts/lib/again.py", str(tmp_path / "r.xml")], cwd=REPO, capture_output=True, text=True
    )


API = "tests.live.test_api"


def test_what_passed_is_not_named_and_what_failed_is_pytests_node(tmp_path):
    late = "TimeoutError: nothing within 30 s"
    done = ask(tmp_path, (API, "test_a", None, ""), (API, "test_b[x/1]", late, f"E   {late}"))
    assert (done.returncode, done.stdout) == (0, "tests/live/test_api.py::test_b[x/1]\n")
    done = ask(tmp_path, (API + ".TestGroup", "test_c", late, ""), ("unit/loop/test_dns", "unit/loop/test_dns", "", ""))
    assert done.stdout.split() == ["tests/live/test_api.py::TestGroup::test_c", "unit/loop/test_dns"]


@pytest.mark.parametrize(
    ("classname", "name", "message", "text"),
    [
        (API, "test_a", "assert 1 == 0", "x\nE   assert 1 == 0\nE    +  where 1 = Ledger().lost"),
        (API, "test_a", "AssertionError: 3 rows are misplaced", ""),
        ("u", "unit/loop/test_dns", "", "SUMMARY: AddressSanitizer: heap-use-after-free"),
        ("s", "sim/failover", "", "seed 7"),
        ("tests.live.test_move_crash", "test_a", "late", ""),
        ("tests.live.test_attacks", "test_a", "late", ""),
    ],
)
def test_data_and_memory_get_no_second_run(tmp_path, classname, name, message, text):
    done = ask(tmp_path, (classname, name, message, text))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is never taken for chance" in done.stderr


def test_what_the_servers_logged_does_not_count_nor_do_many_failures(tmp_path):
    logged = "LOG: connection to client lost\nE   TimeoutError: late"
    assert ask(tmp_path, (API, "test_a", "late", logged)).returncode == 0
    done = ask(tmp_path, *[(API, f"test_{i}", "late", "") for i in range(4)])
    assert done.returncode == 1 and "4 tests failed" in done.stderr
