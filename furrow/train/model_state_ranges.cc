// What exports and checkpoints call the elements of a model's flat buffers, and where those lie.
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/slices.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {
namespace {

// One kind of flat buffer of every unit: what is held of it, and what of that is wanted.
struct Buffers {
  std::string prefix;
  std::span<const plan::Slice> held, wanted;
  std::function<const at::Tensor&(size_t)> of_unit;
  int tensor_rank = 0;
};

void add_ranges(const plan::ModelSpec& spec, const plan::FlatLayout& flat, const Buffers& buffers,
                std::vector<NamedRange>* ranges) {
  for (size_t u = 0; u < spec.units.size(); ++u) {
    const plan::Slice here = plan::overlap(buffers.held[u], buffers.wanted[u]);
    for (const plan::FlatSpan& span : flat.units[u].spans) {
      const plan::Parameter& parameter = spec.units[u].parameters[span.parameter];
      const plan::Slice part = plan::overlap(here, {span.offset, span.offset + span.size});
      if (part.size() == 0) continue;
      ranges->push_back({buffers.prefix + parameter.name, parameter.shape, part.begin - span.offset,
                         buffers.of_unit(u).narrow(0, part.begin - buffers.held[u].begin, part.size()),
                         &parameter, plan::place_of(spec, parameter, buffers.tensor_rank)});
    }
  }
}

}  // namespace

NamedTensor ModelState::whole_tensor(int unit, const plan::FlatSpan& span,
                                     std::span<const UnitState> parts) const {
  const plan::Parameter& parameter = spec_.units[unit].parameters[span.parameter];
  if (!plan::place_of(spec_, parameter, 0).cuts())
    return {parameter.name, tensor::view(parts[0].params, span.offset, parameter.shape)};
  const Shape shape = plan::whole_shape(parameter.shape, plan::place_of(spec_, parameter, 0));
  const MemoryScope scope(MemoryKind::kCheckpoint);
  const at::Tensor whole = at::empty(shape, at::kFloat);
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    const float* const part = parts[rank].params.const_data_ptr<float>() + span.offset;
    const plan::TensorPlace place = plan::place_of(spec_, parameter, static_cast<int>(rank));
    for (const plan::TensorRun& run : plan::runs_of(parameter.shape, place, 0, span.size))
      std::copy_n(part + run.begin, run.size, whole.data_ptr<float>() + run.whole);
  }
  return {parameter.name, whole};
}

std::vector<NamedTensor> ModelState::tensors_of(int unit, std::span<const UnitState> parts) const {
  FURROW_CHECK(static_cast<int>(parts.size()) == plan::tensor_degree(spec_), "a unit of every tensor rank");
  std::vector<NamedTensor> tensors;
  for (const plan::FlatSpan& span : flat_.units[unit].spans)
    tensors.push_back(whole_tensor(unit, span, parts));
  for (const plan::StatisticSpan& span : flat_.units[unit].statistics) {
    const plan::Statistic& statistic = spec_.units[unit].statistics[span.statistic];
    tensors.push_back(
        {statistic.name, statistic_view(parts[0].statistics, span, statistic).view(statistic.shape)});
  }
  return tensors;
}

std::vector<NamedRange> ModelState::model_ranges(std::span<const UnitState> units) const {
  std::vector<NamedRange> ranges = parameter_ranges(units, params_slices_, params_slices_);
  for (NamedRange& range : statistic_ranges(units)) ranges.push_back(std::move(range));
  return ranges;
}

std::vector<NamedRange> ModelState::statistic_ranges(std::span<const UnitState> units) const {
  return statistic_ranges_at(units, /*average=*/false);
}

std::vector<NamedRange> ModelState::averaged_statistic_ranges(std::span<const UnitState> units) const {
  return statistic_ranges_at(units, /*average=*/true);
}

std::vector<NamedRange> ModelState::statistic_ranges_at(std::span<const UnitState> units,
                                                        bool average) const {
  std::vector<NamedRange> ranges;
  for (size_t u = 0; u < units.size(); ++u) {
    const plan::UnitLayout& layout = flat_.units[u];
    if (!units[u].statistics.defined() || (average && !layout.averages_statistics)) continue;
    for (const plan::StatisticSpan& span : layout.statistics) {
      const plan::Statistic& statistic = spec_.units[u].statistics[span.statistic];
      const std::string name =
          average ? fmt::format("optimizer.{}/{}", plan::kAverageState, statistic.name) : statistic.name;
      ranges.push_back(
          {name, statistic.shape, 0,
           statistic_view(units[u].statistics, span, statistic, average ? layout.statistic_elements : 0)});
    }
  }
  return ranges;
}

std::vector<NamedRange> ModelState::parameter_ranges(std::span<const UnitState> units,
                                                     std::span<const plan::Slice> held,
                                                     std::span<const plan::Slice> wanted) const {
  std::vector<NamedRange> ranges;
  const auto of_unit = [&](size_t u) -> const at::Tensor& { return units[u].params; };
  add_ranges(spec_, flat_, {"", held, wanted, of_unit, residence_.tensor_rank}, &ranges);
  return ranges;
}

std::vector<NamedRange> ModelState::state_ranges(std::span<const UnitState> units,
                                                 std::span<const plan::Slice> held,
                                                 std::span<const plan::Slice> wanted) const {
  std::vector<NamedRange> ranges;
  for (size_t s = 0; s < states_.size(); ++s) {
    for (size_t u = 0; u < spec_.units.size(); ++u)
      add_state_ranges(s, u, {units[u].states, held[u], plan::overlap(held[u], wanted[u])}, &ranges);
  }
  return ranges;
}

void ModelState::add_state_ranges(size_t state, size_t unit, const HeldStates& from,
                                  std::vector<NamedRange>* ranges) const {
  const plan::UnitLayout& layout = flat_.units[unit];
  const plan::StateKind& form = states_[state].form;
  const plan::Slice held = plan::state_slice(form, layout, from.held),
                    wanted = plan::state_slice(form, layout, from.wanted);
  for (const plan::FlatSpan& span : layout.spans) {
    const plan::Parameter& parameter = spec_.units[unit].parameters[span.parameter];
    if (parameter.rule.frozen) continue;
    const Shape shape = plan::state_shape(form, span, parameter);
    const int64_t begin = plan::state_elements_before(form, layout, span.offset);
    const plan::Slice part = plan::overlap(wanted, {begin, begin + num_elements(shape)});
    if (part.size() == 0) continue;
    const plan::TensorPlace place = plan::place_of(spec_, parameter, residence_.tensor_rank);
    FURROW_CHECK(!place.cuts() || shape == parameter.shape, "a state of more than one tensor rank");
    ranges->push_back({fmt::format("optimizer.{}/{}", states_[state].name, parameter.name), shape,
                       part.begin - begin, from.states[state].narrow(0, part.begin - held.begin, part.size()),
                       &parameter, place});
  }
}

}  // namespace furrow::train
