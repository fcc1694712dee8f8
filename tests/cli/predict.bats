load common

figures='["bubble", "exposed_communication", "memory_bytes", "step_time_ms", "wire_bytes"]'

@test "a run shows what was predicted beside what it took" {
  export FURROW_PROFILE=$PWD/none
  run --separate-stderr "$furrow" train "$config" --nproc 2 --job.dump_folder out --profiling.enable_profiling
  [ "$status" -eq 0 ]
  [[ $output == *"measured      predicted"* && $output == *"(analytic)"* ]]
  for side in predicted measured; do
    [ "$(json out/summary.json "sorted(k for k in d['$side'] if k in $figures) == $figures")" = True ]
    [ "$(json out/summary.json "d['$side']['step_time_ms'] > 0 and d['$side']['memory_bytes'] > 0")" = True ]
  done
  [ "$(json out/summary.json "d['predicted']['wire_bytes'] > 0")" = True ]
  [ "$(json out/trace.json "sum('predicted compute' in str(e.get('args')) for e in d['traceEvents'])")" = 1 ]
  "$furrow" runs show out | grep -q "predicted"
  grep -q ">predicted compute</text>" out/timeline.svg
  grep -q ">planned memory</text>" out/timeline.svg
  # Every picture of the run is named.
  local pictures picture
  pictures=$("$furrow" runs show out | grep "^pictures ")
  for picture in out/*.svg; do [[ $pictures == *"${picture#out/}"* ]]; done
  [[ $pictures == *timeline.svg* ]]
}

@test "every run has both timelines in one bounded trace; profiling traces more steps" {
  export FURROW_PROFILE=$PWD/none
  steps_of() { json "$1" "sorted({e['args']['step'] for e in d['traceEvents'] if 'step' in e.get('args', {})})"; }
  local count='sum("predicted" in str(e.get("args")) and e["ph"] == "M" for e in d["traceEvents"])'
  "$furrow" train "$config" --training.steps 8 --job.dump_folder plain
  [ "$(steps_of plain/trace.json)" = "['3']" ]
  [ "$(json plain/trace.json "$count")" -ge 1 ]
  [ "$(stat -c %s plain/trace.json)" -lt 4000000 ]
  grep -q ">predicted compute</text>" plain/timeline.svg
  "$furrow" train "$config" --training.steps 2 --job.dump_folder short --metrics.enable_plots=false
  [ "$(steps_of short/trace.json)" = "['1']" ]
  [ ! -e short/timeline.svg ]
  "$furrow" train "$config" --training.steps 8 --profiling.enable_profiling --job.dump_folder more
  [ "$(steps_of more/trace.json)" = "['1', '2', '3']" ]
  # Tracing changes no bit.
  cmp plain/model/model.safetensors more/model/model.safetensors
}

@test "a delay is predicted to take what it says, on any machine" {
  export FURROW_PROFILE=$PWD/none
  local delays=(--model.name blocks --model.units
    '["d0: delay forward_ms=10 backward_input_ms=20 backward_weight_ms=5 bytes=4096", "d1: delay forward_ms=1", "fc: linear out=classes"]')
  "$furrow" plan "$config" "${delays[@]}" --print timeline --json >here.json
  "$furrow" plan "$config" "${delays[@]}" --layout configured --cluster "$FURROW_SOURCE_DIR/examples/clusters/8xh100.toml" \
    --print timeline --json >there.json
  local file took
  for file in here.json there.json; do
    took="{round(r['end_ms'] - r['start_ms'], 6) for r in d if r['unit'] == 'd0' and r['op'] == OP}"
    [ "$(json $file "${took/OP/\'forward\'}")" = "{10.0}" ]
    [ "$(json $file "${took/OP/\'backward_input\'}")" = "{20.0}" ]
    [ "$(json $file "${took/OP/\'backward_weight\'}")" = "{5.0}" ]
  done
  "$furrow" plan "$config" "${delays[@]}" --print units --json >units.json
  [ "$(json units.json "[r['output'] for r in d][:2] == ['[-1, 1024]', '[-1, 1024]']")" = True ]
}

@test "a profile is what predictions come from" {
  export FURROW_PROFILE=$PWD/profile
  "$furrow" profile "$config" --nproc 2
  head -1 profile | grep -qx "furrow-profile 3"
  grep -q "^section 2 1$" profile
  grep -q "^unit linear .* backward_weight 20 " profile
  grep -q "^move all_gather 2 " profile
  grep -q "^move gather_params 2 " profile
  grep -q "^unit linear.tp2 .* backward_weight 20 " profile
  grep -q "^move tensor.all_reduce 2 " profile
  "$furrow" profile "$config" --json >table.json
  [ "$(json table.json "len(d) > 4")" = True ]
  [ "$(grep -c "^section" profile)" = 2 ]
  "$furrow" train "$config" --job.dump_folder out
  [ "$(json out/summary.json "d['predicted']['source']")" = profiled ]
  "$furrow" train "$config" --nproc 2 --job.dump_folder two
  [ "$(json two/summary.json "d['planned_memory_bytes']['other'] <= 1.1 * d['memory_bytes']['other']")" = True ]
  "$furrow" plan "$config" --cluster local --nproc 2 --json >search.json
  [ "$(json search.json "d['costs']")" = profiled ]
  "$furrow" plan "$config" --cluster local --scale 1..2 | grep -q "profiled costs"
  FURROW_PROFILE=$PWD/none "$furrow" plan "$config" --cluster local --scale 1..2 | grep -q "analytic costs"
  echo garbage >profile
  run --separate-stderr "$furrow" profile "$config"
  fails 11 "line 1: expected 'furrow-profile 3'"
  "$furrow" train "$config" --job.dump_folder "$PWD/damaged" 2>log
  [ "$(grep -c "no prediction of this run: " log)" = 1 ]
}

@test "of a device only what was measured on it is predicted" {
  export FURROW_PROFILE=$PWD/profile
  "$furrow" profile "$config" --out profile
  run --separate-stderr "$furrow" plan "$config" --training.device composed --print timeline
  fails 7 "nothing was measured of [training] device = \"composed\"" "furrow profile CONFIG --training.device composed"
  "$furrow" train "$config" --training.device composed --job.dump_folder unknown 2>log
  grep -q "no prediction of this run: nothing was measured of" log
  [ "$(json unknown/summary.json "'predicted' in d")" = False ]
  "$furrow" profile "$config" --training.device composed
  grep -q "^device composed 0 " profile
  [ "$(grep -c "^section 1 " profile)" = 2 ]
  "$furrow" train "$config" --training.device composed --job.dump_folder out
  [ "$(json out/summary.json "d['predicted']['source']")" = profiled ]
  "$furrow" plan "$config" --training.device composed --print timeline --json >timeline.json
  [ "$(json timeline.json "any(r['lane'] == 'launch' for r in d)")" = False ]
  # As a device behind the thread would have it.
  sed -i '/^device composed/,$ s/^\(unit .*\)$/\1 1e-05/' profile
  "$furrow" plan "$config" --training.device composed --print timeline --json >timeline.json
  [ "$(json timeline.json "sum(r['lane'] == 'launch' for r in d) > 4")" = True ]
  "$furrow" plan "$config" --training.device composed --cluster local --nproc 1 --json >search.json
  [ "$(json search.json "d['costs']")" = profiled ]
}

@test "a device that is not there is not measured, and what does not fit a machine does not begin" {
  export CUDA_VISIBLE_DEVICES= FURROW_PROFILE=$PWD/profile
  run --separate-stderr "$furrow" profile "$config" --training.device cuda
  fails 7 "device = \"cuda\": this"
  [ ! -e profile ]
  for device in cpu composed; do
    run --separate-stderr "$furrow" train "$config" --training.device $device --model.hidden '[262144,262144]' --job.dump_folder huge
    fails 10 " of memory on this host, which has "
  done
}

@test "the timeline of a step, before it runs" {
  export FURROW_PROFILE=$PWD/none
  "$furrow" plan "$config" --nproc 2 --print timeline --trace predicted.json --json >timeline.json
  "$furrow" plan "$config" --nproc 2 --print program --json >program.json
  "$furrow" plan "$config" --nproc 2 --print memory-timeline --draw step.svg --json >memory.json
  [ "$(json memory.json "all(r['total_bytes'] == sum(v for k, v in r.items() if k.endswith('_bytes')) - r['total_bytes'] for r in d)")" = True ]
  grep -q ">planned memory</text>" step.svg
  [ "$(json timeline.json "len(d)")" = "$(json program.json "len(d)")" ]
  [ "$(json timeline.json "all(a['start_ms'] <= b['start_ms'] for a, b in zip(d, d[1:]))")" = True ]
  [ "$(json predicted.json "sum('rank 1 predicted comm' in str(e.get('args')) for e in d['traceEvents'])")" = 1 ]
}
