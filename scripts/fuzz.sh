#!/bin/bash
# Builds the libFuzzer targets and runs each for a while: scripts/fuzz.sh SECONDS.
#
# A target NAME of cext/fuzz/ROOM/ starts from the seeds in cext/fuzz/ROOM/corpus/NAME (if any) and what
# earlier runs found, kept in build/fuzz/corpus. A crash leaves its input in build/fuzz/crashes.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1

sources=(cext/fuzz/*/*_fuzz.cc)
mapfile -t targets < <(basename -s .cc "${sources[@]}")
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]}"
mkdir -p build/fuzz/crashes
for source in "${sources[@]}"; do
  name=$(basename "$source" .cc)
  found=build/fuzz/corpus/$name
  mkdir -p "$found"
  seeds=()
  for folder in "$(dirname "$source")/corpus/$name" "$(dirname "$source")/corpus"; do
    [[ -d $folder ]] && seeds=("$folder") && break
  done
  echo "fuzz: $name for $seconds s"
  "build/fuzz/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/crashes/$name-" "$found" "${seeds[@]}" 2>"build/fuzz/$name.log" ||
    { tail -60 "build/fuzz/$name.log"; echo "fuzz: $name FAILED"; exit 1; }
  grep -E 'number_of_executed_units|average_exec_per_sec' "build/fuzz/$name.log"
done
