"""What the checks share: the files of the project and C source without comments and strings."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(os.environ.get("SHARDHERD_LINT_ROOT", Path(__file__).resolve().parents[2]))


def project_files(*suffixes):
    """Every file git tracks or would track, relative to ROOT, sorted."""
    out = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
    ).stdout.decode()
    names = sorted({name for name in out.split("\0") if name})
    return [Path(n) for n in names if (not suffixes or n.endswith(suffixes)) and (ROOT / n).is_file()]


def c_files(*folders):
    return [f for f in project_files(".c", ".h") if f.parts[0] in folders]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


TOKEN = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'',
    re.DOTALL,
)


def bare_code(text, keep_strings=False):
    """C text with comments (and strings) blanked out; line numbers stay as they were."""

    def blank(match):
        token = match.group()
        if token[0] in "\"'":
            return token if keep_strings else token[0] + token[-1]
        return re.sub(r"[^\n]", " ", token)

    return TOKEN.sub(blank, text)


def code_lines(text):
    """Lines that hold more than a comment."""
    return sum(1 for line in bare_code(text).splitlines() if line.strip())
