#!/usr/bin/env bash
# Puts prometheus and promtool into .venv/bin where PATH has none and Debian's apt can fetch them. Changes nothing of
# the system: the package is downloaded with lists of its own and unpacked, never installed, so no service starts.
