"""furrow's all_reduce over shared memory and over TCP beside Open MPI, torch's Gloo and a plain memory-bound loop.

Float32 in place, one rank per core.  The contenders alternate `--repeats` times; a figure is the median over those
processes of each one's median call, the slowest rank of every call.  `loop` is what two threads reach that sum the same
arrays.  Prints microseconds, bus bandwidth (2(n-1)/n bytes over the time) and furrow's ratio to each; `tcp` is furrow on
loopback, at the sizes of `furrow bench comm`, with Gloo's ratio to it, which also talks TCP.  Writes JSON (default
build/bench/comm.json).  Open MPI takes part where mpicc and mpirun are installed.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FURROW = os.environ.get("FURROW_BIN", os.path.join(ROOT, "build/release/bin/furrow"))
BENCH = os.environ.get("FURROW_COMM_BENCH", os.path.join(ROOT, "build/release/bench_bin/comm_bench"))
PYTHON = os.environ.get("FURROW_PYTHON", sys.executable)


def rows_of(text):
    return {row["bytes"]: row["p50_us"] for row in map(json.loads, text.splitlines()) if "bytes" in row}


def run(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return rows_of("\n".join(line for line in done.stdout.splitlines() if line.startswith("{")))


def run_gloo(ranks):
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(ROOT, "bench/peers/gloo_all_reduce.py")
        children = [subprocess.Popen([PYTHON, script, str(rank), str(ranks), f"{folder}/store"], text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for rank in range(ranks)]
        texts = [child.communicate()[0] for child in children]
        if any(child.returncode for child in children):
            sys.exit("the Gloo peer failed")
        return rows_of(texts[0])


def run_tcp(ranks):
    command = [FURROW, "bench", "comm", "--nproc", str(ranks), "--op", "all_reduce", "--transport", "tcp", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return {row["bytes"]: row["p50_us"] for row in json.loads(done.stdout)}


def contenders(ranks, folder):
    found = {"furrow": lambda: run([BENCH, "--ranks", str(ranks)]),
             "furrow_plain": lambda: run([BENCH, "--ranks", str(ranks), "plain"]),
             "tcp": lambda: run_tcp(ranks),
             "gloo": lambda: run_gloo(ranks)}
    if ranks == 2:
        found["loop"] = lambda: run([BENCH, "--loop"])
    if shutil.which("mpicc") and shutil.which("mpirun"):
        program = os.path.join(folder, "mpi_all_reduce")
        subprocess.run(["mpicc", "-O3", os.path.join(ROOT, "bench/peers/mpi_all_reduce.c"), "-o", program], check=True)
        command = ["mpirun", "--oversubscribe", "-np", str(ranks), program]
        if os.geteuid() == 0:
            command.insert(1, "--allow-run-as-root")
        found["openmpi"] = lambda: run(command)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", default=os.path.join(ROOT, "build/bench/comm.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runners = contenders(options.ranks, folder)
        samples = {name: [] for name in runners}
        for _ in range(options.repeats):
            for name, runner in runners.items():
                samples[name].append(runner())
    sizes = sorted(samples["furrow"][0])
    median = {name: {size: statistics.median(one[size] for one in runs) for size in sizes if size in runs[0]}
              for name, runs in samples.items()}
    factor = 2 * (options.ranks - 1) / options.ranks
    peers = [name for name in median if name != "furrow"]
    print(f"{'bytes':>10} {'furrow us':>10} {'GB/s':>7}  " + "  ".join(f"{name:>12} us  ratio" for name in peers) +
          "  gloo/tcp")
    for size in sizes:
        ours = median["furrow"][size]
        cells = "  ".join(f"{median[name][size]:15.2f} {median[name][size] / ours:6.2f}" if size in median[name] else " " * 22
                          for name in peers)
        tcp = f"{median['gloo'][size] / median['tcp'][size]:10.2f}" if size in median["tcp"] else ""
        print(f"{size:>10} {ours:10.2f} {factor * size / ours * 1e-3:7.2f}  {cells}{tcp}")
    os.makedirs(os.path.dirname(options.output), exist_ok=True)
    with open(options.output, "w") as out:
        json.dump({"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "ranks": options.ranks,
                   "repeats": options.repeats, "median_us": median, "samples_us": samples}, out, indent=1)


if __name__ == "__main__":
    main()
