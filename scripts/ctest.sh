#!/bin/bash
# Builds one CMake preset and runs its C++ tests: scripts/ctest.sh PRESET [ROOM...], all rooms without.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift

export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-second_deadlock_stack=1}

cmake --preset "$preset" >"/tmp/blockd-cmake.$$" 2>&1 || { cat "/tmp/blockd-cmake.$$"; exit 1; }
rm -f "/tmp/blockd-cmake.$$"
targets=("${@/#/test_}")
cmake --build --preset "$preset" ${targets:+--target "${targets[@]}"}
rooms=$(IFS='|'; echo "$*")
ctest --preset "$preset" --parallel "$(nproc)" --timeout "${CTEST_TIMEOUT:-600}" \
  --no-tests=error --tests-regex "^(${rooms:-.*})\$"
