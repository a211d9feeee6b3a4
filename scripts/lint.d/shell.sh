# shellcheck shell=bash
# Every shell script, found by its name or its first line.
set -euo pipefail
cd "${SHARDHERD_LINT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}"
scripts=()
while IFS= read -r file; do
    case "$file" in
    *.sh) scripts+=("$file") ;;
    *.*) ;;
    *) if head -c 64 "$file" | head -n 1 | grep -aqE '^#!.*\b(ba)?sh\b'; then scripts+=("$file"); fi ;;
    esac
done < <(git ls-files --cached --others --exclude-standard -- scripts .ci bench tests config deploy docs)
[ ${#scripts[@]} -gt 0 ] || { echo "no script found"; exit 1; }
echo "${#scripts[@]} scripts"
shellcheck --external-sources --shell=bash "${scripts[@]}"
