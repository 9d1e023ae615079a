#!/bin/bash
# Everything `make test` runs, one stage after the other; a stage that fails does not hide the next.
#
# Seeds: the release stage runs each property test's own number of seeds, the sanitizer stage a sample
# (sanitized code is some ten times slower). BLOCKD_SEEDS overrides both. The NBD fuzz harness is among
# the C++ tests, with mutated inputs of its own; libFuzzer drives it in `make fuzz`. The swarm's lives are
# new ones each time; one that fails says which it was.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

failed=0
summary=()

stage() {
  local name=$1 started=$SECONDS verdict=passed
  shift
  printf '\n== %s\n' "$name"
  "$@" || { verdict=FAILED; failed=1; }
  summary+=("$(printf '%-38s %-7s %4d s' "$name" "$verdict" $((SECONDS - started)))")
}

stage "C++ under ASan and UBSan" env BLOCKD_SEEDS="${BLOCKD_SEEDS:-20}" scripts/ctest.sh asan
fresh_seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
stage "C++ release: crash points, clusters" \
  env BLOCKD_SEED_FROM="${BLOCKD_SEED_FROM:-$fresh_seed}" scripts/ctest.sh release store nbd sim
# More at a time than processors: a cluster's tests mostly wait. A file's tests share its cluster.
stage "Python, clusters and guest" python -m pytest tests -m "not soak" -n 3 --dist loadfile \
  --durations=10

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
exit $failed
