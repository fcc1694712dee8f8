"""PyTorch peer of the mlp bench: 784-1024-1024-10 with ReLU, AdamW, clipping at norm 1."""
from pytorch_common import Images, arguments, parameter_groups, run

options = arguments(batch=128)

import torch
from torch import nn

torch.set_num_threads(options.threads)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3, betas=(0.9, 0.999), fused=True)
run(options, model, lambda x, y: criterion(model(x), y), Images(options.data, options.batch), optimizer, max_norm=1.0)
