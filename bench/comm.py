"""furrow's collectives over shared memory and over TCP beside Open MPI, torch's Gloo and a plain memory-bound loop.

all_reduce (in place), reduce_scatter and all_gather of float32, one rank per core; a size is that of the whole buffer.  The
contenders alternate `--repeats` times; a figure is the median over those processes of each one's median call, the slowest
rank of every call.  `loop` is what two threads reach that read and write the same arrays; `plain` is furrow in memory that
peers cannot see; `tcp` is furrow on loopback, at the sizes of `furrow bench comm`.  Prints microseconds, bus bandwidth (the
bytes of the lower bound over the time), furrow's ratio to each with the spread, and for two ranks whether the limits hold that
furrow promises: against Gloo, Open MPI and the loop from 1 MiB on, against Open MPI for small sums, over TCP against Gloo.
Writes JSON (default build/bench/comm.json) that names the machine.  Open MPI takes part where mpicc and mpirun are installed.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

from train import FURROW, PYTHON, ROOT, machine

BENCH = os.environ.get("FURROW_COMM_BENCH", os.path.join(ROOT, "build/release/bench_bin/comm_bench"))
FACTORS = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}  # of (n-1)/n of the size: what a rank's wire must carry

# Peer, whose time over whose is judged, the least ratio, the sizes that count, the operations: of two ranks on one host.
LARGE, SMALL = (1 << 20, 1 << 62), (0, 4096)
LIMITS = [("gloo", "furrow", 5.0, LARGE, FACTORS), ("openmpi", "furrow", 1.5, LARGE, FACTORS),
          ("openmpi", "furrow", 1.0, SMALL, ("all_reduce",)), ("loop", "furrow", 0.8, LARGE, FACTORS),
          ("gloo", "tcp", 1.0, (0, 1 << 62), FACTORS)]


def rows_of(text):
    return {row["bytes"]: row["p50_us"] for row in map(json.loads, text.splitlines()) if "bytes" in row}


def output_of(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def run(command):
    return rows_of("\n".join(line for line in output_of(command).splitlines() if line.startswith("{")))


def run_gloo(ranks, operation):
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(ROOT, "bench/peers/gloo_collective.py")
        children = [subprocess.Popen([PYTHON, script, str(rank), str(ranks), f"{folder}/store", operation], text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(ranks)]
        texts = [child.communicate() for child in children]
        for child, (_, errors) in zip(children, texts):
            if child.returncode:
                sys.exit(f"the Gloo peer failed:\n{errors[-2000:]}")
        return rows_of(texts[0][0])


def run_tcp(ranks, operation):
    rows = json.loads(output_of([FURROW, "bench", "comm", "--nproc", str(ranks), "--op", operation, "--transport", "tcp",
                                 "--json"]))
    return {row["bytes"]: row["p50_us"] for row in rows}


def contenders(ranks, operation, folder):
    found = {"furrow": lambda: run([BENCH, "--ranks", str(ranks), operation]),
             "plain": lambda: run([BENCH, "--ranks", str(ranks), operation, "plain"]),
             "tcp": lambda: run_tcp(ranks, operation),
             "gloo": lambda: run_gloo(ranks, operation)}
    if ranks == 2:
        found["loop"] = lambda: run([BENCH, "--loop", operation])
    if shutil.which("mpicc") and shutil.which("mpirun"):
        program = os.path.join(folder, "mpi_collective")
        subprocess.run(["mpicc", "-O3", os.path.join(ROOT, "bench/peers/mpi_collective.c"), "-o", program], check=True)
        command = ["mpirun", "--oversubscribe", "-np", str(ranks), program, operation]
        if os.geteuid() == 0:
            command.insert(1, "--allow-run-as-root")
        found["openmpi"] = lambda: run(command)
    return found


def measure(operation, options):
    """Contender -> size -> {"median", "low", "high"} in microseconds, of processes taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        runners = contenders(options.ranks, operation, folder)
        samples = {name: [] for name in runners}
        for repeat in range(options.repeats):
            print(f"{operation}: repeat {repeat + 1} of {options.repeats}", file=sys.stderr, flush=True)
            for name, runner in runners.items():
                samples[name].append(runner())
    return {name: {size: {"median": statistics.median(one[size] for one in runs), "low": min(one[size] for one in runs),
                          "high": max(one[size] for one in runs)} for size in runs[0]} for name, runs in samples.items()}


def verdicts_of(operation, size, us):
    """Of the limits for this size: {"peer", "of", "ratio", "least", "holds"}."""
    found = []
    for peer, own, least, (first, last), operations in LIMITS:
        if operation not in operations or not first <= size <= last:
            continue
        if size in us.get(peer, {}) and size in us.get(own, {}):
            ratio = us[peer][size]["median"] / us[own][size]["median"]
            found.append({"peer": peer, "of": own, "ratio": ratio, "least": least, "holds": ratio >= least})
    return found


def verdict_text(verdicts):
    missed = [f"{v['of']} {v['ratio']:.2f} of {v['peer']}, not {v['least']:g}" for v in verdicts if not v["holds"]]
    return "; ".join(missed) if missed else "holds" if verdicts else ""


def print_table(operation, ranks, us, verdicts):
    factor = FACTORS[operation] * (ranks - 1) / ranks
    peers = [name for name in us if name != "furrow"]
    print(f"\n{operation}\n{'bytes':>10} {'furrow us [low, high]':>30} {'GB/s':>7}" +
          "".join(f"{name + ' us':>13} {'ratio':>6}" for name in peers) + "  limits")
    for size, ours in us["furrow"].items():
        cells = "".join(f"{us[name][size]['median']:13.2f} {us[name][size]['median'] / ours['median']:6.2f}"
                        if size in us[name] else " " * 20 for name in peers)
        spread = f"{ours['median']:.2f} [{ours['low']:.2f}, {ours['high']:.2f}]"
        print(f"{size:>10} {spread:>30} {factor * size / ours['median'] * 1e-3:7.2f}{cells}  {verdict_text(verdicts[size])}",
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--op", nargs="+", choices=FACTORS, default=list(FACTORS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", default=os.path.join(ROOT, "build/bench/comm.json"))
    options = parser.parse_args()

    report = {"bench": "comm", "machine": machine(), "ranks": options.ranks, "repeats": options.repeats, "operations": {}}
    for operation in options.op:
        us = measure(operation, options)
        sizes = sorted({size for each in us.values() for size in each})
        verdicts = {size: verdicts_of(operation, size, us) if options.ranks == 2 else [] for size in sizes}
        print_table(operation, options.ranks, us, verdicts)
        report["operations"][operation] = {"us": us, "limits": verdicts}
    judged = [v for each in report["operations"].values() for found in each["limits"].values() for v in found]
    print(f"\n{report['machine']['cpu']}, {report['machine']['cores']} cores; {sum(v['holds'] for v in judged)} of {len(judged)}"
          " limits hold")
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    with open(options.output, "w") as out:
        json.dump(report, out, indent=1)


if __name__ == "__main__":
    main()
