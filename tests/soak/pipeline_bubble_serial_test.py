#!/usr/bin/env python3
"""Executed schedules against their simulation: units that sleep, four processes, the bubble within one point.

The simulation reads the programs that `furrow plan` prints: every rank executes its list in order, an instruction
waits for what it receives, a transfer takes no time.  Bubble = 1 - computing time / (ranks x makespan), from the
first forward to the last weight gradient.  Run it on a quiet machine: FURROW_BIN=... FURROW_DATA=... python3 THIS
"""
import json
import os
import re
import subprocess
import sys
import tempfile

FURROW = os.environ.get("FURROW_BIN", "build/release/bin/furrow")
DATA = os.environ.get("FURROW_DATA", "data")
MS = 12.0  # of each third of a unit
RANKS = 4

# Schedule, stages a rank, microbatches, the bubble that its paper gives for equal thirds (None: not printed).
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


def config(folder, stages):
    units = [f'"d{i}: delay forward_ms={MS} backward_input_ms={MS} backward_weight_ms={MS}"' for i in range(stages)]
    units.append('"fc: linear out=classes"')
    path = os.path.join(folder, f"stages{stages}.toml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"""[model]
name = "blocks"
units = [{", ".join(units)}]
[training]
dataset = "idx"
dataset_path = "{DATA}/mnist"
local_batch_size = 1
steps = 8
threads = 1
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


def programs(path, options):
    """By rank: (op, seconds, peer, values read, values written) of each instruction."""
    ranks = []
    for rank in range(RANKS):
        text = subprocess.run([FURROW, "plan", path, *options, "--rank", str(rank), "--print", "program"],
                              check=True, capture_output=True, text=True).stdout
        program = []
        for line in text.split("\ninstructions\n")[1].split("\nslots\n")[0].splitlines():
            words = line.split()
            op = words[1]
            peer = re.search(r" over pp (?:to|from) (\d+) ", line)
            reads, _, rest = line.partition(" -> ") if " -> " in line else (line, "", "")
            writes = rest.split(" drop ")[0]
            sleeps = op in ("forward", "recompute", "backward_input", "backward_weight") and re.search(r" u\d+/d\d+ ", line)
            values = re.compile(r"[a-z_]+\([^ ]*")
            program.append((op, MS if sleeps else 0.0, int(peer.group(1)) if peer else -1,
                            values.findall(reads), values.findall(writes)))
        ranks.append(program)
    return ranks


def simulated_bubble(ranks):
    at = [0] * RANKS  # next instruction
    clock = [0.0] * RANKS
    sent = {}  # (from, to, value) -> when
    begin, end, busy = float("inf"), 0.0, 0.0
    received = [dict() for _ in range(RANKS)]  # value -> from whom
    moved = True
    while moved:
        moved = False
        for rank, program in enumerate(ranks):
            while at[rank] < len(program):
                op, seconds, peer, reads, writes = program[at[rank]]
                if op in ("reduce_scalar",):
                    at[rank] = len(program)
                    break
                if op == "recv":
                    received[rank][writes[0]] = peer
                elif op == "send":
                    sent[(rank, peer, reads[0])] = clock[rank]
                else:
                    waits = [(received[rank][v], rank, v) for v in reads if v in received[rank]]
                    if any(w not in sent for w in waits):
                        break
                    clock[rank] = max([clock[rank]] + [sent[w] for w in waits])
                    if seconds > 0:
                        begin = min(begin, clock[rank])
                        clock[rank] += seconds
                        busy += seconds
                        end = max(end, clock[rank])
                at[rank] += 1
                moved = True
    if any(a < len(p) for a, p in zip(at, ranks)):
        sys.exit("the simulation is stuck")
    return 1 - busy / (RANKS * (end - begin))


def main():
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for schedule, per_rank, microbatches, theory in CASES:
            path = config(folder, RANKS * per_rank)
            options = settings(schedule, per_rank, microbatches)
            simulated = simulated_bubble(programs(path, options))
            run = os.path.join(folder, f"{schedule}-{per_rank}-{microbatches}")
            done = subprocess.run([FURROW, "train", path, *options, "--job.dump_folder", run],
                                  capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(done.stderr)
            with open(os.path.join(run, "summary.json"), encoding="utf-8") as text:
                measured = json.load(text)["bubble"]
            good = abs(measured - simulated) <= 0.01 and (theory is None or abs(simulated - theory) < 1e-6)
            failed = failed or not good
            known = "      -" if theory is None else f"{theory:7.4f}"
            print(f"{schedule:22} v{per_rank} m{microbatches:<3} theory {known}  simulated {simulated:7.4f}  "
                  f"measured {measured:7.4f}  {'ok' if good else 'FAILED'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
