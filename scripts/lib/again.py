"""again.py RESULTS.xml [LIMIT]: which tests of a stage failed, one per line, if they may be run once more alone.

A test that fails beside others and passes alone is unstable, not wrong: scripts/test says so and goes on. That
is never asked of what speaks of data or memory: a lost, duplicated, misplaced or resurrected write, two primaries,
a sanitizer's report, a simulation, a cell of the crash matrix. Nor if more than LIMIT (3) failed: then it is not
chance. Exit 1 and a sentence on standard error: no test may be run again.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

NEVER_NAMED = re.compile(r"^sim/|model|crash|faults|attacks|matrix|powercut")
NEVER_SAYS = re.compile(
    r"\b(lost|resurrected|duplicated|misplaced|acknowledged|two primaries|both acknowledge)\b"
    r"|Sanitizer|runtime error:|[Aa]ssertion .* failed|SIGSEGV|SEGFAULT|core dumped"
)


def node_of(case):
    """pytest's node id from a test case, or the name of a test of ctest."""
    parts = case.get("classname", "").split(".")
    for n in range(len(parts), 0, -1):
        path = Path(*parts[:n]).with_suffix(".py")
        if path.exists():
            return "::".join([str(path), *parts[n:], case.get("name")])
    return case.get("name")


def words_of(case, fault):
    """What the test itself says: not what its servers logged meanwhile."""
    text = fault.text or ""
    said = [line for line in text.splitlines() if line.startswith("E  ")]
    return "\n".join([fault.get("message") or "", *said, case.findtext("system-out") or ""])


def failed(path):
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        fault = case.find("failure")
        fault = case.find("error") if fault is None else fault
        if fault is not None:
            yield node_of(case), words_of(case, fault)


def main():
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found = list(failed(sys.argv[1]))
    for node, words in found:
        said = NEVER_SAYS.search(words)
        if said or NEVER_NAMED.search(node):
            sys.exit(f"{node} is not run again: {said.group() if said else 'its kind'} is never taken for chance")
    if not 0 < len(found) <= limit:
        sys.exit(f"{len(found)} tests failed: none is run again")
    print("\n".join(node for node, _ in found))


if __name__ == "__main__":
    main()
