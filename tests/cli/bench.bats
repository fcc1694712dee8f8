load common

@test "bench comm prints a row per size with the bytes beside the bound" {
  run --separate-stderr "$furrow" bench comm --nproc 2,3 --op all_gather --transport shm
  [ "$status" -eq 0 ]
  [[ $output == *"busbw (GB/s)"*"of bound"* ]]
  [ "$(grep -c '^all_gather .* shm ' <<<"$output")" -eq 16 ]
}

@test "bench comm --json has the agreed keys" {
  run --separate-stderr "$furrow" bench comm --nproc 2 --op all_reduce --transport tcp --json
  [ "$status" -eq 0 ]
  echo "$output" >rows.json
  keys='{"op", "algorithm", "transport", "ranks", "bytes", "p50_us", "p99_us", "busbw_gbps", "wire_bytes", "bound_bytes"}'
  [ "$(json rows.json "all($keys <= set(row) for row in d)")" = True ]
  [ "$(json rows.json 'all(row["wire_bytes"] <= 1.01 * row["bound_bytes"] for row in d if row["bytes"] >= 2**20)')" = True ]
}

@test "bench comm --tune writes what later runs use" {
  export FURROW_COMM_TUNING=$PWD/tuning
  run --separate-stderr "$furrow" bench comm --nproc 2 --op broadcast --tune
  [ "$status" -eq 0 ]
  [[ $stderr == *"$PWD/tuning"* ]]
  grep -q '^broadcast memory 2 \* ' tuning
  grep -q "^processor $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" tuning
  sed -i 's/^processor .*/processor Z80/' tuning
  run --separate-stderr "$furrow" bench comm --nproc 2 --op broadcast
  [ "$status" -eq 0 ]
  [[ $stderr == *"$PWD/tuning was measured on Z80"*"left out"* ]]
  echo "nonsense" >tuning
  run --separate-stderr "$furrow" bench comm --nproc 2 --op broadcast
  fails 2 "tuning file, line 1"
}

@test "bench comm --tune finds out before it measures that its file cannot be written" {
  : >file
  mkdir folder
  for tuning in "$PWD/file/tuning" "$PWD/folder"; do
    FURROW_COMM_TUNING=$tuning run --separate-stderr timeout 20 "$furrow" bench comm --nproc 2 --tune
    [ "$status" -ne 0 ]
    [ "$status" -ne 124 ]
    [[ $stderr == *"furrow: error: "*"$PWD/f"*"nothing is measured: name another file with FURROW_COMM_TUNING" ]]
  done
  [ -z "$(ls -A folder)" ]
}

# Ranks of several hosts: only the first one's has a file.  What one host measures over TCP is no network's.
@test "bench comm --tune begins at rank 0's table on every rank" {
  printf 'furrow-comm-tuning 2\nall_reduce loopback 2 * ring\n' >tuning0
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port FURROW_JOB_TOKEN=tuning
  for rank in 0 1; do
    RANK=$rank LOCAL_RANK=$rank FURROW_COMM_TUNING=$PWD/tuning$rank \
      "$furrow" bench comm --op broadcast --transport tcp --tune >out$rank 2>&1 &
    pids[rank]=$!
  done
  wait "${pids[0]}" || { cat out0; false; }
  wait "${pids[1]}" || { cat out1; false; }
  grep -q '^all_reduce loopback 2 \* ring$' tuning0
  grep -q '^broadcast loopback 2 \* ' tuning0
  grep -q '^link loopback 1 2 ' tuning0
  [ ! -e tuning1 ]
}

@test "what was tuned over another link is left out" {
  export FURROW_COMM_TUNING=$PWD/tuning
  printf 'furrow-comm-tuning 3\nlink loopback 1 2 - lo\nbroadcast loopback 2 * tree\n' >tuning
  run --separate-stderr "$furrow" bench comm --nproc 2 --op broadcast --transport tcp
  [ "$status" -eq 0 ]
  [[ $output == *"broadcast  tree"* && $stderr != *"left out"* ]]
  run --separate-stderr "$furrow" bench comm --nproc 2 --op broadcast --transport tcp --comm.connections 4
  [ "$status" -eq 0 ]
  [[ $output == *"broadcast  direct"* ]]
  [[ $stderr == *"tuning: what it says of loopback wires was measured over lo, 2 connections"*"left out"* ]]
}

@test "wrong uses of bench" {
  run --separate-stderr "$furrow" bench com
  fails 2 "did you mean 'comm'"
  run --separate-stderr "$furrow" bench comm --op all_redcue
  fails 2 "all_reduce"
  run --separate-stderr "$furrow" bench comm --nproc 1
  fails 2 "--nproc 2 or more"
  run --separate-stderr "$furrow" bench comm --weak
  fails 2 "has no option --weak"
  run --separate-stderr "$furrow" bench comm --algorithm rign
  fails 2 "ring"
  run --separate-stderr "$furrow" bench comm --backend mpi --nproc 2
  fails 2 "mpirun -n 2 furrow bench comm --backend mpi"
  run --separate-stderr "$furrow" bench comm --backend mip
  fails 2 "native"
  run --separate-stderr "$furrow" bench comm --backend mpi --tune
  fails 2 "furrow's own algorithms"
  run --separate-stderr "$furrow" bench comm --nproc 2 --training.steps 3
  fails 2 "takes [comm] alone, not --training.steps"
  run --separate-stderr "$furrow" bench comm --tune --comm.throttle 100Mbit
  fails 2 "leave out --comm.throttle"
  run --separate-stderr "$furrow" bench scaling
  fails 2 "needs a CONFIG"
  run --separate-stderr "$furrow" bench scaling "$config" --weak --strong
  fails 2 "not both"
  run --separate-stderr "$furrow" bench scaling "$config" --strong --nproc 8
  fails 2 "global_batch_size"
  run --separate-stderr "$furrow" bench scaling none.toml
  fails 3 "none.toml"
}
