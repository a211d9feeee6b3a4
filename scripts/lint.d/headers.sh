# shellcheck shell=bash
# Each header compiles alone: it includes what it uses.
set -euo pipefail
cd "${SHARDHERD_LINT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}"

compile() {
    local flags=(-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Isrc -Itests/unit)
    flags+=(-isystem build/deps/usr/include -isystem /usr/include/postgresql)
    printf '#include "%s"\n#include "%s"\ntypedef int not_empty;\n' "$1" "$1" |
        "${CC:-gcc}" "${flags[@]}" -fsyntax-only -x c - 2>&1 || { echo "src/$1 does not compile alone"; return 1; }
}
export -f compile

mapfile -t headers < <(cd src && find . -name '*.h' | sed 's|^\./||' | sort)
[ ${#headers[@]} -gt 0 ] || { echo "no header found"; exit 1; }
echo "${#headers[@]} headers"
printf '%s\n' "${headers[@]}" | xargs -P "$(nproc)" -I '{}' bash -c 'compile {}'
