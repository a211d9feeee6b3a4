# shellcheck shell=bash
# Every Python file, with the rules of pyproject.toml.
set -euo pipefail
cd "${SHARDHERD_LINT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}"
ruff --version
ruff check --quiet --no-cache .
