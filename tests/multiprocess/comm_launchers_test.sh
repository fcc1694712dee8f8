#!/usr/bin/env bash
# Real launchers start real ranks: torchrun and Open MPI, plain and with one that fails.
set -euo pipefail
rank="$FURROW_BUILD_DIR/test_bin/comm_rank"
torchrun="$(dirname "$FURROW_PYTHON")/torchrun"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ran=0

expect() {  # what must stand in the log
  grep -qF -- "$1" "$log" || { echo "missing: $1"; cat "$log"; exit 1; }
}

if [[ -x "$torchrun" ]]; then
  ran=1
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
fi

if command -v mpirun >/dev/null; then
  ran=1
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
fi

[[ $ran -eq 1 ]] || { echo "no launcher to test with"; exit 77; }
