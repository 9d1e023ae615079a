#!/bin/bash
# The long tests, about SOAK_SECONDS (600) for each part: seeds no run has tried, fuzzing, real clusters.
# Between them, once: the bugs that the simulator must find.
# First SOAK_CRASHES (100,000) crashes of a store, and a tenth as many stores that rot, and SOAK_HOURS (1,000) simulated
# hours of clusters under everything at once.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
seconds=${SOAK_SECONDS:-600}

fresh_seed() { od -An -N4 -tu4 /dev/urandom | tr -d ' '; }

# The command once for each processor: what is simulated has one thread.
on_each_processor() {
  local pids=() pid failed=0
  for _ in $(seq "$(nproc)"); do
    "$@" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return $failed
}

crash_stores() {
  local crashes=$((${SOAK_CRASHES:-100000} / $(nproc)))
  BLOCKD_SEED=$(fresh_seed) BLOCKD_CRASHES=$crashes BLOCKD_SEEDS=$((crashes / 10)) \
    build/release/test_store --source-file='*store_crash_test*,*store_rot_test*'
}

# Lives of whole clusters under everything at once.
swarm_clusters() {
  local hours=$((${SOAK_HOURS:-1000} / $(nproc) + 1))
  BLOCKD_SEED_FROM=$(fresh_seed) BLOCKD_HOURS=$hours \
    build/release/test_sim --test-case='a swarm of lives*'
}

cmake --preset release >/dev/null
cmake --build --preset release --target test_store test_sim
on_each_processor crash_stores
on_each_processor swarm_clusters

end=$((SECONDS + seconds))
export BLOCKD_SEED
while ((SECONDS < end)); do
  BLOCKD_SEED=$(fresh_seed)
  echo "soak: seeds from $BLOCKD_SEED"
  scripts/ctest.sh release store nbd sim
done
unset BLOCKD_SEED
scripts/mutants.py
scripts/model.py all --seconds "$seconds"
scripts/fuzz.sh "$seconds"
SOAK_SECONDS=$seconds python -m pytest tests -m soak --timeout $((seconds * 3 + 600))
python -m tests.faults.soak --seconds "$seconds" --seed "$(fresh_seed)"
