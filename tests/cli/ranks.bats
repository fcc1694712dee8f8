load common

# The weights of one process, made once.
one_process() {
  "$furrow" train "$config" --job.dump_folder "$BATS_FILE_TMPDIR/one" "${batch[@]}" 2>/dev/null
}

setup() {
  cd "$BATS_TEST_TMPDIR"
  config=$BATS_FILE_TMPDIR/tiny.toml
  batch=(--training.global_batch_size 80 --debug.deterministic strict)
  [ -e "$BATS_FILE_TMPDIR/one/model" ] || one_process
}

@test "--nproc trains on ranks: the same weights, logs of each, an audit" {
  run --separate-stderr "$furrow" train "$config" --nproc 2 --job.dump_folder out "${batch[@]}"
  [ "$status" -eq 0 ]
  [[ $stderr == *"2 ranks, "*"memory of a rank as planned, by formula (p+g+o)/2:"*"step:    30"*"run folder: out"* ]]
  [[ $output == *"ranks                 2"*"bytes of all ranks    a step        times the bound"* ]]
  cmp out/model/model.safetensors "$BATS_FILE_TMPDIR/one/model/model.safetensors"
  [ -s out/logs/rank-0.log ]
  [ -e out/logs/rank-1.log ]
  grep -q '^step:    30' out/logs/rank-0.log
  [ "$(json out/summary.json 'd["ranks"], d["audited_steps"], len(d["rank_samples_per_second"])')" = "(2, 29, 2)" ]
  [ "$(json out/summary.json 'all(0 < c["bound"] <= c["wire"] * 1.01 for c in d["bytes"].values() if c["bound"])')" = True ]
  [ "$(json out/summary.json '0 <= d["straggler_wait"] <= d["exposed_communication"] <= 1')" = True ]
}

@test "ranks take the buckets that the plan says, by the link or by a profile: the same weights" {
  export FURROW_PROFILE=$PWD/profile
  local deep=(--model.hidden 32,32,32 "${batch[@]}" --nproc 2)
  "$furrow" train "$config" "${deep[@]}" --job.dump_folder alone --parallelism.bucket_cap_mb 0 2>log
  run ! grep -i buckets log
  "$furrow" train "$config" "${deep[@]}" --job.dump_folder linked 2>log
  grep "^buckets of up to 1.0 MiB, which the link" log
  grep -q "^placement .* buckets 0-4$" linked/plan.txt
  local operations='d["operations_per_step"]'
  [ "$(json alone/summary.json "$operations")" -gt "$(json linked/summary.json "$operations")" ]
  cmp alone/model/model.safetensors linked/model/model.safetensors
  "$furrow" profile "$config" "${deep[@]:0:2}" --nproc 2 2>/dev/null
  "$furrow" train "$config" "${deep[@]}" --job.dump_folder measured 2>log
  grep "buckets.* as simulated" log >line
  "$furrow" plan "$config" "${deep[@]}" | grep -qFx "$(cat line)"
  cmp alone/model/model.safetensors measured/model/model.safetensors
}

@test "scaling efficiency is of one rank of as many threads" {
  "$furrow" train "$config" --job.dump_folder other "${batch[@]}" --training.threads 2 2>/dev/null
  "$furrow" train "$config" --nproc 2 --job.dump_folder before "${batch[@]}" >table 2>/dev/null
  run ! grep "scaling efficiency" table
  "$furrow" train "$config" --job.dump_folder alone "${batch[@]}" 2>/dev/null
  "$furrow" train "$config" --nproc 2 --job.dump_folder after "${batch[@]}" >table 2>/dev/null
  grep "^scaling efficiency .* of 2 times one rank, same batch (strong)" table
  one=$(json alone/summary.json 'd["samples_per_second"]')
  [ "$(json after/summary.json 'd["scaling_efficiency"] == d["samples_per_second"] / (2 * '"$one"')')" = True ]
  [ "$(json after/summary.json '"weak_scaling_efficiency" in d')" = False ]
}

@test "a global batch that local_batch_size does not divide: the same weights" {
  uneven=(--training.global_batch_size 50 --debug.deterministic strict --training.steps 8)
  "$furrow" train "$config" --job.dump_folder one "${uneven[@]}" 2>/dev/null
  "$furrow" train "$config" --nproc 2 --job.dump_folder two "${uneven[@]}" 2>/dev/null
  cmp one/model/model.safetensors two/model/model.safetensors
  run --separate-stderr "$furrow" plan "$config" --nproc 2 --rank 1 --print program "${uneven[@]}"
  [[ $output == *"10"* ]]
}

@test "--nproc N --json prints summary.json, without a dump folder runs are numbered" {
  run --separate-stderr "$furrow" train "$config" --nproc 2 --json "${batch[@]}"
  [ "$status" -eq 0 ]
  [ "$output" = "$(cat runs/tiny-001/summary.json)" ]
}

@test "--resume of a finished run of ranks has nothing left to do" {
  "$furrow" train "$config" --nproc 2 --job.dump_folder out "${batch[@]}" 2>/dev/null
  rm -r out/logs # which every start writes
  cp -r out before
  run --separate-stderr "$furrow" train out --resume --nproc 3
  [ "$status" -eq 0 ]
  [[ $stderr == *"the run is over, finished at step 30 of 30"* ]]
  rm -r out/logs
  diff -r out before
}

@test "a run goes on with another number of ranks" {
  long=(--training.steps 3000 --checkpoint.interval 1000 --validation.freq 0)
  "$furrow" train "$config" --job.dump_folder whole "${batch[@]}" "${long[@]}" 2>/dev/null
  "$furrow" train "$config" --nproc 2 --job.dump_folder out "${batch[@]}" "${long[@]}" 2>log &
  pid=$!
  until grep -q '"step":15,' out/metrics.jsonl 2>/dev/null; do kill -0 $pid; done
  kill -TERM $pid
  result=0
  wait $pid || result=$?
  [ $result -eq 143 ]
  grep -q -- "--resume" log
  "$furrow" train out --resume --nproc 4 2>/dev/null
  cmp out/model/model.safetensors whole/model/model.safetensors
}

# A launcher that starts ranks again does so with the same command.
@test "--resume of a config and a folder starts a run there, and goes on with it" {
  again=(train "$config" --resume --nproc 2 --job.dump_folder out --training.global_batch_size 80)
  run --separate-stderr "$furrow" "${again[@]}" --training.steps 20
  [ "$status" -eq 0 ]
  [[ $stderr == *"no checkpoint yet: starting at step 0"* ]]
  run --separate-stderr "$furrow" "${again[@]}"
  [ "$status" -eq 0 ]
  [[ $stderr == *"resuming at step 20 of 30"* ]]
}

# by_hand FOLDER_OF_RANK_1 WORD ...: two ranks in working folders of their own; their status and errors.
by_hand() {
  local other=$1 rank pids=()
  shift
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port FURROW_JOB_TOKEN=hand
  for rank in 0 1; do
    (
      [ $rank -eq 0 ] || cd "$other"
      RANK=$rank LOCAL_RANK=$rank exec "$furrow" "$@" >"$BATS_TEST_TMPDIR/err$rank" 2>&1
    ) &
    pids+=($!)
  done
  statuses=()
  for rank in 0 1; do
    status=0
    wait "${pids[rank]}" || status=$?
    statuses+=($status)
  done
}

@test "ranks that were started in other folders write into that of rank 0" {
  mkdir elsewhere
  by_hand elsewhere train "$config" --job.dump_folder out "${batch[@]}"
  [ "${statuses[*]}" = "0 0" ]
  [ -e out/checkpoints/step-00000030/model-rank-00001.safetensors ]
  [ -z "$(ls -A elsewhere)" ]
  cmp out/model/model.safetensors "$BATS_FILE_TMPDIR/one/model/model.safetensors"
}

@test "a rank with other data is refused" {
  mkdir elsewhere
  make_images images
  make_images elsewhere/images
  by_hand elsewhere train "$config" --job.dump_folder out --training.dataset_path images "${batch[@]}"
  [ "${statuses[*]}" = "0 0" ]
  head -c 100 /dev/zero | dd of=elsewhere/images/train-images-idx3-ubyte bs=1 seek=16 conv=notrunc 2>/dev/null
  by_hand elsewhere train "$config" --job.dump_folder other --training.dataset_path images "${batch[@]}"
  [ "${statuses[*]}" = "7 7" ]
  grep -q "rank 1 (host .*) has other data than rank 0 (host .*): training sample" err0
  grep -q "has other data than rank 0" err1
  [ ! -e other ]
}

@test "more ranks than cores work, with a warning" {
  cores=$(nproc)
  run --separate-stderr "$furrow" train "$config" --nproc $((cores + 1)) --training.steps 2 \
    --training.global_batch_size $((20 * (cores + 1)))
  [ "$status" -eq 0 ]
  [[ $stderr == *"warning: $((cores + 1)) ranks x 1 thread share $cores core"* ]]
}

@test "wrong numbers of ranks" {
  for ranks in 0 -1 two 2.5 100000; do
    run --separate-stderr "$furrow" train "$config" --nproc $ranks
    fails 2 "--nproc is the number of ranks on this machine"
  done
  run --separate-stderr "$furrow" train "$config" --nproc
  fails 2 "--nproc needs a value"
  [ ! -e runs ]
}

@test "fewer microbatches than ranks: the sum, once and of no rank, and no folder" {
  run --separate-stderr "$furrow" train "$config" --nproc 2 --training.global_batch_size 20
  [ "$status" -eq 2 ]
  [[ $stderr == *"furrow: error: global batch 20 / local batch 20 = 1 microbatches"* && $stderr != *"rank 0:"* ]]
  [ -z "$(ls -A runs)" ]
  "$furrow" train "$config" --nproc 2 --training.steps 2 --job.dump_folder out
  run --separate-stderr "$furrow" train out --resume --nproc 4 --training.steps 4
  fails 2 "furrow: error: global batch 40 / local batch 20 = 2 microbatches"
}

@test "a global batch of -1 that depends on ranks is said, with the remedy" {
  remedy="--training.global_batch_size 40 is the same on any"
  run --separate-stderr "$furrow" train "$config" --nproc 2 --training.steps 2
  [ "$status" -eq 0 ]
  [[ $stderr == *"the recipe depends on the number of ranks: global_batch_size = -1"*"$remedy"* ]]
  run --separate-stderr "$furrow" plan "$config" --nproc 2
  [[ $output == *"$remedy"* ]]
  for fixed in "--nproc 2 --training.global_batch_size 40" "--nproc 1" "--nproc 2 --parallelism.tensor_parallel_degree 2"; do
    # shellcheck disable=SC2086
    run --separate-stderr "$furrow" train "$config" --training.steps 2 $fixed
    [ "$status" -eq 0 ]
    [[ $stderr != *"depends on the number of ranks"* ]]
  done
}

@test "degrees that multiply to another number" {
  run --separate-stderr "$furrow" train "$config" --nproc 3 --parallelism.data_parallel_shard_degree 2
  fails 2 "3"
  [ -z "$(ls -A runs)" ]
}

@test "an axis that no program has yet: the reason and the nearest layout, before any rank starts" {
  run --separate-stderr "$furrow" train "$config" --nproc 2 --parallelism.context_parallel_degree 2
  fails 13 "context_parallel_degree is 2"
  [[ $stderr == *"nearest layout of 2 ranks is dp_replicate 1 x dp_shard 2"* ]]
  [ -z "$(ls -A runs)" ]
  WORLD_SIZE=1 RANK=0 run --separate-stderr "$furrow" train "$config" --parallelism.tensor_parallel_degree 2
  fails 2 "tp 2 = 2"
}

@test "ranks share every layer: the losses of one rank, and a checkpoint for any number of them" {
  "$furrow" train "$config" --nproc 2 --parallelism.tensor_parallel_degree 2
  grep -q "tp 2" runs/tiny-001/summary.json
  # Small sums stand apart from what bandwidth decides.
  [ "$(json runs/tiny-001/summary.json '"small_all_reduce" in d["bytes"] and "all_reduce" not in d["bytes"]')" = True ]
  "$furrow" train runs/tiny-001 --resume --training.steps 40 --parallelism.tensor_parallel_degree 1
  "$furrow" eval runs/tiny-001
}

@test "what every rank says is said once" {
  run --separate-stderr "$furrow" train "$config" --nproc 2 --training.dataset_path nowhere
  [ "$status" -eq 3 ]
  [ "$(grep -c "nowhere" <<<"$stderr")" -eq 1 ]
  [ -z "$(ls -A runs)" ]
}

@test "--nproc inside another launcher's world" {
  RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \
    run --separate-stderr "$furrow" train "$config" --nproc 2
  fails 7 "leave --nproc out"
}

@test "half an environment is refused, naming the variable" {
  RANK=1 run --separate-stderr "$furrow" train "$config"
  fails 2 "WORLD_SIZE"
}

@test "a run that exists is not overwritten" {
  run --separate-stderr "$furrow" train "$config" --nproc 2 --job.dump_folder "$BATS_FILE_TMPDIR/one"
  fails 4 "--resume"
  [ ! -e "$BATS_FILE_TMPDIR/one/logs" ]
}
