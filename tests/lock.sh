#!/usr/bin/env bash
# Chooses the versions in constraints.txt anew: for every platform and Python we support, torch by hand.
# torch is locked to the version whose CPU build the tests run on; without the pin the newest CUDA build comes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/uv"
"$work/uv/bin/pip" install -qq uv
echo 'torch==2.13.0' >"$work/pins.txt"
{
  echo '# Versions of everything we build on, made by `make lock`. torch is the public version: pip takes its CPU'
  echo '# build where a wheel folder offers one, and the CUDA build elsewhere.'
  "$work/uv/bin/uv" pip compile --quiet --no-header --no-annotate --universal --python-version 3.11 \
    --all-extras --constraint "$work/pins.txt" pyproject.toml
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
