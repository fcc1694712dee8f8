#!/usr/bin/env bash
# Every fault 100 times, of `furrow train` on three ranks: killed, stopped, thrown, another configuration or build.
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
export FURROW_TEST_FULL=1 FURROW_BUILD_DIR="${FURROW_BUILD_DIR:-$PWD/build/release}"
exec "$FURROW_BUILD_DIR/test_bin/faults_test" --gtest_brief=1 --gtest_filter='-*LayoutFaults*:*KilledAt*'
