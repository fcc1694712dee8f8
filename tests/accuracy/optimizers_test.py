"""Optimizers that keep little: their state is what the plan says, within 2 %, and they reach AdamW's loss within 1 %.

examples/gpt-shakespeare.toml cut to 200 steps, loss on the validation split, mean of three seeds (FURROW_SEEDS: of so many);
the settings are those of docs/howto/choose-an-optimizer.md.  Skipped without tinyshakespeare under FURROW_DATA.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import example_data  # noqa: E402

EXAMPLE = pathlib.Path(os.environ["FURROW_SOURCE_DIR"]) / "examples/gpt-shakespeare.toml"
CUT = ["--training.steps", "200", "--lr_scheduler.warmup_steps", "20", "--validation.freq", "0", "--checkpoint.enable=false",
       "--metrics.enable_plots=false"]
OPTIMIZERS = {
    "adamw": [],
    "adamw8bit": ["--optimizer.name", "adamw8bit"],
    "adafactor": ["--optimizer.name", "adafactor", "--optimizer.lr", "4e-2", "--optimizer.weight_decay", "0"],
}
WITHIN = 0.01
# sgd without momentum keeps nothing and must be seen to fall short, or the comparison could not fail
CONTROL = ["--optimizer.name", "sgd", "--optimizer.momentum", "0", "--optimizer.lr", "1e-2"]


def summary_of(folder: str, name: str, seed: int, settings: list[str]) -> dict:
    run = pathlib.Path(folder) / f"{name}-{seed}"
    command = [os.environ["FURROW_BIN"], "train", str(EXAMPLE), "--job.dump_folder", str(run), "--debug.seed", str(seed)]
    done = subprocess.run(command + CUT + settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{name}: exit status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads((run / "summary.json").read_text())


def main() -> int:
    seeds = range(1, int(os.environ.get("FURROW_SEEDS", "3")) + 1)
    failed = 0
    if not example_data.is_there(data := example_data.data_of(EXAMPLE)):
        print(f"NOT RUN, its data are missing: {data}")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        losses, state = {}, {}
        for name, settings in OPTIMIZERS.items():
            runs = [summary_of(folder, name, seed, settings) for seed in seeds]
            losses[name] = statistics.mean(run["validation_loss"] for run in runs)
            state[name] = [(run["memory_bytes"]["optimizer"], run["planned_memory_bytes"]["optimizer"]) for run in runs]
        for name, loss in losses.items():
            excess = loss / losses["adamw"] - 1
            off = max(abs(measured / planned - 1) for measured, planned in state[name])
            holds = excess <= WITHIN and off <= 0.02
            failed += not holds
            print(f"{'ok' if holds else 'FAILED'} {name}: validation loss {loss:.4f}, {excess:+.2%} of adamw's; state "
                  f"{state[name][0][0]} bytes, {off:.2%} off its formula")
        control = summary_of(folder, "control", 1, CONTROL)["validation_loss"]
        if control <= losses["adamw"] * (1 + WITHIN):
            failed += 1
            print(f"FAILED control: sgd reaches {control:.4f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
