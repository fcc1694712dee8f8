"""PyTorch peer of the llama bench: 4 layers, 4 heads, 2 key heads, 128 wide (or other sizes), RoPE, SwiGLU, tied head, AdamW, clipping."""
from furrow_start import read_weights
from pytorch_common import Text, arguments, parameter_groups, run

options = arguments({"--initial": dict(help="begin with the weights of this model.safetensors of furrow's"),
                     "--layers": dict(type=int, default=4), "--heads": dict(type=int, default=4),
                     "--kv-heads": dict(type=int, default=2), "--width": dict(type=int, default=128),
                     "--ffn": dict(type=int, default=352),
                     "--byte-pairs": dict(help="a folder with GPT-2's encoder.json and vocab.bpe")}, batch=12,
                    context=128, lr=1e-3, weight_decay=0.1)

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, HEADS, KV_HEADS, WIDTH, FFN = options.layers, options.heads, options.kv_heads, options.width, options.ffn
SIZE = WIDTH // HEADS


class Block(nn.Module):
    """Grouped-query attention and a SwiGLU feed-forward, both behind an RMSNorm and residual."""

    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * SIZE, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate_up, self.down = nn.Linear(WIDTH, 2 * FFN, bias=False), nn.Linear(FFN, WIDTH, bias=False)

    def forward(self, x, cosine, sine):
        batch, context, _ = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, context, -1, SIZE).transpose(1, 2)
        q, k, v = heads.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
        q, k = (torch.cat((t[..., : SIZE // 2] * cosine - t[..., SIZE // 2 :] * sine,
                           t[..., SIZE // 2 :] * cosine + t[..., : SIZE // 2] * sine), dim=-1) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, context, WIDTH))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, vocabulary, context):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        angles = torch.outer(torch.arange(context), 10000.0 ** (-2 * torch.arange(SIZE // 2) / SIZE))
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * LAYERS) ** 0.5 if residual else 0.02)

    def loss(self, x, y):
        hidden = self.tokens(x)
        for block in self.blocks:
            hidden = block(hidden, self.cosine, self.sine)
        logits = F.linear(self.norm(hidden), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))


def begin_with(model, weights):
    """furrow's weights, which have Hugging Face's names."""
    model.tokens.weight.copy_(weights["model.embed_tokens.weight"])
    model.norm.weight.copy_(weights["model.norm.weight"])
    for i, block in enumerate(model.blocks):
        of = {name.removeprefix(f"model.layers.{i}."): value for name, value in weights.items()}
        block.norm_1.weight.copy_(of["input_layernorm.weight"])
        block.norm_2.weight.copy_(of["post_attention_layernorm.weight"])
        block.qkv.weight.copy_(torch.cat([of[f"self_attn.{part}_proj.weight"] for part in "qkv"]))
        block.proj.weight.copy_(of["self_attn.o_proj.weight"])
        block.gate_up.weight.copy_(torch.cat([of["mlp.gate_proj.weight"], of["mlp.up_proj.weight"]]))
        block.down.weight.copy_(of["mlp.down_proj.weight"])


torch.set_num_threads(options.threads)
torch.manual_seed(options.seed)
data = Text(options.data, options.batch, options.context, options.order_of_seed, options.byte_pairs)
model = Llama(len(data.vocabulary), options.context)
if options.initial:
    with torch.no_grad():
        begin_with(model, read_weights(options.initial))
optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.lr, betas=(0.9, 0.99), fused=True)
run(options, model, model.loss, data, optimizer, max_norm=1.0)
