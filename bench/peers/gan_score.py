"""How well a trained classifier recognises what a generator makes, and how evenly.

  python bench/peers/gan_score.py --classifier runs/convnet/model --generator runs/gan/model

The score is that of Salimans et al., "Improved techniques for training GANs" (2016), with the classifier in the place of
Inception: exp of the mean divergence of p(class | sample) from p(class), 1 (worst) to the number of classes.  Beside it
the mean confidence and the entropy of the classes, as a share of the most.  One line of JSON.
"""
import argparse
import json
import math
import os


def tensors_of(folder):
    """Tensors of a model.safetensors by name (a header of JSON, then the bytes), and the text of its model.toml."""
    import torch

    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        body = bytearray(file.read())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = torch.frombuffer(body[begin:end], dtype=torch.float32).view(entry["shape"]).clone()
    with open(os.path.join(folder, "model.toml")) as file:
        return tensors, file.read()


class Classifier:
    """The convnet of examples/convnet-mnist.toml."""

    def __init__(self, folder):
        import re

        self.tensors, text = tensors_of(folder)
        self.mean, self.std = (float(re.search(rf'^"?{key}"? = "([^"]+)"', text, re.M).group(1)) for key in ("mean", "std"))

    def probabilities(self, pixels):
        """Of images [n, 784] with pixels in [0, 1]."""
        from torch.nn import functional as F

        t = self.tensors
        x = ((pixels - self.mean) / self.std).view(-1, 1, 28, 28)
        for name in ("conv1", "conv2"):
            x = F.max_pool2d(F.relu(F.conv2d(x, t[name + ".weight"], t[name + ".bias"])), 2)
        x = x.flatten(1)
        for name in ("fc1", "fc2", "fc3"):
            x = F.linear(x, t[name + ".weight"], t[name + ".bias"])
            x = F.relu(x) if name != "fc3" else x
        return x.softmax(1)


def score_of(probabilities):
    share = probabilities.mean(0)
    divergence = (probabilities * ((probabilities + 1e-12).log() - (share + 1e-12).log())).sum(1).mean()
    entropy = -(share * (share + 1e-12).log()).sum()
    return {"score": float(divergence.exp()), "confidence": float(probabilities.max(1).values.mean()),
            "diversity": float(entropy) / math.log(len(share))}


def generated(tensors, count, seed):
    """Samples of the generator of examples/gan-mnist.toml, [count, 784]."""
    import torch
    from torch.nn import functional as F

    layers = sorted(name for name in tensors if name.startswith("generator.") and name.endswith(".weight"))
    x = torch.rand(count, tensors[layers[0]].shape[1], generator=torch.Generator().manual_seed(seed)) * 2 - 1
    for name in layers:
        x = F.linear(x, tensors[name], tensors[name.replace("weight", "bias")])
        x = torch.sigmoid(x) if name == layers[-1] else F.leaky_relu(x, 0.2)
    return x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classifier", required=True, help="model/ of a run of examples/convnet-mnist.toml")
    parser.add_argument("--generator", required=True, help="model/ of a run of examples/gan-mnist.toml")
    parser.add_argument("--samples", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    samples = generated(tensors_of(options.generator)[0], options.samples, options.seed)
    print(json.dumps(score_of(Classifier(options.classifier).probabilities(samples))))


if __name__ == "__main__":
    main()
