"""docs/protocol/attacks.md: every item has its row, and the tests that it names are there."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TABLE = (REPO / "docs" / "protocol" / "attacks.md").read_text()
ROWS = {
    cells[0].strip(): cells[-1] for cells in (line.split("|")[1:-1] for line in TABLE.splitlines() if line[:1] == "|")
}
ITEMS = [f"{kind}{n}" for kind, most in (("A", 21), ("B", 18), ("C", 8), ("D", 15)) for n in range(1, most + 1)]


def named(cell):
    for file, test in re.findall(r"`([^`:]+)::(\w+)`", cell):
        yield REPO / (file if "/" in file else f"tests/live/test_{file}.py"), test


def test_every_item_has_tests_that_are_there():
    for item in ITEMS:
        found = list(named(ROWS[item]))
        assert found != [], item
        for path, test in found:
            assert re.search(rf"\b{test}\(", path.read_text()), f"{item}: {path} has no {test}"


def test_no_test_of_an_item_is_left_out():
    listed = {(path.name, test) for item in ITEMS for path, test in named(ROWS[item])}
    live = (REPO / "tests" / "live").glob("test_*.py")
    found = {(p.name, test) for p in live for test in re.findall(r"(?m)^def (test_(?:[ABD]\d+|C)_\w+)", p.read_text())}
    assert found - listed == set()
