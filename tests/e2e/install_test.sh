#!/usr/bin/env bash
# cmake --install, then find_package(furrow) from two programs outside the tree: one without libtorch, and
# examples/custom-block, which adds a block of its own and must learn.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CMAKE_GENERATOR=Ninja
fail() { echo "install_test: $*" >&2; exit 1; }

cmake --install "$FURROW_BUILD_DIR" --prefix "$work/prefix" >"$work/install.log"
[ "$("$work/prefix/bin/furrow" --version | head -n 1)" = "$("$FURROW_BIN" --version | head -n 1)" ] ||
  fail "the installed binary differs from the built one"

mkdir "$work/plain"
cat >"$work/plain/CMakeLists.txt" <<'TEXT'
cmake_minimum_required(VERSION 3.25)
project(plain LANGUAGES CXX)
find_package(furrow 0.1 REQUIRED)
add_executable(plain main.cc)
target_link_libraries(plain PRIVATE furrow::furrow)
TEXT
cat >"$work/plain/main.cc" <<'TEXT'
#include <cstdio>
#include <fstream>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/version.h"

int main() {
  std::string line;
  for (std::ifstream maps("/proc/self/maps"); std::getline(maps, line);) {
    if (line.find("libtorch") != std::string::npos) return 1;
  }
  std::printf("%s %d\n", std::string(furrow::furrow_version()).c_str(),
              furrow::exit_status(furrow::ErrorCode::kDataLoss));
}
TEXT
cmake -S "$work/plain" -B "$work/plain/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/plain/build" >/dev/null
[ "$("$work/plain/build/plain")" = "0.1.0 11" ] || fail "the program without libtorch printed something else"

data=/usr/share/datasets/fashion-mnist
[ -d "$data" ] || { echo "install_test: no $data: install dataset-fashion-mnist" >&2; exit 77; }
cmake -S examples/custom-block -B "$work/block" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/block" >/dev/null
"$work/block/custom_block" examples/convnet-fashion.toml "$work/run" --training.steps 300 --training.dataset_path "$data"
"$FURROW_PYTHON" - "$work/run/summary.json" <<'TEXT'
import json, sys
summary = json.load(open(sys.argv[1]))
assert summary["steps"] == 300, summary
assert summary["test_accuracy"] > 0.7, summary["test_accuracy"]
TEXT
echo "install_test: ok"
