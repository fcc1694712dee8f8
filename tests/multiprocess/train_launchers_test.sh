#!/usr/bin/env bash
# The environment of a launcher is enough: torchrun and mpirun train the run that one process trains. 77 when one of them is
# missing, after the other.
set -euo pipefail
furrow=$FURROW_BIN
torchrun=$(dirname "$FURROW_PYTHON")/torchrun
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset OMP_NUM_THREADS
missing=0

"$FURROW_PYTHON" - "$folder/text.txt" <<'PY'
import sys
open(sys.argv[1], "w").write("the quick brown fox jumps over the lazy dog\n" * 400)
PY
train=("$furrow" train tests/multiprocess/launchers.toml --training.dataset_path "$folder/text.txt")

same() {  # the run of this name has the weights of one process
  cmp "$folder/$1/model/model.safetensors" "$folder/one/model/model.safetensors"
}

"${train[@]}" --job.dump_folder "$folder/one" >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
"${train[@]}" --job.dump_folder "$folder/other" --debug.seed 9 >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
if same other 2>/dev/null; then
  echo "control: another seed has the same weights"
  exit 1
fi

if [[ -x $torchrun ]]; then
  "$torchrun" --nproc-per-node 2 --no-python "${train[@]}" --job.dump_folder "$folder/torchrun" >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 1; }
  same torchrun
  # A folder that rank 0 alone chooses, and one summary.
  (cd "$folder" && "$torchrun" --nproc-per-node 2 --no-python "$furrow" train "$OLDPWD/tests/multiprocess/launchers.toml" \
    --training.dataset_path "$folder/text.txt") >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
  [[ $(ls "$folder/runs") == launchers-001 && $(grep -c '^run  ' "$folder/log") -eq 1 ]] || { cat "$folder/log"; exit 1; }
else
  echo "torchrun is not installed: tools/requirements.txt"
  missing=1
fi

if command -v mpirun >/dev/null; then
  mpirun --allow-run-as-root --oversubscribe -n 2 "${train[@]}" --job.dump_folder "$folder/mpirun" >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 1; }
  same mpirun
else
  echo "mpirun is not installed: openmpi-bin"
  missing=1
fi

if [[ $missing -eq 1 ]]; then exit 77; fi
