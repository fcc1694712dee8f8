load common

# A run as its folder shows it, without training.
make_run() {
  mkdir -p "runs/$1"
  printf '[model]\nname = "mlp"\n[training]\nsteps = 20\n[optimizer]\nlr = %s\n' "$2" >"runs/$1/config.toml"
  printf '{"step":10,"samples":200,"loss":%s}\n{"step":20,"samples":400,"loss":0.5}\n{"step":3' "$2" >"runs/$1/metrics.jsonl"
}

make_summary() {
  printf '{"name": "%s", "status": "finished", "steps": 20, "samples": 400, "loss": 0.5, "test_accuracy": 0.75, "samples_per_second": 1000}' "$1" >"runs/$1/summary.json"
}

setup_file() { :; }

@test "no runs is an empty table" {
  run --separate-stderr "$furrow" runs
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -eq 1 ]
  [ "$("$furrow" runs --json)" = "[]" ]
}

@test "the list has finished and killed runs, sorted; a torn last line is no harm" {
  make_run b 0.1
  make_run a 0.2
  make_summary a
  "$furrow" runs list --json >list.json
  [ "$(json list.json '[(r["run"], r["status"], r["steps"]) for r in d]')" = "[('a', 'finished', 20), ('b', 'killed', 20)]" ]
  [ "$("$furrow" runs --json)" = "$(cat list.json)" ]
}

@test "show prints one run, by name or by folder" {
  make_run a 0.2
  make_summary a
  run --separate-stderr "$furrow" runs show a
  [ "$status" -eq 0 ]
  [[ $output == *"test accuracy         0.7500"* && $output == *"0.2000 to 0.5000"* ]]
  [ "$("$furrow" runs show runs/a)" = "$output" ]
  "$furrow" runs show a --json >a.json
  [ "$(json a.json 'd["test_accuracy"]')" = 0.75 ]
}

@test "compare shows figures and the keys that differ" {
  make_run a 0.1
  make_run b 0.2
  make_summary a
  make_summary b
  "$furrow" runs compare a b --json --svg both.svg >compare.json
  [ "$(json compare.json '[r for r in d if r["figure"] == "optimizer.lr"][0]["b"]')" = 0.2 ]
  [ "$(json compare.json '[r for r in d if r["figure"] == "test_accuracy"][0]["ratio"] == 1')" = True ]
  grep -q "a training" both.svg
}

@test "runs never maps libtorch" {
  make_run a 0.1
  run env LD_DEBUG=files "$furrow" runs show a
  [ "$status" -eq 0 ]
  [[ $output == *libfurrow.so* && $output != *libtorch* ]]
}

@test "an unknown verb names the nearest" {
  run --separate-stderr "$furrow" runs shwo a
  fails 2 "did you mean 'show'"
}

@test "a wrong number of runs shows the usage" {
  run --separate-stderr "$furrow" runs compare a
  fails 2 "takes 2 runs, not 1"
}

@test "a run that does not exist is not found" {
  run --separate-stderr "$furrow" runs show nothing
  fails 3 "nothing"
}

@test "a damaged record is named" {
  make_run a 0.1
  printf '{"step":1,\n{"step":2,"samples":2}\n' >runs/a/metrics.jsonl
  run --separate-stderr "$furrow" runs show a
  fails 11 "metrics.jsonl:1"
}
