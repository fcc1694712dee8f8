#include "furrow/plan/value_bytes.h"

#include <array>

#include "furrow/base/error.h"
#include "furrow/plan/topology.h"

namespace furrow::plan {
namespace {

struct Home {
  MemoryKind memory;
  bool persistent;
};

constexpr std::array<Home, kValueKinds> kHomes = {{
    {MemoryKind::kData, false},         // batch
    {MemoryKind::kActivations, false},  // act
    {MemoryKind::kActivations, false},  // saved
    {MemoryKind::kActivations, false},  // grad
    {MemoryKind::kActivations, false},  // deferred
    {MemoryKind::kGradients, true},     // gradient
    {MemoryKind::kGradients, true},     // total
    {MemoryKind::kOther, false},        // loss
    {MemoryKind::kOther, false},        // sums
    {MemoryKind::kOther, false},        // scale
    {MemoryKind::kParameters, true},    // params
    {MemoryKind::kOptimizer, true},     // state
    {MemoryKind::kGathered, true},      // gathered
    {MemoryKind::kCheckpoint, false},   // snapshot
    {MemoryKind::kOther, false},        // bn_stats
    {MemoryKind::kOther, true},         // stats
    {MemoryKind::kOther, true},         // loss_scale
    {MemoryKind::kOptimizer, true},     // hosted
    {MemoryKind::kGradients, true},     // leaf
    {MemoryKind::kGradients, true},     // wide
}};

constexpr int64_t kIdBytes = 8;
constexpr int64_t kLossBytes =
    2 * static_cast<int64_t>(sizeof(ExactSum)) + 16;  // losses, weights and the two counts
constexpr int64_t kScaleBytes = 32;
constexpr int64_t kLossScaleBytes = 16;

int64_t target_bytes_per_sample(const ModelSpec& spec) {
  const Shape& output = spec.units[heads_of(spec).front().unit].output.shape;
  int64_t rows = 1;
  for (size_t i = 1; i + 1 < output.size(); ++i) rows *= output[i];
  return rows * kIdBytes;
}

int64_t per_sample(const ModelSpec& spec, const Value& value) {
  switch (value.kind) {
    case ValueKind::kBatch:
      return spec.units.front().input.bytes_per_sample() + target_bytes_per_sample(spec) + kIdBytes;
    case ValueKind::kSaved:
      return spec.units[value.unit].saved_bytes;
    case ValueKind::kDeferred:
      return spec.units[value.unit].deferred_bytes;
    default:
      return spec.units[value.unit].output.bytes_per_sample();
  }
}

}  // namespace

MemoryKind memory_kind(ValueKind kind) { return kHomes[static_cast<size_t>(kind)].memory; }
bool is_persistent(ValueKind kind) { return kHomes[static_cast<size_t>(kind)].persistent; }
ValueKind slot_class(ValueKind kind) {
  if (kind == ValueKind::kTotal) return ValueKind::kGradient;
  return kind == ValueKind::kWide ? ValueKind::kLeaf : kind;
}

bool is_gradient(ValueKind kind) {
  return kind == ValueKind::kGradient || kind == ValueKind::kTotal || kind == ValueKind::kLeaf ||
         kind == ValueKind::kWide;
}

FlatBuffer buffer_of(const Value& value) {
  const bool of_use = value.kind == ValueKind::kGradient || value.kind == ValueKind::kLeaf;
  const bool trained =
      is_gradient(value.kind) || value.kind == ValueKind::kState || value.kind == ValueKind::kHosted;
  return {value.unit, of_use ? value.index : 0, trained};
}

FlatBuffer buffer_of(const Instruction& instruction) {
  FURROW_CHECK(!instruction.writes.empty(), "communication of a unit writes something");
  FlatBuffer buffer = buffer_of(instruction.writes.front());
  buffer.trained = buffer.trained || instruction.op == Op::kGatherUpdated;
  return buffer;
}

Slice value_slice(const ByteContext& context, const Value& value) {
  if (value.unit < 0) return {};
  return part_slice(context.flat, context.placement, buffer_of(value), value.part);
}

DType element_type(const FlatLayout& flat, const Value& value) {
  switch (value.kind) {
    case ValueKind::kParams:
    case ValueKind::kGathered:
      return flat.units[value.unit].compute;
    case ValueKind::kGradient:
    case ValueKind::kTotal:
      return flat.reduce;
    case ValueKind::kHosted:
      return value.index == 0 ? DType::kF32 : flat.units[value.unit].compute;
    default:
      return DType::kF32;
  }
}

int64_t element_bytes(const FlatLayout& flat, const Value& value) {
  return static_cast<int64_t>(dtype_size(element_type(flat, value)));
}

int64_t value_bytes(const ByteContext& context, const Value& value) {
  const auto flat_bytes = [&] {
    return value_slice(context, value).size() * element_bytes(context.flat, value);
  };
  switch (value.kind) {
    case ValueKind::kBatch:
    case ValueKind::kAct:
    case ValueKind::kSaved:
    case ValueKind::kGrad:
    case ValueKind::kDeferred:
      return per_sample(context.spec, value) * context.microbatch_sizes[value.index];
    case ValueKind::kGradient:
    case ValueKind::kTotal:
    case ValueKind::kLeaf:
    case ValueKind::kWide:
    case ValueKind::kParams:
    case ValueKind::kGathered:
    case ValueKind::kHosted:
      return flat_bytes();
    case ValueKind::kState:
      return state_bytes(context.states, context.flat.units[value.unit], value_slice(context, value)) +
             flat_bytes() * context.flat.units[value.unit].masters();
    case ValueKind::kSnapshot:
      return flat_bytes() +
             state_bytes(context.states, context.flat.units[value.unit], value_slice(context, value));
    case ValueKind::kStats:
      return context.flat.units[value.unit].kept_statistics() * kFloatBytes;
    case ValueKind::kBnStats:
      return context.flat.units[value.unit].statistic_elements * kFloatBytes;
    case ValueKind::kLoss:
      return kLossBytes;
    case ValueKind::kSums:
      return kSumsBytes;
    case ValueKind::kScale:
      return kScaleBytes;
    case ValueKind::kLossScale:
      return kLossScaleBytes;
  }
  return 0;
}

// Elements beyond the trained ones stay where they are.
int64_t copied_bytes(const ByteContext& context, const Instruction& instruction) {
  const Value& written = instruction.writes.front();
  const int32_t version = instruction.op == Op::kCopyDown ? 0 : 1;
  return value_bytes(context, hosted_value(written.unit, version, written.part));
}

}  // namespace furrow::plan
