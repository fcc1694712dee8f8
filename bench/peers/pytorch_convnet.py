"""PyTorch peer of the convnet bench: two 5x5 convolutions with pools, three linear layers, SGD with Nesterov momentum."""
from pytorch_common import Images, arguments, parameter_groups, run

options = arguments(batch=64)

import torch
from torch import nn

torch.set_num_threads(options.threads)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.02, momentum=0.9, nesterov=True, fused=True)
run(options, model, lambda x, y: criterion(model(x), y), Images(options.data, options.batch), optimizer, max_norm=0)
