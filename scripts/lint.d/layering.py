"""A folder of src/ includes only the folders that the may-use table allows it.

The table in ARCHITECTURE.md and the sh_module() lines of CMakeLists.txt must say the same, the
table must have no circle, no file may include itself through others, and once the project is
large no folder may hold more than a fifth of its code.
"""

import re
import sys
from collections import Counter

from project import bare_code, c_files, code_lines, read

SHARE_MAX = 0.20
SHARE_FROM_LINES = 15000
GENERATED = {"version.h"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.MULTILINE)
# | `src/loop` | what it is | base |      or      | `src/k8s` (coming) | ... | base, loop, http |
ROW = re.compile(r"^\| `src/(\w+)`( \(coming\))? \|[^|]*\|([^|]*)\|\s*$", re.MULTILINE)
MODULE = re.compile(r"^sh_module\((\w+)([^)]*)\)", re.MULTILINE)


def architecture_table():
    """folder -> set of folders it may use, and the folders that do not exist yet."""
    table, coming = {}, set()
    for name, planned, used in ROW.findall(read("ARCHITECTURE.md")):
        table[name] = set(re.findall(r"\w+", used.replace("nothing", "")))
        if planned:
            coming.add(name)
    return table, coming


def cmake_table():
    table = {}
    for name, rest in MODULE.findall(read("CMakeLists.txt")):
        table[name] = set(rest.split("LIBS")[0].split())
    return table


def compare_tables(table, coming, cmake):
    problems = []
    for name in sorted(set(table) | set(cmake)):
        if name not in table:
            problems.append(f"CMakeLists.txt has sh_module({name}), the table of ARCHITECTURE.md has no such row")
        elif name in coming:
            if name in cmake:
                problems.append(f"ARCHITECTURE.md calls src/{name} coming, CMakeLists.txt builds it")
        elif name not in cmake:
            problems.append(f"ARCHITECTURE.md has src/{name}, CMakeLists.txt has no sh_module({name})")
        elif table[name] - coming != cmake[name]:
            problems.append(
                f"src/{name}: ARCHITECTURE.md allows {sorted(table[name] - coming)}, "
                f"CMakeLists.txt links {sorted(cmake[name])}"
            )
    return problems


def find_circle(graph):
    """A list of nodes that leads back to its first, or None."""
    state, path = {}, []

    def visit(node):
        state[node] = "open"
        path.append(node)
        for following in sorted(graph.get(node, ())):
            if state.get(following) == "open":
                return path[path.index(following) :] + [following]
            if following not in state and (circle := visit(following)):
                return circle
        path.pop()
        state[node] = "done"
        return None

    for node in sorted(graph):
        if node not in state and (circle := visit(node)):
            return circle
    return None


def check_includes(files, table):
    problems, graph = [], {}
    known = {f.as_posix() for f in files}
    for path in files:
        folder = path.parts[1] if len(path.parts) > 2 else ""
        if folder not in table:
            problems.append(f"{path}: src/{folder} has no row in the table of ARCHITECTURE.md")
            continue
        text = bare_code(read(path), keep_strings=True)
        graph[path.as_posix()] = set()
        for target in INCLUDE.findall(text):
            if target in GENERATED:
                continue
            used = target.split("/")[0]
            if f"src/{target}" not in known:
                problems.append(f'{path}: includes "{target}", which is no file of src/ (write "folder/file.h")')
            elif used != folder and used not in table[folder]:
                problems.append(f"{path}: src/{folder} may not use src/{used}")
            graph[path.as_posix()].add(f"src/{target}")
    if circle := find_circle(graph):
        problems.append("files include each other in a circle: " + " -> ".join(circle))
    return problems


def check_shares(files):
    lines = Counter()
    for path in files:
        lines[path.parts[1]] += code_lines(read(path))
    total = sum(lines.values()) or 1
    problems = []
    if total > SHARE_FROM_LINES:
        problems = [
            f"src/{name} holds {count / total:.0%} of all code (at most {SHARE_MAX:.0%}): split it"
            for name, count in lines.items()
            if count > SHARE_MAX * total
        ]
    shares = ", ".join(f"{name} {count} ({count / total:.0%})" for name, count in lines.most_common())
    return problems, f"{total} lines of code: {shares}"


def main():
    table, coming = architecture_table()
    files = c_files("src")
    problems = compare_tables(table, coming, cmake_table())
    if circle := find_circle(table):
        problems.append("the may-use table has a circle: " + " -> ".join(circle))
    problems += check_includes(files, table)
    too_large, shares = check_shares(files)
    print(shares)
    for problem in problems + too_large:
        print(problem)
    return 1 if problems + too_large or not files else 0


if __name__ == "__main__":
    sys.exit(main())
