"""Words that no file may hold: marks of unfinished work, and names of the place it was written in."""

import re
import sys

from project import project_files, read

UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
# Paths of one machine, and hosts that only a package manager's own settings should name.
ELSEWHERE = re.compile(
    r"(?<![\w./])/wo" + r"rk/|(?<![\w./])/wo" + r"rk\b(?!/)|/tmp/br" + r"ief|\.\./sha" + r"red\b"
    r"|\b(?:pypi\.org|files\.pythonhosted\.org|registry\.npmjs\.org|deb\.debian\.org|archive\.ubuntu\.com"
    r"|proxy\.golang\.org|crates\.io)\b"
)
HERE = "scripts/lint.d/words.py"


def main():
    problems, count = [], 0
    for path in project_files():
        if path.as_posix() == HERE or "corpus" in path.parts:
            continue
        try:
            text = read(path)
        except UnicodeDecodeError:
            continue
        count += 1
        for number, line in enumerate(text.splitlines(), 1):
            if match := UNFINISHED.search(line):
                problems.append(f"{path}:{number}: '{match.group()}': finish it or open an issue")
            if match := ELSEWHERE.search(line):
                problems.append(f"{path}:{number}: '{match.group()}' does not belong into the project")
    print(f"{count} files")
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
