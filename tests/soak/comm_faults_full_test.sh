#!/usr/bin/env bash
# Every fault 100 times: of ranks that run comm alone, and of `furrow train`.
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
export FURROW_TEST_FULL=1 FURROW_BUILD_DIR="${FURROW_BUILD_DIR:-$PWD/build/release}"
"$FURROW_BUILD_DIR/test_bin/comm_faults_test" --gtest_brief=1
"$FURROW_BUILD_DIR/test_bin/faults_test" --gtest_brief=1
