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
  echo "nonsense" >tuning
  run --separate-stderr "$furrow" bench comm --nproc 2 --op broadcast
  fails 2 "tuning file, line 1"
}

@test "bench scaling compares ranks with independent runs" {
  run --separate-stderr "$furrow" bench scaling "$config" --nproc 1,2 --repeats 1 --steps 5 --json
  [ "$status" -eq 0 ]
  echo "$output" >rows.json
  [ "$(json rows.json '[(row["scaling"], row["ranks"], row["efficiency"] > 0) for row in d]')" = "[('weak', 1, True), ('weak', 2, True)]" ]
  [ ! -e runs ]
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
  run --separate-stderr "$furrow" bench scaling
  fails 2 "needs a CONFIG"
  run --separate-stderr "$furrow" bench scaling "$config" --weak --strong
  fails 2 "not both"
  run --separate-stderr "$furrow" bench scaling "$config" --strong --nproc 8
  fails 2 "global_batch_size"
  run --separate-stderr "$furrow" bench scaling none.toml
  fails 3 "none.toml"
}
