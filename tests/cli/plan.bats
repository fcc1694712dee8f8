load common

@test "the plan of a step: figures and memory" {
  run --separate-stderr "$furrow" plan "$config"
  [ "$status" -eq 0 ]
  [ -z "$stderr" ]
  [[ $output == *parameters* && $output == *optimizer* ]]
}

@test "the printed program is the one that train executes" {
  "$furrow" plan "$config" --print program >printed.txt
  "$furrow" train "$config" --training.steps 1 --job.dump_folder out
  cmp printed.txt out/plan.txt
  "$furrow" plan out --print program | cmp - printed.txt
}

@test "what is planned is what is measured: parameters and gradients, to the byte" {
  "$furrow" train "$config" --job.dump_folder out
  for kind in parameters gradients optimizer; do
    [ "$(json out/summary.json "d['memory_bytes']['$kind'] == d['planned_memory_bytes']['$kind'] > 0")" = True ]
  done
}

# planned_by_kind FILE: "KIND SIZE" of each line of the header.
planned_by_kind() {
  sed -n '/^memory of a rank as planned/,/^[^ ]/p' "$1" | sed -nE 's/^  ([a-z]+) +([0-9.]+ [KMGi]*B).*/\1 \2/p'
}

@test "memory by kind is printed with its items before the first step, and the summary compares with that" {
  many=(--training.global_batch_size 160 --checkpoint.async_mode async)
  for ranks in "" "--nproc 2"; do
    rm -rf out
    "$furrow" train "$config" $ranks --job.dump_folder out "${many[@]}" >table 2>log
    [ "$(grep -nm1 '^memory of a rank' log | cut -d: -f1)" -lt "$(grep -nm1 '^step:' log | cut -d: -f1)" ]
    planned_by_kind log >header
    sed '1,/^memory by kind/d' table | sed -nE 's/^  ([a-z]+) .*[KMGi]*B +([0-9.]+ [KMGi]*B)$/\1 \2/p' >closing
    [ "$(wc -l <header)" -ge 7 ]
    diff header closing
    grep -qE "^  gradients .*, formula .*: final .*, nodes and exchanges " log
    grep -qE "^  checkpoint .*: best model .*, snapshots " log
    grep -qE "^  other .*workspace " log
  done
}

@test "a plan of one rank has the items of each kind beside the formula" {
  "$furrow" plan "$config" --training.global_batch_size 160 --print memory >memory.txt
  grep -qE "^memory .* p\+g\+o +items" memory.txt
  grep -qE "^gradients .* final .*, nodes and exchanges " memory.txt
}

@test "every print has the same rows as JSON" {
  for part in program units memory; do
    "$furrow" plan "$config" --print $part --json >part.json
    [ "$(json part.json 'len(d) > 1')" = True ]
  done
  "$furrow" plan "$config" --print units --json >units.json
  [ "$(json units.json 'sum(u["parameters"] for u in d)')" = $((784 * 16 + 16 + 16 * 4 + 4)) ]
}

@test "plan never maps libtorch, train does" {
  run env LD_DEBUG=files "$furrow" plan "$config"
  [ "$status" -eq 0 ]
  [[ $output == *libfurrow.so* && $output != *libtorch* ]]
  LD_DEBUG=files "$furrow" train "$config" --training.steps 1 2>&1 | grep -q libtorch
}

@test "an unknown print names the nearest" {
  run --separate-stderr "$furrow" plan "$config" --print progam
  fails 2 "did you mean 'program'"
}

@test "a wrong type is named with its key" {
  run --separate-stderr "$furrow" plan "$config" --training.steps many
  fails 2 "training.steps"
}

@test "a config that is missing is not found" {
  run --separate-stderr "$furrow" plan none.toml
  fails 3 "none.toml"
}

@test "a plan of ranks: bytes against the bound, memory by the formula, the order of sums" {
  run --separate-stderr "$furrow" plan "$config" --nproc 4 --rank 3 --parallelism.data_parallel_replicate_degree 2
  [ "$status" -eq 0 ]
  [[ $output == *"deterministic on: aligned shares"* && $output == *"(p+g+o)/2"* && $output == *gather_params* ]]
  run --separate-stderr "$furrow" plan "$config" --nproc 3 --parallelism.data_parallel_replicate_degree 3 \
    --training.global_batch_size 90 --training.local_batch_size 10 --parallelism.bucket_cap_mb 0
  [[ $output == *"deterministic off: "*"; strict would bring a rank "*" a step where this brings "*" (1.49 times)"* ]]
  "$furrow" plan "$config" --nproc 4 --print communication --json >part.json
  [ "$(json part.json 'all(c["mean_bytes"] == c["bound_bytes"] > 0 for c in d)')" = True ]
  [ "$(json part.json 'sorted(c["communication"] for c in d)')" = "['gather_params', 'reduce_grads', 'reduce_scalar']" ]
  for stage in 1 2; do
    "$furrow" plan "$config" --nproc 2 --parallelism.zero_stage $stage --print buffers --json >part.json
    [ "$(json part.json 'all(i["planned_bytes"] <= 1.5 * i["formula_bytes"] for i in d if i["formula_bytes"])')" = True ]
  done
}

@test "buckets are chosen, said and counted; the search proposes them" {
  export FURROW_PROFILE=$PWD/none
  local deep=(plan "$config" --model.hidden 64,64,64,64 --nproc 2)
  run --separate-stderr "$furrow" "${deep[@]}"
  [ "$status" -eq 0 ]
  [[ $output == *"buckets of up to 1.0 MiB, which the link between ranks moves in 8 of its latencies"* ]]
  grep -Eq "^  in buckets +1$" <<<"$output"
  run --separate-stderr "$furrow" "${deep[@]}" --comm.throttle 100Mbit,2ms
  [[ $output == *"buckets of up to 256.0 KiB"* ]]
  grep -Eq "^  in buckets +2$" <<<"$output"
  "$furrow" "${deep[@]}" --comm.throttle 100Mbit,2ms --print program | grep "^placement .* buckets 0-3 3-5$"
  run --separate-stderr "$furrow" "${deep[@]}" --parallelism.bucket_cap_mb 0
  [[ $output != *buckets* ]]
  run --separate-stderr "$furrow" plan "$config"
  [[ $output != *buckets* ]]
  run --separate-stderr "$furrow" "${deep[@]}" --parallelism.bucket_cap_mb -0.5
  fails 2 "write -1"
  local search=("${deep[@]}" --training.global_batch_size 40 --comm.throttle 1Gbit,1ms --cluster local)
  "$furrow" "${search[@]}" --json >search.json
  local of_data='[c["bucket_cap_mb"] for c in d["candidates"] if c["layout"]["dp_replicate"] == 2]'
  [ "$(json search.json "$of_data")" = "[1]" ]
  "$furrow" "${search[@]}" --without buckets --json >without.json
  [ "$(json without.json "$of_data")" = "[0]" ]
  run --separate-stderr "$furrow" "${search[@]}" --comm.throttle "" --write plan.toml
  [[ $output == *", buckets of 1.0 MiB"* ]]
  grep -q "^bucket_cap_mb = 1.0$" plan.toml
}

@test "the programs of ranks share the batch" {
  for rank in 0 1; do
    "$furrow" plan "$config" --nproc 2 --rank $rank --print program >rank$rank.txt
    grep -q "^placement .* rank $rank zero_stage 3 tree canonical" rank$rank.txt
    grep -q "load .* m$rank " rank$rank.txt
    [ "$(grep -c ' load ' rank$rank.txt)" = 1 ]
  done
}

@test "layouts that cannot be are refused with the nearest" {
  run --separate-stderr "$furrow" plan "$config" --nproc 4 --parallelism.context_parallel_degree 2
  fails 13 "the nearest layout of 4 ranks is dp_replicate 1 x dp_shard 4"
  run --separate-stderr "$furrow" plan "$config" --nproc 3 --parallelism.data_parallel_shard_degree 2
  fails 2 "dp_shard 2 = 2, but the world is 3"
  run --separate-stderr "$furrow" plan "$config" --nproc 2 --rank 2
  fails 2 "--rank 2: it must be a number from 0 to 1"
  run --separate-stderr "$furrow" plan "$config" --nproc 64 --training.global_batch_size 20
  fails 2 "for dp_replicate 1 x dp_shard 64 = 64 data ranks"
}

make_cluster() {
  cat >cluster.toml <<TOML
[cluster]
name = "four"

[hosts]
count = 2
devices = 2

[device]
name = "cpu-core-avx2"
memory_gib = ${1:-4}

[links]
name = "shared-memory"

[network]
name = "ethernet-1"

[price]
${2:-on_demand_per_host_hour = 0.5}
TOML
}

@test "a search ranks layouts and marks the configured one" {
  make_cluster
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml --explain
  [ "$status" -eq 0 ]
  [[ $output == *"as configured"* && $output == *"USD/step"* && $output == *simulate* ]]
  "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml --json >search.json
  [ "$(json search.json '[c["step_time_ms"] for c in d["candidates"] if c["simulated"]] == sorted(c["step_time_ms"] for c in d["candidates"] if c["simulated"])')" = True ]
  [ "$(json search.json 'all(c["fits"] and c["cost_per_step"] > 0 and c["layout"]["dp_shard"] >= 1 for c in d["candidates"])')" = True ]
  [ "$(json search.json 'set("step_time_ms memory_bytes wire_bytes bubble exposed_communication layout cost_per_step fits reason".split()) <= set(d["candidates"][0])')" = True ]
}

@test "a spot price is a price" {
  make_cluster 4 "spot_per_host_hour = 0.2"
  local search=(plan "$config" --training.global_batch_size 80 --cluster cluster.toml)
  run --separate-stderr "$furrow" "${search[@]}" --objective cost
  [ "$status" -eq 0 ]
  [[ $output == *"the cheapest a sample"* && $output == *cost/step* ]]
  run --separate-stderr "$furrow" "${search[@]}"
  [[ $output == *"spot USD/step"* ]]
}

@test "a search over a part of a cluster, and what rows compare" {
  make_cluster
  "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml --nproc 2 --json >part.json
  [ "$(json part.json 'd["devices"]')" = 2 ]
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml --nproc 8
  fails 2 "--nproc 8: four has 4 devices"
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml --nproc 3
  fails 2 "1 left over"
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size -1 --cluster cluster.toml
  [ "$status" -eq 0 ]
  [[ $output == *"layouts with more of them train another recipe"* && $output == *" more; --json has them all"* ]]
}

@test "a schedule file that is none is refused by its name" {
  : >empty.csv
  run --separate-stderr "$furrow" plan "$config" --nproc 2 --parallelism.pipeline_parallel_degree 2 \
    --parallelism.pipeline_parallel_schedule_csv empty.csv
  fails 2 "schedule empty.csv:"
}

@test "the best layout of a search is printed, traced and drawn at the cluster's costs" {
  make_cluster
  local search=("$config" --training.global_batch_size 80 --cluster cluster.toml)
  "$furrow" plan "${search[@]}" --json >search.json
  run --separate-stderr "$furrow" plan "${search[@]}" --print timeline --json --trace step.json --draw step.svg
  [ "$status" -eq 0 ]
  echo "$output" >timeline.json
  [[ $stderr == *"the best of the search: "* && $stderr == *" on four, analytic"* ]]
  # The step of the table, which one rank of each stage stands for; here all four are simulated, of unequal shares.
  local ends="max(e['ts'] + e['dur'] for e in d['traceEvents'] if e['ph'] == 'X') / 1e3"
  [ "$(json step.json "abs($ends / $(json search.json "d['candidates'][0]['step_time_ms']") - 1) < 0.3")" = True ]
  [ "$(json step.json "len({str(e['args'])[:16] for e in d['traceEvents'] if 'rank' in str(e.get('args'))})")" = 4 ]
  [ "$(json timeline.json "all(a['start_ms'] <= b['start_ms'] for a, b in zip(d, d[1:]))")" = True ]
  grep -q ">planned memory</text>" step.svg
  # The same layout, written and planned as it is configured.
  "$furrow" plan "${search[@]}" --write plan.toml >/dev/null
  "$furrow" plan plan.toml --cluster cluster.toml --layout configured --print timeline --json >configured.json
  cmp timeline.json configured.json
  "$furrow" plan plan.toml --nproc 4 --print program >here
  "$furrow" plan "${search[@]}" --print program | cmp - here
  # Another layout is another step.
  "$furrow" plan "${search[@]}" --layout configured --print memory | grep -q total
  # Without --print the table of the search is what is printed.
  "$furrow" plan "${search[@]}" --trace again.json 2>/dev/null | grep -q "as configured"
  cmp step.json again.json
}

@test "of a large world representatives are simulated, and it is said" {
  local large=("$FURROW_SOURCE_DIR/examples/llama2-70b.toml" --cluster "$FURROW_SOURCE_DIR/examples/clusters/32x8h100.toml")
  run --separate-stderr "$furrow" plan "${large[@]}" --print memory-timeline --trace large.json --draw large.svg
  [ "$status" -eq 0 ]
  [[ $stderr == *"of 256 ranks those of one data coordinate are simulated, one for each stage"* ]]
  [ "$(stat -c %s large.json)" -lt 40000000 ]
  [ "$(stat -c %s large.svg)" -lt 4000000 ]
}

@test "a written plan trains" {
  "$furrow" plan "$config" --training.global_batch_size 80 --cluster local --nproc 2 --write plan.toml >/dev/null
  "$furrow" train plan.toml --nproc 2 --training.steps 2 --job.dump_folder planned
  [ "$(json planned/summary.json 'd["steps"]')" = 2 ]
}

@test "what does not fit says what it needs, and exits with resource_exhausted" {
  make_cluster 0.00005
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml
  [ "$status" -eq 10 ]
  [[ $stderr == *"does not fit: needs 0.0 GiB of 0.0 per device"*"smallest change: "* ]]
}

@test "scale shows every size and picks one; cost and deadline pick hosts" {
  make_cluster
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 320 --cluster cluster.toml --scale 1..8
  [ "$status" -eq 0 ]
  [[ $output == *efficiency* && $output == *"take "*" devices: "* ]]
  "$furrow" plan "$config" --training.global_batch_size 320 --cluster cluster.toml --scale 1..8 --json >scale.json
  [ "$(json scale.json '[p["devices"] for p in d]')" = "[1, 2, 4, 8]" ]
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 320 --cluster cluster.toml --objective cost
  [[ $output == *"the cheapest a sample"* ]]
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 320 --cluster cluster.toml --deadline 1d
  [[ $output == *"the fewest that meet the deadline"* ]]
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 320 --cluster cluster.toml \
    --training.steps 1000000000 --deadline 1s
  [ "$status" -eq 10 ]
  [[ $output == *"none meets the deadline"* ]]
}

@test "a search is told what it cannot do" {
  make_cluster
  run --separate-stderr "$furrow" plan "$config" --cluster none.toml
  fails 3 "none.toml"
  run --separate-stderr "$furrow" plan "$config" --cluster cluster.toml --without recompute,prunes
  fails 2 "did you mean 'prune'"
  run --separate-stderr "$furrow" plan "$config" --cluster cluster.toml --layout configured --explain
  fails 2 "--explain is about a search"
  run --separate-stderr "$furrow" plan "$config" --training.global_batch_size 80 --cluster cluster.toml --print program --rank 4
  fails 2 "--rank 4: it must be a number from 0 to 3"
  run --separate-stderr "$furrow" plan "$config" --cluster cluster.toml --scale 8..1
  fails 2 "FIRST..LAST"
  run --separate-stderr "$furrow" plan "$config" --cluster local --nproc 2 --scale 1..8
  fails 2 "names no network between hosts"
  run --separate-stderr "$furrow" plan "$config" --cluster cluster.toml --deadline soon
  fails 2 "with its unit"
  run --separate-stderr "$furrow" plan "$config" --cluster local --objective cost
  fails 2 "has no price"
}

@test "where the recipe may change, the table says what did" {
  local gpt=("$FURROW_SOURCE_DIR/examples/gpt-124m.toml" --cluster "$FURROW_SOURCE_DIR/examples/clusters/8xh100.toml")
  run --separate-stderr "$furrow" plan "${gpt[@]}" --allow-recipe-change --write changed.toml
  [ "$status" -eq 0 ]
  [[ $output == *"bfloat16 instead of float32"* ]]
  [[ $output == *"as configured"* ]]
  grep -q '^mixed_precision_param = "bfloat16"' changed.toml
  grep -q '^global_batch_size = ' changed.toml
  run --separate-stderr "$furrow" plan "${gpt[@]}"
  [[ $output != *"instead of"* ]]
}

@test "a language model is planned without its data" {
  cat >gpt.toml <<TOML
[model]
name = "gpt"
layers = 2
width = 32
vocab_size = 300
[training]
dataset = "pack"
dataset_path = "nowhere"
seq_len = 16
steps = 10
TOML
  run --separate-stderr "$furrow" plan gpt.toml --cluster local --nproc 1
  [ "$status" -eq 0 ]
  [[ $stderr == *"planned without the data"* ]]
  run --separate-stderr "$furrow" plan gpt.toml --model.vocab_size 0
  fails 3 "nowhere"
}

@test "the stages of a pipeline are planned rank by rank" {
  local pipeline=(--nproc 2 --parallelism.pipeline_parallel_degree 2 --training.global_batch_size 60)
  for rank in 0 1; do
    "$furrow" plan "$config" "${pipeline[@]}" --rank $rank --print program >rank$rank.txt
    grep -q "^placement pp2 .* rank $rank .* stages 0-1@0 1-2@1" rank$rank.txt
  done
  for rank in 0 1; do
    [ "$(grep -c ' send ' rank$rank.txt)" = "$(grep -c ' recv ' rank$((1 - rank)).txt)" ]
  done
  run --separate-stderr "$furrow" plan "$config" --nproc 3 --parallelism.pipeline_parallel_degree 3
  fails 2 "3 stages for the 2 units of mlp"
  run --separate-stderr "$furrow" plan "$config" "${pipeline[@]}" --parallelism.pipeline_parallel_schedule 2F2B
  fails 2 "1F1B"
}

@test "the stages of a pipeline are cut by the names of units" {
  local pipeline=(--nproc 2 --parallelism.pipeline_parallel_degree 2 --training.global_batch_size 60 --model.hidden 32,32,32)
  "$furrow" plan "$config" "${pipeline[@]}" --parallelism.module_fqns_per_model_part "fc1,fc2 fc3 fc4" --print program |
    grep -q "^placement pp2 .* stages 0-1@0 1-4@1"
  "$furrow" plan "$config" "${pipeline[@]}" --parallelism.pipeline_parallel_layers_per_stage 3 --print program |
    grep -q "^placement pp2 .* stages 0-2@0 2-4@1"
  run --separate-stderr "$furrow" plan "$config" "${pipeline[@]}" --parallelism.module_fqns_per_model_part "fc1,fc2 fc4"
  fails 2 "fc3 is in no stage"
}

@test "a small world has one step time, in the table and in the timeline" {
  export FURROW_PROFILE=$PWD/none
  "$furrow" plan "$config" --cluster local --nproc 2 --json >table.json
  local rank ends=()
  for rank in 0 1; do
    "$furrow" plan "$config" --nproc 2 --rank $rank --print timeline --json >timeline.json
    ends+=("$(json timeline.json "max(r['end_ms'] for r in d)")")
  done
  [ "$(json table.json "[abs(c['step_time_ms'] - max(${ends[0]}, ${ends[1]})) < 1e-6 for c in d['candidates'] if c['configured']]")" = "[True]" ]
}
