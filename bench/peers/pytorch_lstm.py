"""PyTorch peer of the lstm bench: nn.LSTM, 2 layers of 256, embedding and output layer, AdamW, clipping."""
from pytorch_common import Text, arguments, parameter_groups, run

options = arguments(batch=32, context=64, lr=2e-3, weight_decay=0.01)

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, WIDTH = 2, 256


class Lstm(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True)
        self.output = nn.Linear(WIDTH, vocabulary)
        with torch.no_grad():  # one bias per gate, and the bounds of a linear layer over input and state together
            for name, parameter in self.lstm.named_parameters():
                nn.init.zeros_(parameter) if "bias_hh" in name else nn.init.uniform_(
                    parameter, -(2 * WIDTH) ** -0.5, (2 * WIDTH) ** -0.5)
                parameter.requires_grad_("bias_hh" not in name)

    def loss(self, x, y):
        hidden, _ = self.lstm(self.tokens(x))
        logits = self.output(hidden)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))


torch.set_num_threads(options.threads)
torch.manual_seed(options.seed)
data = Text(options.data, options.batch, options.context)
model = Lstm(len(data.vocabulary))
optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.lr, betas=(0.9, 0.99), fused=True)
run(options, model, model.loss, data, optimizer, max_norm=1.0)
