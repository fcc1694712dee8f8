#!/usr/bin/env bash
# Every number of ranks x layout x number of microbatches, twenty steps: the bits of one process (minutes).
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
FURROW_TEST_FULL=1 exec build/release/test_bin/train_test --gtest_filter='*Bits.EqualOneProcessInEveryLayout*'
