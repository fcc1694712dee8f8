#!/usr/bin/env bash
# Links that go down, delay, lose and part, 50 to 100 times each; `furrow train` over some that are cut, 10 times.
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
export FURROW_TEST_FULL=1 FURROW_BUILD_DIR="${FURROW_BUILD_DIR:-$PWD/build/release}"
python="${FURROW_PYTHON:-python3}"
"$python" tests/multiprocess/comm_network_test.py test_link_down  # 77 where there are no network namespaces
"$python" tests/multiprocess/comm_bad_network_test.py
"$python" tests/multiprocess/train_bad_network_test.py
