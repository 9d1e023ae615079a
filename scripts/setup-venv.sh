#!/bin/bash
# Makes the virtual environment in $1 (default .venv) with everything pyproject.toml lists: what the
# build needs, what blockd imports, and the extras `test` and `dev`. blockd itself is installed by
# `make build`, without build isolation, so that one environment serves both.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

[[ -x $venv/bin/python ]] || /usr/bin/python3 -m venv "$venv"

requirements() {
  "$venv/bin/python" - <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    tree = tomllib.load(file)
project = tree["project"]
extras = project["optional-dependencies"]
for line in sorted({*tree["build-system"]["requires"], *project["dependencies"], *extras["test"], *extras["dev"]}):
    print(line)
PYTHON
}

"$venv/bin/pip" install --quiet --disable-pip-version-check -r <(requirements)

# Debian's libnbd module is not on PyPI: lend it, and nothing else of the system's, to the environment.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
for file in /usr/lib/python3/dist-packages/{nbd.py,nbdsh.py,libnbdmod.*.so}; do
  if [[ -e $file ]]; then ln -sf "$file" "$site/"; fi
done
