# shellcheck shell=bash
# clang-format would change nothing. Versions differ in details, so the one pinned here decides.
set -euo pipefail
cd "${SHARDHERD_LINT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}"
mapfile -t files < <(git ls-files --cached --others --exclude-standard -- 'src/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]')
[ ${#files[@]} -gt 0 ] || { echo "no C file found"; exit 1; }
echo "${#files[@]} files, $(clang-format --version)"
printf '%s\n' "${files[@]}" | xargs -n 20 -P "$(nproc)" clang-format --dry-run -Werror
