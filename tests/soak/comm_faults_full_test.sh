#!/usr/bin/env bash
# Every fault 100 times, of ranks that run comm alone: three of them, and eight.
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
export FURROW_TEST_FULL=1 FURROW_BUILD_DIR="${FURROW_BUILD_DIR:-$PWD/build/release}"
for ranks in 3 8; do
  FURROW_TEST_RANKS=$ranks "$FURROW_BUILD_DIR/test_bin/comm_faults_test" --gtest_brief=1
done
