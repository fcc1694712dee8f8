load common

setup_file() {
  make_images "$BATS_FILE_TMPDIR/images"
  make_config "$BATS_FILE_TMPDIR/tiny.toml" "$BATS_FILE_TMPDIR/images"
  "$furrow" train "$BATS_FILE_TMPDIR/tiny.toml" --job.dump_folder "$BATS_FILE_TMPDIR/run"
}

@test "eval measures the model that training measured" {
  trained=$BATS_FILE_TMPDIR/run
  for split in test validation; do
    "$furrow" eval "$trained" --split $split --json >$split.json
    [ "$(json $split.json 'd[0]["loss"], d[0]["accuracy"]')" = \
      "$(json "$trained/summary.json" "d['${split}_loss'], d['${split}_accuracy']")" ]
  done
}

@test "the table says the same on stdout, nothing on stderr" {
  run --separate-stderr "$furrow" eval "$BATS_FILE_TMPDIR/run"
  [ "$status" -eq 0 ]
  [ -z "$stderr" ]
  [[ ${lines[0]} == *accuracy* && ${lines[1]} == *" test "* ]]
}

@test "what is no run is not found" {
  run --separate-stderr "$furrow" eval nothing
  fails 3 "not the folder of a run"
}

@test "an unknown split names the nearest" {
  run --separate-stderr "$furrow" eval "$BATS_FILE_TMPDIR/run" --split tset
  fails 2 "did you mean 'test'"
}

@test "a damaged model is named" {
  cp -r "$BATS_FILE_TMPDIR/run" damaged
  truncate -s 100 damaged/model/model.safetensors
  run --separate-stderr "$furrow" eval damaged
  fails 11 "model.safetensors"
}

@test "a model folder is measured on a text, through the tokenizer that it carries" {
  printf 'to be or not to be, that is the question. %.0s' {1..60} >text.txt
  "$furrow" train "$BATS_FILE_TMPDIR/tiny.toml" --model.name gpt --model.layers 1 --model.heads 2 --model.width 16 \
    --training.dataset text --training.dataset_path text.txt --training.seq_len 16 --training.steps 4 --job.dump_folder gpt
  "$furrow" eval gpt/model --text text.txt --json >eval.json
  [ "$(json eval.json 'd[0]["split"], d[0]["samples"], 0 < d[0]["loss"] < 5')" = "('text', 157, True)" ]
  run --separate-stderr "$furrow" eval gpt/model
  fails 2 "give --text FILE"
  run --separate-stderr "$furrow" eval gpt --text text.txt
  fails 2 "name RUN/model"
  printf 'zzz\n' >other.txt
  run --separate-stderr "$furrow" eval gpt/model --text other.txt
  fails 2 "not in the fitted alphabet"
}
