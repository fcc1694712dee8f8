"""A small gpt over made-up text, trained on two ranks in several settings that must not change the weights."""
import json
import os
import random
import subprocess
import sys
import tempfile

from quiet import QUIET
from train import FURROW


def make_config(folder, config, characters):
    generator = random.Random(0)
    with open(os.path.join(folder, "text.txt"), "w") as file:
        file.write("".join(generator.choice("abcdefgh \n") for _ in range(characters)))
    with open(os.path.join(folder, "gpt.toml"), "w") as file:
        file.write(config + QUIET)


def run(folder, name, overrides, steps):
    """The run's summary and its weights."""
    command = [FURROW, "train", "gpt.toml", "--nproc", "2", "--json", "--job.dump_folder", name, "--training.steps", str(steps),
               *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    with open(os.path.join(folder, name, "model/model.safetensors"), "rb") as file:
        return json.loads(done.stdout), file.read()


def measure(config, characters, settings, repeats, steps, report=lambda repeat, setting, summary: None):
    """`settings` maps to overrides; the result, in the same order, to summaries, taken in turn."""
    summaries = {setting: [] for setting in settings}
    weights = set()
    with tempfile.TemporaryDirectory() as folder:
        make_config(folder, config, characters)
        for repeat in range(repeats):
            for number, (setting, overrides) in enumerate(settings.items()):
                summary, model = run(folder, f"run-{repeat}-{number}", overrides, steps)
                summaries[setting].append(summary)
                weights.add(model)
                report(repeat, setting, summary)
    if len(weights) != 1:
        sys.exit(f"the weights are not those of one setting: {', '.join(map(str, settings))}")
    return summaries
