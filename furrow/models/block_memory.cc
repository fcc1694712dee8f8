#include "furrow/models/block_memory.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "furrow/models/image_borders.h"
#include "furrow/models/llama_sizes.h"
#include "furrow/models/sized_operations.h"
#include "furrow/plan/call_bytes.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::models {
namespace {

using Memory = MemoryTape::Memory;
using Tensor = MemoryTape::Tensor;
using Layer = SizedLayer;
using Activation = KeptByActivation;
using Cut = SizedCut;
using Operations = SizedOperations;

// nn/transformer_block.cc
Tensor gpt_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t width = size_of(unit, "width"), heads = size_of(unit, "heads");
  const bool drops = probability(unit, "dropout") > 0 && !unit.inference;
  const auto layer = [&](const char* name, int64_t out, Cut cut) { return ops->layer(name, out, cut); };
  const Tensor qkv = ops->linear(ops->norm(input, width, 2), width,
                                 layer("attn.c_attn.weight", 3 * width, Cut::kPositionsToColumns));
  const Tensor mixed = ops->attention(qkv, 3 * width, heads, width);
  const Tensor middle =
      ops->add(input, ops->linear(mixed, width, layer("attn.c_proj.weight", width, Cut::kRowsToPositions)),
               width, drops);
  return ops->feed_forward(middle, {.width = width,
                                    .hidden = 4 * width,
                                    .statistics = 2,
                                    .in = {layer("mlp.c_fc.weight", 4 * width, Cut::kPositionsToColumns)},
                                    .out = layer("mlp.c_proj.weight", width, Cut::kRowsToPositions),
                                    .drops = drops});
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
      ops->norm(input, width, 1), width,
      {columns("q_proj.weight", queries), columns("k_proj.weight", keys), columns("v_proj.weight", keys)});
  const Tensor mixed = ops->attention(qkv, queries + 2 * keys, sizes.heads, queries);
  const Tensor middle = ops->add(input, ops->linear(mixed, queries, rows("o_proj.weight")), width, false);
  return ops->feed_forward(middle, {.width = width,
                                    .hidden = ffn,
                                    .statistics = 1,
                                    .in = {columns("gate_proj.weight", ffn), columns("up_proj.weight", ffn)},
                                    .out = rows("down_proj.weight")});
}

// nn/lm_head.cc and the head of nn/llama.cc
template <int kStatistics>
Tensor head(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t width = size_of(unit, "width");
  return ops->linear(ops->norm(input, width, kStatistics), width,
                     ops->layer("lm_head.weight", size_of(unit, "vocab"), Cut::kPositionsToColumns));
}

// nn/token_embedding.cc
Tensor token_embedding(const plan::Unit& unit, const Tensor& /*input*/, Operations* ops) {
  const int64_t width = size_of(unit, "width");
  const Layer positions = ops->layer("wpe.weight", 0, Cut::kNone);
  const Tensor y = ops->cut_tables(width, ops->layer("wte.weight", 0, Cut::kNone), &positions);
  return probability(unit, "dropout") > 0 && !unit.inference ? ops->dropout(y, width) : y;
}

// nn/embedding.cc
Tensor embedding(const plan::Unit& unit, const Tensor& /*input*/, Operations* ops) {
  return ops->cut_tables(size_of(unit, "width"), ops->layer("weight", 0, Cut::kNone), nullptr);
}

// nn/linear.cc
Tensor linear(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t in = size_of(unit, "in"), out = size_of(unit, "out");
  const std::string name = activation(unit);
  const bool slope = keeps_slope(name), product = in_product(name);
  const Activation kept = name == "none" ? Activation::kNone
                          : slope        ? Activation::kSlope
                                         : Activation::kOutput;
  const bool rows_cut = unit.parameters.front().tensor_axis == 1;
  const Layer layer = ops->layer("weight", out, rows_cut ? Cut::kRows : Cut::kColumns);
  const Tensor x = ops->copies(input) ? ops->flattened(input, in) : input;
  const Tensor y = ops->linear(x, in, layer, product ? kept : Activation::kNone);
  return product || kept == Activation::kNone ? y : ops->separate(y, layer.out, kept);
}

// nn/conv_relu_pool.cc
Tensor conv_relu_pool(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const Shape& in = unit.input.shape;
  const int64_t border = 2 * count_of(unit, "padding") + 1 - size_of(unit, "kernel");
  const int64_t pixels = (in[2] + border) * (in[3] + border);
  const int64_t read = in[1] * in[2] * in[3], out = border_bytes(unit, unit.output) / number_bytes(unit);
  const Layer layer = ops->layer("weight", size_of(unit, "out_channels") * pixels, Cut::kNone);
  if (layer.adapter == nullptr)
    return ops->plain_convolution(input, read, out, layer.trains,
                                  flag(unit, "relu") || flag(unit, "pool") ? out : 0);
  const Tensor y = ops->convolution(input, read, layer, layer.rank * pixels);
  const Tensor through =
      ops->activated(y, layer.out, flag(unit, "relu") ? Activation::kOutput : Activation::kNone);
  return flag(unit, "pool") ? ops->pooled(through, layer.out, out) : through;
}

// nn/residual.cc: a convolution and the norm behind it, over images of `pixels`.
struct NormedConvolution {
  const char* weight;
  int64_t in = 0, channels = 0, pixels = 0;
};
Tensor normed(const NormedConvolution& c, const Tensor& x, bool relu, const Tensor& residual,
              Operations* ops) {
  const Layer layer = ops->layer(c.weight, c.channels * c.pixels, Cut::kNone);
  const Tensor y = ops->strided_convolution(x, c.in, layer, layer.rank * c.pixels);
  return ops->batch_norm(y, layer.out, relu, residual);
}

Tensor conv_norm(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t channels = size_of(unit, "out_channels"), border = 2 * count_of(unit, "padding");
  const auto side = [&](int64_t size) {
    return (size + border - size_of(unit, "kernel")) / size_of(unit, "stride") + 1;
  };
  const int64_t pixels = side(unit.input.shape[2]) * side(unit.input.shape[3]);
  const Tensor y = normed({"conv1.weight", numbers_of(unit.input), channels, pixels}, input, true, {}, ops);
  return flag(unit, "pool") ? ops->max_pooled(y, channels * pixels, numbers_of(unit.output)) : y;
}

Tensor residual_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t channels = size_of(unit, "out_channels"), in = numbers_of(unit.input),
                out = numbers_of(unit.output);
  const int64_t pixels = out / channels;
  const bool changes = size_of(unit, "stride") != 1 || channels != size_of(unit, "in_channels");
  Tensor shortcut = input;
  if (changes)
    shortcut = text(unit, "shortcut") == "projection"
                   ? normed({"downsample.0.weight", in, channels, pixels}, input, false, {}, ops)
                   : ops->subsampled(input, in, out);
  const Tensor middle = normed({"conv1.weight", in, channels, pixels}, input, true, {}, ops);
  return normed({"conv2.weight", out, channels, pixels}, middle, true, shortcut, ops);
}

Tensor bottleneck(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const Shape &in = unit.input.shape, &out = unit.output.shape;
  const int64_t before = in[2] * in[3], behind = out[2] * out[3], width = size_of(unit, "width");
  const int64_t read = numbers_of(unit.input), given = numbers_of(unit.output);
  Tensor past = input;
  if (in != out)
    past = text(unit, "shortcut") == "projection"
               ? normed({"downsample.0.weight", read, out[1], behind}, input, false, {}, ops)
               : ops->subsampled(input, read, given);
  const Tensor first = normed({"conv1.weight", read, width, before}, input, true, {}, ops);
  const Tensor second = normed({"conv2.weight", width * before, width, behind}, first, true, {}, ops);
  return normed({"conv3.weight", width * behind, out[1], behind}, second, true, past, ops);
}

struct Row {
  std::string_view kind;
  Tensor (*forward)(const plan::Unit& unit, const Tensor& input, Operations* ops);
  bool shares_positions = false;  // ranks of a tensor axis
  bool of_parts = false;          // what is not cut holds what is described
};
constexpr std::array kRows = {Row{"transformer_block", &gpt_block, true},
                              Row{"llama_block", &llama_block, true},
                              Row{"lm_head", &head<2>, true},
                              Row{"llama_head", &head<1>, true},
                              Row{"token_embedding", &token_embedding, true, true},
                              Row{"embedding", &embedding, true, true},
                              Row{"linear", &linear},
                              Row{"conv_relu_pool", &conv_relu_pool},
                              Row{"conv_norm", &conv_norm},
                              Row{"residual_block", &residual_block},
                              Row{"bottleneck_block", &bottleneck}};

// Its block runs on a copy of its input, in its own type.
bool converts(const plan::Unit& unit) {
  return unit.input.dtype != unit.compute && plan::is_number(unit.input.dtype);
}

const Row* row_of(const plan::Unit& unit) {
  const auto row = std::ranges::find(kRows, unit.kind, &Row::kind);
  if (row == kRows.end() || (row->of_parts && unit.tensor_degree == 1)) return nullptr;
  return &*row;
}

// How often the block does the same for a sample.
int64_t rows_of(const Row& row, const plan::Unit& unit) {
  if (unit.input.shape.size() == 4 && unit.kind != "linear") return 1;  // of an image
  if (row.of_parts) return unit.output.shape.at(1);
  if (row.shares_positions && unit.tensor_degree > 1) return unit.input.shape.at(1);
  int64_t rows = 1;
  for (size_t d = 1; d + 1 < unit.output.shape.size(); ++d) rows *= unit.output.shape[d];
  return rows;
}

// What is left for gradients of weights of what there was before backward, each once.
void set_kept(std::vector<Memory> deferred, const Memory& read, const Memory& gradient, CallMemory* call) {
  std::ranges::sort(deferred);
  const auto [end, last] = std::ranges::unique(deferred);
  deferred.erase(end, last);
  for (const Memory& memory : deferred) {
    if (memory == nullptr || memory == read) continue;
    const int64_t bytes = MemoryTape::bytes_of(memory);
    if (memory == gradient)
      call->kept_grad_bytes = bytes;
    else if (MemoryTape::number_of(memory) < MemoryTape::number_of(gradient))
      call->kept_saved_bytes += bytes;
  }
}

}  // namespace

CallMemory call_memory(const plan::Unit& unit, bool input_gradient, bool copies_input) {
  const Row* const row = row_of(unit);
  if (row == nullptr) return {};
  const int64_t in = border_bytes(unit, unit.input), out = border_bytes(unit, unit.output);
  Operations ops(unit, rows_of(*row, unit), row->shares_positions);
  MemoryTape& tape = ops.tape();
  const int64_t before = converts(unit) ? 0 : in;
  Tensor input{tape.make(in)};
  const Memory read = converts(unit) ? nullptr : input.memory;
  if (input_gradient) input = tape.leaf(input.memory);
  if (copies_input) ops.copy_input(input.memory);
  CallMemory call;
  Tensor output = row->forward(unit, input, &ops);
  call.forward_peak = tape.peak() - before;
  if (output.needs_gradient()) call.saved_bytes = tape.live() - before - out;  // else all of it goes
  Memory gradient = tape.make(out);
  const int64_t begin = tape.live();
  tape.reset_peak();
  Memory passed = tape.backward(output, gradient, input);
  output.memory.reset();
  if (passed != nullptr && converts(unit)) passed = tape.make(unit.input.bytes_per_sample());
  call.backward_peak = tape.peak() - begin;
  if (ops.trains()) {                      // else the graph goes, and its input with it
    if (copies_input && converts(unit)) {  // nothing reads that any more
      input.memory.reset();
      ops.copy_input(nullptr);
    }
    set_kept(ops.deferred(), read, gradient, &call);
    gradient.reset();
    call.deferred_bytes = tape.live() - before - (passed != nullptr ? unit.input.bytes_per_sample() : 0);
  }
  ops.forget_deferred();
  call.weight_peak = ops.weight_peak();
  return call;
}

namespace {

// What a call keeps, and beside that what is above what it reads, keeps and gives.
void set_call(const plan::Unit& unit, const CallMemory& call, bool asks, plan::CallBytes* bytes) {
  const int64_t out = border_bytes(unit, unit.output), in = asks ? unit.input.bytes_per_sample() : 0;
  const int64_t made = call.deferred_bytes - call.kept_saved_bytes - call.kept_grad_bytes;
  bytes->saved_bytes = call.saved_bytes;
  bytes->deferred_bytes = call.deferred_bytes;
  bytes->kept_saved_bytes = call.kept_saved_bytes;
  bytes->kept_grad_bytes = call.kept_grad_bytes;
  bytes->forward_scratch.sample_bytes = call.forward_peak - out - call.saved_bytes;
  bytes->backward_scratch.sample_bytes = call.backward_peak - made - in;
}

void declare(bool asks, bool copies_input, plan::Unit* unit) {
  const CallMemory call = call_memory(*unit, asks, copies_input);
  plan::CallBytes bytes = plan::call_bytes(*unit);
  set_call(*unit, call, asks, &bytes);
  if (unit->kind == "conv_relu_pool") bytes.weight_scratch.sample_bytes = call.weight_peak;
  plan::set_call_bytes(bytes, unit);
}

// The gradient is made in what the unit computes in, beside what its backward takes, and then, once the
// output has gone, as its source reads it.
void pass_converted(plan::Unit* unit) {
  const int64_t made = border_bytes(*unit, unit->input), passed = unit->input.bytes_per_sample();
  int64_t& scratch = unit->backward_scratch.sample_bytes;
  scratch = std::max(scratch + made - passed, made - border_bytes(*unit, unit->output));
}

// Outside a graph what forward makes for backward goes with the call, and slopes are not made.
void pass_saved(plan::Unit* unit) {
  const bool slope = unit->attributes.contains("activation") && keeps_slope(activation(*unit));
  const int64_t slopes = slope ? border_bytes(*unit, unit->output) : 0;
  unit->forward_scratch.sample_bytes += std::max<int64_t>(0, unit->saved_bytes - slopes);
  unit->saved_bytes = unit->kept_saved_bytes = 0;
}

constexpr int kMostRanks = 64;  // of a tensor axis; those of more are divided

// Of one rank of each tensor axis that the model can be cut by.
void declare_parts(const plan::ModelFacts& facts, plan::ModelSpec* spec) {
  for (int degree = 2; degree <= kMostRanks; ++degree) {
    if (!plan::refuses_tensor_cut(*spec, degree).empty()) continue;
    const plan::ModelSpec parts = plan::tensor_cut(*spec, degree);
    for (size_t u = 0; u < parts.units.size(); ++u) {
      const plan::Unit& part = parts.units[u];
      if (row_of(part) == nullptr) continue;
      const bool asks = facts.units[u].passes;
      const CallMemory call = call_memory(part, asks);
      plan::CallBytes bytes = plan::call_bytes(part);
      bytes.weight_scratch = {};
      set_call(part, call, asks, &bytes);
      spec->units[u].tensor.calls[degree] = bytes;
    }
  }
}

}  // namespace

void declare_scratch(plan::ModelSpec* spec) {
  const plan::ModelFacts facts = plan::model_facts(*spec);
  declare_parts(facts, spec);  // of what is described
  for (size_t u = 0; u < spec->units.size(); ++u) {
    plan::Unit& unit = spec->units[u];
    const bool passes = facts.units[u].passes;
    const BorderCopies copies = border_copies(*spec, facts, u);
    if (row_of(unit) != nullptr) {
      declare(passes, copies.input, &unit);
    } else {
      if (converts(unit) && passes) pass_converted(&unit);
      if (copies.input) copy_input(&unit);
      if (!passes && !facts.units[u].trains()) pass_saved(&unit);
    }
    if (copies.gradient) copy_gradient(passes, &unit);
  }
}

}  // namespace furrow::models
