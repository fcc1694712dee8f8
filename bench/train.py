"""./dev bench train: furrow beside PyTorch, eager and compiled, on the same data, microbatch, accumulation and optimizer.

All contenders of a network alternate (furrow, eager, compile, furrow, ...) `--repeats` times; the figures are medians
over those processes, with their spread.  One thread is pinned to one core, two to two (with `--device cuda` none is).  Prints a table and writes JSON
(default build/bench/train.json) that names the machine.  Needs MNIST, tinyshakespeare and names under $FURROW_DATA,
and the binary version of CIFAR-10 there or in $CIFAR10.
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
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FURROW = os.environ.get("FURROW_BIN", os.path.join(ROOT, "build/release/bin/furrow"))
PYTHON = os.environ.get("FURROW_PYTHON", sys.executable)
DATA = os.environ.get("FURROW_DATA", os.path.join(ROOT, "data"))
CIFAR10 = os.environ.get("CIFAR10", os.path.join(DATA, "cifar10"))

# Microbatch, steps that take a few seconds, data, and the overrides that make furrow's example the peer's equal.
SGD = ["--optimizer.name", "sgd", "--optimizer.lr", "0.02", "--optimizer.momentum", "0.9", "--optimizer.nesterov",
       "--optimizer.weight_decay", "5e-4", "--training.max_norm", "0"]
NETWORKS = {
    "convnet": dict(config="convnet-mnist", batch=64, steps=400, data="mnist", overrides=SGD),
    "gan": dict(config="gan-mnist", batch=64, steps=600, data="mnist", overrides=[]),
    "mlp": dict(config="mlp-mnist", batch=128, steps=150, data="mnist", overrides=["--training.max_norm", "1"]),
    "gpt": dict(config="gpt-shakespeare", batch=12, steps=40, data="tinyshakespeare/input.txt",
                overrides=["--training.seq_len", "128", "--training.max_norm", "1", "--optimizer.lr", "1e-3"]),
    "llama": dict(config="llama-shakespeare", batch=12, steps=40, data="tinyshakespeare/input.txt",
                  overrides=["--training.seq_len", "128", "--training.max_norm", "1", "--optimizer.lr", "1e-3"]),
    "lstm": dict(config="lstm-shakespeare", batch=32, steps=20, data="tinyshakespeare/input.txt",
                 overrides=["--optimizer.lr", "2e-3"]),
    "resnet20": dict(config="resnet20-cifar10", batch=32, steps=60, data=CIFAR10,
                     overrides=["--training.dataset_path", CIFAR10, "--optimizer.lr", "0.05", "--data.random_crop_padding",
                                "0", "--data.random_flip=false", "--data.validation_fraction", "0", "--data.test_files",
                                "[]"]),
    "rnn": dict(config="rnn-names", batch=64, steps=300, data="names/names.txt", overrides=["--optimizer.lr", "2e-3"]),
    "gpt-124m": dict(config="gpt-124m", peer="gpt", batch=12, steps=30, data="tinyshakespeare/input.txt", only="cuda",
                     overrides=["--training.dataset", "text", "--training.dataset_path", os.path.join(DATA, "tinyshakespeare/input.txt"),
                                "--data.tokenizer", "gpt2", "--data.tokenizer_path", os.path.join(DATA, "gpt2-tokenizer"),
                                "--optimizer.lr", "1e-3", "--optimizer.beta2", "0.99"],
                     peer_arguments=["--layers", "12", "--heads", "12", "--width", "768", "--context", "1024", "--no-bias",
                                     "--vocabulary", "50304", "--byte-pairs", os.path.join(DATA, "gpt2-tokenizer")]),
    "llama-134m": dict(config="llama-shakespeare", peer="llama", batch=12, steps=30, data="tinyshakespeare/input.txt", only="cuda",
                       overrides=["--model.layers", "12", "--model.heads", "12", "--model.kv_heads", "4", "--model.width", "768",
                                  "--model.ffn_width", "2048", "--training.seq_len", "1024", "--data.tokenizer", "gpt2",
                                  "--data.tokenizer_path", os.path.join(DATA, "gpt2-tokenizer"), "--optimizer.lr", "1e-3",
                                  "--training.max_norm", "1"],
                       peer_arguments=["--layers", "12", "--heads", "12", "--kv-heads", "4", "--width", "768", "--ffn", "2048",
                                       "--context", "1024", "--byte-pairs", os.path.join(DATA, "gpt2-tokenizer")]),
}
PEER_IS_HOSTS = ("gan", "rnn")  # networks whose peer makes tensors on the host
# Nothing but training: no validation, no checkpoint, no test split, a constant rate.
ONLY_TRAINING = ["--lr_scheduler.decay_type", "constant", "--lr_scheduler.warmup_steps", "0", "--checkpoint.enable=false",
                 "--validation.enable=false", "--data.test_images", "", "--data.test_labels", "", "--metrics.log_freq",
                 "1000000", "--metrics.enable_plots=false"]
SUFFIX = {"float32": "", "bfloat16": "-bf16"}  # of a contender's name; PyTorch's bfloat16 is autocast
FIGURES = ("samples_per_second", "step_time_median_ms", "time_to_first_step_s", "peak_rss_bytes", "loss")


def run_process(command, threads, device="cpu"):
    """Its stdout; on the CPU pinned to as many cores as it has threads."""
    if device == "cpu" and shutil.which("taskset"):
        cores = sorted(os.sched_getaffinity(0))[:threads]
        command = ["taskset", "-c", ",".join(map(str, cores))] + command
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), FURROW_DATA=DATA)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def run_furrow(network, threads, accumulation, precision, device):
    with tempfile.TemporaryDirectory() as folder:
        command = [FURROW, "train", f"examples/{network['config']}.toml", "--job.dump_folder", folder, "--json",
                   "--training.steps", str(network["steps"] + 1), "--training.device", device,
                   "--training.threads", str(threads), "--training.mixed_precision_param", precision,
                   "--training.local_batch_size", str(network["batch"]),
                   "--training.global_batch_size", str(network["batch"] * accumulation)]
        summary = json.loads(run_process(command + ONLY_TRAINING + network["overrides"], threads, device))
    summary["step_time_median_ms"] = summary["step_time_ms"]["median"]
    summary["version"] = f"{summary['furrow_version']} {summary['git_commit']}"
    return {figure: summary[figure] for figure in FIGURES + ("version",)}


def run_pytorch(name, network, threads, accumulation, mode, precision, device):
    command = [PYTHON, f"bench/peers/pytorch_{network.get('peer', name)}.py", "--data", os.path.join(DATA, network["data"]), "--steps",
               str(network["steps"]), "--threads", str(threads), "--mode", mode, "--batch", str(network["batch"]),
               "--accumulation", str(accumulation), "--precision", precision, "--device", device]
    command += network.get("peer_arguments", [])
    return json.loads(run_process(command, threads, device).splitlines()[-1])


def measure(name, threads, options):
    """Contender -> list of figures, one per repeat, taken in turn."""
    network = dict(NETWORKS[name])
    network["steps"] = max(5, int(network["steps"] * options.scale))
    contenders = {}
    for precision in options.precisions:
        contenders["furrow" + SUFFIX[precision]] = lambda precision=precision: run_furrow(
            network, threads, options.accumulation, precision, options.device)
        for mode in options.modes:
            contenders[mode + SUFFIX[precision]] = lambda mode=mode, precision=precision: run_pytorch(
                name, network, threads, options.accumulation, mode, precision, options.device)
    for contender, run in contenders.items():
        if contender.startswith("compile"):
            run()  # fills inductor's cache on disk, so that every repeat finds it
    results = {contender: [] for contender in contenders}
    for repeat in range(options.repeats):
        for contender, run in contenders.items():
            results[contender].append(run())
            figures = results[contender][-1]
            print(f"{name} {threads} thread{'s' * (threads > 1)} {repeat + 1}/{options.repeats} {contender}: "
                  f"{figures['samples_per_second']:.0f} samples/s", file=sys.stderr, flush=True)
    return results


def summarise(results):
    """Median, lowest and highest of each figure."""
    return {contender: {figure: {"median": statistics.median(r[figure] for r in runs),
                                 "low": min(r[figure] for r in runs), "high": max(r[figure] for r in runs)}
                        for figure in FIGURES}
            for contender, runs in results.items()}


def row_of(name, threads, accumulation, results):
    figures = summarise(results)
    speed = {contender: figures[contender]["samples_per_second"]["median"] for contender in figures}
    row = {"network": name, "threads": threads, "batch": NETWORKS[name]["batch"], "accumulation": accumulation,
           "figures": figures, "runs": results}
    for key, suffix in (("", ""), ("bf16_", SUFFIX["bfloat16"])):
        own = "furrow" + suffix
        peers = [mode + suffix for mode in ("eager", "compile") if mode + suffix in figures]
        best = max(peers, key=speed.get) if peers else None
        row[key + "best_peer"] = best
        row[key + "speed_up"] = speed[own] / speed[best] if best and own in speed else None
    if {"furrow", "furrow-bf16"} <= speed.keys():
        row["bf16_over_float32"] = speed["furrow-bf16"] / speed["furrow"]
    return row


def remark(row, contender):
    text = ""
    for key, own in (("", "furrow"), ("bf16_", "furrow-bf16")):
        if contender == own and row[key + "speed_up"]:
            text = f"   {row[key + 'speed_up']:.2f}x the better peer ({row[key + 'best_peer']})"
    if contender == "furrow-bf16" and "bf16_over_float32" in row:
        text += f", {row['bf16_over_float32']:.2f}x float32"
    return text


def print_row(row):
    for contender, figures in row["figures"].items():
        speed = figures["samples_per_second"]
        print(f"{row['network']:<9}{row['threads']:>7}  {contender:<13}"
              f"{speed['median']:>10.0f} [{speed['low']:.0f}, {speed['high']:.0f}]".ljust(60) +
              f"{figures['step_time_median_ms']['median']:>9.3f}"
              f"{figures['time_to_first_step_s']['median']:>11.2f}"
              f"{figures['peak_rss_bytes']['median'] / 2**20:>9.0f}"
              f"{figures['loss']['median']:>9.4f}" + remark(row, contender))


def machine(device="cpu"):
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    gpu = {}
    if device == "cuda":
        named = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True)
        gpu = {"gpu": named.stdout.strip()}
    return {**gpu, "cpu": models[0] if models else platform.processor(), "cores": os.cpu_count(), "system": platform.platform(),
            "load_average_at_start": os.getloadavg()[0], "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def version():
    """Of the binary that is measured."""
    return subprocess.run([FURROW, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: all that the device does")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: builds for it, both sides; threads are the host's")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--modes", nargs="*", choices=("eager", "compile"), default=["eager", "compile"])
    parser.add_argument("--precisions", nargs="+", choices=SUFFIX, default=["float32"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of a run")
    parser.add_argument("--output", default=os.path.join(ROOT, "build/bench/train.json"))
    options = parser.parse_args()

    report = {"bench": "train", "machine": machine(options.device), "repeats": options.repeats, "rows": []}
    for name in options.networks or NETWORKS:
        if NETWORKS[name].get("only", options.device) != options.device or (name in PEER_IS_HOSTS and options.device != "cpu"):
            continue
        for threads in options.threads:
            if threads > len(os.sched_getaffinity(0)):
                print(f"{name}: no {threads} cores here, left out", file=sys.stderr)
                continue
            report["rows"].append(row_of(name, threads, options.accumulation, measure(name, threads, options)))
    print(f"\n{report['machine'].get('gpu', '')} {report['machine']['cpu']}, {report['machine']['cores']} cores; medians of {options.repeats} processes each")
    print(f"{'network':<9}{'threads':>7}  {'':<13}{'samples/s [low, high]':>27}".ljust(60) +
          f"{'step ms':>9}{'1st step s':>11}{'RSS MiB':>9}{'loss':>9}")
    for row in report["rows"]:
        print_row(row)
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    with open(options.output, "w") as file:
        json.dump(report, file, indent=2)
    print(f"written: {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
