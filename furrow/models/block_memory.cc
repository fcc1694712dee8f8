#include "furrow/models/block_memory.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "furrow/models/sized_blocks.h"
#include "furrow/plan/call_bytes.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::models {
namespace {

using Memory = MemoryTape::Memory;
using Tensor = MemoryTape::Tensor;

// Its block runs on a copy of its input, in its own type.
bool converts(const plan::Unit& unit) {
  return unit.input.dtype != unit.compute && plan::is_number(unit.input.dtype);
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

CallMemory call_memory(const plan::Unit& unit, bool input_gradient, const ImageBorders& borders,
                       int64_t samples) {
  const SizedBlock* const block = find_sized_block(unit);
  if (block == nullptr) return {};
  const int64_t in = border_bytes(unit, unit.input), out = border_bytes(unit, unit.output);
  SizedOperations ops(unit, block->rows_of(unit), block->shares_positions(), samples);
  MemoryTape& tape = ops.tape();
  const int64_t before = converts(unit) ? 0 : in;
  Tensor input{tape.make(in)};
  const Memory read = converts(unit) ? nullptr : input.memory;
  if (input_gradient) input = tape.leaf(input.memory);
  if (borders.copies_input()) ops.copy_input(input.memory);
  CallMemory call;
  Tensor output = block->forward(unit, input, &ops);
  call.forward_peak = tape.peak() - before;
  call.forward_fixed = tape.peak_fixed();
  if (output.needs_gradient()) call.saved_bytes = tape.live() - before - out;  // else all of it goes
  Memory gradient = tape.make(out);
  const int64_t begin = tape.live(), begin_fixed = tape.live_fixed();
  tape.reset_peak();
  const bool copies = borders.copies_gradient() && output.needs_gradient();
  Memory passed = tape.backward(output, copies ? tape.make(out) : gradient, input);
  output.memory.reset();
  if (passed != nullptr && converts(unit)) passed = tape.make(unit.input.bytes_per_sample());
  call.backward_peak = tape.peak() - begin;
  call.backward_fixed = tape.peak_fixed() - begin_fixed;
  if (ops.trains()) {  // else the graph goes, and its input with it
    std::vector<Memory> deferred = ops.deferred();
    if (converts(unit)) deferred.push_back(input.memory);
    set_kept(std::move(deferred), read, gradient, &call);
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
  bytes->forward_scratch = {call.forward_peak - out - call.saved_bytes, call.forward_fixed};
  bytes->backward_scratch = {call.backward_peak - made - in, call.backward_fixed};
}

void declare(bool asks, const ImageBorders& borders, int64_t samples, plan::Unit* unit) {
  const CallMemory call = call_memory(*unit, asks, borders, samples);
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

// Outside a graph what forward makes for backward goes with the call.
void pass_saved(plan::Unit* unit) {
  unit->forward_scratch.sample_bytes += unit->saved_bytes;
  unit->saved_bytes = unit->kept_saved_bytes = 0;
}

constexpr int kMostRanks = 64;  // of a tensor axis; those of more are divided

// Of one rank of each tensor axis that the model can be cut by.
void declare_parts(const plan::ModelFacts& facts, int64_t samples, plan::ModelSpec* spec) {
  for (int degree = 2; degree <= kMostRanks; ++degree) {
    if (!plan::refuses_tensor_cut(*spec, degree).empty()) continue;
    const plan::ModelSpec parts = plan::tensor_cut(*spec, degree);
    for (size_t u = 0; u < parts.units.size(); ++u) {
      const plan::Unit& part = parts.units[u];
      if (find_sized_block(part) == nullptr) continue;
      const bool asks = facts.units[u].passes;
      const CallMemory call = call_memory(part, asks, {}, samples);
      plan::CallBytes bytes = plan::call_bytes(part);
      bytes.weight_scratch = {};
      set_call(part, call, asks, &bytes);
      spec->units[u].tensor.calls[degree] = bytes;
    }
  }
}

}  // namespace

void declare_scratch(plan::ModelSpec* spec, int64_t samples) {
  const plan::ModelFacts facts = plan::model_facts(*spec);
  declare_parts(facts, samples, spec);  // of what is described
  for (size_t u = 0; u < spec->units.size(); ++u) {
    plan::Unit& unit = spec->units[u];
    const bool passes = facts.units[u].passes;
    if (find_sized_block(unit) != nullptr) {
      declare(passes, image_borders(*spec, facts, u), samples, &unit);
    } else {
      if (converts(unit) && passes) pass_converted(&unit);
      if (!passes && !facts.units[u].trains()) pass_saved(&unit);
    }
  }
}

}  // namespace furrow::models
