#!/usr/bin/env bash
# Collectives: the whole product of ranks, transports, sizes, types, operations and algorithms against the reference, and
# every fault 100 times (most of an hour).
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
export FURROW_TEST_FULL=1
build/release/test_bin/comm_test --gtest_filter='*Conformance*' --gtest_brief=1
export FURROW_BUILD_DIR="${FURROW_BUILD_DIR:-$PWD/build/release}"
python3 tests/multiprocess/comm_network_test.py test_link_down || [ $? -eq 77 ]  # no network namespaces here
exec build/release/test_bin/comm_faults_test --gtest_brief=1
