"""Trains examples beside their PyTorch peers over several seeds: of texts it compares the validation losses, of
resnet20 the share of the CIFAR-10 test images that is wrong (all of train is trained on; $CIFAR10, $CIFAR10_TEST name
folder and test file), of gan how far a convnet is from telling its digits apart.

Same network, data, batch, steps, optimizer, schedule and clipping; the seeds decide initial values and the order of
the samples, which differ between the two.  Written down first: furrow is no worse when its mean is at most one standard
error of the difference above the peer's.  Prints a table and writes JSON (default build/bench/accuracy.json); exits 1
when a margin is not kept.  Windows of a text begin at any place on both sides; the peer draws each anew, furrow has none
twice in an epoch.

What one seed draws moves a loss more than the margin is wide.  With `--same-start` the peer begins with furrow's initial
weights and sees furrow's windows, or images with their crops and flips: the first losses are then equal but for rounding,
and the margin is one standard error of the differences of the pairs.

Of resnet20 `--same-start --held-out --scale .4` is what counts, with five seeds: trained on data_batch_1 to 4, two epochs of
full batches, and tested on the 10,000 images of data_batch_5.  A copy of CIFAR-10 may have fewer test images, too few to
tell errors apart that differ by less than a hundredth.  At this network's rate rounding grows tenfold in each of the first
steps: runs from one start end as far from each other as any two, and seeds deviate by half a hundredth to a whole one.
Where nothing differs, one comparison in six misses a margin of one standard error; the five did on one machine, and ten more
seeds, chosen before any of them ran, decided: `--first-seed 11 --seeds 10`, within it (bench/results).
"""
import argparse
import atexit
import json
import math
import os
import shutil
import statistics
import sys
import tempfile

from train import CIFAR10, DATA, FURROW, PYTHON, machine, run_process

# Steps, batch, context, rate, decay and warm-up as in examples/<config>.toml.
NETWORKS = {
    "rnn": dict(config="rnn-names", data="names/names.txt", steps=2000, batch=64, context=32, lr="3e-3", decay="0.01",
                warmup=50),
    "lstm": dict(config="lstm-shakespeare", data="tinyshakespeare/input.txt", steps=1500, batch=32, context=64, lr="5e-3",
                 decay="0.01", warmup=50),
    "llama": dict(config="llama-shakespeare", data="tinyshakespeare/input.txt", steps=2000, batch=12, context=64, lr="4e-3",
                  decay="0.1", warmup=100),
}
VERSIONS = {}  # of the contenders, as they say
PAIRED = ("llama", "resnet20")  # peers that can begin where furrow does
CIFAR10_TEST = os.environ.get("CIFAR10_TEST", "test_batch.bin")
CIFAR10_TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]


def resnet20(train, test, steps):
    """Its row on these files of CIFAR-10."""
    return dict(
        config="resnet20-cifar10", data=CIFAR10, steps=steps, batch=64, figure="test_accuracy", printed="test error",
        furrow=["--training.dataset_path", CIFAR10, "--data.train_files", json.dumps(train), "--data.test_files",
                json.dumps([test]), "--data.validation_fraction", "0"],
        peer=["--batch", "64", "--train-files", *train, "--test-file", test])


NETWORKS["resnet20"] = resnet20(CIFAR10_TRAIN, CIFAR10_TEST, 3906)  # five epochs, as below
HELD_OUT = {"resnet20": resnet20(CIFAR10_TRAIN[:4], CIFAR10_TRAIN[4], 3125)}
# 10 less the score of bench/peers/gan_score.py, by a convnet that is trained here first ($FURROW_CLASSIFIER: is there).
NETWORKS["gan"] = dict(config="gan-mnist", data="mnist", steps=18750, figure="score", printed="10 - score", furrow=[],
                       peer=["--batch", "64"])


def classifier(threads):
    """The model/ of a convnet that knows the digits."""
    if "FURROW_CLASSIFIER" not in os.environ:
        folder = tempfile.mkdtemp(prefix="furrow-classifier-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        run_process([FURROW, "train", "examples/convnet-mnist.toml", "--job.dump_folder", folder, "--training.epochs", "3",
                     "--training.threads", str(threads), "--checkpoint.enable=false"], threads)
        os.environ["FURROW_CLASSIFIER"] = os.path.join(folder, "model")
    return os.environ["FURROW_CLASSIFIER"]


def lacks(folder, threads):
    """What a run's generator lacks of the best score."""
    scored = run_process([PYTHON, "bench/peers/gan_score.py", "--classifier", classifier(threads), "--generator",
                          os.path.join(folder, "model")], threads)
    return 10 - json.loads(scored.splitlines()[-1])["score"]


def furrow_loss(network, seed, steps, threads):
    """Of the last step: the peer has no early stopping either."""
    with tempfile.TemporaryDirectory() as folder:
        command = [FURROW, "train", f"examples/{network['config']}.toml", "--job.dump_folder", folder, "--json",
                   "--debug.seed", str(seed), "--training.steps", str(steps), "--training.threads", str(threads),
                   "--validation.freq", "0", "--checkpoint.enable=false"]
        summary = json.loads(run_process(command + network.get("furrow", []), threads))
        VERSIONS["furrow"] = f"{summary['furrow_version']} {summary['git_commit']}"
        if network.get("figure") == "score":
            return lacks(folder, threads)
    return 1 - summary["test_accuracy"] if network.get("figure") == "test_accuracy" else summary["validation_loss"]


def initial_weights(network, seed, folder, threads):
    """The weights that a run of this seed begins with: one step, too small to change any."""
    run_process([FURROW, "train", f"examples/{network['config']}.toml", "--job.dump_folder", folder, "--debug.seed", str(seed),
                 "--training.steps", "1", "--training.threads", str(threads), "--optimizer.lr", "1e-30",
                 "--lr_scheduler.warmup_steps", "0", "--validation.freq", "0", "--checkpoint.enable=false",
                 *network.get("furrow", [])], threads)
    return os.path.join(folder, "model/model.safetensors")


def paired_loss(name, network, seed, steps, threads):
    with tempfile.TemporaryDirectory() as folder:
        weights = initial_weights(network, seed, folder, threads)
        return peer_loss(name, network, seed, steps, threads, ["--initial", weights, "--order-of-seed", str(seed)])


def peer_loss(name, network, seed, steps, threads, more=()):
    command = [PYTHON, f"bench/peers/pytorch_{name}.py", "--data", os.path.join(DATA, network["data"]), "--steps", str(steps),
               "--threads", str(threads), "--mode", "eager", "--seed", str(seed), "--validate"]
    command += network.get("peer") or [
        "--batch", str(network["batch"]), "--context", str(network["context"]), "--lr", network["lr"], "--weight-decay",
        network["decay"], "--warmup-steps", str(network["warmup"])]
    command += more
    figures = json.loads(run_process(command, threads).splitlines()[-1])
    VERSIONS["pytorch"] = figures["version"]
    return figures["validation_loss"]


def compare(name, options):
    network = (HELD_OUT if options.held_out else NETWORKS)[name]
    steps = max(1, int(network["steps"] * options.scale))
    losses = {"furrow": [], "pytorch": []}
    if network.get("figure") == "score":
        classifier(options.threads)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        losses["furrow"].append(furrow_loss(network, seed, steps, options.threads))
        peer = paired_loss if options.same_start else peer_loss
        losses["pytorch"].append(peer(name, network, seed, steps, options.threads))
        print(f"{name} seed {seed}: furrow {losses['furrow'][-1]:.4f}, pytorch {losses['pytorch'][-1]:.4f}", file=sys.stderr,
              flush=True)
    means = {who: statistics.mean(values) for who, values in losses.items()}
    samples = list(losses.values())
    if options.same_start:
        samples = [[ours - theirs for ours, theirs in zip(*samples)]]
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in samples))
    difference = means["furrow"] - means["pytorch"]
    return {"network": name, "machine": machine(), "versions": dict(VERSIONS), "steps": steps, "same_start": options.same_start,
            "held_out": options.held_out, "first_seed": options.first_seed, "losses": losses, "means": means,
            "standard_error": error, "difference": difference, "holds": difference <= error}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=1, help="of those in a row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of a run")
    parser.add_argument("--same-start", action="store_true", help=f"of {', '.join(PAIRED)}: from the same weights and samples")
    parser.add_argument("--held-out", action="store_true", help="of resnet20: test on a fifth of train, train on the rest")
    parser.add_argument("--output", default="build/bench/accuracy.json")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("a standard error needs at least two seeds")
    if options.same_start and not set(options.networks) <= set(PAIRED):
        parser.error(f"--same-start is for --networks {' '.join(PAIRED)}")
    if options.held_out and not set(options.networks) <= set(HELD_OUT):
        parser.error(f"--held-out is for --networks {' '.join(HELD_OUT)}")
    rows = [compare(name, options) for name in options.networks]
    for row in rows:
        print(f"{row['network']:<7} {row['steps']} steps, {options.seeds} seeds: {NETWORKS[row['network']].get('printed', 'validation loss')} furrow "
              f"{row['means']['furrow']:.4f}, pytorch {row['means']['pytorch']:.4f}, difference {row['difference']:+.4f}, "
              f"standard error {row['standard_error']:.4f}: {'no worse' if row['holds'] else 'WORSE'}")
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    with open(options.output, "w") as file:
        json.dump({"bench": "accuracy", "rows": rows}, file, indent=2)
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
