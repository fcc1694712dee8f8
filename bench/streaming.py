"""./dev bench streaming: a pack larger than its memory budget beside one that lies in memory.

Makes a pack of `--gigabytes` (4) in a temporary folder, which is deleted at the end, and trains one network by turns
`--repeats` times: "memory", on a pack of 8 MB, all of it in memory after the first steps, whose peak is about the
network's own; "mapped", on the whole pack, mapped, in the page cache; "streamed", with `[data] memory_budget`. Blocks of
64 KB are compared with their checksums at their first use, so that a short run on the large pack is mostly first uses.
Prints medians with their spread, the peak of resident memory above that of "memory", and the verdicts: streamed at 95 % of
the speed of memory, within the budget. JSON to `--out`.
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

from quiet import QUIET
from train import machine, version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FURROW = os.environ.get("FURROW_BIN", os.path.join(ROOT, "build/release/bin/furrow"))
EDGE, BATCH, BUDGET = 28, 64, "256MiB"
CONFIG = """[model]
name = "convnet"
[training]
dataset = "pack"
local_batch_size = {batch}
threads = 1
[optimizer]
lr = 0.01
[data]
validation_fraction = 0
"""


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def make_pack(folder, name, images):
    """A pack of made-up images; the files that it is made from are gone afterwards."""
    source = folder / "source"
    source.mkdir()
    block = bytes((i * 2654435761 >> 24) & 255 for i in range(1 << 16))
    with open(source / "train-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">4I", 0x803, images, EDGE, EDGE))
        left = images * EDGE * EDGE
        while left > 0:
            file.write(block[:left])
            left -= len(block[:left])
    with open(source / "train-labels-idx1-ubyte", "wb") as file:
        file.write(struct.pack(">2I", 0x801, images) + bytes(i % 10 for i in range(10)) * (images // 10 + 1))
        file.truncate(8 + images)
    run([FURROW, "data", "pack", str(source), "--out", str(folder / name), "--data.validation_fraction", "0",
         "--data.test_images", "", "--training.dataset", "idx", "--training.dataset_path", str(source)])
    for file in source.iterdir():
        file.unlink()
    source.rmdir()


def train(config, folder, pack, steps, extra=()):
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        summary = json.loads(run([FURROW, "train", str(config), "--job.dump_folder", runs + "/run", "--json",
                                  "--training.dataset_path", str(folder / pack), "--training.steps", str(steps + 1), *extra]))
    return {"samples_per_second": summary["samples_per_second"], "peak_rss_bytes": summary["peak_rss_bytes"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4, help="size of the pack")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default=os.path.join(ROOT, "build/bench/streaming.json"))
    options = parser.parse_args()
    record = EDGE * EDGE + 4
    ways = {"memory": ("small", ()), "mapped": ("large", ()), "streamed": ("large", ("--data.memory_budget", BUDGET))}
    runs = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="furrow-bench-streaming-") as name:
        folder = pathlib.Path(name)
        config = folder / "config.toml"
        config.write_text(CONFIG.format(batch=BATCH) + QUIET)
        make_pack(folder, "small", (8 << 20) // record)
        make_pack(folder, "large", int(options.gigabytes * (1 << 30)) // record)
        for repeat in range(options.repeats):
            for way, (pack, extra) in ways.items():
                runs[way].append(train(config, folder, pack, options.steps, extra))
                print(f"{repeat + 1}/{options.repeats} {way}: {runs[way][-1]['samples_per_second']:.0f} samples/s, "
                      f"{runs[way][-1]['peak_rss_bytes'] / 2**20:.0f} MiB", file=sys.stderr, flush=True)
    figures = {way: {key: statistics.median(r[key] for r in of) for key in of[0]} for way, of in runs.items()}
    own = figures["memory"]["peak_rss_bytes"]
    ratio = figures["streamed"]["samples_per_second"] / figures["memory"]["samples_per_second"]
    above = figures["streamed"]["peak_rss_bytes"] - own
    for way, figure in figures.items():
        spread = [r["samples_per_second"] for r in runs[way]]
        print(f"{way:<10}{figure['samples_per_second']:>9.0f} samples/s [{min(spread):.0f}, {max(spread):.0f}]"
              f"{figure['peak_rss_bytes'] / 2**20:>8.0f} MiB resident")
    print(f"streamed / memory {ratio:.3f} (at least 0.95), {above / 2**20:.0f} MiB above memory (budget {BUDGET})")
    result = {"machine": machine(), "version": version(),
              "gigabytes": options.gigabytes, "batch": BATCH, "steps": options.steps, "runs": runs, "figures": figures,
              "streamed_over_memory": ratio, "bytes_above_memory": above}
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    if ratio < 0.95 or above > 256 << 20:
        sys.exit("missed")


if __name__ == "__main__":
    main()
