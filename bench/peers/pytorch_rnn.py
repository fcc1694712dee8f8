"""PyTorch peer of the rnn bench: the tutorials' cell, i2h and i2o over input and state together, 128 wide."""
from pytorch_common import Text, arguments, parameter_groups, run

options = arguments(batch=64, context=32, lr=2e-3, weight_decay=0.01)

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 128


class Rnn(nn.Module):
    """Input projections and outputs are formed for all steps at once: what a user does who wants speed."""

    def __init__(self, vocabulary):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.i2h, self.i2o = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(2 * WIDTH, vocabulary)

    def loss(self, x, y):
        inputs = self.tokens(x)
        from_input, from_state = self.i2h.weight.split(WIDTH, dim=1)
        projections = F.linear(inputs, from_input, self.i2h.bias)
        states = [torch.zeros(x.shape[0], WIDTH)]
        for step in projections.unbind(1)[:-1]:
            states.append(torch.tanh(torch.addmm(step, states[-1], from_state.t())))
        logits = self.i2o(torch.cat((inputs, torch.stack(states, 1)), dim=2))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))


torch.set_num_threads(options.threads)
torch.manual_seed(options.seed)
data = Text(options.data, options.batch, options.context)
model = Rnn(len(data.vocabulary))
optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.lr, betas=(0.9, 0.99), fused=True)
run(options, model, model.loss, data, optimizer, max_norm=1.0)
