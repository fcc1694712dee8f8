#!/usr/bin/env bash
# Every one-line break in tests/mutants/*.patch is caught by the test that it names.
set -euo pipefail
exec python3 "$FURROW_SOURCE_DIR/tools/run_mutants.py"
