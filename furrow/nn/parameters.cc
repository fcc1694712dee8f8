#include <fmt/format.h>

#include <utility>

#include "furrow/base/error.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::nn {
namespace {

bool ends_with_part(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  return name.size() == suffix.size() || name[name.size() - suffix.size() - 1] == '.';
}

}  // namespace

std::string layer_name(const plan::Unit& unit, std::string_view suffix, std::string_view layer) {
  const auto index = static_cast<size_t>(ParameterSlot::find(unit, suffix).index());
  std::string name = unit.parameters[index].name;
  name.replace(name.size() - suffix.size(), suffix.size(), layer);
  return name;
}

ParameterSlot ParameterSlot::find_optional(const plan::Unit& unit, std::string_view suffix) {
  ParameterSlot slot;
  for (size_t i = 0; i < unit.parameters.size() && slot.index_ < 0; ++i) {
    if (ends_with_part(unit.parameters[i].name, suffix)) slot.index_ = static_cast<int>(i);
  }
  return slot;
}

ParameterSlot ParameterSlot::find(const plan::Unit& unit, std::string_view suffix) {
  const ParameterSlot slot = find_optional(unit, suffix);
  if (slot.index_ < 0) {
    throw Error(ErrorCode::kInternal,
                fmt::format("unit {} of kind {} has no parameter '{}'", unit.name, unit.kind, suffix));
  }
  return slot;
}

ReplicatedParameters::ReplicatedParameters(const plan::Unit& unit) {
  for (size_t i = 0; i < unit.parameters.size(); ++i) {
    if (unit.parameters[i].summed) indices_.push_back(i);
  }
}

void ReplicatedParameters::sum_gradients(std::span<const tensor::Param> params,
                                         tensor::OpContext& context) const {
  if (indices_.empty() || context.sink == nullptr || !tensor::shared(context)) return;
  std::vector<tensor::Param> parts;
  for (const size_t i : indices_) parts.push_back(params[i]);
  context.sink->sum_over(*context.axis, std::move(parts));
}

int64_t statistic_offset(const plan::Unit& unit, std::string_view suffix) {
  for (const plan::StatisticSpan& span : plan::unit_layout(unit).statistics) {
    if (ends_with_part(unit.statistics[static_cast<size_t>(span.statistic)].name, suffix)) return span.offset;
  }
  throw Error(ErrorCode::kInternal,
              fmt::format("unit {} of kind {} has no statistic '{}'", unit.name, unit.kind, suffix));
}

int64_t own_part(const plan::Unit& unit, int64_t whole) {
  FURROW_CHECK(whole % unit.tensor_degree == 0, "a tensor axis divides what it cuts");
  return whole / unit.tensor_degree;
}

}  // namespace furrow::nn
