#!/bin/bash
# Builds blockd as it was at REVISION into FOLDER, beside the sources: `python -m blockd.cli.blockd` there, with
# this checkout's virtual environment, is the older release.
#   scripts/build_older.sh REVISION FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
revision=$1 folder=$2
python=$PWD/.venv/bin/python

git archive "$revision" | tar -x -C "$folder"
cd "$folder"
env -u BLOCKD_BUILD_DIR PATH="$(dirname "$python"):$PATH" "$python" setup.py --quiet build_ext --inplace
