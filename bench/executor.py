"""./dev bench executor: what the executor itself takes of an instruction, besides the instruction's work.

Whole training steps of twelve units that do next to nothing (`train_bench`), on one rank and on ranks that are threads.
`own` is the time of a run that passes neither in the handler of an operation nor in waiting for communication: looking after
slots, values that are dropped, the loop.  `waiting` and `whole` are per instruction too; ranks that are threads of few cores
mostly wait.  Medians over steps and ranks, [lowest, highest] of the repeats.  Fails when a median is above `--limit`; writes
JSON (default build/bench/executor.json).
"""
# needs: train_bench
import argparse
import json
import os
import statistics
import subprocess
import sys

import train

BENCH = os.path.join(train.ROOT, "build/release/bench_bin/train_bench")


def measure():
    """Name -> counters, of one run of every program."""
    command = [BENCH, "--benchmark_filter=^Step/", "--benchmark_format=json"]
    done = subprocess.run(command, cwd=train.ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return {row["name"].split("/")[1]: row for row in json.loads(done.stdout)["benchmarks"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=float, default=5.0, help="microseconds")
    parser.add_argument("--output", default=os.path.join(train.ROOT, "build/bench/executor.json"))
    options = parser.parse_args()
    runs = [measure() for _ in range(options.repeats)]
    rows = []
    print(f"{'program':<24}{'instructions':>13}{'own us [low, high]':>26}{'waiting us':>12}{'whole us':>10}")
    for name in runs[0]:
        own = [run[name]["own_us"] for run in runs]
        row = {"program": name, "instructions": int(runs[0][name]["instructions"]), "own_us": statistics.median(own),
               "low": min(own), "high": max(own)}
        for key in ("waiting_us", "whole_us"):
            row[key] = statistics.median(run[name][key] for run in runs)
        rows.append(row)
        spread = f"{row['own_us']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        print(f"{name:<24}{row['instructions']:>13}{spread:>26}{row['waiting_us']:>12.2f}{row['whole_us']:>10.2f}")
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    with open(options.output, "w") as file:
        json.dump({"bench": "executor", "machine": train.machine(), "repeats": options.repeats, "limit_us": options.limit,
                   "rows": rows}, file, indent=1)
    print(f"written: {options.output}", file=sys.stderr)
    slow = [row["program"] for row in rows if row["own_us"] > options.limit]
    if slow:
        sys.exit(f"above {options.limit} us: {', '.join(slow)}")


if __name__ == "__main__":
    main()
