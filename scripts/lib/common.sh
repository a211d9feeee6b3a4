# shellcheck shell=bash
# Sourced by every script: where the project is, and how we talk.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
BUILD="$ROOT/build"
export ROOT BUILD

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

# Prints the comment block at the top of the calling script, without the '#!' line, as its help.
usage() { sed -n '2,/^[^#]/{ /^#/!d; s/^# \{0,1\}//p }' "$0"; }

# The Python of the test environment, else the machine's.
python_path() {
    if [ -x "$BUILD/venv/bin/python3" ]; then
        echo "$BUILD/venv/bin/python3"
    else
        command -v python3 || die "python3 not found: run scripts/install-deps"
    fi
}

# Programs that install-deps unpacked rather than installed (promtool) and the venv's come first.
PATH="$BUILD/tools/usr/bin:$BUILD/venv/bin:$BUILD/npm/node_modules/.bin:$PATH"
export PATH
