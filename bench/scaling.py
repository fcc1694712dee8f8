"""./dev bench scaling: what two ranks gain, furrow beside torch's DistributedDataParallel over Gloo.

Weak scaling, one thread and one core a rank.  Of each contender, in turns and `--repeats` times: one process alone, as many
independent ones as there are ranks at the same time, and the ranks together.  `efficiency` is the ranks' samples/s over the
independent ones' (what communication costs), `slowest` over so many times the slowest of those (ranks are in step with the
slowest core), `alone` over so many times one alone (which also counts what the cores take from each other).  `late` is the
share of furrow's steps in which ranks waited for one that came later to a collective: of cores of two speeds, or that stall in
turns, not of what collectives take; `even` is the efficiency without it.  `zero1` shares the optimizer's work, which each of
the independent ones does whole: it may gain more than collectives take.  Last, beside each network, `cores`: of the work of plain
loops on as many cores, what is left if they waited for each other as often as a step ends, which no layout can change.
Medians with [lowest, highest]; writes JSON (default build/bench/scaling.json).
"""
import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import train

SHARD = "--parallelism.data_parallel_shard_degree"
LAYOUTS = {"ddp": ["--parallelism.data_parallel_replicate_degree"],
           "zero1": ["--parallelism.zero_stage", "1", SHARD],
           "zero3": [SHARD]}  # the number of ranks follows


def furrow(network, layout, options):
    """One repeat of `furrow bench scaling`: its row."""
    overrides = [*LAYOUTS[layout], str(options.ranks)]
    command = [train.FURROW, "bench", "scaling", f"examples/{network['config']}.toml", "--weak", "--nproc", str(options.ranks),
               "--repeats", "1", "--steps", str(network["steps"] + 1), "--json", "--training.local_batch_size",
               str(network["batch"]), "--training.global_batch_size", str(network["batch"]), "--lr_scheduler.decay_type",
               "constant", "--data.test_images", "", "--data.test_labels", ""]
    environment = dict(os.environ, FURROW_DATA=train.DATA)
    done = subprocess.run(command + network["overrides"] + overrides, cwd=train.ROOT, env=environment, capture_output=True,
                          text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    row = json.loads(done.stdout)[-1]
    return {"ranks": row["samples_per_second"], "independent": row["independent_samples_per_second"],
            "alone": row["alone_samples_per_second"],
            "slowest": row["samples_per_second"] / (options.ranks * row["efficiency_slowest"]),
            "straggler_wait": row["straggler_wait"]}


def torch_rates(name, network, processes, together):
    """Samples/s of so many processes of the peer, a core each: of all of them as ranks, or of each for itself."""
    cores = sorted(os.sched_getaffinity(0))
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(processes):
            command = ["taskset", "-c", str(cores[rank % len(cores)]), train.PYTHON, f"bench/peers/pytorch_{name}.py", "--data",
                       os.path.join(train.DATA, network["data"]), "--steps", str(network["steps"]), "--threads", "1", "--mode",
                       "eager", "--batch", str(network["batch"])]
            if together:
                command += ["--ranks", str(processes), "--rank", str(rank), "--store", f"{folder}/store"]
            children.append(subprocess.Popen(command, cwd=train.ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE))
        texts = [child.communicate() for child in children]
    for child, (_, errors) in zip(children, texts):
        if child.returncode:
            sys.exit(f"the peer of {name} failed with status {child.returncode}:\n{errors[-2000:]}")
    rates = [json.loads(text.splitlines()[-1])["samples_per_second"] for text, _ in texts]
    return min(rates) if together else rates  # a rank's rate already counts all of them


def torch_ddp(name, network, options):
    apart = torch_rates(name, network, options.ranks, False)
    return {"alone": sum(torch_rates(name, network, 1, False)), "independent": sum(apart), "slowest": min(apart),
            "ranks": torch_rates(name, network, options.ranks, True)}


def work_by_window(core, start_ns, window_ns, windows):
    """Rounds of a plain loop on one core, window after window."""
    os.sched_setaffinity(0, {core})
    while time.monotonic_ns() < start_ns:
        pass
    work = []
    for end_ns in range(start_ns + window_ns, start_ns + (windows + 1) * window_ns, window_ns):
        rounds = 0
        while time.monotonic_ns() < end_ns:
            rounds += sum(range(100)) > 0
        work.append(rounds)
    return work


def cores_in_step(ranks, window_s, seconds=1.5):
    """The work of as many cores, each window of it as little as the slowest one's, over what they did."""
    cores = sorted(os.sched_getaffinity(0))
    window_ns = int(1e9 * window_s)
    with concurrent.futures.ProcessPoolExecutor(ranks) as pool:
        start_ns = time.monotonic_ns() + 200_000_000
        loops = [pool.submit(work_by_window, cores[rank % len(cores)], start_ns, window_ns, max(1, int(seconds / window_s)))
                 for rank in range(ranks)]
        work = [loop.result() for loop in loops]
    return ranks * sum(map(min, zip(*work))) / sum(map(sum, work))


def row_of(name, contender, runs, options):
    def spread(values):
        return {"median": statistics.median(values), "low": min(values), "high": max(values)}

    return {"network": name, "contender": contender, "ranks": options.ranks,
            "samples_per_second": spread([run["ranks"] for run in runs]),
            "efficiency": spread([run["ranks"] / run["independent"] for run in runs]),
            "slowest": spread([run["ranks"] / (options.ranks * run["slowest"]) for run in runs]),
            "alone": spread([run["ranks"] / (options.ranks * run["alone"]) for run in runs]),
            "even": spread([run["ranks"] / run["independent"] / (1 - run.get("straggler_wait", 0)) for run in runs]),
            "late": statistics.median([run.get("straggler_wait", 0) for run in runs]),
            "cores": spread([run["cores"] for run in runs]) if "cores" in runs[0] else None, "runs": runs}


def measure(name, options):
    network = dict(train.NETWORKS[name])
    network["steps"] = max(5, int(network["steps"] * options.scale))
    contenders = {f"furrow {layout}": lambda layout=layout: furrow(network, layout, options) for layout in options.layouts}
    contenders["torch ddp"] = lambda: torch_ddp(name, network, options)
    runs = {contender: [] for contender in contenders}
    for repeat in range(options.repeats):
        for contender, run in contenders.items():
            runs[contender].append(run())
            last = runs[contender][-1]
            if contender.startswith("furrow"):
                last["cores"] = cores_in_step(options.ranks, options.ranks * network["batch"] / last["ranks"])
            print(f"{name} {repeat + 1}/{options.repeats} {contender}: {last['ranks']:.0f} samples/s, "
                  f"{last['ranks'] / last['independent']:.3f} of independent", file=sys.stderr, flush=True)
    return [row_of(name, contender, each, options) for contender, each in runs.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=train.NETWORKS, default=["convnet", "mlp", "gpt"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of a run")
    parser.add_argument("--output", default=os.path.join(train.ROOT, "build/bench/scaling.json"))
    options = parser.parse_args()
    report = {"bench": "scaling", "machine": train.machine(), "repeats": options.repeats, "rows": []}
    for name in options.networks:
        report["rows"] += measure(name, options)
    print(f"{'network':<9}{'':<14}{'samples/s [low, high]':>28}{'efficiency [low, high]':>26}{'slowest':>9}{'alone':>8}{'late':>8}"
          f"{'even':>8}{'cores':>8}")
    for row in report["rows"]:
        rate, efficiency = row["samples_per_second"], row["efficiency"]
        print(f"{row['network']:<9}{row['contender']:<14}{rate['median']:>10.0f} [{rate['low']:.0f}, {rate['high']:.0f}]".ljust(51) +
              f"{efficiency['median']:>10.3f} [{efficiency['low']:.3f}, {efficiency['high']:.3f}]{row['slowest']['median']:>9.3f}{row['alone']['median']:>8.3f}"
              f"{row['late']:>8.3f}{row['even']['median']:>8.3f}"
              + (f"{row['cores']['median']:>8.3f}" if row["cores"] else ""))
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    with open(options.output, "w") as file:
        json.dump(report, file, indent=1)
    print(f"written: {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
