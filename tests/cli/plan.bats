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
