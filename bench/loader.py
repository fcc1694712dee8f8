"""./dev bench loader: how fast batches come out of furrow's loader, beside loaders written in Python.

Makes data of its own in a temporary folder, which is deleted at the end: a pack of `--gigabytes` (1) of records of 28 x 28
bytes and a label, a pack of as many tokens, `--images` (128) files of 500 x 375 in each of JPEG, PNG and WebP, and a pack of the JPEG files, of which regions at random are read. Measures
by turns, `--repeats` (7) times, for `--seconds` (1) each: `furrow bench data` in all its ways, and bench/peers/python_loader.py
on the same data. All files are in the page cache. Prints medians and the ratio to the peer: of samples per second, and
of the CPU time of a sample, which other work on the machine disturbs less. JSON to `--out`.
"""
import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

from train import machine, version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FURROW = os.environ.get("FURROW_BIN", os.path.join(ROOT, "build/release/bin/furrow"))
PEER = os.path.join(ROOT, "bench/peers/python_loader.py")
EDGE, RECORD = 28, 28 * 28 + 4
FORMATS = ("jpg", "png", "webp")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def make_records(folder, count):
    """A pack of made-up images, and the same records in one file."""
    random = np.random.default_rng(1)
    records = np.memmap(folder / "records.bin", mode="w+", shape=(count,),
                        dtype=[("pixels", np.uint8, EDGE * EDGE), ("label", "<i4")])
    source = folder / "source"
    source.mkdir()
    with open(source / "train-images-idx3-ubyte", "wb") as images, open(source / "train-labels-idx1-ubyte", "wb") as labels:
        images.write(struct.pack(">4I", 0x803, count, EDGE, EDGE))
        labels.write(struct.pack(">2I", 0x801, count))
        for begin in range(0, count, 1 << 16):
            some = records[begin:begin + (1 << 16)]
            some["pixels"] = random.integers(0, 256, some["pixels"].shape, dtype=np.uint8)
            some["label"] = np.arange(len(some)) % 10
            images.write(some["pixels"].tobytes())
            labels.write(some["label"].astype(np.uint8).tobytes())
    records.flush()
    run([FURROW, "data", "pack", str(source), "--out", str(folder / "records"), "--data.validation_fraction", "0",
         "--data.test_images", "", "--training.dataset", "idx", "--training.dataset_path", str(source)])


def make_tokens(folder, count):
    with open(folder / "tokens.bin", "wb") as file:
        for begin in range(0, count, 1 << 20):
            file.write(os.urandom(min(1 << 20, count - begin)))
    run([FURROW, "data", "pack", str(folder / "tokens.bin"), "--out", str(folder / "tokens"), "--training.dataset", "text",
         "--data.tokenizer", "byte", "--training.seq_len", "64", "--data.validation_fraction", "0"])


def make_images(folder, count):
    """Smooth pictures with some noise."""
    random = np.random.default_rng(1)
    for index in range(count):
        smooth = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth).astype(int) + random.normal(0, 6, (375, 500, 3)).astype(int)
        for format in FORMATS:
            path = folder / format / "ab"[index % 2]
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"{index}.{format}", quality=90)


def pack_files(folder):
    run([FURROW, "data", "pack", str(folder / "jpg"), "--out", str(folder / "files"), "--layout", "encoded",
         "--data.crop_size", "224", "--data.normalize", "false", "--data.validation_fraction", "0"])


def furrow(source, batch, seconds, *overrides):
    """The figures of each way: {"mapped, auto readers": {...}}."""
    rows = json.loads(run([FURROW, "bench", "data", str(source), "--json", "--seconds", str(seconds),
                           "--training.local_batch_size", str(batch), "--data.validation_fraction", "0", *overrides]))
    return {f"{row['data']}, readers {row['readers']}": row for row in rows}


def peer(name, *words):
    return {name: json.loads(run([sys.executable, PEER, *[str(word) for word in words]]))}


def scenarios(folder, seconds):
    """Name -> what measures furrow, what measures the peer; the peer's figures by threads."""
    common = ("--seconds", seconds)
    all_of_them = {"records": (lambda: furrow(folder / "records", 64, seconds),
                               lambda: peer("DataLoader", "records", folder / "records.bin", "--batch", 64, *common))}
    for context in (64, 256, 1024):
        all_of_them[f"tokens, context {context}"] = (
            lambda context=context: furrow(folder / "tokens", 16, seconds, "--training.seq_len", str(context)),
            lambda context=context: peer("memmap", "tokens", folder / "tokens.bin", "--batch", 16, "--context", context, *common))
    for format in FORMATS:
        images = ("images", folder / format, "--batch", 32, "--size", 224, *common)
        all_of_them[format] = (
            lambda format=format: furrow(folder / format, 32, seconds, "--training.dataset", "folder", "--training.dataset_path",
                                         str(folder / format), "--data.image_size", "224", "--data.normalize", "false"),
            lambda images=images: {**peer("Pillow, 1 thread", *images), **peer("Pillow, 2 threads", *images, "--threads", 2)})
    regions = ("images", folder / "jpg", "--batch", 32, "--size", 224, "--regions", *common)
    all_of_them["jpg, regions of a pack"] = (
        lambda: furrow(folder / "files", 32, seconds, "--data.random_resized_crop", "true", "--data.random_flip", "true"),
        lambda: {**peer("Pillow, 1 thread", *regions), **peer("Pillow, 2 threads", *regions, "--threads", 2)})
    return all_of_them


def medians(runs):
    return {way: {key: statistics.median(r[way][key] for r in runs) for key in runs[0][way]
                  if isinstance(runs[0][way][key], float)} for way in runs[0]}


def show(name, ours, theirs):
    beside = max(theirs.values(), key=lambda figures: figures["samples_per_second"])
    print(name)
    for way, figures in {**ours, **theirs}.items():
        delivered = figures.get("delivered_gb_per_second")
        print(f"  {way:<24}{figures['samples_per_second']:>12.0f} samples/s"
              f"{f'{delivered:>9.3f} GB/s' if delivered else ' ' * 14}{figures['cpu_ns_per_sample']:>12.0f} CPU ns a sample"
              f"{figures['samples_per_second'] / beside['samples_per_second']:>8.2f}x"
              f"{beside['cpu_ns_per_sample'] / figures['cpu_ns_per_sample']:>8.2f}x by CPU")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1, help="size of the pack of records and of that of tokens")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default=os.path.join(ROOT, "build/bench/loader.json"))
    options = parser.parse_args()
    size = int(options.gigabytes * (1 << 30))
    runs = {}
    with tempfile.TemporaryDirectory(prefix="furrow-bench-loader-") as name:
        folder = pathlib.Path(name)
        make_records(folder, size // RECORD)
        make_tokens(folder, size)
        make_images(folder, options.images)
        pack_files(folder)
        for repeat in range(options.repeats):
            for scenario, (ours, theirs) in scenarios(folder, options.seconds).items():
                print(f"{repeat + 1}/{options.repeats} {scenario}", file=sys.stderr, flush=True)
                runs.setdefault(scenario, []).append((ours(), theirs()))
    figures = {scenario: [medians(side) for side in zip(*of)] for scenario, of in runs.items()}
    for scenario, (ours, theirs) in figures.items():
        show(scenario, ours, theirs)
    result = {"machine": machine(), "version": version(),
              "gigabytes": options.gigabytes, "seconds": options.seconds, "runs": runs,
              "figures": {scenario: {"furrow": ours, "peer": theirs} for scenario, (ours, theirs) in figures.items()}}
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
