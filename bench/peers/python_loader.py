"""What the loaders of `./dev bench loader` are measured beside, as one writes them in Python.

    python_loader.py tokens FILE --context 1024     windows of a file of tokens, as nanoGPT takes them: slices of a
                                                    numpy memmap as int64, stacked
    python_loader.py records FILE                   records of 28 x 28 bytes and a label in a memmap: a Dataset below a
                                                    DataLoader, without worker processes
    python_loader.py images FOLDER --threads 2      image files by Pillow: decoded, scaled, cropped to the middle and
                                                    normalised, on threads; with --regions a region at random, scaled,
                                                    as torchvision's RandomResizedCrop does with Pillow's images

Prints one JSON object: samples per second, CPU nanoseconds per sample.
"""
import argparse
import concurrent.futures
import json
import math
import pathlib
import random
import time

import numpy as np
import torch
from PIL import Image

EDGE = 28


def token_batches(options):
    tokens = np.memmap(options.source, dtype=options.dtype, mode="r")
    while True:
        starts = torch.randint(len(tokens) - options.context, (options.batch,))
        x = torch.stack([torch.from_numpy(tokens[i:i + options.context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(tokens[i + 1:i + 1 + options.context].astype(np.int64)) for i in starts])
        yield x, y


class Records(torch.utils.data.Dataset):
    def __init__(self, file):
        self.records = np.memmap(file, dtype=[("pixels", np.uint8, (1, EDGE, EDGE)), ("label", "<i4")], mode="r")

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        pixels = torch.from_numpy(record["pixels"].astype(np.float32)).div_(255).sub_(0.5).div_(0.25)
        return pixels, int(record["label"])


def record_batches(options):
    records = Records(options.source)
    while True:
        yield from torch.utils.data.DataLoader(records, batch_size=options.batch, shuffle=True, num_workers=0)


def decode(file, size):
    image = Image.open(file).convert("RGB")
    scale = size / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = [(side - size) // 2 for side in image.size]
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32)
    return ((pixels / 255 - np.float32(0.5)) / np.float32(0.25)).transpose(2, 0, 1)


def region(width, height, tries=10):
    """RandomResizedCrop's: 8 to 100 % of the pixels, 3/4 to 4/3 as wide as high."""
    for _ in range(tries):
        area, ratio = width * height * random.uniform(0.08, 1), math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def decode_region(file, size):
    image = Image.open(file).convert("RGB")
    image = image.crop(region(*image.size)).resize((size, size), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image, dtype=np.float32)
    return ((pixels / 255 - np.float32(0.5)) / np.float32(0.25)).transpose(2, 0, 1)


def image_batches(options):
    read = decode_region if options.regions else decode
    files = sorted(file for file in pathlib.Path(options.source).rglob("*") if file.is_file())
    permute = np.random.default_rng(1).permutation
    with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        while True:
            order = permute(len(files))
            for begin in range(0, len(files) - options.batch + 1, options.batch):
                chosen = [files[i] for i in order[begin:begin + options.batch]]
                run = map if options.threads == 1 else pool.map
                yield np.stack(list(run(lambda file: read(file, options.size), chosen)))


def main():
    kinds = {"tokens": token_batches, "records": record_batches, "images": image_batches}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("source")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--context", type=int)
    parser.add_argument("--dtype", default="uint8")
    parser.add_argument("--size", type=int)
    parser.add_argument("--regions", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batches = kinds[options.kind](options)
    for _ in range(3):
        next(batches)
    samples, begin, cpu_begin = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < options.seconds:
        next(batches)
        samples += options.batch
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
    print(json.dumps({"samples_per_second": samples / seconds, "cpu_ns_per_sample": cpu / samples * 1e9}))


if __name__ == "__main__":
    main()
