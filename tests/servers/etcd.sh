#!/usr/bin/env bash
# Puts etcd into .venv/bin where PATH has none and Debian's apt can fetch it. Changes nothing of the system:
# the package is downloaded with lists of its own and unpacked, never installed, so no service starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v etcd >/dev/null || [ -x .venv/bin/etcd ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "etcd is missing and this machine has no apt: put etcd 3.4 or newer on PATH to run the tests" >&2
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
touch "$work/state/status"
apt=(apt-get -qq -o "Dir::State=$work/state" -o "Dir::State::status=$work/state/status" -o "Dir::Cache=$work/cache"
  -o APT::Sandbox::User=)
cd "$work"
"${apt[@]}" update && "${apt[@]}" download etcd-server || {
  echo "etcd could not be fetched by apt: put etcd 3.4 or newer on PATH to run the tests" >&2
  exit 0
}
dpkg -x etcd-server_*.deb unpacked
cd "$OLDPWD"
install -m 755 "$work/unpacked/usr/bin/etcd" .venv/bin/etcd
