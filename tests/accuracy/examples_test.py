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

# The bound is this share of what a linear model of the same inputs, rows and steps leaves on the same split.
LINEAR_MODEL = "0.7 of a linear model's"
LINEAR_SHARE = 0.7
LINEAR_LEAVES = (0.30, 0.40)  # of the variance: least squares on these columns leave 0.35
LINEAR_SETTINGS = ["--model.name", "blocks", "--model.units", '["fc: linear out=classes"]']

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
    ("mlp-housing", "test_loss", LINEAR_MODEL, False),
    ("gpt-shakespeare", "validation_loss", 1.88, False),
    ("llama-shakespeare", "validation_loss", 1.78, False),
    ("lstm-shakespeare", "validation_loss", 1.65, False),
    ("rnn-names", "validation_loss", 2.15, False),
]


def train(binary: str, config: pathlib.Path, run: pathlib.Path, *settings: str) -> tuple[dict | None, str]:
    """The run's summary, or None and why there is none."""
    command = [binary, "train", str(config), "--job.dump_folder", str(run), *settings]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return json.loads((run / "summary.json").read_text()), ""


def linear_bound(binary: str, config: pathlib.Path, run: pathlib.Path, key: str) -> float:
    """LINEAR_SHARE of the linear model's loss, which must be what least squares leave."""
    summary, why = train(binary, config, run, *LINEAR_SETTINGS)
    if summary is None:
        raise RuntimeError(f"the linear model: {why}")
    print(f"   a linear model: {key} {summary[key]:.4f}")
    if not LINEAR_LEAVES[0] <= summary[key] <= LINEAR_LEAVES[1]:
        raise RuntimeError(f"the linear model leaves {summary[key]:.4f}, not {LINEAR_LEAVES}")
    return LINEAR_SHARE * summary[key]


def main() -> int:
    binary = os.environ["FURROW_BIN"]
    source = pathlib.Path(os.environ["FURROW_SOURCE_DIR"])
    only = os.environ.get("FURROW_ACCURACY_ONLY")
    failed = ran = 0
    summaries: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(example_data.unpack(pathlib.Path(folder)))
        for example, key, bound, floor in PROMISES:
            if only and example != only:
                continue
            config = source / "examples" / f"{example}.toml"
            if not example_data.is_there(data := example_data.data_of(config)):
                print(f"{example}: NOT RUN, its data are missing: {data}")
                continue
            try:
                if summaries.get(example) is None:
                    summaries[example], why = train(binary, config, pathlib.Path(folder) / example)
                    if summaries[example] is None:
                        raise RuntimeError(why)
                if bound == LINEAR_MODEL:
                    bound = linear_bound(binary, config, pathlib.Path(folder) / f"{example}-linear", key)
            except RuntimeError as error:
                print(f"FAILED {example}: {error}")
                failed += 1
                continue
            ran += 1
            summary = summaries[example]
            value = summary[key]
            holds = value >= bound if floor else value <= bound
            failed += not holds
            print(
                f"{'ok' if holds else 'FAILED'} {example}: {key} {value:.4f}, promised {'>=' if floor else '<='} {bound:.4g}, "
                f"{summary['steps']} steps, {summary['samples_per_second']:.0f} samples/s"
            )
    return 1 if failed else 0 if ran else 77


if __name__ == "__main__":
    sys.exit(main())
