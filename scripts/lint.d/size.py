"""Functions of at most 60 lines and files of at most 800; prints the figures either way.

The code is formatted, so a function's body is what stands between a "{" and a "}" in column one.
"""

import re
import statistics
import sys

from project import c_files, project_files, read

FUNCTION_MAX = 60
FILE_MAX = 800
NAME = re.compile(r"(\w+)\(")


def functions(text):
    """Yields (name, line of the brace, lines of the body)."""
    start, name = None, "?"
    for number, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = number
        elif line.startswith("}") and start is not None:
            yield name, start, number - start - 1
            start = None
        elif start is None and line[:1].isalpha() and (match := NAME.search(line)):
            name = match.group(1)


def main():
    problems, lengths = [], []
    for path in c_files("src", "tests", "bench"):
        for name, line, length in functions(read(path)):
            if path.parts[0] == "src":
                lengths.append(length)
            if length > FUNCTION_MAX:
                problems.append(f"{path}:{line}: {name}() has {length} lines, at most {FUNCTION_MAX}")
    sizes = {path: read(path).count("\n") for path in project_files(".c", ".h", ".py", ".sh")}
    problems += [f"{p}: {n} lines, at most {FILE_MAX}" for p, n in sizes.items() if n > FILE_MAX]
    if not lengths:
        print("no function found")
        return 1
    lengths.sort()
    print(
        f"{len(lengths)} functions in src: median {statistics.median(lengths):g} lines, "
        f"p90 {lengths[int(len(lengths) * 0.9)]}, longest {lengths[-1]}; "
        f"longest file {max(sizes.values())} lines"
    )
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
