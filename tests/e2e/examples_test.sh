#!/usr/bin/env bash
# Every examples/*.toml plans, trains a few steps, holds the memory that it planned and leaves a complete run folder.  An
# example whose data are not there is named; when none could run, the test counts as skipped.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/data"
while IFS= read -r line; do export "${line?}"; done < <("${FURROW_PYTHON:-python3}" tests/testing/example_data.py "$work/data")
ran=0 runs=()
for config in examples/*.toml; do
  name=$(basename "$config" .toml)
  if ! data=$("${FURROW_PYTHON:-python3}" tests/testing/example_data.py --of "$config"); then
    echo "$name: NOT RUN, its data are missing: $data"
    continue
  fi
  status=0
  short=(--training.steps 8 --lr_scheduler.warmup_steps 0)
  [[ $name != *-cifar10 ]] || short+=(--data.validation_fraction 0.005)
  "$FURROW_BIN" train "$config" --job.dump_folder "$work/$name" "${short[@]}" >"$work/$name.out" \
    2>"$work/$name.err" || status=$?
  [ "$status" = 0 ] || { cat "$work/$name.err"; echo "$name: exit status $status"; exit 1; }
  "$FURROW_BIN" plan "$config" >"$work/$name.plan" || { echo "$name: plan fails"; exit 1; }
  for file in config.toml plan.txt metrics.jsonl summary.json model/model.safetensors; do
    [ -s "$work/$name/$file" ] || { echo "$name: no $file"; exit 1; }
  done
  grep -q '"steps": *8' "$work/$name/summary.json" || { cat "$work/$name/summary.json"; echo "$name: not 8 steps"; exit 1; }
  runs+=("$work/$name")
  ran=$((ran + 1))
done
echo "examples_test: $ran of $(ls examples/*.toml | wc -l) ran"
[ "$ran" -gt 0 ] || exit 77
python3 tests/e2e/planned_memory.py "${runs[@]}"
