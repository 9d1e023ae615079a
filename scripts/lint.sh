#!/bin/bash
# Layout, lint and types: scripts/lint.sh reports, scripts/lint.sh --fix rewrites what a tool can mend.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

sources() { git ls-files -co --exclude-standard -z -- 'cext/*.h' 'cext/*.cc'; }

if [[ ${1:-} == --fix ]]; then
  set -e
  sources | xargs -0 clang-format-14 -i
  ruff check --fix .
  ruff format .
  exit
fi

failed=0
check() {
  local name=$1
  shift
  if "$@"; then echo "lint: $name ok"; else echo "lint: $name FAILED"; failed=1; fi
}

check_clang_format() { sources | xargs -0 -r clang-format-14 --dry-run -Werror; }

check clang-format check_clang_format
check ruff ruff check .
check "ruff format" ruff format --check .
check "mypy blockd" mypy
check "mypy bench" mypy --strict bench
exit $failed
