"""`furrow train` between the hosts of hosts.py: a small set of images, runs of tests/multiprocess/ranks.toml on it."""

import os
import pathlib
import random
import struct
import subprocess

FURROW = os.environ["FURROW_BIN"]
CONFIG = os.path.join(os.environ["FURROW_SOURCE_DIR"], "tests/multiprocess/ranks.toml")


class Training:
    """Runs in a folder, where they share the data."""

    def __init__(self, folder, steps):
        self.folder = pathlib.Path(folder)
        self.steps = steps
        self.write_images(self.folder / "data")

    @staticmethod
    def write_images(folder):
        folder.mkdir()
        draw = random.Random(1)
        for name, count in (("train", 600), ("t10k", 100)):
            labels = [draw.randrange(10) for _ in range(count)]
            rows = [bytes(draw.randrange(100) + (120 if row == label else 0) for row in range(10) for _ in range(10))
                    for label in labels]
            (folder / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 10, 10) + b"".join(rows))
            (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + bytes(labels))

    def words(self, run, *more):
        return ["train", CONFIG, "--job.dump_folder", str(self.folder / run), "--training.dataset_path",
                str(self.folder / "data"), "--training.steps", str(self.steps), *more]

    def resume_words(self, run, *more):
        return ["train", str(self.folder / run), "--resume", *more]

    def alone(self, words):
        """In one process; what it logs."""
        result = subprocess.run([FURROW, *words], check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stderr

    def model(self, run):
        return (self.folder / run / "model/model.safetensors").read_bytes()

    def saved_steps(self, run):
        """Of committed checkpoints, ascending."""
        return sorted(int(record.parent.name.removeprefix("step-"))
                      for record in (self.folder / run / "checkpoints").glob("step-????????/COMMIT"))
