"""./dev bench predict: what furrow predicts of a step beside what it takes.

Over the layouts of gpt and mlp on one and two ranks: data parallel, ZeRO-1 to 3, a tensor axis, and a pipeline with every
schedule, each without and with recompute; a pipeline that is split unevenly by hand, and recompute of some units only, on
one rank and in a pipeline.  Profiles the network at one size (`furrow profile`, with as many ranks), trains every layout at
another size `--repeats` times in turn, and compares `predicted` and `measured` of summary.json.  Prints and writes (default build/bench/predict.json): median and 90th percentile of the error of the step's
time, the largest error of memory, how many pairs of layouts that differ by more than their runs' spread are in the right
order, and how far the first choice is from the measured best.  A pair belongs to one network and may differ in ranks.
`--layouts` takes those alone whose name has one of these words in it: `--layouts ZBV,uneven`.
Needs a quiet machine with two cores, MNIST and tinyshakespeare under $FURROW_DATA.
"""
import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FURROW = os.environ.get("FURROW_BIN", os.path.join(ROOT, "build/release/bin/furrow"))

NETWORKS = {
    "gpt": dict(config="gpt-shakespeare", steps=20, batch=48, local=12,
                uneven="[1,5]", again='["h.0","h.2"]', profiled=["--model.width", "128", "--model.layers", "2"],
                trained=["--model.width", "192", "--model.layers", "4", "--lr_scheduler.warmup_steps", "0"]),
    "mlp": dict(config="mlp-mnist", steps=60, batch=512, local=128, uneven="[1,3]",
                again='["fc2"]', profiled=["--model.hidden", "[1024,512]"],
                trained=["--model.hidden", "[1536,768,384]", "--lr_scheduler.warmup_steps", "0"]),
}

ONE = {"one rank": []}


def pipeline(schedule, *overrides):
    return ["--parallelism.pipeline_parallel_degree", "2", "--parallelism.pipeline_parallel_schedule", schedule, *overrides]


# The last five have two stages a rank.
SCHEDULES = ("1F1B", "GPipe", "ZBH1", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")
TWO = {
    "dp_replicate 2": ["--parallelism.data_parallel_replicate_degree", "2"],
    "ZeRO-1": ["--parallelism.zero_stage", "1"],
    "ZeRO-2": ["--parallelism.zero_stage", "2"],
    "ZeRO-3": ["--parallelism.zero_stage", "3"],
    "tp 2": ["--parallelism.tensor_parallel_degree", "2"],
    **{f"pp 2 {schedule}": pipeline(schedule) for schedule in SCHEDULES},
}


def layouts(network):
    """Name, ranks, settings."""
    for ranks, table in ((1, ONE), (2, TWO)):
        for (name, overrides), recompute in itertools.product(table.items(), ("none", "full")):
            mode = ["--activation_checkpoint.mode", recompute]
            yield f"{name}{', recompute' if recompute == 'full' else ''}", ranks, overrides + mode
    yield "pp 2 1F1B, uneven", 2, pipeline("1F1B", "--parallelism.pipeline_parallel_units_per_stage", network["uneven"])
    some = ["--activation_checkpoint.mode", "selective", "--activation_checkpoint.units", network["again"]]
    yield "one rank, some recompute", 1, some
    yield "pp 2 1F1B, some recompute", 2, pipeline("1F1B", *some)


def chosen(network, words):
    for layout in layouts(network):
        if not words or any(word in layout[0] for word in words):
            yield layout


def furrow(*words, profile):
    command = [FURROW, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "FURROW_PROFILE": profile})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def config_of(network):
    return os.path.join(ROOT, "examples", network["config"] + ".toml")


def train(network, ranks, overrides, profile, folder):
    furrow("train", config_of(network), "--nproc", ranks, "--job.dump_folder", folder, *network["trained"], *overrides,
           "--training.steps", network["steps"], "--training.local_batch_size", network["local"],
           "--training.global_batch_size", network["batch"], "--validation.freq", 0, "--checkpoint.enable=false",
           profile=profile)
    with open(os.path.join(folder, "summary.json"), encoding="utf-8") as file:
        summary = json.load(file)
    return summary["predicted"], summary["measured"]


def measure(name, options, scratch):
    network = NETWORKS[name]
    profile = os.path.join(scratch, name + "-profile")
    for ranks in (1, 2):
        furrow("profile", config_of(network), "--nproc", ranks, *network["profiled"],
               "--training.local_batch_size", network["local"], profile=profile)
    runs = {}
    for repeat in range(options.repeats):
        for layout, ranks, overrides in chosen(network, options.layouts.split(",") if options.layouts else []):
            folder = os.path.join(scratch, f"{name}-{layout}-{repeat}".replace(" ", "_").replace(",", ""))
            runs.setdefault(layout, []).append(train(network, ranks, overrides, profile, folder))
    rows = []
    for layout, pairs in runs.items():
        times = [measured["step_time_ms"] for _, measured in pairs]
        predicted, measured = pairs[0]
        rows.append(dict(network=name, layout=layout, predicted_ms=predicted["step_time_ms"],
                         measured_ms=statistics.median(times), spread=(max(times) - min(times)) / statistics.median(times),
                         predicted_bytes=predicted["memory_bytes"], measured_bytes=measured["memory_bytes"],
                         wire_equal=predicted["wire_bytes"] == measured["wire_bytes"], source=predicted["source"]))
    return rows


def judge(rows):
    errors = sorted(abs(r["predicted_ms"] / r["measured_ms"] - 1) for r in rows)
    memory = [abs(r["predicted_bytes"] / r["measured_bytes"] - 1) for r in rows]
    right = judged = 0
    for a, b in itertools.combinations(rows, 2):
        if a["network"] != b["network"]:
            continue
        apart = abs(a["measured_ms"] - b["measured_ms"]) / min(a["measured_ms"], b["measured_ms"])
        if apart <= max(a["spread"], b["spread"]):
            continue
        judged += 1
        right += (a["predicted_ms"] < b["predicted_ms"]) == (a["measured_ms"] < b["measured_ms"])
    choices = {}
    for name in {r["network"] for r in rows}:
        mine = [r for r in rows if r["network"] == name]
        best = min(r["measured_ms"] for r in mine)
        choices[name] = min(mine, key=lambda r: r["predicted_ms"])["measured_ms"] / best - 1
    return dict(median_error=statistics.median(errors), p90_error=errors[int(0.9 * (len(errors) - 1) + 0.5)],
                memory_error=max(memory), pairs=judged, pairs_right=right / judged if judged else None,
                first_choice_over_best=choices)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="gpt,mlp")
    parser.add_argument("--layouts", default="", help="words of names, with commas; all by default")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default=os.path.join(ROOT, "build/bench/predict.json"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.networks.split(","):
            rows += measure(name, options, scratch)
    for r in sorted(rows, key=lambda r: (r["network"], -abs(r["predicted_ms"] / r["measured_ms"] - 1))):
        print(f"{r['network']:<5}{r['layout']:<28}{r['measured_ms']:>9.2f} ms  predicted {r['predicted_ms']:>9.2f} "
              f"({100 * (r['predicted_ms'] / r['measured_ms'] - 1):+6.1f} %)  spread {100 * r['spread']:5.1f} %  memory "
              f"{100 * (r['predicted_bytes'] / r['measured_bytes'] - 1):+6.1f} %")
    verdict = judge(rows)
    print(json.dumps(verdict, indent=2))
    os.makedirs(os.path.dirname(options.out), exist_ok=True)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(dict(machine=platform.processor() or platform.machine(), cores=os.cpu_count(), repeats=options.repeats,
                       verdict=verdict, rows=rows), file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
