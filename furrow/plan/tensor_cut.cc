#include "furrow/plan/tensor_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/plan/call_bytes.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/program.h"
#include "furrow/plan/topology.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan {
namespace {

int64_t part_of(int64_t length, int degree) { return (length + degree - 1) / degree; }

int64_t product(const Shape& shape, size_t begin, size_t end) {
  return std::accumulate(shape.begin() + static_cast<long>(begin), shape.begin() + static_cast<long>(end),
                         int64_t{1}, std::multiplies<>());
}

void cut_parameter(int degree, Parameter* parameter) {
  if (parameter->tensor_axis < 0) return;
  int64_t& length = parameter->shape[static_cast<size_t>(parameter->tensor_axis)];
  if (parameter->tensor_segments.empty()) parameter->tensor_segments = {length};
  length = 0;
  for (const int64_t segment : parameter->tensor_segments) length += part_of(segment, degree);
}

void cut_border(int degree, TensorSpec* border) {
  if (border->tensor_axis < 0) return;
  int64_t& length = border->shape[static_cast<size_t>(border->tensor_axis)];
  border->whole = length;
  length = part_of(length, degree);
}

int64_t cut_bytes(int64_t bytes, int64_t whole, int degree) { return whole + part_of(bytes - whole, degree); }

bool has_cut_parameter(const Unit& unit) {
  return std::ranges::any_of(unit.parameters, [](const Parameter& p) { return p.tensor_axis >= 0; });
}

// What is gathered is saved whole, and is no longer the gradient as it came.
void cut_kept_bytes(int degree, Unit* unit) {
  unit->kept_saved_bytes = cut_bytes(
      unit->kept_saved_bytes, std::min(unit->kept_saved_bytes, unit->tensor.whole_saved_bytes), degree);
  if (unit->output.tensor_axis < 0) return;
  const bool gathered = unit->kept_grad_bytes <= unit->tensor.whole_deferred_bytes;
  unit->kept_grad_bytes = gathered ? 0 : part_of(unit->kept_grad_bytes, degree);
}

// By division, or as the blocks say.
void cut_calls(int degree, Unit* unit) {
  if (const auto own = unit->tensor.calls.find(degree); own != unit->tensor.calls.end()) {
    return set_call_bytes(own->second, unit);
  }
  cut_kept_bytes(degree, unit);
  unit->saved_bytes = cut_bytes(unit->saved_bytes, unit->tensor.whole_saved_bytes, degree);
  unit->deferred_bytes = cut_bytes(unit->deferred_bytes, unit->tensor.whole_deferred_bytes, degree);
  unit->kept_grad_bytes = std::min(unit->kept_grad_bytes, unit->deferred_bytes);
  unit->kept_saved_bytes =
      std::min({unit->kept_saved_bytes, unit->saved_bytes, unit->deferred_bytes - unit->kept_grad_bytes});
  for (Scratch* scratch : {&unit->forward_scratch, &unit->backward_scratch, &unit->weight_scratch})
    scratch->sample_bytes = part_of(std::max<int64_t>(0, scratch->sample_bytes), degree);
}

void cut_unit(int degree, Unit* unit) {
  if (has_cut_parameter(*unit)) {
    for (double Flops::* flops : {&Flops::forward, &Flops::backward_input, &Flops::backward_weight}) {
      const double whole = std::min(unit->tensor.whole_flops.*flops, unit->flops.*flops);
      unit->flops.*flops = whole + (unit->flops.*flops - whole) / degree;
    }
  }
  for (Parameter& parameter : unit->parameters) cut_parameter(degree, &parameter);
  cut_border(degree, &unit->input);
  cut_border(degree, &unit->output);
  cut_calls(degree, unit);
  Scratch& loss = unit->loss_scratch;
  loss.sample_bytes = part_of(std::max<int64_t>(0, loss.sample_bytes), degree);
  for (const UnitCollective& each : unit->collectives) {  // buffers of their own are what travels
    if (each.phase == UnitCollective::Phase::kBackwardWeight)
      unit->weight_scratch.fixed_bytes += each.fixed_bytes;
    if (each.phase == UnitCollective::Phase::kLoss) loss.sample_bytes += each.bytes_per_sample;
  }
  unit->tensor_degree = degree;
}

std::string refuses_unit(const Unit& unit, int degree) {
  const std::string who = fmt::format("unit {} ({})", unit.name, unit.kind);
  if (!unit.tensor.possible) return who + " cannot be cut inside";
  for (const TensorCut::Count& count : unit.tensor.counts) {
    if (count.count % degree != 0)
      return fmt::format("{} has {} {}, which {} does not divide", who, count.count, count.name, degree);
  }
  for (const Parameter& parameter : unit.parameters) {
    if (parameter.tensor_axis >= 0 && parameter.whole)
      return fmt::format("the optimizer steps the whole of {}, which the axis would cut", parameter.name);
  }
  return "";
}

// Everything before `axis` at its outer-th index.
void set_outer(const Shape& part, size_t axis, int64_t outer, TensorBlock* block) {
  for (size_t d = axis; d-- > 0;) {
    block->offset[d] = outer % part[d];
    block->extent[d] = 1;
    outer /= part[d];
  }
}

std::optional<UnitCollective::Phase> phase_of(Op op) {
  using enum UnitCollective::Phase;
  switch (op) {
    case Op::kForward:
    case Op::kRecompute:
      return kForward;
    case Op::kBackwardInput:
      return kBackwardInput;
    case Op::kBackwardWeight:
      return kBackwardWeight;
    case Op::kLoss:
    case Op::kEvaluate:
      return kLoss;
    default:
      return std::nullopt;
  }
}

}  // namespace

int tensor_degree(const ModelSpec& spec) { return spec.units.empty() ? 1 : spec.units[0].tensor_degree; }

std::string refuses_tensor_cut(const ModelSpec& whole, int degree) {
  if (degree == 1) return "";
  if (!is_one_chain(whole))
    return fmt::format("model {} is more than one chain of units", whole.architecture);
  for (size_t u = 0; u < whole.units.size(); ++u) {
    const Unit& unit = whole.units[u];
    if (std::string reason = refuses_unit(unit, degree); !reason.empty()) return reason;
    if (u > 0 && whole.units[u - 1].output.tensor_axis != unit.input.tensor_axis)
      return fmt::format("unit {} does not read the parts that unit {} gives", unit.name,
                         whole.units[u - 1].name);
  }
  if (whole.alignment > kAlign)
    return fmt::format("the optimizer has scales of {} elements each of a whole parameter", whole.alignment);
  return "";
}

ModelSpec tensor_cut(const ModelSpec& whole, int degree) {
  if (degree == 1) return whole;
  FURROW_CHECK(tensor_degree(whole) == 1, "a spec that is a part already");
  if (const std::string reason = refuses_tensor_cut(whole, degree); !reason.empty())
    throw Error(ErrorCode::kUnimplemented, fmt::format("tensor_parallel_degree {}: {}", degree, reason));
  ModelSpec part = whole;
  for (Unit& unit : part.units) cut_unit(degree, &unit);
  validate(part);
  return part;
}

void declare_gradient_sum(Unit* unit) {
  UnitCollective sum;
  sum.phase = UnitCollective::Phase::kBackwardWeight;
  for (const Parameter& parameter : unit->parameters) {
    if (parameter.summed && !parameter.rule.frozen && !parameter.borrowed)
      sum.fixed_bytes += parameter.size() * kFloatBytes;
  }
  const auto found = std::ranges::find(unit->collectives, sum.phase, &UnitCollective::phase);
  if (found == unit->collectives.end()) {
    if (sum.fixed_bytes > 0) unit->collectives.push_back(sum);
  } else if (sum.fixed_bytes > 0) {
    *found = sum;
  } else {
    unit->collectives.erase(found);
  }
}

std::vector<UnitCollective> collectives_in(const ModelSpec& spec, const Instruction& instruction) {
  const auto phase = phase_of(instruction.op);
  if (!phase || tensor_degree(spec) == 1) return {};
  const auto writes_grad = [&] {
    return std::ranges::any_of(instruction.writes, [](const Value& v) { return v.kind == ValueKind::kGrad; });
  };
  const bool loss = *phase == UnitCollective::Phase::kLoss;
  const Unit& unit = loss ? spec.units.back() : spec.units[instruction.unit];
  std::vector<UnitCollective> list;
  for (const UnitCollective& each : unit.collectives) {
    if (each.phase == *phase && (!each.with_input_gradient || writes_grad())) list.push_back(each);
  }
  return list;
}

int64_t received_bytes(UnitCollective::Op op, int64_t bytes, int degree) {
  const int64_t once = bytes - bytes / degree;
  return op == UnitCollective::Op::kAllReduce ? 2 * once : once;
}

TensorPlace place_of(const ModelSpec& spec, const Parameter& parameter, int rank) {
  const int degree = tensor_degree(spec);
  if (degree == 1) return {};
  return {parameter.tensor_axis, parameter.tensor_segments, degree, rank};
}

Shape whole_shape(const Shape& part, const TensorPlace& place) {
  Shape whole = part;
  if (!place.cuts()) return whole;
  whole[static_cast<size_t>(place.axis)] =
      std::accumulate(place.segments.begin(), place.segments.end(), int64_t{0});
  return whole;
}

std::vector<TensorBlock> blocks_of(const Shape& part, const TensorPlace& place) {
  TensorBlock block{0, Shape(part.size(), 0), part};
  if (!place.cuts()) return {block};
  const auto axis = static_cast<size_t>(place.axis);
  const int64_t outers = product(part, 0, axis), inner = product(part, axis + 1, part.size());
  // All outer indices at once where a row of the part is one run of the whole.
  const int64_t only = place.segments.size() == 1 ? place.segments[0] : 0;
  if (only > 0 && (place.rank + 1) * part[axis] <= only) {
    block.offset[axis] = place.rank * part[axis];
    return {block};
  }
  std::vector<TensorBlock> blocks;
  int64_t begin = 0;
  for (int64_t outer = 0; outer < outers; ++outer) {
    set_outer(part, axis, outer, &block);
    int64_t segment_begin = 0;
    for (const int64_t segment : place.segments) {
      const int64_t length = part_of(segment, place.degree), first = std::min(place.rank * length, segment);
      block.begin = begin;
      block.offset[axis] = segment_begin + first;
      block.extent[axis] = std::min(first + length, segment) - first;
      if (block.size() > 0) blocks.push_back(block);
      begin += length * inner;
      segment_begin += segment;
    }
  }
  return blocks;
}

std::vector<TensorRun> runs_of(const Shape& part, const TensorPlace& place, int64_t begin, int64_t end) {
  if (!place.cuts()) return {{begin, begin, end - begin}};
  const auto axis = static_cast<size_t>(place.axis);
  const int64_t inner = product(part, axis + 1, part.size()), row = part[axis] * inner;
  const int64_t whole_row = whole_shape(part, place)[axis] * inner;
  std::vector<TensorRun> runs;
  for (const TensorBlock& block : blocks_of(part, place)) {
    const int64_t length = block.extent[axis] * inner;
    for (int64_t at = block.begin; at < block.begin + block.size(); at += length) {
      const int64_t from = std::max(at, begin), to = std::min(at + length, end);
      if (from >= to) continue;
      const int64_t whole = at / row * whole_row + block.offset[axis] * inner;
      runs.push_back({from, whole + from - at, to - from});
    }
  }
  return runs;
}

}  // namespace furrow::plan
