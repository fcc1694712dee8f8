"""./dev bench buckets: what small units save when they share collectives (`[parallelism] bucket_cap_mb`).

Two ranks train networks of small layers, over shared memory and over `--comm.throttle LINK`, with a collective of each unit (0),
with buckets of up to so many MiB, and with those that furrow chooses: by the `link`, and by a `profile` of this machine, which is
measured first.  `collectives` are what a step starts; the settings alternate `--repeats` times; medians with [lowest, highest].
`even ms` leaves out the waiting for a rank that came later, which a machine's other work decides.  All settings end with the same
weights.
"""
import argparse
import array
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile

from quiet import QUIET
from train import FURROW

NETWORKS = {
    "mlp": """
[model]
name = "mlp"
hidden = [64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64]
""",
    "resnet20": """
[model]
name = "resnet20"
""",
    "convnet": """
[model]
name = "convnet"
""",
    "gpt": """
[model]
name = "gpt"
layers = 12
heads = 4
width = 64
context = 32
""",
    "llama": """
[model]
name = "llama"
layers = 12
heads = 4
width = 64
context = 32
""",
    "lstm": """
[model]
name = "lstm"
layers = 4
width = 64
""",
}
OF_TEXT = ("gpt", "llama", "lstm")
IMAGES = """
[training]
dataset = "idx"
dataset_path = "."
local_batch_size = {batch}
global_batch_size = {whole}
threads = 1
"""
TEXT = """
[training]
dataset = "text"
dataset_path = "text.txt"
seq_len = 32
local_batch_size = {batch}
global_batch_size = {whole}
threads = 1
"""
CHOSEN = ("link", "profile")
LAYOUTS = {
    "ddp": ["--parallelism.data_parallel_replicate_degree", "2", "--parallelism.data_parallel_shard_degree", "1"],
    "zero1": ["--parallelism.data_parallel_shard_degree", "2", "--parallelism.zero_stage", "1"],
    "zero2": ["--parallelism.data_parallel_shard_degree", "2", "--parallelism.zero_stage", "2"],
    "zero3": ["--parallelism.data_parallel_shard_degree", "2", "--parallelism.zero_stage", "3"],
}


def write_data(folder, images=512, side=16):
    generator = random.Random(0)
    for part in ("train", "t10k"):
        with open(os.path.join(folder, f"{part}-images-idx3-ubyte"), "wb") as file:
            file.write(struct.pack(">IIII", 0x803, images, side, side))
            array.array("B", generator.choices(range(256), k=images * side * side)).tofile(file)
        with open(os.path.join(folder, f"{part}-labels-idx1-ubyte"), "wb") as file:
            file.write(struct.pack(">II", 0x801, images))
            array.array("B", generator.choices(range(10), k=images)).tofile(file)
    with open(os.path.join(folder, "text.txt"), "w") as file:
        file.write("".join(generator.choice("abcdefgh \n") for _ in range(60_000)))


def furrow(folder, profile, verb, config, *words):
    """What it prints on stdout and on stderr."""
    command = [FURROW, verb, config, "--json", *words]
    environment = {**os.environ, "FURROW_PROFILE": os.path.join(folder, profile)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


def cap_setting(cap):
    return -1 if cap in CHOSEN else float(cap)


def taken(log):
    """The line of a run's header that says which buckets it takes: their size."""
    for line in log.splitlines():
        if line.startswith("buckets of up to "):
            return line.removeprefix("buckets of up to ").split(",")[0].split(":")[0]
        if line.startswith("no buckets"):
            return "none"
    return ""


def measure(folder, config, layout, link, options):
    """By cap, the summaries and what was taken.  All end with the same weights."""
    wire = [] if link == "shm" else ["--comm.throttle", link]
    summaries, weights = {cap: [] for cap in options.caps}, set()
    if "profile" in options.caps and not os.path.exists(os.path.join(folder, f"{config}.profile")):
        furrow(folder, f"{config}.profile", "profile", config, "--nproc", "2", "--training.steps", "1")
    for _ in range(options.repeats):
        for cap in options.caps:
            run = tempfile.mkdtemp(dir=folder) + "/run"
            settings = [*LAYOUTS[layout], "--parallelism.bucket_cap_mb", str(cap_setting(cap))]
            profile = f"{config}.profile" if cap == "profile" else "none"
            out, log = furrow(folder, profile, "train", config, "--nproc", "2", "--job.dump_folder", run,
                              "--training.steps", str(options.steps), *settings, *wire)
            summaries[cap].append({**json.loads(out), "taken": taken(log)})
            with open(f"{run}/model/model.safetensors", "rb") as file:
                weights.add(file.read())
    if len(weights) != 1:
        sys.exit(f"{config}, {layout}: the weights depend on bucket_cap_mb")
    return summaries


def step_ms(summary):
    return 1e3 * summary["step_seconds"]


def even_ms(summary):
    """A step without waiting for a rank that came later: what work and collectives take."""
    return step_ms(summary) * (1 - summary["straggler_wait"])


def print_rows(name, layout, link, summaries):
    alone = even_alone = None
    for cap, runs in summaries.items():
        times = sorted(step_ms(run) for run in runs)
        middle = statistics.median(times)
        alone = alone or middle
        count = runs[0]["operations_per_step"]
        exposed = statistics.median(run["exposed_communication"] for run in runs)
        even = statistics.median(map(even_ms, runs))
        even_alone = even_alone or even
        print(f"{name:<10}{layout:<7}{link:<12}{cap:>8}{count:>13g}{middle:>12.2f} [{times[0]:.2f}, {times[-1]:.2f}]"
              f"{exposed:>10.3f}{alone / middle:>8.2f}{even:>10.2f}{even_alone / even:>8.2f}  {runs[0]['taken']}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=sorted(NETWORKS), choices=sorted(NETWORKS))
    parser.add_argument("--layouts", nargs="+", default=sorted(LAYOUTS), choices=sorted(LAYOUTS))
    parser.add_argument("--links", nargs="+", default=["shm", "1Gbit,1ms", "100Mbit,2ms"])
    parser.add_argument("--caps", nargs="+", default=["0", "0.25", "1", "4", *CHOSEN], help="MiB, link, profile")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    print(f"{'network':<10}{'layout':<7}{'link':<12}{'cap':>8}{'collectives':>13}{'ms a step [low, high]':>28}{'exposed':>10}"
          f"{'gain':>8}{'even ms':>10}{'gain':>8}  taken")
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder)
        for name in options.networks:
            data = (TEXT if name in OF_TEXT else IMAGES).format(batch=options.batch, whole=2 * options.batch)
            with open(os.path.join(folder, f"{name}.toml"), "w") as file:
                file.write(NETWORKS[name] + data + QUIET)
            for layout in options.layouts:
                for link in options.links:
                    print_rows(name, layout, link, measure(folder, f"{name}.toml", layout, link, options))


if __name__ == "__main__":
    main()
