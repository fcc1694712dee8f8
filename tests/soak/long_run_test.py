#!/usr/bin/env python3
"""A long run with frequent asynchronous checkpoints keeps its memory and its open files.

Trains the mlp on Fashion-MNIST for SOAK_STEPS steps (default 20000) and watches the process: median resident memory in the
last quarter stays within 10 % of the second quarter's, open files never grow, checkpoints beyond keep_latest_k are gone.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

STEPS = int(os.environ.get("SOAK_STEPS", "20000"))
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")


def sample(pid):
    """Resident bytes and number of open files of a process; None once it has ended."""
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def watch(process):
    """Samples the process every second until it ends."""
    samples = []
    while process.poll() is None:
        seen = sample(process.pid)
        if seen:
            samples.append(seen)
        time.sleep(1)
    return samples


def main():
    if not DATA.is_dir():
        print(f"no {DATA}: install dataset-fashion-mnist")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        command = [os.environ["FURROW_BIN"], "train", "examples/mlp-mnist.toml", "--job.dump_folder", str(run),
                   "--training.dataset_path", str(DATA), "--training.steps", str(STEPS), "--model.hidden", "[128]",
                   "--checkpoint.interval", "200", "--checkpoint.async_mode", "async", "--checkpoint.keep_latest_k", "2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        samples = watch(process)
        assert process.returncode == 0, f"exit status {process.returncode}"
        assert len(samples) >= 12, f"only {len(samples)} samples: raise SOAK_STEPS"
        quarter = len(samples) // 4
        early = statistics.median(memory for memory, _ in samples[quarter:2 * quarter])
        late = statistics.median(memory for memory, _ in samples[-quarter:])
        files = [count for _, count in samples[quarter:]]
        print(f"{len(samples)} samples: resident {early / 2**20:.1f} -> {late / 2**20:.1f} MiB, "
              f"files {min(files)}..{max(files)}")
        assert late <= 1.1 * early, "memory grows"
        assert max(files) <= min(files) + 8, "open files grow"
        kept = sorted(p.name for p in (run / "checkpoints").glob("step-*"))
        assert len(kept) <= 2, f"checkpoints were kept: {kept}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
