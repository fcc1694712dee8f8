"""The PyTorch peer of resnet20 begins where furrow does: `bench/accuracy.py --same-start` compares what both then do.

Over two epochs of noise whose batches do not end with the first, the losses of both are equal but for rounding: the same
weights, samples, crops, flips, network, gradients and rates.  With another order of samples, or other weights, they are not.
Needs the package torch; exits 77 without.
"""

import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

if importlib.util.find_spec("torch") is None:
    print("same_start_test: no module torch: pip install torch")
    sys.exit(77)

SOURCE = pathlib.Path(os.environ["FURROW_SOURCE_DIR"])
IMAGES, BATCH, STEPS, SEED = 80, 64, 20, 11
COMPARED = 3  # steps, 192 samples: then the rate has risen, and rounding counts for more


def output_of(command):
    done = subprocess.run([str(part) for part in command], cwd=SOURCE, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{command} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def furrow_losses(folder, data, steps, *settings):
    output_of([os.environ["FURROW_BIN"], "train", "examples/resnet20-cifar10.toml", "--job.dump_folder", folder,
               "--debug.seed", SEED, "--training.steps", steps, "--training.threads", 1, "--training.dataset_path", data,
               "--data.train_files", '["data_batch_1.bin"]', "--data.test_files", "[]", "--data.validation_fraction", 0,
               "--validation.freq", 0, "--checkpoint.enable=false", "--metrics.enable_plots=false", "--metrics.log_freq", 1,
               *settings])
    with open(folder / "metrics.jsonl") as file:
        return [line["loss"] for line in map(json.loads, file) if "lr" in line]


def peer_losses(data, *start):
    printed = output_of([sys.executable, "bench/peers/pytorch_resnet20.py", "--data", data, "--steps", STEPS, "--threads", 1,
                         "--mode", "eager", "--batch", BATCH, "--train-files", "data_batch_1.bin", "--test-file",
                         "data_batch_1.bin", "--validate", *start])
    return json.loads(printed.splitlines()[-1])["first_losses"]


def far(ours, theirs):
    """The largest of the differences."""
    return max(abs(a - b) for a, b in zip(ours[:COMPARED], theirs[:COMPARED], strict=True))


def main():
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "data_batch_1.bin").write_bytes(
            b"".join(bytes([draw.randrange(10)]) + draw.randbytes(3072) for _ in range(IMAGES)))
        furrow_losses(folder / "start", folder, 1, "--optimizer.lr", "1e-30")
        ours = furrow_losses(folder / "run", folder, STEPS)
        initial = ["--initial", folder / "start/model/model.safetensors"]
        same = far(ours, peer_losses(folder, *initial, "--order-of-seed", SEED))
        controls = [far(ours, peer_losses(folder, *initial, "--order-of-seed", SEED + 1)),
                    far(ours, peer_losses(folder, "--order-of-seed", SEED))]
    print(f"same start: {same:.1e} between the losses; another order: {controls[0]:.1e}, other weights: {controls[1]:.1e}")
    return 0 if same < 1e-4 and min(controls) > 1e-2 else 1


if __name__ == "__main__":
    sys.exit(main())
