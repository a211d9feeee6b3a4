"""totals.py STATUS RESULTS.xml LOG: prints "passed failed skipped" of one stage of scripts/test.

From the JUnit file if the stage wrote one, else from a last line "N passed, N failed, N skipped"
in its log, else the stage counts as one test. A stage that failed never counts less than one failure.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LINE = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")


def from_junit(path):
    root = ElementTree.parse(path).getroot()
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")

    def total(*names):
        return sum(int(suite.get(name) or 0) for suite in suites for name in names)

    failed, skipped = total("failures", "errors"), total("skipped", "disabled")
    return total("tests") - failed - skipped, failed, skipped


def from_log(path):
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    match = LINE.match(lines[-1]) if lines else None
    return tuple(map(int, match.groups())) if match else None


def main():
    status, junit, log = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    counts = None
    if junit.exists():
        try:
            counts = from_junit(junit)
        except ElementTree.ParseError:
            counts = (0, 1, 0)
    counts = counts or from_log(log) or ((1, 0, 0) if status == 0 else (0, 1, 0))
    if status != 0 and counts[1] == 0:
        counts = (counts[0], 1, counts[2])
    print(*counts)


if __name__ == "__main__":
    main()
