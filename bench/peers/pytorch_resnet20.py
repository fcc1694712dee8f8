"""PyTorch peer of the resnet20 bench: He et al.'s network for CIFAR-10 (shortcuts of option A), SGD with Nesterov momentum.

Reads the binary version of CIFAR-10.  `--validate` trains with crops, flips and the one-cycle rate of
examples/resnet20-cifar10.toml and prints the share of test images that it gets wrong.
"""
import os

from furrow_start import Crops, Order, read_weights
from pytorch_common import arguments, parameter_groups, read_bytes, run

BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]
options = arguments(batch=32, more={"--seed": dict(type=int, default=0), "--train-files": dict(nargs="+", default=BATCHES),
                                    "--test-file": dict(default="test_batch.bin"),
                                    "--initial": dict(help="begin with the weights of this model.safetensors of furrow's"),
                                    "--order-of-seed": dict(type=int, help="see what furrow sees with this seed"),
                                    "--validate": dict(action="store_true")})

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(options.threads)
torch.manual_seed(options.seed)


class Block(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.more = stride, channels - before

    def forward(self, x):
        shortcut = x
        if self.stride != 1 or self.more:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*(Block(before, width, 1 if before == width else 2)
                                      for before, width in zip([16] + widths, widths)))
        self.fc = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def begin_with(model, weights):
    """furrow's weights, whose names number the blocks of each width."""
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        if part == "blocks":
            index, _, rest = rest.partition(".")
            name = f"layer{int(index) // 3 + 1}.{int(index) % 3}.{rest}"
        parameter.copy_(weights[name])


def read_records(names):
    """Images as bytes [n, 3, 32, 32], labels."""
    raw = b"".join(read_bytes(os.path.join(options.data, name)) for name in names)
    records = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


class Cifar:
    """Shuffled batches; cropped from a black border of four pixels and flipped when `augment`.  With `--order-of-seed` those
    of a run of furrow, which leaves no sample of an epoch out: a batch may be of two epochs."""

    def __init__(self, augment):
        self.images, self.labels = read_records(options.train_files)
        values = self.images.permute(1, 0, 2, 3).reshape(3, -1)
        histogram = torch.stack([torch.bincount(channel, minlength=256) for channel in values.int()]).double()
        levels = torch.arange(256, dtype=torch.double) / 255
        mean = (histogram * levels).sum(1) / histogram.sum(1)
        deviation = ((histogram * (levels - mean[:, None]) ** 2).sum(1) / histogram.sum(1)).sqrt()
        self.scale = (1 / (255 * deviation)).float().view(3, 1, 1)
        self.shift = (-mean / deviation).float().view(3, 1, 1)
        self.augment = augment
        self.order = iter(())
        self.position = 0
        if options.order_of_seed is not None:
            self.place = Order(options.order_of_seed, len(self.labels))
            self.crop = Crops(options.order_of_seed, border=4)

    def normalised(self, images):
        return images.float().mul_(self.scale).add_(self.shift)

    def changed(self, images, crops):
        padded = F.pad(images, (4, 4, 4, 4))
        parts = [image[:, y : y + 32, x : x + 32] for image, (y, x, _) in zip(padded, crops)]
        return torch.stack([part.flip(2) if flip else part for part, (_, _, flip) in zip(parts, crops)])

    def drawn(self):
        """Indices of a batch, its crops."""
        index = next(self.order, None)
        if index is None or len(index) < options.batch:
            self.order = iter(torch.randperm(len(self.labels)).split(options.batch))
            index = next(self.order)
        if not self.augment:
            return index, []
        return index, torch.cat((torch.randint(9, (len(index), 2)), torch.randint(2, (len(index), 1))), 1).tolist()

    def given(self):
        """furrow's."""
        positions = range(self.position, self.position + options.batch)
        self.position = positions.stop
        return torch.tensor([self.place(p) for p in positions]), [self.crop(p) for p in positions]

    def next(self):
        index, crops = self.drawn() if options.order_of_seed is None else self.given()
        images = self.images[index]
        return self.normalised(self.changed(images, crops) if self.augment else images), self.labels[index]

    def validation_loss(self, loss_of):
        images, labels = read_records([options.test_file])
        model.eval()
        with torch.no_grad():
            wrong = sum(int((model(self.normalised(x)).argmax(1) != y).sum())
                        for x, y in zip(images.split(500), labels.split(500)))
        return wrong / len(labels)


model = ResNet20().to(memory_format=torch.channels_last) if options.mode == "compile" else ResNet20()
if options.initial:
    with torch.no_grad():
        begin_with(model, read_weights(options.initial))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.2 if options.validate else 0.05, momentum=0.9,
                            nesterov=True, fused=True)
if options.validate:  # as furrow's one_cycle
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=options.steps)
    optimizer.register_step_post_hook(lambda *_: schedule.step() if schedule.last_epoch < options.steps - 1 else None)
run(options, model, lambda x, y: criterion(model(x), y), Cifar(options.validate), optimizer, max_norm=0)
