load common

@test "a run leaves its folder and prints its summary" {
  run --separate-stderr "$furrow" train "$config" --job.dump_folder out
  [ "$status" -eq 0 ]
  [[ $output == *"steps                 30"* && $output == *"planned"* ]]
  [[ $stderr == *"step:    30  loss: "* && $stderr == *"run folder: out"* ]]
  for file in config.toml plan.txt metrics.jsonl summary.json loss.svg confusion.svg samples.svg model/model.safetensors model/model.toml; do
    [ -s "out/$file" ]
  done
  [[ $("$furrow" runs show out) == *"pictures              loss.svg, confusion.svg, samples.svg"* ]]
  [ "$(json out/summary.json 'd["steps"], d["samples"], d["status"]')" = "(30, 600, 'finished')" ]
  [ "$(json out/summary.json 'd["test_accuracy"] > 0.9 and d["validation_accuracy"] > 0.9')" = True ]
  [ "$(json out/summary.json 'd["ranks"], d["layout"], "bytes" in d')" = "(1, 'dp_replicate 1, dp_shard 1', False)" ]
  [[ $(json out/summary.json 'd["deterministic"]') == "one rank, "* ]]
  [ "$(json out/summary.json 'd["peak_rss_bytes"] > 1e7 and d["memory_bytes"]["parameters"] > 0')" = True ]
  [ "$(tail -n 1 out/metrics.jsonl | python3 -c 'import json; print(json.loads(input())["step"])')" = 30 ]
}

@test "--json prints the same as summary.json" {
  run --separate-stderr "$furrow" train "$config" --job.dump_folder out --json
  [ "$status" -eq 0 ]
  [ "$output" = "$(cat out/summary.json)" ]
}

@test "without a dump folder runs are numbered" {
  "$furrow" train "$config" --training.steps 1
  "$furrow" train "$config" --training.steps=1
  [ -s runs/tiny-001/summary.json ]
  [ -s runs/tiny-002/summary.json ]
}

@test "records beside the folder: TensorBoard and the trace" {
  "$furrow" train "$config" --job.dump_folder out --metrics.enable_tensorboard --profiling.enable_profiling
  ls out/tb/events.out.tfevents.*
  [ "$(json out/trace.json 'any(e["name"].startswith("forward") for e in d["traceEvents"])')" = True ]
}

@test "a finished run is not overwritten, and --resume of it has nothing left to do" {
  "$furrow" train "$config" --job.dump_folder out
  cp -r out before
  run --separate-stderr "$furrow" train "$config" --job.dump_folder out
  fails 4 "--resume"
  run --separate-stderr "$furrow" train out
  fails 4 "furrow train out --resume"
  run --separate-stderr "$furrow" train out --resume --json
  [ "$status" -eq 0 ]
  [[ $stderr == *"the run is over, finished at step 30 of 30: nothing is trained and nothing replaced"* ]]
  [[ $stderr == *"furrow train out --resume --training.steps MORE"* ]]
  [ "$output" = "$(cat before/summary.json)" ]
  diff -r out before
  rm -r out/model # what is missing is made again
  "$furrow" train out --resume
  cmp out/model/model.safetensors before/model/model.safetensors
}

@test "checkpoint.load_step is where this start goes on, not where later ones do" {
  "$furrow" train "$config" --job.dump_folder out --training.steps 20
  "$furrow" train out --resume --checkpoint.load_step 10 2>log
  grep "resuming at step 10 of 20" log
  "$furrow" train out --resume --training.steps 30 2>log
  grep "resuming at step 20 of 30" log
  "$furrow" train "$config" --job.dump_folder whole
  cmp out/model/model.safetensors whole/model/model.safetensors
}

@test "a resume sees that its data are others: strict refuses them, auto says so" {
  make_images images
  for kind in strict auto; do
    "$furrow" train "$config" --job.dump_folder $kind --training.dataset_path images --debug.deterministic $kind
    "$furrow" train $kind --resume --checkpoint.load_step 10 2>log
    run ! grep "the data are not" log
  done
  dd if=/dev/zero of=images/train-images-idx3-ubyte bs=784 seek=1 count=100 conv=notrunc 2>/dev/null
  run --separate-stderr "$furrow" train strict --resume --checkpoint.load_step 10
  fails 7 "the data are not those that the run had before: training sample "
  "$furrow" train auto --resume --checkpoint.load_step 10 2>log
  grep "the data are not those that the run had before: training sample .* it goes on with other samples" log
}

@test "a run does not go on with state that its checkpoint never had" {
  "$furrow" train "$config" --job.dump_folder out --training.steps 20
  for other in --ema.decay=0.9 --lora.rank=2 --optimizer.name=adafactor; do
    run --separate-stderr "$furrow" train out --resume --training.steps 30 "$other"
    fails 7 "Resume with these as they were, or begin a new run from its weights"
  done
}

@test "a run that stopped early goes on with more patience" {
  impatient=(--validation.freq 1 --validation.min_delta 10)
  run --separate-stderr "$furrow" train "$config" --job.dump_folder out "${impatient[@]}" --validation.patience 2
  [ "$(json out/summary.json 'd["status"], d["steps"]')" = "('stopped early', 3)" ]
  run --separate-stderr "$furrow" train out --resume
  [[ $stderr == *"the run is over, stopped early at step 3 of 30"*"--validation.patience MORE"* ]]
  run --separate-stderr "$furrow" train out --resume --validation.patience 5
  [ "$status" -eq 0 ]
  [ "$(json out/summary.json 'd["status"], d["steps"]')" = "('stopped early', 6)" ]
}

@test "SIGTERM and SIGINT save and stop with 128 + signal; the resumed run ends like an uninterrupted one" {
  long=(--training.steps 3000 --checkpoint.interval 1000 --validation.freq 0)
  "$furrow" train "$config" --job.dump_folder whole "${long[@]}" 2>/dev/null
  "$furrow" train "$config" --job.dump_folder other "${long[@]}" --debug.seed 1 2>/dev/null
  run ! cmp -s other/model/model.safetensors whole/model/model.safetensors
  for signal in TERM INT; do
    "$furrow" train "$config" --job.dump_folder $signal "${long[@]}" 2>log.$signal &
    pid=$!
    until grep -q '"step":15,' $signal/metrics.jsonl 2>/dev/null; do kill -0 $pid; done
    kill -$signal $pid
    result=0
    wait $pid || result=$?
    echo "$signal: status $result, $(tail -n 3 log.$signal)"
    [ $result -eq $((128 + $(kill -l $signal))) ]
    [ "$(json $signal/summary.json 'd["status"], d["steps"] < 3000')" = "('interrupted', True)" ]
    grep -q -- "--resume" log.$signal
    [ ! -e $signal/model ]
    "$furrow" train $signal --resume 2>/dev/null
    cmp $signal/model/model.safetensors whole/model/model.safetensors
    cmp <(grep -o '.*"lr":[^,]*' whole/metrics.jsonl) <(grep -o '.*"lr":[^,]*' $signal/metrics.jsonl)
  done
}

@test "a GAN in float16 has a loss scale for each phase, and goes on with both" {
  gan=(--model.name gan --training.objective gan --training.mixed_precision_param float16 --data.normalize false
    --validation.enable false --model.generator_hidden [16] --model.discriminator_hidden [16]
    --grad_scaler.init_scale 1e9 --grad_scaler.growth_interval 4)
  "$furrow" train "$config" --job.dump_folder whole "${gan[@]}"
  "$furrow" train "$config" --job.dump_folder parts "${gan[@]}"
  grep -q '"loss_scale_discriminator":[0-9.]*,.*"skipped_steps_generator":[1-9]' whole/metrics.jsonl
  rm -r parts/model parts/checkpoints/step-00000030
  "$furrow" train parts --resume
  cmp whole/model/model.safetensors parts/model/model.safetensors
  run --separate-stderr "$furrow" plan "$config" "${gan[@]}" --print program
  [ "$status" -eq 0 ]
  [[ $output == *"update_scale"*"scale(1) loss_scale(2) -> loss_scale(3)"* ]]
}

@test "a missing config is not found" {
  run --separate-stderr "$furrow" train none.toml
  fails 3 "none.toml"
  [ ! -e runs ]
}

@test "a misspelt key names the nearest, with file and line" {
  printf '[training]\nstep = 3\n' >bad.toml
  run --separate-stderr "$furrow" train bad.toml
  fails 2 "steps"
  [[ $stderr == *"bad.toml:2"* ]]
  run --separate-stderr "$furrow" train "$config" --optimizer.lrr 0.1
  fails 2 "lr"
}

@test "an unknown option names the nearest" {
  run --separate-stderr "$furrow" train "$config" --resum
  fails 2 "did you mean '--resume'"
}

@test "a folder, a network that does not exist, a warm-up too long: the remedy" {
  mkdir folder
  cp "$config" folder/b.toml
  run --separate-stderr "$furrow" train folder
  fails 3 "name a file in it, such as folder/b.toml"
  run --separate-stderr "$furrow" plan folder
  fails 3 "name a file in it, such as folder/b.toml"
  # The network is looked at before the data.
  run --separate-stderr "$furrow" train "$config" --training.dataset_path "" --model.name mpl
  fails 2 "[model] name: unknown architecture 'mpl': did you mean 'mlp'?"
  run --separate-stderr "$furrow" plan "$config" --training.dataset_path "" --model.name mpl
  fails 2 "unknown architecture 'mpl'"
  run --separate-stderr "$furrow" train "$config" --training.steps 3 --lr_scheduler.warmup_steps 100
  fails 2 "set lr_scheduler.warmup_steps to at most 3 (--lr_scheduler.warmup_steps 0 for none)"
}

@test "selective recompute by itself and a budget for data in memory" {
  deep=(--model.hidden 16,16,16)
  "$furrow" train "$config" --job.dump_folder plain "${deep[@]}"
  run --separate-stderr "$furrow" train "$config" --job.dump_folder again "${deep[@]}" \
    --activation_checkpoint.mode selective --data.memory_budget 256MiB
  [ "$status" -eq 0 ]
  [ "$(grep -c "bounds the batches prepared ahead" <<<"$stderr")" -eq 1 ]
  grep -q recompute again/plan.txt
  run grep -q recompute plain/plan.txt
  [ "$status" -eq 1 ]
  cmp plain/model/model.safetensors again/model/model.safetensors
}

@test "impossible batch sizes show the sum" {
  run --separate-stderr "$furrow" train "$config" --training.global_batch_size 19 --job.dump_folder out
  fails 2 "global_batch_size 19 is less than one microbatch"
  [ ! -e out ]
}

@test "missing data are named and leave no folder behind" {
  run --separate-stderr "$furrow" train "$config" --training.dataset_path nowhere
  fails 3 "nowhere"
  [ -z "$(ls -A runs)" ]
}

@test "--resume without a run says what it needs" {
  run --separate-stderr "$furrow" train "$config" --resume
  fails 2 "--resume needs the run"
  mkdir empty
  run --separate-stderr "$furrow" train empty --resume
  fails 3 "empty"
}

@test "two processes cannot write one run" {
  mkdir held
  mkfifo locked done
  exec 8>held/.lock
  python3 - <<'PY' 8>&8 &
import fcntl, struct
fcntl.fcntl(8, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
open("locked", "w").write("yes")
open("done").read()
PY
  read -r <locked || true
  run --separate-stderr "$furrow" train "$config" --job.dump_folder held
  echo >done
  wait
  fails 8 "another process"
}
