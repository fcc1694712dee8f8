"""Trains the examples to the end and compares their test or validation metric with what they promise.

An example whose data are not there is named; when none could run, the test counts as skipped.

FURROW_ACCURACY_ONLY=NAME runs one of them.  Data: docs/datasets.md; FURROW_DATA names their folder.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import example_data  # noqa: E402

# example, key of summary.json, bound, is the bound a floor
PROMISES = [
    ("convnet-fashion", "test_accuracy", 0.905, True),
    ("convnet-mnist", "test_accuracy", 0.992, True),
    ("blocks-custom", "test_accuracy", 0.988, True),
    ("mlp-mnist", "test_accuracy", 0.975, True),
    ("convnet-cifar10", "validation_accuracy", 0.70, True),
    ("resnet20-cifar10", "validation_accuracy", 0.85, True),
    ("mlp-adult", "test_accuracy", 0.85, True),
    ("mlp-housing", "test_loss", 0.25, False),
    ("gpt-shakespeare", "validation_loss", 1.88, False),
    ("llama-shakespeare", "validation_loss", 1.78, False),
    ("lstm-shakespeare", "validation_loss", 1.65, False),
    ("rnn-names", "validation_loss", 2.15, False),
]


def main() -> int:
    binary = os.environ["FURROW_BIN"]
    source = pathlib.Path(os.environ["FURROW_SOURCE_DIR"])
    only = os.environ.get("FURROW_ACCURACY_ONLY")
    failed = ran = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(example_data.unpack(pathlib.Path(folder)))
        for example, key, bound, floor in PROMISES:
            if only and example != only:
                continue
            run = pathlib.Path(folder) / example
            command = [binary, "train", str(source / "examples" / f"{example}.toml"), "--job.dump_folder", str(run)]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode == 3:
                print(f"{example}: NOT RUN, its data are missing: {done.stderr.splitlines()[-1]}")
                continue
            if done.returncode != 0:
                print(f"FAILED {example}: exit status {done.returncode}: {done.stderr[-2000:]}")
                failed += 1
                continue
            ran += 1
            summary = json.loads((run / "summary.json").read_text())
            value = summary[key]
            holds = value >= bound if floor else value <= bound
            failed += not holds
            print(
                f"{'ok' if holds else 'FAILED'} {example}: {key} {value:.4f}, promised {'>=' if floor else '<='} {bound}, "
                f"{summary['steps']} steps, {summary['samples_per_second']:.0f} samples/s"
            )
    return 1 if failed else 0 if ran else 77


if __name__ == "__main__":
    sys.exit(main())
