#!/usr/bin/env bash
# check_format.sh [CLANG_FORMAT]: every C++ file is as the pinned clang-format writes it; ./dev format fixes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
clang_format=${1:-clang-format}
[ -x "$(command -v "$clang_format" || true)" ] || { echo "no clang-format at '$clang_format': run ./dev setup"; exit 1; }
find furrow apps tests bench examples -name '*.h' -o -name '*.cc' | sort |
  xargs -r "$clang_format" --dry-run -Werror || { echo "run ./dev format"; exit 1; }
