#include "furrow/models/block_memory.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

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
using Operations = SizedOperations;

// nn/transformer_block.cc
Tensor gpt_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t width = size_of(unit, "width"), heads = size_of(unit, "heads");
  const bool drops = probability(unit, "dropout") > 0 && !unit.inference;
  const Tensor qkv =
      ops->linear(ops->norm(input, width, 2), width, ops->layer("attn.c_attn.weight", 3 * width));
  const Tensor mixed = ops->attention(qkv, 3 * width, heads, width);
  const Tensor middle =
      ops->add(input, ops->linear(mixed, width, ops->layer("attn.c_proj.weight", width, SizedCut::kRows)),
               width, drops);
  const Tensor hidden = ops->linear(ops->norm(middle, width, 2), width,
                                    ops->layer("mlp.c_fc.weight", 4 * width), Activation::kSlope);
  return ops->add(middle,
                  ops->linear(hidden, 4 * width, ops->layer("mlp.c_proj.weight", width, SizedCut::kRows)),
                  width, drops);
}

// nn/llama.cc
Tensor llama_block(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const LlamaSizes sizes = llama_sizes(unit);
  const int64_t width = sizes.width, ffn = sizes.ffn, queries = sizes.query_width(), keys = sizes.kv_width();
  const Tensor qkv =
      ops->side_by_side(ops->norm(input, width, 1), width,
                        {ops->layer("q_proj.weight", queries), ops->layer("k_proj.weight", keys),
                         ops->layer("v_proj.weight", keys)});
  const Tensor mixed = ops->attention(qkv, queries + 2 * keys, sizes.heads, queries);
  const Tensor middle = ops->add(
      input, ops->linear(mixed, queries, ops->layer("o_proj.weight", width, SizedCut::kRows)), width, false);
  const Tensor gate_up =
      ops->side_by_side(ops->norm(middle, width, 1), width,
                        {ops->layer("gate_proj.weight", ffn), ops->layer("up_proj.weight", ffn)});
  return ops->add(
      middle,
      ops->linear(ops->swiglu(gate_up, ffn), ffn, ops->layer("down_proj.weight", width, SizedCut::kRows)),
      width, false);
}

// nn/lm_head.cc and the head of nn/llama.cc
template <int kStatistics>
Tensor head(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t width = size_of(unit, "width");
  return ops->linear(ops->norm(input, width, kStatistics), width,
                     ops->layer("lm_head.weight", size_of(unit, "vocab")));
}

// nn/linear.cc
Tensor linear(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t in = size_of(unit, "in"), out = size_of(unit, "out");
  const std::string name = activation(unit);
  const bool separate = name == "leaky_relu" || name == "sigmoid";
  const Activation own = name == "gelu"   ? Activation::kSlope
                         : name == "relu" ? Activation::kOutput
                                          : Activation::kNone;
  const Tensor y = ops->linear(input, in, ops->layer("weight", out), own);
  return separate ? ops->separate(y, out) : y;
}

// nn/conv_relu_pool.cc
Tensor conv_relu_pool(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const Shape& in = unit.input.shape;
  const int64_t border = 2 * count_of(unit, "padding") + 1 - size_of(unit, "kernel");
  const int64_t pixels = (in[2] + border) * (in[3] + border);
  const int64_t read = in[1] * in[2] * in[3], out = border_bytes(unit, unit.output) / number_bytes(unit);
  const Layer layer = ops->layer("weight", size_of(unit, "out_channels") * pixels);
  if (layer.adapter == nullptr)
    return ops->plain_convolution(input, read, out, layer.trains,
                                  flag(unit, "relu") || flag(unit, "pool") ? out : 0);
  const Tensor y = ops->convolution(input, read, layer, layer.rank * pixels);
  const Tensor through =
      ops->activated(y, layer.out, flag(unit, "relu") ? Activation::kOutput : Activation::kNone);
  return flag(unit, "pool") ? ops->pooled(through, layer.out, out) : through;
}

struct Row {
  std::string_view kind;
  Tensor (*forward)(const plan::Unit& unit, const Tensor& input, Operations* ops);
  bool adapted = false;  // of such units alone: of others the description says all
};
constexpr std::array kRows = {Row{"transformer_block", &gpt_block},
                              Row{"llama_block", &llama_block},
                              Row{"lm_head", &head<2>},
                              Row{"llama_head", &head<1>},
                              Row{"linear", &linear, true},
                              Row{"conv_relu_pool", &conv_relu_pool}};

const Row* row_of(const plan::Unit& unit) {
  const auto row = std::ranges::find(kRows, unit.kind, &Row::kind);
  return row == kRows.end() || (row->adapted && unit.adapters.empty()) ? nullptr : &*row;
}

// How often the block does the same for a sample.
int64_t rows_of(const plan::Unit& unit) {
  if (unit.kind == "conv_relu_pool") return 1;
  if (unit.tensor_degree > 1) return unit.input.shape.at(1);
  int64_t rows = 1;
  for (size_t d = 1; d + 1 < unit.output.shape.size(); ++d) rows *= unit.output.shape[d];
  return rows;
}

// Its block runs on a copy of its input, in its own type.
bool converts(const plan::Unit& unit) {
  return unit.input.dtype != unit.compute && plan::is_number(unit.input.dtype);
}

}  // namespace

CallMemory call_memory(const plan::Unit& unit, bool input_gradient) {
  const Row* const row = row_of(unit);
  if (row == nullptr) return {};
  const int64_t in = border_bytes(unit, unit.input), out = border_bytes(unit, unit.output);
  Operations ops(unit, rows_of(unit));
  MemoryTape& tape = ops.tape();
  const int64_t before = converts(unit) ? 0 : in;
  Tensor input{tape.make(in)};
  if (input_gradient) input = tape.leaf(input.memory);
  CallMemory call;
  Tensor output = row->forward(unit, input, &ops);
  call.forward_peak = tape.peak() - before;
  call.saved_bytes = tape.live() - before - out;
  Memory gradient = tape.make(out);
  const int64_t begin = tape.live();
  tape.reset_peak();
  Memory passed = tape.backward(output, gradient, input);
  output.memory.reset();
  if (passed != nullptr && converts(unit)) passed = tape.make(unit.input.bytes_per_sample());
  call.backward_peak = tape.peak() - begin;
  gradient.reset();
  call.deferred_bytes = tape.live() - before - (passed != nullptr ? unit.input.bytes_per_sample() : 0);
  if (!ops.trains()) call.deferred_bytes = 0;  // the graph goes, and its input with it
  ops.forget_deferred();
  call.weight_peak = ops.weight_peak();
  return call;
}

namespace {

// What is above what a call reads, keeps and gives.
void set_scratch(const plan::Unit& unit, const CallMemory& call, bool asks, plan::CallBytes* bytes) {
  const int64_t out = border_bytes(unit, unit.output), in = asks ? unit.input.bytes_per_sample() : 0;
  const int64_t made = bytes->deferred_bytes - bytes->kept_saved_bytes - bytes->kept_grad_bytes;
  bytes->forward_scratch.sample_bytes = call.forward_peak - out - bytes->saved_bytes;
  bytes->backward_scratch.sample_bytes = call.backward_peak - made - in;
}

// What a call saves and leaves, of which the described shares are kept as far as there is so much.
void set_saved(const CallMemory& call, plan::CallBytes* bytes) {
  bytes->saved_bytes = call.saved_bytes;
  bytes->deferred_bytes = call.deferred_bytes;
  bytes->kept_grad_bytes = std::min(bytes->kept_grad_bytes, bytes->deferred_bytes);
  bytes->kept_saved_bytes =
      std::min({bytes->kept_saved_bytes, bytes->saved_bytes, bytes->deferred_bytes - bytes->kept_grad_bytes});
}

void declare(bool asks, plan::Unit* unit) {
  const CallMemory call = call_memory(*unit, asks);
  plan::CallBytes bytes = plan::call_bytes(*unit);
  if (!unit->adapters.empty()) set_saved(call, &bytes);
  set_scratch(*unit, call, asks, &bytes);
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

constexpr int kMostRanks = 64;  // of a tensor axis; those of more are divided

// Of one rank of each tensor axis that the model can be cut by.
void declare_parts(const plan::ModelFacts& facts, plan::ModelSpec* spec) {
  for (int degree = 2; degree <= kMostRanks; ++degree) {
    if (!plan::refuses_tensor_cut(*spec, degree).empty()) continue;
    const plan::ModelSpec parts = plan::tensor_cut(*spec, degree);
    for (size_t u = 0; u < parts.units.size(); ++u) {
      const plan::Unit& part = parts.units[u];
      if (row_of(part) == nullptr || !part.adapters.empty()) continue;
      const bool asks = facts.units[u].passes;
      const CallMemory call = call_memory(part, asks);
      plan::CallBytes bytes = plan::call_bytes(part);
      set_saved(call, &bytes);
      bytes.weight_scratch = {};
      set_scratch(part, call, asks, &bytes);
      spec->units[u].tensor.calls[degree] = bytes;
    }
  }
}

}  // namespace

void declare_scratch(plan::ModelSpec* spec) {
  const plan::ModelFacts facts = plan::model_facts(*spec);
  for (size_t u = 0; u < spec->units.size(); ++u) {
    plan::Unit& unit = spec->units[u];
    if (row_of(unit) != nullptr) {
      declare(facts.units[u].passes, &unit);
    } else if (converts(unit) && facts.units[u].passes) {
      pass_converted(&unit);
    }
  }
  declare_parts(facts, spec);
}

}  // namespace furrow::models
