"""Where a run of furrow begins, for a peer that is to begin there: its weights, the order of its samples, its crops and flips.

From the same weights and the same samples both sides compute the same losses, until rounding drives them apart: what then
is between them is what they do, not what they drew.
"""
import json

MASK = 0xFFFFFFFF
SHUFFLE, AUGMENT = 2, 6  # RandomPurpose of furrow/base/rng.h


def read_weights(path):
    """The float32 tensors of a safetensors file by name."""
    import torch

    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    weights = {}
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = tensor["data_offsets"]
            weights[name] = torch.frombuffer(data[begin:end], dtype=torch.float32).view(tensor["shape"]).clone()
    return weights


def philox(counter, key):
    """Philox4x32-10 of Salmon et al., 2011."""
    counter, key = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [second >> 32 ^ counter[1] ^ key[0], second & MASK, first >> 32 ^ counter[3] ^ key[1], first & MASK]
        key = [key[0] + 0x9E3779B9 & MASK, key[1] + 0xBB67AE85 & MASK]
    return counter


def stable_hash(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return value


def stream_key(seed, purpose, name):
    """The key of Philox(seed, purpose, name)."""
    name = stable_hash(name)
    return philox([name & MASK, name >> 32, purpose, 0], [seed & MASK, seed >> 32])[:2]


class Crops:
    """furrow's crops and flips (ImageAugmenter): position -> row and column where a crop of the bordered image begins,
    whether it is flipped."""

    def __init__(self, seed, border):
        self.key, self.places = stream_key(seed, AUGMENT, "image"), 2 * border + 1

    def __call__(self, position):
        row, column, flip, _ = philox([0, position & MASK, position >> 32 << 16, 0], self.key)
        return row * self.places >> 32, column * self.places >> 32, flip >> 31


class Order:
    """furrow's order of `size` samples: position -> sample, a keyed permutation for each epoch (KeyedPermutation)."""

    def __init__(self, seed, size):
        self.key = stream_key(seed, SHUFFLE, "order")
        self.size, self.epoch = size, None
        bits = max(6, (size - 1).bit_length())
        self.low_bits = (bits + 1) // 2
        self.masks = (1 << bits - self.low_bits) - 1, (1 << self.low_bits) - 1  # of the high half and the low one

    def rounds_of(self, epoch):
        if epoch != self.epoch:
            words = [philox([i, epoch & MASK, epoch >> 32, 0], self.key) for i in range(8)]
            self.rounds, self.epoch = [(w[1] << 32 | w[0], w[3] << 32 | w[2]) for w in words], epoch
        return self.rounds

    def __call__(self, position):
        rounds, index = self.rounds_of(position // self.size), position % self.size
        while True:
            halves = [index >> self.low_bits, index & self.masks[1]]
            for i, (factor, summand) in enumerate(rounds):
                mine, other = i % 2, 1 - i % 2
                halves[mine] ^= (factor * halves[other] + summand & (1 << 64) - 1) >> 32 & self.masks[mine]
            index = halves[0] << self.low_bits | halves[1]
            if index < self.size:
                return index
