#!/bin/bash
# The long tests, about SOAK_SECONDS (600) for each part: seeds no run has tried, fuzzing, real clusters.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
seconds=${SOAK_SECONDS:-600}

end=$((SECONDS + seconds))
export BLOCKD_SEED
while ((SECONDS < end)); do
  BLOCKD_SEED=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
  echo "soak: seeds from $BLOCKD_SEED"
  scripts/ctest.sh release store nbd sim
done
unset BLOCKD_SEED
scripts/fuzz.sh "$seconds"
SOAK_SECONDS=$seconds python -m pytest tests -m soak --timeout $((seconds * 3 + 600))
