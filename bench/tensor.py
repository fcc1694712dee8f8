"""./dev bench tensor: steps of furrow's optimizers beside torch.optim's, over one matrix of 768 x 3072.

Both alternate `--repeats` times in processes of their own; the figures are medians, with their spread.  torch.optim's is
the fastest of what it offers on this machine: for-loop, foreach, fused.  Where it has no such optimizer the peer is its
AdamW, and the line says so.  Prints a table and writes JSON (default build/bench/tensor.json) that names the machine.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCH = os.path.join(ROOT, "build/release/bench_bin/tensor_bench")
PYTHON = os.environ.get("FURROW_PYTHON", sys.executable)
PEERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "adafactor": "Adafactor", "muon": "Muon"}  # others: AdamW


def run(command, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def furrow(name, threads):
    out = run([BENCH, f"--benchmark_filter=^{name}/threads:{threads}/", "--benchmark_format=json",
               "--benchmark_min_time=0.2"], threads)
    return json.loads(out)["benchmarks"][0]["real_time"] * 1e-6


def torch(name, threads):
    return json.loads(run([PYTHON, "bench/peers/pytorch_optimizer.py", PEERS.get(name, "AdamW"), str(threads)],
                          threads).splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", default=os.path.join(ROOT, "build/bench/tensor.json"))
    options = parser.parse_args()
    names = [line.split("/")[0] for line in run([BENCH, "--benchmark_list_tests"], 1).splitlines()]
    rows = []
    print(f"{'optimizer':10} {'threads':>7} {'furrow ms':>10} {'torch ms':>9} {'ratio':>6} {'spread':>7}  peer")
    for name in sorted(set(names)):
        for threads in options.threads:
            ours, theirs, form = [], [], ""
            for _ in range(options.repeats):
                ours.append(furrow(name, threads))
                peer = torch(name, threads)
                theirs.append(peer["ms"])
                form = peer["form"]
            ratios = [b / a for a, b in zip(ours, theirs)]
            row = dict(optimizer=name, threads=threads, furrow_ms=statistics.median(ours),
                       torch_ms=statistics.median(theirs), ratio=statistics.median(ratios),
                       spread=(max(ratios) - min(ratios)) / statistics.median(ratios), peer=form)
            rows.append(row)
            print(f"{name:10} {threads:7} {row['furrow_ms']:10.3f} {row['torch_ms']:9.3f} {row['ratio']:6.2f} "
                  f"{row['spread']:7.2f}  {form}", flush=True)
    os.makedirs(os.path.dirname(options.out), exist_ok=True)
    machine = dict(node=platform.node(), processor=platform.processor(), cores=os.cpu_count())
    with open(options.out, "w") as out:
        json.dump(dict(machine=machine, load=os.getloadavg(), rows=rows), out, indent=1)


if __name__ == "__main__":
    main()
