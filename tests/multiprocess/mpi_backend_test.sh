#!/usr/bin/env bash
# The communication backend mpi under a real Open MPI: equal bits to the native backend, and errors that say who and what.
set -euo pipefail
ranks="$FURROW_BUILD_DIR/test_bin/mpi_ranks"
skip() { echo "SKIPPED: $1"; exit 77; }
[ -e "$FURROW_BUILD_DIR/lib/libfurrow_mpi.so" ] || skip "built without an MPI (Debian: libopenmpi-dev)"
mpirun --version 2>/dev/null | grep -q "Open MPI" || skip "no mpirun of Open MPI (Debian: openmpi-bin)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { cat "$work/out"; echo "FAILED: $1"; exit 1; }

# under_mpi N MODE [option ...]: what the ranks say goes to $work/out, the exit status to $status.
under_mpi() {
  local n=$1 mode=$2
  shift 2
  mkdir -p "$work/$mode.$n"
  status=0
  timeout 250 mpirun --allow-run-as-root --oversubscribe "$@" -n "$n" "$ranks" "$mode" "$work/$mode.$n" \
    >"$work/out" 2>&1 || status=$?
}

# says N TEXT: exactly N lines hold it.
says() {
  [ "$(grep -c -- "$2" "$work/out")" = "$1" ] || fail "not $1 lines with '$2'"
}

for n in 2 3 4 8; do
  under_mpi "$n" conformance
  [ "$status" = 0 ] || fail "conformance of $n ranks: exit status $status"
  says "$n" "^all: 894 cases of $n ranks"
done

under_mpi 3 other_size
[ "$status" != 0 ] || fail "other_size: exit status 0"
says 3 "^other_size: failed_precondition"
says 3 "'grads h.3' #1 of 1000 .*'grads h.3' #1 of 1001\|'grads h.3' #1 of 1001 .*'grads h.3' #1 of 1000 "

under_mpi 3 absent
says 3 "^absent: deadline_exceeded after .*all_reduce 'loss' #0 of 1000 .*in group new .*waits for rank 1 (host"

under_mpi 3 absent_later
says 3 "^absent: deadline_exceeded after .*all_reduce 'loss' #1 of 1000 .*waits for the ranks of group world"

under_mpi 3 killed --enable-recovery
says 2 "^killed: unavailable after [0-9]\{1,3\} ms: .*rank 1 (host"

under_mpi 2 twice
says 2 "^twice: unavailable .*MPI cannot start twice"

# `furrow bench comm` measures it, and says how the ranks are started.
timeout 250 mpirun --allow-run-as-root --oversubscribe -n 2 "$FURROW_BUILD_DIR/bin/furrow" bench comm --backend mpi \
  --op all_gather --json >"$work/out" 2>&1 || fail "bench comm: exit status $?"
says 8 '"transport": *"mpi"'
says 8 '"algorithm": *"MPI"'

under_mpi 2 throttled
says 2 "^throttled: invalid_argument .*comm.throttle is about furrow's own backend"

# Processes that no MPI launcher started.
mkdir -p "$work/alone" "$work/elsewhere"
export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29871
RANK=0 "$ranks" alone "$work/alone" >"$work/alone.0" 2>&1 &
RANK=1 "$ranks" alone "$work/alone" >"$work/alone.1" 2>&1 || true
wait $! || true
cat "$work/alone.0" "$work/alone.1" >"$work/out"
says 2 "^alone: failed_precondition .*start the ranks with mpirun"
unset WORLD_SIZE MASTER_ADDR MASTER_PORT

# A program that lies beside no plugin.
cp "$ranks" "$work/elsewhere/"
ranks="$work/elsewhere/mpi_ranks" under_mpi 2 elsewhere
says 2 "^elsewhere: not_found .*libfurrow_mpi.so.*install an MPI"

echo "mpi_backend_test: $(mpirun --version | head -n 1), 2, 3, 4 and 8 ranks"
