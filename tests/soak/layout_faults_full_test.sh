#!/usr/bin/env bash
# Ranks of `furrow train` killed and stopped 100 times each in other layouts, and killed at every place of a run.
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
export FURROW_TEST_FULL=1 FURROW_BUILD_DIR="${FURROW_BUILD_DIR:-$PWD/build/release}"
exec "$FURROW_BUILD_DIR/test_bin/faults_test" --gtest_brief=1 --gtest_filter='*LayoutFaults*:*KilledAt*'
