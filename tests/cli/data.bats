load common

# The end of a run that tells whether two trained alike: parameters and losses.
fingerprint() { cat "$1/model/model.safetensors" <(python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(d["loss"], d["test_loss"], d["validation_loss"])' "$1/summary.json") | sha256sum; }

@test "pack, info, verify: a set becomes a pack, recognised by its files" {
  run --separate-stderr "$furrow" data pack "$BATS_FILE_TMPDIR/images" --out packs/a --json
  [ "$status" -eq 0 ]
  [[ $output == *'"records": 240'* || $output == *'"records":240'* ]]
  [ -f packs/a/pack.json ]
  [ ! -e packs/a.partial ]
  run --separate-stderr "$furrow" data info packs/a
  [ "$status" -eq 0 ]
  [[ $output == *validation* && $output == *"uint8"* && $output == *"fitted mean"* ]]
  "$furrow" data info packs/a --json | python3 -c 'import json, sys; assert json.load(sys.stdin)["layout"] == "images"'
  "$furrow" data verify packs/a --json >verdicts.json
  [ "$(json verdicts.json 'sorted((r["split"], r["verdict"]) for r in d)')" = "[('test', 'whole'), ('train', 'whole'), ('validation', 'whole')]" ]
}

@test "training from a pack gives the bits of training from the set, mapped or streamed" {
  "$furrow" data pack "$config" --out pack --shard-size 10kB
  [ "$(ls pack/*.shard | wc -l)" -gt 10 ]
  "$furrow" train "$config" --job.dump_folder plain
  "$furrow" train "$config" --job.dump_folder mapped --training.dataset pack --training.dataset_path pack
  "$furrow" train "$config" --job.dump_folder streamed --training.dataset pack --training.dataset_path pack \
    --data.memory_budget 130kB --data.readers 3
  [ "$(fingerprint plain)" = "$(fingerprint mapped)" ]
  [ "$(fingerprint plain)" = "$(fingerprint streamed)" ]
  "$furrow" train "$config" --job.dump_folder other --debug.seed 5
  [ "$(fingerprint plain)" != "$(fingerprint other)" ]
  "$furrow" eval mapped --json >eval.json
  "$furrow" plan "$config" --training.dataset pack --training.dataset_path pack --json >/dev/null
}

@test "a killed pack leaves nothing under its name, and the same command goes on" {
  FURROW_FAILPOINTS=pack.after_shard=kill@5 run "$furrow" data pack "$config" --out pack --shard-size 10kB --threads 2
  [ "$status" -eq 137 ]
  [ ! -e pack ]
  [ -d pack.partial ]
  "$furrow" data pack "$config" --out pack --shard-size 10kB --json >summary.json
  [ "$(json summary.json 'd[0]["kept_shards"] >= 4')" = True ]
  [ ! -e pack.partial ]
  [ ! -e pack/packing.json ]
  "$furrow" data pack "$config" --out whole --shard-size 10kB
  diff -r pack whole
}

@test "damage is found and named" {
  "$furrow" data pack "$config" --out pack
  printf 'x' | dd of=pack/train-00000.shard bs=1 seek=5000 conv=notrunc status=none
  run --separate-stderr "$furrow" data verify pack
  [ "$status" -eq 11 ]
  [[ $output == *"train-00000.shard"*"differ from their checksum"* && $stderr == *"1 of the 3 shards of pack are damaged"* ]]
  run --separate-stderr "$furrow" train "$config" --training.dataset pack --training.dataset_path pack --job.dump_folder run
  [ "$status" -ne 0 ]
  [[ $stderr == *"train-00000.shard: bytes 4096 to 8191"* && $stderr != *"terminate called"* ]]
  truncate -s -1 pack/test-00000.shard
  run --separate-stderr "$furrow" data verify pack
  [[ $output == *"test-00000.shard"*"bytes, not the"* ]]
  run --separate-stderr "$furrow" data info pack
  [[ $status -eq 11 && $output == *"made of"* && $stderr == *"test-00000.shard"* ]]
  sed -i 's/"mean": "0/"mean": "1/' pack/pack.json
  run --separate-stderr "$furrow" data info pack
  [[ $stderr == *"digest differs"* ]]
}

@test "wrong use is answered with what to do" {
  run --separate-stderr "$furrow" data pack "$BATS_FILE_TMPDIR/images"
  fails 2 "needs --out DIR"
  run --separate-stderr "$furrow" data pak x y
  [ "$status" -eq 2 ]
  run --separate-stderr "$furrow" data pac x
  fails 2 "did you mean 'pack'"
  run --separate-stderr "$furrow" data pack nowhere --out x
  fails 3 "there is no nowhere"
  mkdir empty
  run --separate-stderr "$furrow" data pack empty --out x
  fails 2 "cannot tell what kind of data"
  run --separate-stderr "$furrow" data info empty
  fails 3 "furrow data pack"
  run --separate-stderr "$furrow" data pack "$config" --out empty
  fails 4 "is there already"
  run --separate-stderr "$furrow" data pack "$config" --out x --shard-size many
  fails 2 "no number of bytes"
  run --separate-stderr "$furrow" data pack "$config" --out x --shard-size 3
  fails 2 "--shard-size 3 is below the 4.0 KiB"
  [ ! -e x ]
  [ ! -e x.partial ]
  run --separate-stderr "$furrow" train "$config" --data.memory_budget lots
  fails 2 "no number of bytes"
  "$furrow" data pack "$config" --out pack
  run --separate-stderr "$furrow" train "$config" --training.dataset pack --training.dataset_path pack --data.memory_budget 1kB --job.dump_folder run
  fails 2 "microbatches of one step need"
}

@test "bench data measures, and data never maps libtorch" {
  "$furrow" data pack "$config" --out pack
  "$furrow" bench data pack --seconds 0.05 --json >bench.json
  [ "$(json bench.json '[r["data"] for r in d]')" = "['mapped', 'streamed', 'streamed', 'streamed']" ]
  [ "$(json bench.json '[r["readers"] for r in d]')" = "['auto', 'none', 1, 'auto']" ]
  [ "$(json bench.json 'all(r["cpu_ns_per_sample"] > 0 for r in d)')" = True ]
  [ "$(json bench.json 'all(r["delivered_gb_per_second"] > 0 for r in d)')" = True ]
  run env LD_DEBUG=files "$furrow" data verify pack
  [ "$status" -eq 0 ]
  [[ $output == *libfurrow.so* && $output != *libtorch* ]]
}

@test "a table trains, packs and evaluates; commands without tables do not load Arrow" {
  python3 - >table.csv <<'PY'
import random
random.seed(3)
print("x,color,y")
for _ in range(400):
    x, c = random.random(), random.choice("rgb")
    print(f"{x:.4f},{c},{'up' if x + (c == 'r') * 0.5 > 0.7 else 'down'}")
PY
  cat >table.toml <<'TOML'
[model]
name = "mlp"
hidden = [16]
[training]
dataset = "table"
dataset_path = "table.csv"
local_batch_size = 20
steps = 200
threads = 1
[optimizer]
lr = 0.01
[data]
target = "y"
validation_fraction = 0.1
test_fraction = 0.2
TOML
  "$furrow" train table.toml --job.dump_folder plain --json >summary.json
  [ "$(json summary.json 'd["test_accuracy"] > 0.9')" = True ]
  grep -q '"target" = "class' plain/model/model.toml
  "$furrow" eval plain --json >eval.json
  [ "$(json eval.json 'd[0]["accuracy"]')" = "$(json summary.json 'd["test_accuracy"]')" ] || cat eval.json
  "$furrow" data pack table.toml --out pack
  "$furrow" train table.toml --job.dump_folder packed --training.dataset pack --training.dataset_path pack
  [ "$(fingerprint plain)" = "$(fingerprint packed)" ]
  for column in target=color 'ignore_columns=["color"]' decimal=, 'missing_values=["0.5"]'; do
    run --separate-stderr "$furrow" train plain --resume --training.steps 220 --data."${column%%=*}" "${column#*=}"
    fails 7 "data.${column%%=*} = "
  done
  "$furrow" train table.toml --job.dump_folder one --training.global_batch_size 40 --training.steps 40
  "$furrow" train table.toml --job.dump_folder two --training.global_batch_size 40 --training.steps 40 --nproc 2
  [ "$(fingerprint one)" = "$(fingerprint two)" ]
  echo "0.5,violet,up" >>table.csv
  run --separate-stderr "$furrow" eval plain --split test
  fails 2 "row 401: category 'violet' was not in the training data"
  echo "0.5,r" >>table.csv
  run --separate-stderr "$furrow" train table.toml --job.dump_folder bad
  fails 2 "Expected 3 columns, got 2"
  run env LD_DEBUG=files "$furrow" data verify pack
  [[ $output == *libfurrow.so* && $output != *libarrow* ]]
  run env LD_DEBUG=files "$furrow" plan table.toml --data.ignore_columns '["color"]'
  [[ $output == *libarrow.so* && $output != *libtorch* ]]
}

# Thirty megabytes of rows, 15 parts to read, and a config for them: make_large_table [ROWS]
make_large_table() {
  python3 - "${1:-1000000}" >large.csv <<'PY'
import random, sys
random.seed(5)
lines = [f"{random.random():.6f},{random.choice('rgb')},{i % 7},{random.choice(['up', 'down'])}," for i in range(1000)]
print("x,color,n,y,id")
for block in range(int(sys.argv[1]) // 1000):
    print("\n".join(f"{line}{block * 1000 + i}" for i, line in enumerate(lines)))
PY
  cat >large.toml <<'TOML'
[model]
name = "mlp"
hidden = [4]
[training]
dataset = "table"
dataset_path = "large.csv"
local_batch_size = 20
steps = 3
threads = 1
[data]
target = "y"
validation_fraction = 0.1
test_fraction = 0.1
TOML
}

@test "Ctrl-C while a table is read: a pack goes on there, a training leaves nothing" {
  make_large_table
  FURROW_FAILPOINTS=table.before_block=delay:40 "$furrow" data pack large.toml --out pack 2>log &
  pid=$!
  until [ "$(cat pack.partial/*.rows 2>/dev/null | wc -c)" -gt 1000000 ]; do kill -0 $pid; done
  begin=$(date +%s%N)
  kill -INT $pid
  wait $pid && status=0 || status=$?
  [ "$status" -eq 130 ]
  [ $(($(date +%s%N) - begin)) -lt 1000000000 ]
  grep -q "pack.partial keeps what is done" log
  [ ! -e pack ]
  kept=$(cat pack.partial/*.rows | wc -c)
  FURROW_FAILPOINTS=table.before_block=kill@3 run "$furrow" data pack large.toml --out pack
  [ "$status" -eq 137 ]
  [ "$(cat pack.partial/*.rows | wc -c)" -gt "$kept" ]
  "$furrow" data pack large.toml --out pack
  [ ! -e pack.partial ]
  [ -z "$(find pack -name '*.rows')" ]
  "$furrow" data pack large.toml --out whole --threads 1
  diff -r pack whole
  FURROW_FAILPOINTS=table.before_block=delay:100 "$furrow" train large.toml --job.dump_folder run 2>log &
  pid=$!
  until grep -q "libarrow" "/proc/$pid/maps" 2>/dev/null; do kill -0 $pid; done
  kill -INT $pid
  wait $pid && status=0 || status=$?
  [ "$status" -eq 130 ]
  grep -q "interrupted while the table was read: nothing is left behind" log
  [ ! -e run/config.toml ]
}

@test "a bad row deep in a table is named, and its pack leaves nothing; parts in a folder are one table" {
  make_large_table 300000
  mkdir parts
  head -n 1 large.csv >head
  tail -n +2 large.csv | split -l 70000 -d - parts/part-
  for part in parts/part-*; do cat head "$part" >"$part.csv"; rm "$part"; done
  "$furrow" data pack large.toml --out whole
  "$furrow" data pack large.toml --out joined --training.dataset_path parts
  diff -r whole joined -x pack.json
  sed -i '250001s/.*/0.5,r,3/' large.csv
  run --separate-stderr "$furrow" data pack large.toml --out bad
  fails 2 "large.csv: row 250000: Expected 5 columns, got 3: 0.5,r,3"
  [ ! -e bad ]
  [ ! -e bad.partial ]
}

# Twenty images of one colour in each folder that is named after it: make_pictures FOLDER "CLASS LEVEL" ...
make_pictures() {
  python3 - "$@" <<'PY'
import os, struct, sys, zlib
def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
for word in sys.argv[2:]:
    name, level = word.split()
    os.makedirs(f"{sys.argv[1]}/{name}")
    for i in range(20):
        rows = (b"\0" + bytes([int(level) + i % 5]) * 24) * 8
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
        open(f"{sys.argv[1]}/{name}/{i}.png", "wb").write(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
PY
}

@test "a pack of image files trains to the bits of the folder, random regions of the originals too" {
  python3 - <<'PY'
import os, random, struct, zlib
def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
random.seed(4)
for name, level in (("cat", 40), ("dog", 150)):
    os.makedirs(f"noise/{name}")
    for i in range(20):
        rows = b"".join(b"\0" + bytes(level + random.randrange(100) for _ in range(20 * 3)) for _ in range(14))
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 14, 8, 2, 0, 0, 0))
        open(f"noise/{name}/{i}.png", "wb").write(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
PY
  cat >noise.toml <<'TOML'
[model]
name = "mlp"
hidden = [8]
[training]
dataset = "folder"
dataset_path = "noise"
local_batch_size = 10
steps = 9
[data]
crop_size = 8
resize_size = 10
random_resized_crop = true
random_flip = true
TOML
  "$furrow" data pack noise.toml --out pack --shard-size 10kB
  run --separate-stderr "$furrow" data info pack
  [[ $status -eq 0 && $output == *"encoded"* && $output == *"train.ends"* && $output == *"lineage resize_size"* ]]
  "$furrow" data verify pack
  packed=(--training.dataset pack --training.dataset_path pack)
  "$furrow" train noise.toml --job.dump_folder plain
  "$furrow" train noise.toml --job.dump_folder packed "${packed[@]}"
  "$furrow" train noise.toml --job.dump_folder streamed "${packed[@]}" --data.memory_budget 1MiB --data.readers 3
  [ "$(fingerprint plain)" = "$(fingerprint packed)" ]
  [ "$(fingerprint plain)" = "$(fingerprint streamed)" ]
  "$furrow" train noise.toml --job.dump_folder other "${packed[@]}" --data.random_resized_crop_max_ratio 1
  [ "$(fingerprint plain)" != "$(fingerprint other)" ]
  "$furrow" bench data pack --seconds 0.05 --json >bench.json
  [ "$(json bench.json '[r["data"] for r in d]')" = "['decoded', 'decoded', 'decoded']" ]
  [ "$(json bench.json 'all(r["stored_gb_per_second"] > 0 for r in d)')" = True ]
  "$furrow" data pack noise --out files --layout encoded --data.crop_size 8
  run --separate-stderr "$furrow" data pack noise.toml --out pixels --layout images
  fails 2 "leave one of the two out"
  "$furrow" data pack noise.toml --out pixels --data.random_resized_crop false
  run --separate-stderr "$furrow" train noise.toml --job.dump_folder none --training.dataset pack --training.dataset_path pixels
  fails 2 "furrow data pack --layout encoded"
  run --separate-stderr "$furrow" data pack "$config" --out none --layout encoded
  fails 2 "leave --layout out"
  run --separate-stderr "$furrow" data pack noise --out none --layout encode
  fails 2 "did you mean 'encoded'"
  [ ! -e none ]
  [ ! -e none.partial ]
}

@test "two classes train one output, and keep their names" {
  make_pictures pets "cat 40" "dog 200"
  cat >pets.toml <<'TOML'
[model]
name = "mlp"
hidden = [8]
[training]
dataset = "folder"
dataset_path = "pets"
local_batch_size = 8
steps = 40
threads = 1
loss = "binary"
[optimizer]
lr = 0.01
[data]
image_size = 8
readers = 2
validation_fraction = 0.25
TOML
  run --separate-stderr "$furrow" train pets.toml --job.dump_folder plain
  [[ $status -eq 0 && $stderr != *"no effect"* ]]
  [ "$(json plain/summary.json 'd["validation_accuracy"] == 1')" = True ]
  grep -q 'labels = \["cat", "dog"\]' plain/model/model.toml
  grep -q 'shape = \[-1, 1\]' plain/model/model.toml
  grep -q '>dog<' plain/confusion.svg
  run --separate-stderr "$furrow" eval plain --split validation
  [[ $status -eq 0 && $output == *"classes: 0 cat, 1 dog"* ]]
  run --separate-stderr "$furrow" eval plain --split test
  fails 2 "has no test split: it has one for validation (--split)"
  "$furrow" data pack pets.toml --out pack
  "$furrow" train pets.toml --job.dump_folder packed --training.dataset pack --training.dataset_path pack
  cmp plain/model/model.safetensors packed/model/model.safetensors
  make_pictures wolves "cat 40" "wolf 200"
  run --separate-stderr "$furrow" eval plain --split validation --training.dataset_path wolves
  fails 2 "class 1 is 'dog' there and 'wolf' here"
  run --separate-stderr "$furrow" train plain --resume --training.steps 60 --training.dataset_path wolves
  fails 2 "class 1 is 'dog' there and 'wolf' here"
  make_pictures three "cat 40" "dog 200" "emu 120"
  run --separate-stderr "$furrow" plan pets.toml --training.dataset_path three
  fails 2 "these data have 3"
  run --separate-stderr "$furrow" train pets.toml --training.dataset_path three --job.dump_folder bad
  fails 2 "these data have 3"
  [ ! -e bad ]
}

@test "a tokenizer from a file trains, packs and lies in the model" {
  printf 'the quick brown fox jumps over the lazy dog\n%.0s' {1..60} >text.txt
  printf '#version: 0.2\nt h\nth e\n\xc4\xa0 the\no w\n' >vocab.bpe
  cat >text.toml <<'TOML'
[model]
name = "gpt"
layers = 1
heads = 2
width = 16
[training]
dataset = "text"
dataset_path = "text.txt"
seq_len = 16
local_batch_size = 4
steps = 10
threads = 1
[data]
tokenizer = "gpt2"
tokenizer_path = "."
TOML
  "$furrow" train text.toml --job.dump_folder plain
  grep -q '"kind" = "gpt2"' plain/model/model.toml
  "$furrow" data pack text.toml --out pack
  "$furrow" train text.toml --job.dump_folder packed --training.dataset pack --training.dataset_path pack --data.memory_budget 2kB --data.prefetch_batches 1
  cmp plain/model/model.safetensors packed/model/model.safetensors
  rm vocab.bpe
  "$furrow" eval plain --split validation >/dev/null
  run --separate-stderr "$furrow" train text.toml --job.dump_folder gone
  fails 3 "vocab.bpe"
  printf 'q q q\n' >vocab.bpe
  run --separate-stderr "$furrow" train text.toml --job.dump_folder bad
  fails 11 "line 1 of the merges"
}

# A gpt over documents: a file of them, and the options that train on it.
make_documents() {
  python3 -c 'for i in range(300): print("abcdefg"[i % 5:] * (i % 4 + 1), end="\n\n")' >"$1/documents.txt"
  documents=(--model.name gpt --model.layers 1 --model.heads 2 --model.width 16 --training.dataset_path "$1/documents.txt"
    --training.dataset text --training.seq_len 32 --data.document_separator $'\n\n' --training.local_batch_size 4
    --training.steps 6 --data.test_fraction 0.1)
}

@test "documents share rows; their pack keeps where they end and trains to the same bits" {
  make_documents .
  "$furrow" train "$config" "${documents[@]}" --job.dump_folder plain
  [[ $("$furrow" runs show plain) == *"pictures              loss.svg, samples.txt"* ]]
  "$furrow" data pack "$config" "${documents[@]}" --out pack
  "$furrow" data verify pack
  [[ $("$furrow" data info pack) == *"train.ends"* ]]
  "$furrow" train "$config" "${documents[@]}" --training.dataset pack --training.dataset_path pack --job.dump_folder packed
  [ "$(fingerprint plain)" = "$(fingerprint packed)" ]
  "$furrow" train "$config" "${documents[@]}" --data.document_separator "" --job.dump_folder stream
  [ "$(fingerprint plain)" != "$(fingerprint stream)" ]
  run --separate-stderr "$furrow" train "$config" "${documents[@]}" --model.name lstm --job.dump_folder lstm
  fails 2 "from one document of a row to the next"
}

@test "a mixture draws from its sets; what is wrong with one is one line" {
  make_documents .
  printf 'zyxwvu%.0s' {1..200} >other.txt
  mixed=("${documents[@]}" --training.dataset mixture --training.dataset_path . --data.document_separator "")
  "$furrow" train "$config" "${mixed[@]}" --job.dump_folder a \
    --data.mixture '["a: text weight=3 path=documents.txt", "b: text weight=1 path=other.txt"]'
  "$furrow" train "$config" "${mixed[@]}" --job.dump_folder b \
    --data.mixture '["a: text weight=1 path=documents.txt", "b: text weight=3 path=other.txt"]'
  [ "$(fingerprint a)" != "$(fingerprint b)" ]
  # Its pack is as large as the tokens and trains to the same bits, whatever the length of the samples.
  mixture='["a: text weight=3 path=documents.txt", "b: text weight=1 path=other.txt"]'
  "$furrow" data pack "$config" "${mixed[@]}" --data.mixture "$mixture" --out pack --json >pack.json
  [ "$(json pack.json 'd[0]["bytes"]')" = "$(($(cat documents.txt other.txt | wc -c)))" ]
  "$furrow" data verify pack
  run --separate-stderr "$furrow" data info pack
  [[ $status -eq 0 && $output =~ a\ +\*\.0\ +3\ +75\.00\ +tokens && $output == *"lineage source b"* ]]
  "$furrow" train "$config" "${mixed[@]}" --training.dataset pack --training.dataset_path pack --job.dump_folder packed
  [ "$(fingerprint a)" = "$(fingerprint packed)" ]
  "$furrow" bench data pack --seconds 0.05 --json >bench.json
  [ "$(json bench.json 'all(0 < r["stored_gb_per_second"] < r["delivered_gb_per_second"] / 8 for r in d)')" = True ]
  run --separate-stderr "$furrow" train "$config" "${mixed[@]}" --data.mixture '["a: text weight=0 path=documents.txt"]'
  fails 2 "weight 0 is no number above 0"
}

@test "a GAN is not judged on what a pack holds back; images of val/ are the validation split" {
  "$furrow" data pack "$config" --out pack
  gan=(--model.name gan --training.objective gan --data.normalize false --data.validation_fraction 0
    --training.dataset pack --training.dataset_path pack --training.steps 2)
  run --separate-stderr "$furrow" train "$config" "${gan[@]}" --job.dump_folder judged
  fails 2 "these data have a validation split: set validation.enable = false"
  [ ! -e judged ]
  "$furrow" train "$config" "${gan[@]}" --job.dump_folder gan --validation.enable false
  make_pictures pets/train "cat 40" "dog 200"
  make_pictures pets/val "cat 60" "dog 220"
  run --separate-stderr "$furrow" data pack pets --out apart --data.image_size 8 --json
  [[ $status -eq 0 && $stderr == *"validation: the 40 images of pets/val"* ]]
  [ "$("$furrow" data info apart --json | python3 -c 'import json, sys; print([(s["name"], sum(t["records"] for t in s["shards"])) for s in json.load(sys.stdin)["splits"]])')" = "[('train', 40), ('validation', 40)]" ]
}

@test "readers of a pack: as many as asked for, the same bits, and no number is refused" {
  "$furrow" data pack "$config" --out pack
  packed=(--training.dataset pack --training.dataset_path pack --training.steps 5)
  "$furrow" train "$config" "${packed[@]}" --job.dump_folder one --data.readers 1
  "$furrow" train "$config" "${packed[@]}" --job.dump_folder five --data.readers 5
  [ "$(fingerprint one)" = "$(fingerprint five)" ]
  grep -q '^readers = 5$' five/config.toml
  "$furrow" bench data pack --data.readers 5 --seconds 0.05 --json >bench.json
  [ "$(json bench.json '[r["readers"] for r in d]')" = "[5, 'none', 1, 5]" ]
  run --separate-stderr "$furrow" train "$config" "${packed[@]}" --job.dump_folder none --data.readers -1
  fails 2 "data.readers"
  run --separate-stderr "$furrow" train "$config" "${packed[@]}" --job.dump_folder none --data.readers many
  fails 2 "data.readers"
  run --separate-stderr "$furrow" train "$config" --job.dump_folder warned --training.steps 5 --data.readers 3
  [[ $status -eq 0 && $stderr == *"data.readers"*"no effect"* ]]
}

@test "a folder of texts is one text, and packing it leaves nothing beside the pack" {
  mkdir texts
  for i in 1 2 3; do printf "text number $i %.0s" {1..50} >"texts/$i.txt"; done
  texts=(--model.name lstm --model.width 8 --training.dataset text --training.dataset_path texts --training.seq_len 8 --training.steps 5)
  "$furrow" train "$config" "${texts[@]}" --job.dump_folder folder
  cat texts/*.txt >all.txt
  "$furrow" train "$config" "${texts[@]}" --training.dataset_path all.txt --job.dump_folder file
  [ "$(fingerprint folder)" = "$(fingerprint file)" ]
  "$furrow" train "$config" "${texts[@]}" --data.text_files '["2.txt"]' --job.dump_folder two
  [ "$(fingerprint folder)" != "$(fingerprint two)" ]
  "$furrow" data pack "$config" "${texts[@]}" --out pack --json >pack.json
  [ "$(json pack.json 'd[0]["bytes"]')" = "$(cat texts/*.txt | wc -c)" ]
  [ "$(ls -A)" = "$(printf '%s\n' all.txt file folder pack pack.json texts two)" ]
  run --separate-stderr "$furrow" train "$config" "${texts[@]}" --data.text_files '["4.txt"]' --job.dump_folder none
  fails 3 "texts/4.txt"
}

# Text of 6 MB, and the merges of a small tokenizer.
make_long_text() {
  python3 - >"$1" <<'PY'
import random
random.seed(5)
words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "nobody", "looks"]
for _ in range(100_000): print(" ".join(random.choices(words, k=11)))
PY
  printf '#version: 0.2\nt h\nth e\n\xc4\xa0 the\no w\n' >vocab.bpe
}

@test "an interrupted pack of a text goes on where it was, and is the pack of one go" {
  make_long_text text.txt
  gzip -k text.txt
  pack=(data pack text.txt.gz --training.dataset text --training.seq_len 16 --data.tokenizer gpt2 --data.tokenizer_path .
    --shard-size 1MB --threads 1)
  FURROW_FAILPOINTS=text.before_mark=kill@4 run "$furrow" "${pack[@]}" --out pack
  [ "$status" -eq 137 ]
  [[ ! -e pack && $(stat -c %s pack.partial/text-*.journal) -eq $((3 * 48)) ]]
  # Three rounds are there: as many again, and the fourth of these is the seventh of all.
  FURROW_FAILPOINTS=text.before_mark=kill@4 run "$furrow" "${pack[@]}" --out pack
  [ "$status" -eq 137 ]
  [ "$(stat -c %s pack.partial/text-*.journal)" -eq $((6 * 48)) ]
  FURROW_FAILPOINTS=pack.after_shard=kill@2 run "$furrow" "${pack[@]}" --out pack
  [ "$status" -eq 137 ]
  FURROW_FAILPOINTS=text.before_mark=kill "$furrow" "${pack[@]}" --out pack --json >summary.json  # nothing is tokenised
  [ "$(json summary.json 'd[0]["kept_shards"] >= 1')" = True ]
  [[ ! -e pack.partial && $(ls pack) != *text-* && $(ls pack) != *source* ]]
  "$furrow" "${pack[@]}" --out whole
  diff -r pack whole
}

@test "Ctrl-C ends what still reads its data" {
  make_long_text text.txt
  for _ in {1..12}; do cat text.txt; done >long.txt
  text=(--training.dataset text --training.dataset_path long.txt --training.seq_len 16 --data.tokenizer gpt2 --data.tokenizer_path .)
  "$furrow" data pack long.txt "${text[@]}" --out pack --threads 1 2>pack.log &
  pid=$!
  until [ -s "$(echo pack.partial/text-*.journal)" ]; do kill -0 $pid; done
  kill -INT $pid
  status=0
  wait $pid || status=$?
  [ "$status" -eq 130 ]
  grep -q "keeps what is done, the same command goes on there" pack.log
  [[ ! -e pack && -d pack.partial ]]
  "$furrow" train "$config" --model.name gpt --model.layers 1 --model.heads 2 --model.width 16 "${text[@]}" \
    --job.dump_folder run 2>train.log &
  pid=$!
  until grep -q "tokenizer .*vocab.bpe" train.log; do kill -0 $pid; done
  began=$(date +%s%N)
  kill -INT $pid
  status=0
  wait $pid || status=$?
  [ "$status" -eq 130 ]
  [ $((($(date +%s%N) - began) / 1000000)) -lt 5000 ]  # far below a second, but for a busy machine
  grep -q "interrupted while the text was read" train.log
  [ ! -e run ]
}

@test "a pack lies outside of what it is made of" {
  run --separate-stderr "$furrow" data pack "$BATS_FILE_TMPDIR/images" --out "$BATS_FILE_TMPDIR/images/pack"
  fails 2 "which it is made of"
  [ ! -e "$BATS_FILE_TMPDIR/images/pack.partial" ]
}

@test "a resume keeps what was fitted, and refuses to be asked for other values" {
  "$furrow" train "$config" --job.dump_folder run --training.steps 10
  run --separate-stderr "$furrow" train run --resume --training.steps 20 --data.normalize false
  fails 7 "[data] normalize = false, but the run goes on with what it fitted at its beginning, normalize = true"
  run --separate-stderr "$furrow" train "$config" --job.dump_folder run --resume --training.steps 20 --data.normalize false
  fails 7 "normalize = true"
  "$furrow" train run --resume --training.steps 20
  printf 'abcdefgh%.0s' {1..80} >text.txt
  text=(--model.name lstm --model.width 8 --training.dataset text --training.dataset_path text.txt --training.seq_len 8 --training.steps 5)
  "$furrow" train "$config" "${text[@]}" --job.dump_folder text
  run --separate-stderr "$furrow" train text --resume --training.steps 7 --data.tokenizer byte
  fails 7 "[data] tokenizer = byte, but the run goes on with what it fitted at its beginning, tokenizer = char"
}
