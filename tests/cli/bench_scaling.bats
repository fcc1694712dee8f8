load common

@test "bench scaling compares ranks with independent runs" {
  run --separate-stderr "$furrow" bench scaling "$config" --nproc 1,2 --repeats 1 --steps 5 --json
  [ "$status" -eq 0 ]
  echo "$output" >rows.json
  [ "$(json rows.json '[(row["scaling"], row["ranks"], row["efficiency"] > 0) for row in d]')" = "[('weak', 1, True), ('weak', 2, True)]" ]
  [ "$(json rows.json '[(row["efficiency_slowest"] >= row["efficiency"], 0 <= row["straggler_wait"] < 1) for row in d]')" = "[(True, True), (True, True)]" ]
  [ ! -e runs ]
}

@test "bench scaling of a config that has a layout" {
  { cat "$config"; printf '[parallelism]\ndata_parallel_shard_degree = 2\n'; } >shards.toml
  run --separate-stderr "$furrow" bench scaling shards.toml --nproc 2 --repeats 1 --steps 5 --json \
    --parallelism.zero_stage 1
  [ "$status" -eq 0 ]
  echo "$output" >rows.json
  [ "$(json rows.json '[(row["scaling"], row["ranks"], row["efficiency"] > 0) for row in d]')" = "[('weak', 2, True)]" ]
}

@test "bench scaling --strong shares one batch" {
  run --separate-stderr "$furrow" bench scaling "$config" --nproc 2 --strong --repeats 1 --steps 5 --json \
    --training.global_batch_size 40
  [ "$status" -eq 0 ]
  echo "$output" >rows.json
  [ "$(json rows.json '[(row["scaling"], row["ranks"], row["efficiency"] > 0) for row in d]')" = "[('strong', 2, True)]" ]
}

@test "bench scaling refuses a layout that does not fit before the first training" {
  run --separate-stderr "$furrow" bench scaling "$config" --nproc 2,3 --parallelism.data_parallel_shard_degree 2
  fails 2 "3 ranks"
  [[ $stderr != *"repeat 1"* ]]
  run --separate-stderr "$furrow" bench scaling "$config" --nproc 1,8 --parallelism.pipeline_parallel_degree 8
  [ "$status" -ne 0 ]
  [[ $stderr == *"8 ranks"* && $stderr != *"repeat 1"* ]]
}
