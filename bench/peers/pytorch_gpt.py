"""PyTorch peer of the gpt bench: 4 layers, 4 heads, 128 wide (or other sizes), learned positions, GELU, tied head, AdamW,
clipping."""
from pytorch_common import Text, arguments, parameter_groups, run

options = arguments({"--layers": dict(type=int, default=4), "--heads": dict(type=int, default=4),
                     "--width": dict(type=int, default=128), "--no-bias": dict(action="store_true"),
                     "--vocabulary": dict(type=int, default=0, help="rows of the table, 0: as many as the text has"),
                     "--byte-pairs": dict(help="a folder with GPT-2's encoder.json and vocab.bpe")},
                    batch=12, context=128)

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, BIAS = options.layers, options.heads, options.width, not options.no_bias


class Block(nn.Module):
    """Pre-norm attention and feed-forward, both residual."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=BIAS), nn.LayerNorm(WIDTH, bias=BIAS)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=BIAS), nn.Linear(WIDTH, WIDTH, bias=BIAS)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=BIAS), nn.Linear(4 * WIDTH, WIDTH, bias=BIAS)

    def forward(self, x):
        batch, context, _ = x.shape
        heads = [t.view(batch, context, HEADS, -1).transpose(1, 2) for t in self.qkv(self.ln_1(x)).split(WIDTH, dim=2)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, context, WIDTH))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary, context):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(context, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=BIAS)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * LAYERS) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def loss(self, x, y):
        hidden = self.tokens(x) + self.positions.weight[: x.shape[1]]
        logits = F.linear(self.norm(self.blocks(hidden)), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))


torch.set_num_threads(options.threads)
torch.manual_seed(0)
data = Text(options.data, options.batch, options.context, byte_pairs=options.byte_pairs)
model = Gpt(options.vocabulary or len(data.vocabulary), options.context)
optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.99), fused=True)
run(options, model, model.loss, data, optimizer, max_norm=1.0)
