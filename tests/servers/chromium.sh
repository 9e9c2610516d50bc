#!/usr/bin/env bash
# A browser for the tests of pages: Debian's, installed where we are root and none is there. It is not unpacked like the
# others, because it needs a hundred shared libraries.
set -euo pipefail
command -v chromium >/dev/null || command -v google-chrome >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "chromium is missing: install it (apt install chromium) to run the tests of pages" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >/dev/null ||
  echo "chromium could not be installed by apt: put it on PATH to run the tests of pages" >&2
