#!/usr/bin/env bash
# The environment of a launcher is enough: torchrun and mpirun train the run that one process trains.
set -euo pipefail
furrow=$FURROW_BIN
torchrun=$(dirname "$FURROW_PYTHON")/torchrun
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset OMP_NUM_THREADS
ran=0

"$FURROW_PYTHON" - "$folder/text.txt" <<'PY'
import sys
open(sys.argv[1], "w").write("the quick brown fox jumps over the lazy dog\n" * 400)
PY
train=("$furrow" train tests/multiprocess/launchers.toml --training.dataset_path "$folder/text.txt")

same() {  # the run of this name has the weights of one process
  cmp "$folder/$1/model/model.safetensors" "$folder/one/model/model.safetensors"
  ran=1
}

"${train[@]}" --job.dump_folder "$folder/one" >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }

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
fi

if command -v mpirun >/dev/null; then
  mpirun --allow-run-as-root --oversubscribe -n 2 "${train[@]}" --job.dump_folder "$folder/mpirun" >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 1; }
  same mpirun
else
  echo "mpirun is not installed: openmpi-bin"
fi

[[ $ran -eq 1 ]] || { echo "no launcher to test with"; exit 77; }
