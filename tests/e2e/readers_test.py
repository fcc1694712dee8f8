#!/usr/bin/env python3
"""Other programs read what a run leaves: TensorBoard its events, torch its weights, a JSON reader its records.

One short run on Fashion-MNIST.  TensorBoard's scalars must be those of metrics.jsonl; the weights of model.safetensors,
put into the same network in PyTorch, must give the test accuracy of summary.json.
"""

import gzip
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")


def train(run):
    command = [os.environ["FURROW_BIN"], "train", "examples/convnet-fashion.toml", "--training.dataset_path", str(DATA),
               "--training.steps", "40", "--metrics.log_freq", "5", "--metrics.enable_tensorboard", "true",
               "--profiling.enable_profiling", "true", "--job.dump_folder", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def check_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    files = sorted(run.rglob("events.out.tfevents.*"))
    assert len(files) == 1, files
    events = EventAccumulator(str(files[0].parent), size_guidance={"scalars": 0})
    events.Reload()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {r["step"]: r["loss"] for r in records if "loss" in r}
    tags = [tag for tag in events.Tags()["scalars"] if re.search(r"(^|/)loss$", tag)]
    assert tags, events.Tags()["scalars"]
    seen = {e.step: e.value for e in events.Scalars(tags[0])}
    assert seen.keys() == expected.keys(), (sorted(seen), sorted(expected))
    for step, loss in expected.items():
        assert math.isclose(seen[step], loss, rel_tol=1e-6), (step, seen[step], loss)
    print(f"tensorboard: {len(events.Tags()['scalars'])} scalars, {len(seen)} losses equal")


def read_safetensors(path):
    import numpy
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert entry["dtype"] == "F32", entry
        tensors[name] = numpy.frombuffer(data[8 + size + begin:8 + size + end], "<f4").reshape(entry["shape"])
    return tensors


def read_idx(stem, header):
    import numpy
    plain = DATA / stem
    raw = plain.read_bytes() if plain.exists() else gzip.decompress((DATA / (stem + ".gz")).read_bytes())
    return numpy.frombuffer(raw, numpy.uint8, offset=header)


def check_weights(run):
    import torch
    import torch.nn.functional as F
    w = {name: torch.tensor(value) for name, value in read_safetensors(run / "model" / "model.safetensors").items()}
    text = (run / "model" / "model.toml").read_text()
    mean, deviation = (float(re.search(rf'^"{key}" = "([-+.0-9e]+)"', text, re.MULTILINE).group(1))
                       for key in ("mean", "std"))
    x = torch.tensor(read_idx("t10k-images-idx3-ubyte", 16)).reshape(-1, 1, 28, 28).float() / 255
    x = (x - mean) / deviation
    padding = (w["fc1.weight"].shape[1] // 16 == 25) * 2
    x = F.max_pool2d(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=padding)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"])), 2).flatten(1)
    x = F.relu(F.linear(x, w["fc1.weight"], w["fc1.bias"]))
    x = F.relu(F.linear(x, w["fc2.weight"], w["fc2.bias"]))
    x = F.linear(x, w["fc3.weight"], w["fc3.bias"])
    labels = torch.tensor(read_idx("t10k-labels-idx1-ubyte", 8)).long()
    accuracy = (x.argmax(1) == labels).double().mean().item()
    expected = json.loads((run / "summary.json").read_text())["test_accuracy"]
    assert abs(accuracy - expected) <= 5e-4, (accuracy, expected)
    print(f"torch: test accuracy {accuracy:.4f}, summary.json {expected:.4f}")


def check_trace(run):
    traces = sorted(run.rglob("trace*.json"))
    assert traces, "no trace"
    events = json.loads(traces[0].read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    names = {event.get("name", "").split(" ")[0] for event in events}
    assert {"forward", "backward_input", "step"} <= names, sorted(names)
    print(f"trace: {len(events)} events")


def main():
    if not DATA.is_dir():
        print(f"no {DATA}: install dataset-fashion-mnist")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        train(run)
        check_tensorboard(run)
        check_weights(run)
        check_trace(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
