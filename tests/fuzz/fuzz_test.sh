#!/usr/bin/env bash
# Ten minutes of libFuzzer (FUZZ_SECONDS), split over every fuzzer of the preset `fuzz`, each from its corpus.
set -euo pipefail
cd "$FURROW_SOURCE_DIR"
fuzzers=(build/fuzz/fuzz_bin/*_fuzz)
[ -x "${fuzzers[0]}" ] || { echo "no fuzzers in build/fuzz: run ./dev build fuzz"; exit 1; }
seconds=$((${FUZZ_SECONDS:-600} / ${#fuzzers[@]}))
[ "$seconds" -ge 1 ] || seconds=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for fuzzer in "${fuzzers[@]}"; do
  name=$(basename "$fuzzer")
  corpus=$(find furrow apps -type d -name "${name}_corpus")
  mkdir "$scratch/$name"
  echo "== $name: $seconds s, corpus $corpus"
  # libFuzzer ends with 77 at a finding, which ctest would take for a skipped test.
  "$fuzzer" -max_total_time="$seconds" -print_final_stats=1 -rss_limit_mb=4096 -timeout=20 \
    -artifact_prefix="$PWD/build/fuzz/$name-" "$scratch/$name" "$corpus" 2>&1 | tail -n 20 ||
    { echo "$name has a finding: see build/fuzz/$name-*"; exit 1; }
done
