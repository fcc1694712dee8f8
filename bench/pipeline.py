"""./dev bench pipeline: a pipeline of two processes beside data parallelism, on a model that is large enough.

Both train the same gpt with the same recipe (batch, microbatch, optimizer; the weights of both end with the same bits) on
two processes of one thread, in turns, `--repeats` times.  What is compared is seconds of the middle step.  `ratio` is the
pipeline's throughput over data parallelism's in the same repeat; `reached` is that over what the simulated bubble leaves of data
parallelism's (1 - bubble).  Fails when the median of `reached` is below `--least` for the best schedule.  Medians with
[lowest, highest]; writes JSON (default build/bench/pipeline.json).
"""
import argparse
import json
import os
import statistics
import sys

import train
import two_ranks

CONFIG = """
[model]
name = "gpt"
layers = {layers}
heads = {heads}
width = {width}
[training]
dataset = "text"
dataset_path = "text.txt"
local_batch_size = {batch}
global_batch_size = {total}
seq_len = {length}
"""


def contenders(options):
    rows = {"data parallel": ["--parallelism.data_parallel_replicate_degree", "2"]}
    for schedule in options.schedules:
        rows[schedule] = ["--parallelism.pipeline_parallel_degree", "2", "--parallelism.pipeline_parallel_schedule", schedule]
    return rows


def measure(options):
    """Contender -> summaries, taken in turn."""
    config = CONFIG.format(layers=options.layers, heads=options.heads, width=options.width, batch=options.batch,
                           total=options.batch * options.microbatches, length=options.length)

    def report(repeat, name, summary):
        print(f"{repeat + 1}/{options.repeats} {name}: {summary['measured']['step_time_ms']:.0f} ms a step", file=sys.stderr,
              flush=True)

    return two_ranks.measure(config, 200_000, contenders(options), options.repeats, options.steps, report)


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def row_of(name, own, data):
    step = [summary["measured"]["step_time_ms"] for summary in own]
    ratio = [other["measured"]["step_time_ms"] / ms for other, ms in zip(data, step)]
    bubble = statistics.median(summary["predicted"]["bubble"] for summary in own)
    return {"layout": name, "step_ms": spread(step), "ratio": spread(ratio), "simulated_bubble": bubble,
            "measured_bubble": spread([summary["measured"]["bubble"] for summary in own]),
            "exposed": spread([summary["measured"]["exposed_communication"] for summary in own]),
            "reached": spread([each / (1 - bubble) for each in ratio])}


def show(rows):
    def of(value, digits):
        return f"{value['median']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    print(f"{'layout':<24}{'ms a step [low, high]':>26}{'ratio':>24}{'bubble: simulated':>18}{'measured':>9}{'exposed':>9}"
          f"{'reached':>24}")
    for row in rows:
        print(f"{row['layout']:<24}{of(row['step_ms'], 0):>26}{of(row['ratio'], 3):>24}{row['simulated_bubble']:>18.3f}"
              f"{row['measured_bubble']['median']:>9.3f}{row['exposed']['median']:>9.3f}{of(row['reached'], 3):>24}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", nargs="+", default=["1F1B", "ZBH1"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2, help="samples of a microbatch")
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--least", type=float, default=0.9)
    parser.add_argument("--output", default=os.path.join(train.ROOT, "build/bench/pipeline.json"))
    options = parser.parse_args()
    summaries = measure(options)
    rows = [row_of(name, own, summaries["data parallel"]) for name, own in summaries.items()]
    show(rows)
    best = max(row["reached"]["median"] for row in rows[1:])
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    with open(options.output, "w") as file:
        json.dump({"bench": "pipeline", "machine": train.machine(), "options": vars(options), "rows": rows}, file, indent=1)
    print(f"written: {options.output}", file=sys.stderr)
    if best < options.least:
        sys.exit(f"reached {best:.3f} of what the bubble leaves of data parallelism: less than {options.least}")


if __name__ == "__main__":
    main()
