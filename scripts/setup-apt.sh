#!/bin/bash
# Installs the Debian packages of apt-packages.txt that are missing; with all there it only looks.
#
# As root it installs; as another user it names what is missing and the line to run. Package lists are
# refreshed only when they do not know a package, or when what they name is no longer to be had.
set -euo pipefail
cd "$(dirname "$0")"

wanted() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' apt-packages.txt; }

missing() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | sed -n 's/^ii  *//p')
  wanted | grep -vxF -f <(echo "$installed") || true
}

lists_know() {
  local package
  for package in "$@"; do
    apt-cache show --no-all-versions "$package" >/dev/null 2>&1 || return 1
  done
}

# The packages bring services (etcd) that would start at once; blockd runs its own processes.
install() {
  local policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap "rm -f $policy" RETURN
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

if ! command -v dpkg-query >/dev/null; then
  echo "setup-apt: this is not a Debian system; blockd is built and tested on Debian 12. It needs:" >&2
  wanted | tr '\n' ' ' >&2
  exit 1
fi

mapfile -t packages < <(missing)
((${#packages[@]})) || exit 0

if ((EUID != 0)); then
  echo "setup-apt: ${#packages[@]} Debian packages are missing and only root can install them:" >&2
  echo "  apt-get install --no-install-recommends ${packages[*]}" >&2
  exit 1
fi

echo "setup-apt: installing ${packages[*]}"
lists_know "${packages[@]}" || apt-get update -q
if ! install "${packages[@]}"; then
  apt-get update -q
  install "${packages[@]}"
fi
if [[ " ${packages[*]} " == *" etcd-server "* ]] && [[ -d /run/systemd/system ]]; then
  systemctl disable --quiet etcd.service || true
fi
