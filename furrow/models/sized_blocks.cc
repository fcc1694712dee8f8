#include "furrow/models/sized_blocks.h"

#include <algorithm>
#include <array>

#include "furrow/models/llama_sizes.h"
#include "furrow/models/sized_layers.h"

namespace furrow::models {
namespace {

using Tensor = MemoryTape::Tensor;
using Layer = SizedLayer;
using Activation = KeptByActivation;
using Cut = SizedCut;
using Operations = SizedOperations;

// nn/transformer_block.cc
Tensor gpt_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t width = size_of(unit, "width"), heads = size_of(unit, "heads");
  const bool masks = drops(unit);
  const auto layer = [&](const char* name, int64_t out, Cut cut) { return ops->layer(name, out, cut); };
  const Tensor qkv = ops->linear(ops->norm(input, width, 2, ops->norm_parameters("ln_1.")), width,
                                 layer("attn.c_attn.weight", 3 * width, Cut::kPositionsToColumns));
  const Tensor mixed = ops->attention(qkv, 3 * width, heads, width);
  const Tensor middle =
      ops->add(input, ops->linear(mixed, width, layer("attn.c_proj.weight", width, Cut::kRowsToPositions)),
               width, masks);
  return ops->feed_forward(middle, {.width = width,
                                    .hidden = 4 * width,
                                    .statistics = 2,
                                    .norm = ops->norm_parameters("ln_2."),
                                    .in = {layer("mlp.c_fc.weight", 4 * width, Cut::kPositionsToColumns)},
                                    .out = layer("mlp.c_proj.weight", width, Cut::kRowsToPositions),
                                    .drops = masks});
}

// nn/llama.cc
Tensor llama_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const LlamaSizes sizes = llama_sizes(unit);
  const int64_t width = sizes.width, ffn = sizes.ffn, queries = sizes.query_width(), keys = sizes.kv_width();
  const auto columns = [&](const char* name, int64_t out) {
    return ops->layer(name, out, Cut::kPositionsToColumns);
  };
  const auto rows = [&](const char* name) { return ops->layer(name, width, Cut::kRowsToPositions); };
  const Tensor qkv = ops->side_by_side(
      ops->norm(input, width, 1, ops->norm_parameters("input_layernorm.")), width,
      {columns("q_proj.weight", queries), columns("k_proj.weight", keys), columns("v_proj.weight", keys)});
  const Tensor mixed = ops->attention(qkv, queries + 2 * keys, sizes.heads, queries);
  const Tensor middle = ops->add(input, ops->linear(mixed, queries, rows("o_proj.weight")), width, false);
  return ops->feed_forward(middle, {.width = width,
                                    .hidden = ffn,
                                    .statistics = 1,
                                    .norm = ops->norm_parameters("post_attention_layernorm."),
                                    .in = {columns("gate_proj.weight", ffn), columns("up_proj.weight", ffn)},
                                    .out = rows("down_proj.weight")});
}

Tensor head(const plan::Unit& unit, const Tensor& normed, Operations* ops) {
  return ops->linear(normed, size_of(unit, "width"),
                     ops->layer("lm_head.weight", size_of(unit, "vocab"), Cut::kPositionsToColumns));
}

// nn/lm_head.cc
Tensor lm_head(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return head(unit, ops->norm(input, size_of(unit, "width"), 2, ops->norm_parameters("ln_f.")), ops);
}

// nn/llama.cc
Tensor llama_head(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return head(unit, ops->norm(input, size_of(unit, "width"), 1, ops->norm_parameters("model.norm.")), ops);
}

// nn/token_embedding.cc
Tensor token_embedding(const plan::Unit& unit, const Tensor& /*input*/, Operations* ops) {
  const int64_t width = size_of(unit, "width");
  const Layer positions = ops->layer("wpe.weight", 0, Cut::kNone);
  const Tensor y = ops->cut_tables(width, ops->layer("wte.weight", 0, Cut::kNone), &positions);
  return drops(unit) ? ops->dropout(y, width) : y;
}

// nn/embedding.cc
Tensor embedding(const plan::Unit& unit, const Tensor& /*input*/, Operations* ops) {
  return ops->cut_tables(size_of(unit, "width"), ops->layer("weight", 0, Cut::kNone), nullptr);
}

// nn/residual.cc: a convolution and the norm behind it, over images of `pixels`.
struct NormedConvolution {
  const char *weight, *norm;
  int64_t in = 0, channels = 0, pixels = 0;
};
Tensor normed(const NormedConvolution& c, const Tensor& x, bool relu, const Tensor& residual,
              Operations* ops) {
  const Layer layer = ops->layer(c.weight, c.channels * c.pixels, Cut::kNone);
  const Tensor y = ops->strided_convolution(x, c.in, layer, layer.rank * c.pixels);
  return ops->batch_norm(y, layer.out, ops->norm_parameters(c.norm), relu, residual);
}

Tensor conv_norm(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t channels = size_of(unit, "out_channels"), border = 2 * count_of(unit, "padding");
  const auto side = [&](int64_t size) {
    return (size + border - size_of(unit, "kernel")) / size_of(unit, "stride") + 1;
  };
  const int64_t pixels = side(unit.input.shape[2]) * side(unit.input.shape[3]);
  const Tensor y =
      normed({"conv1.weight", "bn1.", numbers_of(unit.input), channels, pixels}, input, true, {}, ops);
  return flag(unit, "pool") ? ops->max_pooled(y, channels * pixels, numbers_of(unit.output)) : y;
}

Tensor residual_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t channels = size_of(unit, "out_channels"), in = numbers_of(unit.input),
                out = numbers_of(unit.output);
  const int64_t pixels = out / channels;
  const bool changes = size_of(unit, "stride") != 1 || channels != size_of(unit, "in_channels");
  Tensor shortcut = input;
  if (changes)
    shortcut =
        text(unit, "shortcut") == "projection"
            ? normed({"downsample.0.weight", "downsample.1.", in, channels, pixels}, input, false, {}, ops)
            : ops->resampled(input, in, out);
  const Tensor middle = normed({"conv1.weight", "bn1.", in, channels, pixels}, input, true, {}, ops);
  return normed({"conv2.weight", "bn2.", out, channels, pixels}, middle, true, shortcut, ops);
}

Tensor bottleneck(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const Shape &in = unit.input.shape, &out = unit.output.shape;
  const int64_t before = in[2] * in[3], behind = out[2] * out[3], width = size_of(unit, "width");
  const int64_t read = numbers_of(unit.input), given = numbers_of(unit.output);
  Tensor past = input;
  if (in != out)
    past = text(unit, "shortcut") == "projection"
               ? normed({"downsample.0.weight", "downsample.1.", read, out[1], behind}, input, false, {}, ops)
               : ops->resampled(input, read, given);
  const Tensor first = normed({"conv1.weight", "bn1.", read, width, before}, input, true, {}, ops);
  const Tensor second = normed({"conv2.weight", "bn2.", width * before, width, behind}, first, true, {}, ops);
  return normed({"conv3.weight", "bn3.", width * behind, out[1], behind}, second, true, past, ops);
}

constexpr auto kOnce = SizedBlock::Rows::kOnce, kPositions = SizedBlock::Rows::kPositions,
               kShared = SizedBlock::Rows::kSharedPositions, kOfPart = SizedBlock::Rows::kPositionsOfPart;
constexpr std::array kBlocks = {SizedBlock{"transformer_block", &gpt_block, kShared},
                                SizedBlock{"llama_block", &llama_block, kShared},
                                SizedBlock{"lm_head", &lm_head, kShared},
                                SizedBlock{"llama_head", &llama_head, kShared},
                                SizedBlock{"token_embedding", &token_embedding, kOfPart},
                                SizedBlock{"embedding", &embedding, kOfPart},
                                SizedBlock{"linear", &sized_layers::linear, kPositions},
                                SizedBlock{"rnn", &sized_layers::rnn, kPositions},
                                SizedBlock{"lstm", &sized_layers::lstm, kPositions},
                                SizedBlock{"layer_norm", &sized_layers::layer_norm, kPositions},
                                SizedBlock{"conv_relu_pool", &sized_layers::conv_relu_pool, kOnce},
                                SizedBlock{"conv_norm", &conv_norm, kOnce},
                                SizedBlock{"residual_block", &residual_block, kOnce},
                                SizedBlock{"bottleneck_block", &bottleneck, kOnce},
                                SizedBlock{"pool_linear", &sized_layers::pool_linear, kOnce},
                                SizedBlock{"conv", &sized_layers::conv, kOnce},
                                SizedBlock{"activation", &sized_layers::activation_layer, kOnce},
                                SizedBlock{"dropout", &sized_layers::dropout, kOnce},
                                SizedBlock{"max_pool", &sized_layers::max_pool, kOnce},
                                SizedBlock{"avg_pool", &sized_layers::resampled, kOnce},
                                SizedBlock{"global_avg_pool", &sized_layers::resampled, kOnce},
                                SizedBlock{"group_norm", &sized_layers::group_norm, kOnce},
                                SizedBlock{"batch_norm", &sized_layers::batch_norm, kOnce}};

}  // namespace

const SizedBlock* find_sized_block(const plan::Unit& unit) {
  const auto block = std::ranges::find(kBlocks, unit.kind, &SizedBlock::kind);
  if (block == kBlocks.end() || (block->rows == kOfPart && unit.tensor_degree == 1)) return nullptr;
  return &*block;
}

int64_t SizedBlock::rows_of(const plan::Unit& unit) const {
  if (rows == kOnce) return 1;
  if (rows == kOfPart) return unit.output.shape.at(1);
  if (rows == kShared && unit.tensor_degree > 1) return unit.input.shape.at(1);
  int64_t all = 1;
  for (size_t d = 1; d + 1 < unit.output.shape.size(); ++d) all *= unit.output.shape[d];
  return all;
}

}  // namespace furrow::models
