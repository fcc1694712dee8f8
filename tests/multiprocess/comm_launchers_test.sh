#!/usr/bin/env bash
# Real launchers start real ranks: torchrun and Open MPI, plain and with one that fails. Slurm, PMI and Kubernetes are stood
# in for by their variables. 77 when a launcher is missing, after the others.
set -euo pipefail
rank="$FURROW_BUILD_DIR/test_bin/comm_rank"
torchrun="$(dirname "$FURROW_PYTHON")/torchrun"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
missing=0

expect() {  # what must stand in the log
  grep -qF -- "$1" "$log" || { echo "missing: $1"; cat "$log"; exit 1; }
}

if [[ -x "$torchrun" ]]; then
  "$torchrun" --nproc-per-node 2 --no-python "$rank" >"$log" 2>&1
  expect "joined rank 0 of 2 launcher torchrun local 0 of 2 node 0"
  expect "joined rank 1 of 2 launcher torchrun local 1 of 2 node 0"
  expect "done sent"
  # The agent's own store listens where it was told to.
  "$torchrun" --nproc-per-node 2 --master-addr 127.0.0.1 --master-port 29871 --no-python "$rank" >"$log" 2>&1
  expect "joined rank 1 of 2 launcher torchrun"
  if "$torchrun" --nproc-per-node 2 --no-python "$rank" --fault throw --fault-rank 1 >"$log" 2>&1; then
    echo "a failing rank left torchrun content"
    exit 1
  fi
  expect "): the shard is damaged; last progress: all_reduce 'gradients' #"
else
  echo "torchrun is not installed: tools/requirements.txt"
  missing=1
fi

if command -v mpirun >/dev/null; then
  mpi=(mpirun --allow-run-as-root --oversubscribe -n 3)
  "${mpi[@]}" "$rank" --transport tcp >"$log" 2>&1
  expect "joined rank 2 of 3 launcher openmpi local 2 of 3 node 0"
  # Two jobs at once do not meet.
  "${mpi[@]}" "$rank" --steps 2000 >"$log" 2>&1 &
  other=$!
  "${mpi[@]}" "$rank" --steps 2000 >"$log.other" 2>&1
  wait "$other"
  rm -f "$log.other"
  expect "joined rank 0 of 3 launcher openmpi"
else
  echo "mpirun is not installed: openmpi-bin"
  missing=1
fi

# as_launched NAME SIZE RANK_VARIABLE VARIABLE=VALUE ...: a process a rank, with its number and the variables; that all join.
as_launched() {
  local name=$1 size=$2 number=$3 pids=() pid
  shift 3
  : >"$log"
  for ((i = 0; i < size; ++i)); do
    env -u RANK -u WORLD_SIZE "$number=$i" MASTER_PORT="$port" "$@" "$rank" >>"$log" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait "$pid" || { echo "a rank of $name failed"; cat "$log"; exit 1; }
  done
  for ((i = 0; i < size; ++i)); do
    expect "joined rank $i of $size launcher $name local $i of $size node 0"
  done
  port=$((port + 32))
}
port=$((20000 + $$ % 9000))
as_launched slurm 3 SLURM_PROCID SLURM_JOB_ID=$$ SLURM_NTASKS=3 SLURM_STEP_NUM_TASKS=3 SLURM_STEP_ID=0 MASTER_ADDR=127.0.0.1
as_launched pmi 2 PMI_RANK PMI_SIZE=2 MASTER_ADDR=127.0.0.1
as_launched kubernetes 3 JOB_COMPLETION_INDEX WORLD_SIZE=3 MASTER_ADDR=127.0.0.1

if [[ $missing -eq 1 ]]; then exit 77; fi
