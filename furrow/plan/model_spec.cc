#include "furrow/plan/model_spec.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <set>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/plan/topology.h"

namespace furrow::plan {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

// Keeps sums of bytes far away from what int64 holds.
constexpr int64_t kMostElements = int64_t{1} << 40;

bool too_large(const Shape& shape) {
  int64_t elements = 1;
  for (int64_t size : shape) {
    if (size > 0 && (__builtin_mul_overflow(elements, size, &elements) || elements > kMostElements))
      return true;
  }
  return false;
}

// Names stand in programs, checkpoints and file listings: one word of printable ASCII.
void check_name(std::string_view what, std::string_view name) {
  if (name.empty()) fail(fmt::format("a {} has no name", what));
  for (char c : name) {
    if (c <= ' ' || c > '~') {
      fail(fmt::format("{} name '{}': only printable ASCII without spaces is allowed", what, name));
    }
  }
}

void check_border(const Unit& unit, std::string_view side, const TensorSpec& spec) {
  bool good = !spec.shape.empty() && spec.shape[0] == -1;
  for (size_t i = 1; good && i < spec.shape.size(); ++i) good = spec.shape[i] > 0;
  if (!good) {
    fail(fmt::format("unit {}: {} {} must be [-1, sizes above 0...]; -1 is the microbatch", unit.name, side,
                     to_string(spec.shape)));
  }
  if (too_large(spec.shape)) {
    fail(fmt::format("unit {}: {} {} has more than {} elements", unit.name, side, to_string(spec.shape),
                     kMostElements));
  }
}

void check_costs(const Unit& unit) {
  const double flops[] = {unit.flops.forward, unit.flops.backward_input, unit.flops.backward_weight};
  for (double f : flops) {
    if (!std::isfinite(f) || f < 0)
      fail(fmt::format("unit {}: flops must be finite and not negative", unit.name));
  }
  for (int64_t bytes : {unit.saved_bytes, unit.deferred_bytes}) {
    if (bytes < 0 || bytes > kMostElements) {
      fail(fmt::format("unit {}: saved_bytes and deferred_bytes must be 0 to {}", unit.name, kMostElements));
    }
  }
  for (const Scratch& scratch :
       {unit.forward_scratch, unit.backward_scratch, unit.weight_scratch, unit.loss_scratch}) {
    for (const int64_t bytes : {scratch.sample_bytes, scratch.fixed_bytes}) {
      if (bytes < -kMostElements || bytes > kMostElements)
        fail(fmt::format("unit {}: bytes of scratch must be -{} to {}", unit.name, kMostElements,
                         kMostElements));
    }
  }
  const int64_t saved = unit.kept_saved_bytes, grad = unit.kept_grad_bytes;
  if (saved < 0 || grad < 0 || saved > unit.saved_bytes || saved + grad > unit.deferred_bytes) {
    fail(fmt::format(
        "unit {}: kept_saved_bytes are part of saved_bytes, and with kept_grad_bytes of deferred_bytes",
        unit.name));
  }
}

// Own parameters of the units before the current one.
using Owners = std::map<std::string, const Parameter*>;

void check_tie(const Unit& unit, const Parameter& parameter, const Owners& earlier) {
  auto owner = earlier.find(parameter.tied_to);
  if (owner == earlier.end()) {
    fail(fmt::format("parameter {} of unit {} is tied to {}, which is no own parameter of an earlier unit",
                     parameter.name, unit.name, parameter.tied_to));
  }
  if (owner->second->shape != parameter.shape || owner->second->dtype != parameter.dtype) {
    fail(fmt::format("parameter {} {} of unit {} is tied to {} {}: shapes and types must be equal",
                     parameter.name, to_string(parameter.shape), unit.name, parameter.tied_to,
                     to_string(owner->second->shape)));
  }
}

void check_parameter(const Unit& unit, const Parameter& parameter, const Owners& earlier) {
  check_name("parameter", parameter.name);
  if (parameter.dtype != DType::kF32) {
    fail(fmt::format("parameter {} of unit {} is {}: flat buffers hold float32", parameter.name, unit.name,
                     to_string(parameter.dtype)));
  }
  for (int64_t size : parameter.shape) {
    if (size <= 0) {
      fail(fmt::format("parameter {} of unit {} has shape {}: every size must be above 0", parameter.name,
                       unit.name, to_string(parameter.shape)));
    }
  }
  if (too_large(parameter.shape)) {
    fail(fmt::format("parameter {} {} of unit {} has more than {} elements", parameter.name,
                     to_string(parameter.shape), unit.name, kMostElements));
  }
  if (parameter.tied()) check_tie(unit, parameter, earlier);
}

void check_compute(const Unit& unit) {
  if (is_number(unit.compute)) return;
  fail(fmt::format("unit {} computes in {}: float32, bfloat16 and float16 are known", unit.name,
                   to_string(unit.compute)));
}

void check_statistic(const Unit& unit, const Statistic& statistic) {
  check_name("statistic", statistic.name);
  for (int64_t size : statistic.shape) {
    if (size <= 0) {
      fail(fmt::format("statistic {} of unit {} has shape {}: every size must be above 0", statistic.name,
                       unit.name, to_string(statistic.shape)));
    }
  }
  if (too_large(statistic.shape)) {
    fail(fmt::format("statistic {} {} of unit {} has more than {} elements", statistic.name,
                     to_string(statistic.shape), unit.name, kMostElements));
  }
  if (!(statistic.momentum > 0 && statistic.momentum <= 1)) {
    fail(fmt::format("statistic {} of unit {} has momentum {}: it must be above 0 and at most 1",
                     statistic.name, unit.name, statistic.momentum));
  }
  if (unit.parameter_count() == 0) {
    fail(
        fmt::format("unit {} has statistics ({}) but no parameters of its own: put them into a unit that is "
                    "trained",
                    unit.name, statistic.name));
  }
}

void check_source(const ModelSpec& spec, size_t index) {
  const Unit& unit = spec.units[index];
  const int32_t source = source_of(spec, static_cast<int32_t>(index));
  if (source == kFromBatch) return;
  if (source < 0 || source >= static_cast<int32_t>(index))
    fail(fmt::format("unit {} reads unit {}: it can read earlier ones alone", unit.name, source));
  const Unit& read = spec.units[source];
  // Which dim a tensor axis cuts matters to who cuts (plan::tensor_cut).
  if (read.output.dtype == unit.input.dtype && read.output.shape == unit.input.shape) return;
  fail(fmt::format("unit {} reads {} {}, but unit {} before it gives {} {}", unit.name,
                   to_string(unit.input.dtype), to_string(unit.input.shape), read.name,
                   to_string(read.output.dtype), to_string(read.output.shape)));
}

}  // namespace

std::string_view name_of(UnitCollective::Phase phase) {
  constexpr std::array<std::string_view, 4> kNames = {"forward", "backward_input", "backward_weight", "loss"};
  return kNames[static_cast<size_t>(phase)];
}

std::string_view name_of(UnitCollective::Op op) {
  constexpr std::array<std::string_view, 3> kNames = {"all_reduce", "reduce_scatter", "all_gather"};
  return kNames[static_cast<size_t>(op)];
}

int64_t TensorSpec::bytes_per_sample() const {
  FURROW_CHECK(!shape.empty(), "a border tensor has a microbatch dim");
  int64_t elements = 1;
  for (size_t i = 1; i < shape.size(); ++i) elements *= shape[i];
  return elements * static_cast<int64_t>(dtype_size(dtype));
}

int64_t Unit::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters) {
    if (!parameter.tied()) count += parameter.size();
  }
  return count;
}

int64_t ModelSpec::parameter_count() const {
  int64_t count = 0;
  for (const Unit& unit : units) count += unit.parameter_count();
  return count;
}

void validate(const ModelSpec& spec) {
  if (spec.units.empty()) fail(fmt::format("model {} has no units", spec.architecture));
  std::set<std::string> unit_names, parameter_names;
  Owners earlier;
  for (size_t i = 0; i < spec.units.size(); ++i) {
    const Unit& unit = spec.units[i];
    check_name("unit", unit.name);
    if (!unit_names.insert(unit.name).second) fail(fmt::format("two units are named {}", unit.name));
    check_compute(unit);
    check_border(unit, "input", unit.input);
    check_border(unit, "output", unit.output);
    check_costs(unit);
    check_source(spec, i);
    for (const Parameter& parameter : unit.parameters) {
      check_parameter(unit, parameter, earlier);
      if (!parameter_names.insert(parameter.name).second) {
        fail(fmt::format("two parameters are named {} (the second in unit {})", parameter.name, unit.name));
      }
    }
    for (const Statistic& statistic : unit.statistics) {
      check_statistic(unit, statistic);
      if (!parameter_names.insert(statistic.name).second) {
        fail(fmt::format("two parameters or statistics are named {} (the second in unit {})", statistic.name,
                         unit.name));
      }
    }
    for (const Parameter& parameter : unit.parameters) {
      if (!parameter.tied()) earlier.emplace(parameter.name, &parameter);
    }
  }
  validate_topology(spec);
}

template <class T>
T attribute(const Unit& unit, const std::string& key) {
  auto it = unit.attributes.find(key);
  if (it == unit.attributes.end()) {
    throw Error(ErrorCode::kInternal,
                fmt::format("unit {} ({}) has no attribute '{}'", unit.name, unit.kind, key));
  }
  const T* value = std::get_if<T>(&it->second);
  if (value == nullptr) {
    throw Error(ErrorCode::kInternal,
                fmt::format("attribute '{}' of unit {} ({}) has another type", key, unit.name, unit.kind));
  }
  return *value;
}

template bool attribute<bool>(const Unit&, const std::string&);
template int64_t attribute<int64_t>(const Unit&, const std::string&);
template double attribute<double>(const Unit&, const std::string&);
template std::string attribute<std::string>(const Unit&, const std::string&);

}  // namespace furrow::plan
