#!/usr/bin/env bash
# Training under a real Open MPI with [comm] backend = "mpi": the bits of one process in every kind of layout, a ledger of
# what travelled, and refusals that name the remedy.
set -euo pipefail
furrow=$FURROW_BIN
skip() { echo "SKIPPED: $1"; exit 77; }
[ -e "$FURROW_BUILD_DIR/lib/libfurrow_mpi.so" ] || skip "built without an MPI (Debian: libopenmpi-dev)"
mpirun --version 2>/dev/null | grep -q "Open MPI" || skip "no mpirun of Open MPI (Debian: openmpi-bin)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OMP_NUM_THREADS
fail() { cat "$work/log"; echo "FAILED: $1"; exit 1; }

for _ in $(seq 400); do echo "the quick brown fox jumps over the lazy dog"; done >"$work/text.txt"
train=("$furrow" train tests/multiprocess/launchers.toml --training.dataset_path "$work/text.txt")

# over_mpi N NAME [key value ...]: trains into $work/NAME.
over_mpi() {
  local n=$1 name=$2
  shift 2
  timeout 250 mpirun --allow-run-as-root --oversubscribe -n "$n" "${train[@]}" --job.dump_folder "$work/$name" \
    --comm.backend mpi "$@" >"$work/log" 2>&1 || fail "$name: exit status $?"
}

# counts NAME COLLECTIVE: the ledger of the run has bytes of it on the wire, and no fewer than the bound.
counts() {
  "$FURROW_PYTHON" - "$work/$1/summary.json" "$2" <<'PY' || fail "$1 has no bytes of $2"
import json, sys
bytes_of = json.load(open(sys.argv[1]))["bytes"]
row = bytes_of[sys.argv[2]]
assert row["wire"] >= row["bound"] > 0, bytes_of
PY
}

"${train[@]}" --job.dump_folder "$work/one" >"$work/log" 2>&1 || fail "one process"
p=--parallelism.
# name, ranks, a collective that it needs, keys
while read -r name ranks collective keys; do
  # shellcheck disable=SC2086
  over_mpi "$ranks" "$name" $keys
  cmp "$work/$name/model/model.safetensors" "$work/one/model/model.safetensors" || fail "$name has other bits"
  counts "$name" "$collective"
done <<EOF
replicated 2 reduce_scatter ${p}data_parallel_replicate_degree 2
zero3 2 all_gather
pipeline 2 recv ${p}pipeline_parallel_degree 2
pipeline_zero1 4 recv ${p}pipeline_parallel_degree 2 ${p}pipeline_parallel_schedule ZBH1 ${p}zero_stage 1
EOF

# A tensor axis: its bits are those of the same layout over furrow's own backend.
tensor=(--parallelism.tensor_parallel_degree 2)
over_mpi 2 tensor "${tensor[@]}"
"${train[@]}" --nproc 2 --job.dump_folder "$work/tensor_native" "${tensor[@]}" >"$work/log" 2>&1 || fail "tensor_native"
cmp "$work/tensor/model/model.safetensors" "$work/tensor_native/model/model.safetensors" || fail "tensor has other bits"
over_mpi 2 control --debug.seed 7
cmp -s "$work/control/model/model.safetensors" "$work/one/model/model.safetensors" && fail "another seed has the same bits"

# says STATUS TEXT COMMAND ...: it fails with one line.
says() {
  local status=0 wanted=$1 text=$2
  shift 2
  "$@" >"$work/log" 2>&1 || status=$?
  [ "$status" = "$wanted" ] || fail "exit status $status, not $wanted"
  grep -q "furrow: error: .*$text" "$work/log" || fail "it does not say '$text'"
}
says 2 "ranks of backend mpi are started by MPI, not by --nproc: mpirun -n 2" "${train[@]}" --nproc 2 --comm.backend mpi
says 7 "no MPI has started this process: start the ranks with mpirun" "${train[@]}" --comm.backend mpi
says 2 "moves memory of GPUs, and training.device = cpu has none" "${train[@]}" --comm.backend nccl

echo "mpi_train_test: $(mpirun --version | head -n 1)"
