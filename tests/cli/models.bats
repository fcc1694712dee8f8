load common

setup_file() { :; }

# A llama2.c checkpoint of 1 layer, dim 4, 1 head, feed-forward 2, vocabulary 3, context 2.
make_llama2c() {
  python3 - "$1" <<'PY'
import struct, sys
count = 12 + 4 + 4 * 16 + 4 + 3 * 8 + 4 + 2 * 4
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<7i", 4, 2, 1, 1, 1, 3, 2) + struct.pack(f"<{count}f", *range(count)))
PY
}

@test "a llama2.c checkpoint goes in and comes out as a folder of Hugging Face's" {
  make_llama2c tiny.bin
  run --separate-stderr "$furrow" models import llama2c tiny.bin --out tiny
  [ "$status" -eq 0 ]
  [ "$output" = "tiny: llama, 112 parameters, vocabulary 3, context 2" ]
  run --separate-stderr "$furrow" models export hf tiny --out tiny-hf
  [ "$status" -eq 0 ]
  [ "$(json tiny-hf/config.json 'd["intermediate_size"]')" = 2 ]
}

@test "without --out a model goes where its name says, a run's export into the run" {
  make_llama2c tiny.bin
  run --separate-stderr "$furrow" models import llama2c tiny.bin
  [ "$status" -eq 0 ]
  [ "$output" = "models/tiny: llama, 112 parameters, vocabulary 3, context 2" ]
  run --separate-stderr "$furrow" models import llama2c tiny.bin
  fails 4 "models/tiny is there already: remove it, or choose another with --out DIR"
  mkdir -p runs/a
  cp -r models/tiny runs/a/model
  run --separate-stderr "$furrow" models export hf runs/a
  [ "$status" -eq 0 ]
  [ "$output" = runs/a/hf ]
  [ -s runs/a/hf/model.safetensors ]
  run --separate-stderr "$furrow" models export hf models/tiny
  fails 2 "give --out DIR"
  run --separate-stderr "$furrow" models export hf runs/none
  [ "$status" -eq 3 ]
  [ ! -e runs/none ]
}

@test "models never maps libtorch" {
  make_llama2c tiny.bin
  run env LD_DEBUG=files "$furrow" models import llama2c tiny.bin --out mapped
  [ "$status" -eq 0 ]
  [[ $output == *libfurrow.so* && $output != *libtorch* ]]
}

@test "a form that does not exist names the nearest; nothing is overwritten" {
  make_llama2c tiny.bin
  run --separate-stderr "$furrow" models import llamac tiny.bin --out x
  fails 2 "did you mean 'import llama2c'"
  mkdir -p there
  run --separate-stderr "$furrow" models import llama2c tiny.bin --out there
  fails 4 "there is there already"
}
