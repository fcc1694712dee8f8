#!/usr/bin/env python3
"""Executed schedules against their prediction: units that sleep, four processes, the bubble within one point.

Both figures are those that every run stores in its summary.json: `predicted.bubble` of furrow's own simulation of the
programs, their transfers and the clipping flush included, and `measured.bubble`.  Bubble = 1 - computing time / (ranks
x makespan), from the first forward to the last weight gradient.  Run it on a quiet machine, all schedules or those
that are named: FURROW_BIN=... python3 THIS [SCHEDULE ...]
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

FURROW = os.environ.get("FURROW_BIN", "build/release/bin/furrow")
MS = 30.0  # of each third of a unit
BYTES = 65536  # that a stage sends of a sample
RANKS = 4

# Schedules with a whole backward: programs send the gradient on before they form that of the weights, which beats the
# papers' figures (1F1B .2000 instead of .2727 here).  For these the input's half takes all of the time, as papers count.
WHOLE = ("GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS")

# Schedule, stages a rank, microbatches, the bubble that its paper gives for F = I = W, or B = 2 F (None: not printed).
CASES = [
    ("GPipe", 1, 8, 3 / 11),
    ("1F1B", 1, 8, 3 / 11),
    ("Interleaved1F1B", 2, 8, 3 / 19),
    ("LoopedBFS", 2, 8, 3 / 19),
    ("ZBH1", 1, 8, 1 / 9),
    ("InterleavedZeroBubble", 2, 8, 3 / 51),
    ("ZBVZeroBubble", 2, 8, 3 / 51),
    ("DualPipeV", 2, 8, 3 / 51),
    ("1F1B", 1, 6, 3 / 9),
    ("ZBVZeroBubble", 2, 3, None),
]


def write_images(folder):
    """Black images as MNIST stores them: few, as the test set is run through the stages too."""
    for name, count in (("train", 64), ("t10k", 1)):
        with open(os.path.join(folder, f"{name}-images-idx3-ubyte"), "wb") as out:
            out.write(struct.pack(">IIII", 0x803, count, 4, 4) + bytes(16 * count))
        with open(os.path.join(folder, f"{name}-labels-idx1-ubyte"), "wb") as out:
            out.write(struct.pack(">II", 0x801, count) + bytes(i % 4 for i in range(count)))


def times(schedule):
    """Milliseconds of forward, backward_input, backward_weight."""
    return (MS, 2 * MS, 0.0) if schedule in WHOLE else (MS, MS, MS)


def config(folder, schedule, stages):
    forward, backward_input, backward_weight = times(schedule)
    units = [f'"d{i}: delay forward_ms={forward} backward_input_ms={backward_input} '
             f'backward_weight_ms={backward_weight} bytes={BYTES}"' for i in range(stages)]
    units.append('"fc: linear out=classes"')
    path = os.path.join(folder, f"{schedule}{stages}.toml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"""[model]
name = "blocks"
units = [{", ".join(units)}]
[training]
dataset = "idx"
dataset_path = "{folder}"
local_batch_size = 1
steps = 6
threads = 1
max_norm = 1.0
[optimizer]
name = "sgd"
lr = 1e-3
[validation]
enable = false
[checkpoint]
enable = false
""")
    return path


def settings(schedule, per_rank, microbatches):
    stages = RANKS * per_rank
    split = [1] * (stages - 1) + [2]
    return ["--nproc", str(RANKS), "--training.global_batch_size", str(microbatches),
            "--parallelism.pipeline_parallel_degree", str(RANKS),
            "--parallelism.pipeline_parallel_schedule", schedule,
            "--parallelism.pipeline_parallel_stages_per_rank", str(per_rank),
            "--parallelism.pipeline_parallel_units_per_stage", str(split)]


def flush_is_simulated(path, options):
    """Whether the clipping flush stands in the predicted step, behind the last weight gradient."""
    text = subprocess.run([FURROW, "plan", path, *options, "--print", "timeline", "--json"],
                          check=True, capture_output=True, text=True).stdout
    ends = {span["op"]: span["end_ms"] for span in json.loads(text)}
    return ends["clip"] >= ends["reduce_scalar"] >= ends["backward_weight"]


def run(folder, schedule, per_rank, microbatches):
    """The summary of a run of six steps."""
    path = config(folder, schedule, RANKS * per_rank)
    options = settings(schedule, per_rank, microbatches)
    if not flush_is_simulated(path, options):
        sys.exit(f"{schedule}: the predicted step has no clipping flush")
    name = os.path.join(folder, f"{schedule}-{per_rank}-{microbatches}")
    done = subprocess.run([FURROW, "train", path, *options, "--job.dump_folder", name],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    with open(os.path.join(name, "summary.json"), encoding="utf-8") as text:
        return json.load(text)


def main():
    wanted = sys.argv[1:]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder)
        for schedule, per_rank, microbatches, theory in CASES:
            if wanted and schedule not in wanted:
                continue
            summary = run(folder, schedule, per_rank, microbatches)
            predicted, measured = summary["predicted"]["bubble"], summary["measured"]["bubble"]
            # Transfers and overheads are part of the prediction, and not of the papers' figures.
            good = abs(measured - predicted) <= 0.01 and (theory is None or abs(predicted - theory) <= 0.005)
            failed = failed or not good
            known = "      -" if theory is None else f"{theory:7.4f}"
            print(f"{schedule:22} v{per_rank} m{microbatches:<3} theory {known}  predicted {predicted:7.4f}  "
                  f"measured {measured:7.4f}  {'ok' if good else 'FAILED'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
