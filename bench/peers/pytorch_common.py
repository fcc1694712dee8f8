"""What the PyTorch peers of `./dev bench train` share: command line, data, the training loop, the figures they print.

A peer trains the same network on the same data with the same microbatch, accumulation, optimizer and clipping as
furrow does, written as one would for speed on a CPU: data in memory, fused optimizers, no logging in the loop.
"""
import argparse
import gzip
import json
import math
import os
import resource
import statistics
import time

from furrow_start import Order


def seconds_since_exec():
    """Since this process was exec'ed, from /proc (clock ticks of 10 ms), as furrow measures it."""
    with open("/proc/self/stat") as file:
        start_ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return uptime - start_ticks / os.sysconf("SC_CLK_TCK")


def arguments(more=None, **defaults):
    """What all peers take; `more` maps further options to what add_argument takes of them."""
    parser = argparse.ArgumentParser()
    for name, about in (more or {}).items():
        parser.add_argument(name, **about)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--mode", choices=("eager", "compile"), required=True)
    parser.add_argument("--batch", type=int, default=defaults["batch"])
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast")
    parser.add_argument("--context", type=int, default=defaults.get("context", 0))
    parser.add_argument("--ranks", type=int, default=1, help="above 1: DistributedDataParallel over Gloo, a process each")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cuda: the first GPU")
    parser.add_argument("--store", help="file that the ranks meet in")
    if "lr" in defaults:  # peers whose accuracy is compared too, see bench/accuracy.py
        parser.add_argument("--lr", type=float, default=defaults["lr"])
        parser.add_argument("--weight-decay", type=float, default=defaults["weight_decay"])
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--warmup-steps", type=int, default=0, help="above 0: linear warm-up, cosine to a tenth")
        parser.add_argument("--validate", action="store_true", help="print the loss on the last tenth of the text")
        parser.add_argument("--order-of-seed", type=int, help="see the windows that furrow sees with this seed")
    return parser.parse_args()


def read_bytes(path):
    """The content of a file that may be there as .gz only."""
    packed = not os.path.exists(path)
    with gzip.open(path + ".gz") if packed else open(path, "rb") as file:
        return file.read()


def read_idx(path):
    """The array of an IDX file as uint8."""
    import torch

    raw = read_bytes(path)
    dims = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=4 + 4 * len(dims)).view(dims)


class Images:
    """Shuffled batches of normalised images; the pixels stay bytes until a batch needs them."""

    def __init__(self, folder, batch):
        import torch

        self.images = read_idx(os.path.join(folder, "train-images-idx3-ubyte")).unsqueeze(1)
        self.labels = read_idx(os.path.join(folder, "train-labels-idx1-ubyte")).long()
        histogram = torch.bincount(self.images.flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.double) / 255
        mean = (histogram * values).sum() / histogram.sum()
        variance = (histogram * (values - mean) ** 2).sum() / histogram.sum()
        self.scale = float(1 / (255 * variance.sqrt()))
        self.shift = float(-mean / variance.sqrt())
        self.batch = batch
        self.order = iter(())

    def next(self):
        import torch

        index = next(self.order, None)
        if index is None or len(index) < self.batch:
            self.order = iter(torch.randperm(len(self.labels)).split(self.batch))
            index = next(self.order)
        return self.images[index].float().mul_(self.scale).add_(self.shift), self.labels[index]


class Text:
    """Batches of windows of `context` characters (or byte pairs) at random places, with the following ones as targets; with
    `seed` those of a run of furrow."""

    def __init__(self, path, batch, context, seed=None, byte_pairs=None):
        import torch

        text = read_bytes(path).decode("utf-8")
        if byte_pairs:  # a folder with GPT-2's vocabulary
            from tokenizers import ByteLevelBPETokenizer

            tokenizer = ByteLevelBPETokenizer(os.path.join(byte_pairs, "encoder.json"), os.path.join(byte_pairs, "vocab.bpe"))
            self.vocabulary = range(tokenizer.get_vocab_size())
            self.tokens = torch.tensor(tokenizer.encode(text).ids, dtype=torch.long)
        else:
            self.vocabulary = sorted(set(text))
            index = {character: i for i, character in enumerate(self.vocabulary)}
            self.tokens = torch.tensor([index[character] for character in text], dtype=torch.long)
        self.tokens, self.held_back = self.tokens.split([int(0.9 * len(self.tokens)), len(self.tokens) - int(0.9 * len(self.tokens))])
        self.batch, self.context = batch, context
        self.window = torch.arange(context + 1)
        self.order = None if seed is None else Order(seed, len(self.tokens) - context)
        self.position = 0

    def starts(self):
        import torch

        if self.order is None:
            return torch.randint(len(self.tokens) - self.context, (self.batch, 1))
        self.position += self.batch
        return torch.tensor([[self.order(p)] for p in range(self.position - self.batch, self.position)])

    def next(self):
        rows = self.tokens[self.starts() + self.window]
        return rows[:, :-1], rows[:, 1:]


    def validation_loss(self, loss_of):
        """Over windows side by side: every token but the first of each is predicted once."""
        import torch

        windows = (len(self.held_back) - 1) // self.context
        rows = self.held_back[torch.arange(windows)[:, None] * self.context + self.window]
        with torch.no_grad():
            sums = [float(loss_of(part[:, :-1], part[:, 1:])) * len(part) for part in rows.split(self.batch)]
        return sum(sums) / windows


def rate(options, step):
    """furrow's cosine schedule: linear over the warm-up, then half a cosine down to a tenth."""
    if step < options.warmup_steps:
        return (step + 1) / (options.warmup_steps + 1)
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model, weight_decay):
    """Norms and biases do not decay, as in furrow."""
    decay = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    rest = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def data_parallel(options, model, loss_of):
    """The same loss on this rank of several, with gradients averaged over them as they come."""
    import torch

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, y):
            return loss_of(x, y)

    torch.distributed.init_process_group("gloo", init_method=f"file://{options.store}", rank=options.rank,
                                         world_size=options.ranks)
    return torch.nn.parallel.DistributedDataParallel(Loss())


class OnDevice:
    """Batches of `data`, copied to a device from page-locked memory."""

    def __init__(self, data, device):
        self.data, self.device = data, device

    def next(self):
        return [x.contiguous().pin_memory().to(self.device, non_blocking=True) for x in self.data.next()]

    def validation_loss(self, loss_of):
        return self.data.validation_loss(lambda *batch: loss_of(*(x.to(self.device) for x in batch)))


def run(options, model, loss_of, data, optimizer, max_norm):
    """Trains and prints the figures as one line of JSON.  The first step is left out of the speed (with compile, the
    first three: they compile), but where what is trained counts: then all steps are of the schedule."""
    import torch

    def autocast_loss(*batch):
        with torch.autocast(options.device, dtype=torch.bfloat16):
            return wide_loss(*batch)

    on_gpu = options.device != "cpu"
    if on_gpu:
        model.to(options.device)
        data = OnDevice(data, options.device)
    wide_loss = data_parallel(options, model, loss_of) if options.ranks > 1 else loss_of
    step_function = autocast_loss if options.precision == "bfloat16" else wide_loss
    if options.mode == "compile":
        step_function = torch.compile(step_function)
    scheduled, validates = getattr(options, "warmup_steps", 0) > 0, getattr(options, "validate", False)
    warm_up = 0 if scheduled or validates else 3 if options.mode == "compile" else 1
    losses, durations = [], []
    first_step_s = 0.0
    for step in range(options.steps + warm_up):
        if scheduled:
            for group in optimizer.param_groups:
                group["lr"] = options.lr * rate(options, step)
        begin = time.perf_counter()
        for _ in range(options.accumulation):
            loss = step_function(*data.next())
            (loss / options.accumulation).backward() if options.accumulation > 1 else loss.backward()
        if max_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:  # a wait for the step before last: the host goes ahead of the device as far as that
            losses.append(loss.detach())
            if step < warm_up or step + 1 == options.steps + warm_up:
                torch.cuda.synchronize()
            elif len(losses) > 2:
                float(losses[-3])
        else:
            losses.append(float(loss.detach()))
        if step == 0:
            first_step_s = seconds_since_exec()
        if step >= warm_up:
            durations.append(time.perf_counter() - begin)
    samples = options.batch * options.accumulation * options.ranks
    if options.ranks > 1:
        torch.distributed.barrier()
    validated = {"validation_loss": data.validation_loss(loss_of)} if validates else {}
    print(json.dumps({
        **validated,
        "samples_per_second": samples * len(durations) / sum(durations),
        "step_time_median_ms": statistics.median(durations) * 1e3,
        "time_to_first_step_s": first_step_s,
        **({"device_peak_bytes": torch.cuda.max_memory_allocated()} if on_gpu else {}),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": float(losses[-1]),
        "first_losses": [float(loss) for loss in losses[:8]],
        "version": torch.__version__,
    }), flush=True)
    if options.ranks > 1:
        os._exit(0)  # destroying a Gloo group has been seen to wait for ever
