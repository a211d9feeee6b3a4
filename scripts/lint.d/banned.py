"""Functions that no file of src/ calls, and why. base/env.c is the door for time and chance.

An exception is a line "path function reason" in banned.allow, and each must still be needed.
"""

import re
import sys

from project import ROOT, bare_code, c_files, read

ENV = "time, chance and the environment come through base/env.h"
BLOCKS = "blocks the loop"
BOUND = "has no bound: use base/buf.h or snprintf"
BANNED = {
    "uv_now": "use loop_now() of loop/loop.h",
    **dict.fromkeys(
        "time clock_gettime gettimeofday clock rand rand_r srand random srandom drand48 getenv secure_getenv".split(),
        ENV,
    ),
    **dict.fromkeys("sleep usleep nanosleep system popen wait waitpid getaddrinfo gethostbyname".split(), BLOCKS),
    **dict.fromkeys("sprintf vsprintf strcpy strcat gets strtok".split(), BOUND),
    **dict.fromkeys(
        "PQexec PQexecParams PQexecPrepared PQprepare PQconnectdb PQconnectdbParams PQsetdbLogin PQreset "
        "PQcancel PQping PQfn PQgetlineAsync".split(),
        BLOCKS + ": use src/pg",
    ),
}
DOOR = {"src/base/env.c": ENV}
# A call, not a member (env->random(...)) and not part of a longer name.
CALL = re.compile(r"(?<![\w.>])(" + "|".join(map(re.escape, BANNED)) + r")\s*\(")


def allowed():
    """(path, function) -> reason"""
    entries = {}
    listing = ROOT / "scripts/lint.d/banned.allow"
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                path, function, reason = line.split(None, 2)
                entries[(path, function)] = reason
    return entries


def main():
    exceptions = allowed()
    unused = set(exceptions)
    problems = []
    for path in c_files("src"):
        name = path.as_posix()
        for number, line in enumerate(bare_code(read(path)).splitlines(), 1):
            for function in CALL.findall(line):
                if BANNED[function] == DOOR.get(name):
                    continue
                if (name, function) in exceptions:
                    unused.discard((name, function))
                    continue
                problems.append(f"{name}:{number}: {function}(): {BANNED[function]}")
    problems += [f"banned.allow: {path} no longer calls {function}()" for path, function in sorted(unused)]
    print(f"{len(BANNED)} functions, {len(exceptions)} exceptions")
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
