# Shared by the command-line tests: a small data set, a config over it, and the binary.
bats_require_minimum_version 1.5.0

furrow="${FURROW_BIN:-build/release/bin/furrow}"
furrow=$(realpath "$furrow")

# Two hundred 28x28 images of four classes (a bright quadrant each) and forty for the test, as MNIST stores them.
make_images() {
  mkdir -p "$1"
  python3 - "$1" <<'PY'
import random, struct, sys
random.seed(1)
for prefix, count in (("train", 200), ("t10k", 40)):
    images, labels = bytearray(), bytearray()
    for index in range(count):
        label = index % 4
        labels.append(label)
        for y in range(28):
            for x in range(28):
                bright = (y >= 14) * 2 + (x >= 14) == label
                images.append(random.randrange(128) + (100 if bright else 0))
    with open(f"{sys.argv[1]}/{prefix}-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">IIII", 2051, count, 28, 28) + images)
    with open(f"{sys.argv[1]}/{prefix}-labels-idx1-ubyte", "wb") as file:
        file.write(struct.pack(">II", 2049, count) + labels)
PY
}

make_config() {
  cat >"$1" <<TOML
[model]
name = "mlp"
hidden = [16]

[training]
dataset = "idx"
dataset_path = "$2"
local_batch_size = 20
steps = 30
threads = 1

[optimizer]
lr = 0.01

[validation]
freq = 10

[checkpoint]
interval = 10

[metrics]
log_freq = 5
TOML
}

# One folder per test; the data are made once per file.
setup_file() {
  make_images "$BATS_FILE_TMPDIR/images"
  make_config "$BATS_FILE_TMPDIR/tiny.toml" "$BATS_FILE_TMPDIR/images"
}

setup() {
  cd "$BATS_TEST_TMPDIR"
  config=$BATS_FILE_TMPDIR/tiny.toml
}

# fails STATUS TEXT: what `run --separate-stderr` saw is an error of this status that says so in one place, on stderr.
fails() {
  [ "$status" -eq "$1" ] || { echo "status $status, not $1: $stderr"; return 1; }
  [ -z "$output" ] || { echo "on stdout: $output"; return 1; }
  [[ $stderr == *"furrow: error: "* && $stderr == *"$2"* ]] || { echo "on stderr: $stderr"; return 1; }
  [[ $stderr != *"terminate called"* && $stderr != *"Exception raised from"* ]]
}

# json FILE EXPRESSION: the value in Python's notation, `d` being the parsed file.
json() {
  python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}
