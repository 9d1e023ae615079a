#!/bin/bash
# Clones the committed tree to a temporary folder and runs a make target (default: test) there, as a
# newcomer would: what was forgotten in `git add` shows here.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-test}

folder=$(mktemp -d -t blockd-clone.XXXXXX)
trap 'rm -rf "$folder"' EXIT
git clone --quiet --no-hardlinks . "$folder/blockd"
make -C "$folder/blockd" "$target"
