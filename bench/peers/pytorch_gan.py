"""PyTorch peer of the gan bench: generator 100-256-784, discriminator 784-256-1, Adam for each; one forward of the
generator serves both phases, the discriminator's parameters ask for no gradient in the second, and real and generated
samples go through it together in the first."""
import json
import os
import resource
import statistics
import time

from pytorch_common import arguments, read_idx, seconds_since_exec

options = arguments(batch=64, lr=2e-4, weight_decay=0.0)
if options.accumulation > 1:
    raise SystemExit("the gan peer has no accumulation: leave gan out of --networks")

import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(options.threads)
torch.manual_seed(options.seed)
LATENT = 100
generator = nn.Sequential(nn.Linear(LATENT, 256), nn.LeakyReLU(0.2), nn.Linear(256, 784), nn.Sigmoid())
discriminator = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
optimizers = [torch.optim.Adam(network.parameters(), lr=options.lr, betas=(0.5, 0.999), fused=True)
              for network in (discriminator, generator)]
images = read_idx(os.path.join(options.data, "train-images-idx3-ubyte")).flatten(1)
ones, zeros = torch.ones(options.batch, 1), torch.zeros(options.batch, 1)
labels = torch.cat([ones, zeros])


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16")


def make(noise):
    with autocast():
        return generator(noise)


def discriminator_loss(x, made):
    with autocast():
        return F.binary_cross_entropy_with_logits(discriminator(torch.cat([x, made])), labels)


def generator_loss(made):
    with autocast():
        return F.binary_cross_entropy_with_logits(discriminator(made), ones)


if options.mode == "compile":
    make, discriminator_loss, generator_loss = (torch.compile(f) for f in (make, discriminator_loss, generator_loss))


def batches():
    while True:
        for index in torch.randperm(len(images)).split(options.batch):
            if len(index) == options.batch:
                yield images[index].float().mul_(1 / 255)


def one_step(x):
    made = make(torch.rand(options.batch, LATENT) * 2 - 1)
    loss = discriminator_loss(x, made.detach())
    loss.backward()
    optimizers[0].step()
    optimizers[0].zero_grad(set_to_none=True)
    discriminator.requires_grad_(False)
    generator_loss(made).backward()
    discriminator.requires_grad_(True)
    optimizers[1].step()
    optimizers[1].zero_grad(set_to_none=True)
    return float(loss.detach())


def main():
    data = batches()
    warm_up = 3 if options.mode == "compile" else 1
    durations, loss, first_step_s = [], 0.0, 0.0
    for step in range(options.steps + warm_up):
        begin = time.perf_counter()
        loss = one_step(next(data))
        if step == 0:
            first_step_s = seconds_since_exec()
        if step >= warm_up:
            durations.append(time.perf_counter() - begin)
    figures = {}
    if options.validate:  # $FURROW_CLASSIFIER: model/ of a run of examples/convnet-mnist.toml
        from gan_score import Classifier, generated, score_of

        weights = {f"generator.fc{1 + i // 2}.{name.split('.')[1]}": value
                   for i, (name, value) in zip((0, 0, 2, 2), generator.state_dict().items())}
        samples = generated(weights, 10000, 0)
        figures["validation_loss"] = 10 - score_of(Classifier(os.environ["FURROW_CLASSIFIER"]).probabilities(samples))["score"]
    print(json.dumps({
        **figures,
        "samples_per_second": options.batch * len(durations) / sum(durations),
        "step_time_median_ms": statistics.median(durations) * 1e3,
        "time_to_first_step_s": first_step_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": loss,
        "version": torch.__version__,
    }))


main()
