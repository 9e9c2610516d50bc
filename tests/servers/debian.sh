#!/usr/bin/env bash
# Puts servers that tests need into .venv/bin where PATH has none and Debian's apt can fetch them: debian.sh PACKAGE PROGRAM...
# Changes nothing of the system: the package is downloaded with lists of its own and unpacked, never installed, so no
# service starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
package=$1
programs=("${@:2}")
missing() {
  echo "$package is missing: put ${programs[*]} on PATH to run the tests ($1)" >&2
  exit 0
}
for program in "${programs[@]}"; do
  command -v "$program" >/dev/null || [ -x ".venv/bin/$program" ] || absent=1
done
[ "${absent:-}" ] || exit 0
command -v apt-get >/dev/null || missing "this machine has no apt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
touch "$work/state/status"
apt=(apt-get -qq -o "Dir::State=$work/state" -o "Dir::State::status=$work/state/status" -o "Dir::Cache=$work/cache"
  -o APT::Sandbox::User=)
cd "$work"
"${apt[@]}" update && "${apt[@]}" download "$package" || missing "apt could not fetch it"
dpkg -x "$package"_*.deb unpacked
cd "$OLDPWD"
for program in "${programs[@]}"; do
  install -m 755 "$work/unpacked/usr/bin/$program" ".venv/bin/$program"
done
