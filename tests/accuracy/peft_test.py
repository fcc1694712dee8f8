"""Adapters trained by furrow in Hugging Face's PEFT, and back.

A network is trained, then adapted with LoRA: transformers' gpt and llama, whose embeddings and tied heads have adapters too, and
networks of plain PyTorch with convolutions and with recurrent cells.  The first network with the adapter, loaded by PEFT, gives
what the second gives, where furrow has merged it; what PEFT saves, furrow reads, with equal bits.
Needs the packages peft and transformers; exits 77 without.
"""

import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM
except ImportError as error:
    print(f"peft_test: {error}: pip install peft transformers")
    sys.exit(77)

FURROW = os.environ["FURROW_BIN"]
TEXT = """dataset = "text"
dataset_path = "{work}/text.txt"
seq_len = 32
[data]
tokenizer = "char"
"""
IMAGES = """dataset = "idx"
dataset_path = "{work}"
"""
CONFIG = """[model]
name = "{model}"
{sizes}
[optimizer]
name = "adamw"
lr = {lr}
[metrics]
enable_plots = false
[training]
local_batch_size = 4
steps = {steps}
threads = 1
{data}
"""
LORA = """[checkpoint]
initial_load_path = "{work}/{name}-first/model"
[lora]
rank = 4
alpha = 8
target_modules = {targets}
"""


class Cell(nn.Module):
    """The tutorials' cell."""

    def __init__(self, width, hidden, out):
        super().__init__()
        self.i2h, self.i2o = nn.Linear(width + hidden, hidden), nn.Linear(width + hidden, out)

    def forward(self, x):
        h, outputs = torch.zeros(len(x), self.i2h.out_features), []
        for step in x.unbind(1):
            both = torch.cat((step, h), 1)
            h = torch.tanh(self.i2h(both))
            outputs.append(self.i2o(both))
        return torch.stack(outputs, 1)


class LstmCell(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.i2h = nn.Linear(width + hidden, 4 * hidden)

    def forward(self, x):
        h = c = torch.zeros(len(x), self.i2h.out_features // 4)
        outputs = []
        for step in x.unbind(1):
            i, f, g, o = self.i2h(torch.cat((step, h), 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Recurrent(nn.Module):
    def __init__(self, weights):
        super().__init__()
        letters = len(weights["embed.weight"])
        self.embed, self.l, self.r = nn.Embedding(letters, 16), LstmCell(16, 24), Cell(24, 20, letters)

    def forward(self, tokens):
        return self.r(self.l(self.embed(tokens)))


class Block(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        middle = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(middle)) + self.downsample(x))


class Residual(nn.Module):
    def __init__(self, _):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.body, self.fc = Block(8, 12, 2), nn.Linear(12, 10)

    def forward(self, x):
        return self.fc(self.body(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class Layers(nn.Module):
    def __init__(self, _):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.c2, self.fc1, self.n2 = nn.Conv2d(8, 12, 3), nn.Linear(12 * 16, 24, bias=False), nn.BatchNorm1d(24)
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        x = F.silu(self.c2(F.relu(self.n1(self.c1(x)))))
        return self.fc(torch.tanh(self.n2(self.fc1(x.flatten(1)))))


class Pooling(nn.Module):
    def __init__(self, _):
        super().__init__()
        self.c, self.fc = nn.Conv2d(1, 6, 5, padding=2), nn.Linear(6 * 36, 10)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.c(x)), 2).flatten(1))


# By name: architecture, its sizes, the layers to adapt; of networks of our own a function that makes one.
NETWORKS = {
    "gpt": ("gpt", "layers = 2\nheads = 2\nwidth = 32\n", ["c_attn", "c_proj", "c_fc", "wte", "wpe", "lm_head"], None),
    "llama": ("llama", "layers = 2\nheads = 4\nkv_heads = 2\nwidth = 32\n",
              ["q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"], None),
    "recurrent": ("blocks", 'units = ["embed: embedding width=16", "l: lstm hidden=24", "r: rnn hidden=20 out=classes"]',
                  ["*", "embed"], Recurrent),
    "residual": ("blocks", 'units = ["stem: conv_norm out_channels=8 prefix=", "body: residual_block out_channels=12 stride=2",'
                 ' "fc: pool_linear out=classes"]', ["*"], Residual),
    "layers": ("blocks", 'units = ["c1: conv out_channels=8 kernel=3 stride=2 padding=1 bias=false", "n1: batch_norm activation=relu",'
               ' "c2: conv out_channels=12 kernel=3 activation=silu", "fc1: linear out=24 bias=false",'
               ' "n2: batch_norm activation=tanh", "fc: linear out=classes"]', ["*"], Layers),
    "pooling": ("blocks", 'units = ["c: conv_relu_pool out_channels=6 kernel=5 padding=2 pool=true", "fc: linear out=classes"]',
                ["*"], Pooling),
}


IMAGE_NETWORKS = (Residual, Layers, Pooling)


def furrow(*arguments):
    done = subprocess.run([FURROW, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def train(work, name, run, steps=20, lr=1e-2, more=""):
    model, sizes, _, make = NETWORKS[name]
    data = IMAGES if make in IMAGE_NETWORKS else TEXT
    text = CONFIG.format(model=model, sizes=sizes, steps=steps, lr=lr, data=data.format(work=work)) + more
    config = work / f"{name}-{run}.toml"
    config.write_text(text)
    furrow("train", config, "--job.dump_folder", work / f"{name}-{run}")


def exported(work, name, run):
    folder = work / f"{name}-{run}-hf"
    furrow("models", "export", "hf", work / f"{name}-{run}", "--out", folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def weights(work, name, run):
    return load_file(work / f"{name}-{run}/model/model.safetensors")


def networks(work, name):
    """The first run's and the second's, in PyTorch."""
    make = NETWORKS[name][3]
    if make is None:
        return exported(work, name, "first"), exported(work, name, "second")
    second = weights(work, name, "second")
    base, merged = make(second).eval(), make(second).eval()
    statistics = {key: value for key, value in second.items() if ".running_" in key}  # they move while adapters are trained
    base.load_state_dict(weights(work, name, "first") | statistics)
    merged.load_state_dict(second)
    return base, merged


def logits(model, name):
    if NETWORKS[name][3] in IMAGE_NETWORKS:
        return model(torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(3)))
    output = model(torch.arange(60).reshape(3, 20) % 26)
    return output if isinstance(output, torch.Tensor) else output.logits


def check(work, name):
    lora = LORA.format(work=work, name=name, targets=str(NETWORKS[name][2]).replace("'", '"'))
    train(work, name, "first")
    train(work, name, "second", more=lora)
    base, merged = networks(work, name)
    folder = work / f"{name}-second/adapter"
    file = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        plain = logits(base, name)
        adapted = PeftModel.from_pretrained(base, folder).eval()
        state = {key.replace(".default", ""): value for key, value in adapted.state_dict().items() if "lora_" in key}
        ours, theirs = logits(merged, name), logits(adapted, name)
    assert state.keys() == file.keys() and all(torch.equal(state[key], file[key]) for key in file)
    apart, moved = (theirs - ours).abs().max().item(), (theirs - plain).abs().max().item()
    assert apart < 1e-4 * ours.abs().max().item(), apart
    assert moved > 100 * apart, moved  # an adapter that does nothing would pass the line above
    adapted.save_pretrained(work / f"{name}-peft")
    train(work, name, "third", steps=1, lr=1e-30, more=lora + f'adapter_path = "{work}/{name}-peft"\n')
    again = load_file(work / f"{name}-third/adapter/adapter_model.safetensors")
    assert again.keys() == file.keys() and all(torch.equal(again[key], file[key]) for key in file)
    print(f"{name}: {len(file)} tensors, logits differ by {apart:.1e} of {ours.abs().max():.1f}, the adapter moves them by {moved:.2f}")


def write_idx(path, numbers, *sizes):
    path.write_bytes(struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + bytes(numbers))


def write_data(work):
    letters = random.Random(1)
    words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(2, 7))) for _ in range(40)]
    (work / "text.txt").write_text(" ".join(letters.choices(words, k=4000)))
    for split, count in (("train", 400), ("t10k", 40)):
        labels = [i % 10 for i in range(count)]
        pixels = [min(255, 25 * label + letters.randrange(60)) for label in labels for _ in range(144)]
        write_idx(work / f"{split}-images-idx3-ubyte", pixels, count, 12, 12)
        write_idx(work / f"{split}-labels-idx1-ubyte", labels, count)


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        write_data(work)
        for name in NETWORKS:
            check(work, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
