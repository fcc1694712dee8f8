#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/nn/init.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/slices.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {
namespace {

// Where the storage of a parameter is: its unit and its offset there.
struct Home {
  int unit;
  int64_t offset;
};

std::map<std::string, Home> homes_of(const plan::ModelSpec& spec, const plan::FlatLayout& flat) {
  std::map<std::string, Home> homes;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (const plan::FlatSpan& span : flat.units[u].spans) {
      homes[spec.units[u].parameters[span.parameter].name] = {static_cast<int>(u), span.offset};
    }
  }
  return homes;
}

Extent overlap(const Extent& a, const Extent& b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

Extent slice_of_state(const plan::UnitLayout& layout, plan::StateForm form, const Extent& elements) {
  const plan::Slice slice = plan::state_slice(form, layout, {elements.begin, elements.end});
  return {slice.begin, slice.end};
}

// One kind of flat buffer of every unit: what is held of it, and what of that is wanted.
struct Buffers {
  std::string prefix;
  std::span<const Extent> held, wanted;
  std::function<const at::Tensor&(size_t)> of_unit;
};

void add_ranges(const plan::ModelSpec& spec, const plan::FlatLayout& flat, const Buffers& buffers,
                std::vector<NamedRange>* ranges) {
  for (size_t u = 0; u < spec.units.size(); ++u) {
    const Extent here = overlap(buffers.held[u], buffers.wanted[u]);
    for (const plan::FlatSpan& span : flat.units[u].spans) {
      const plan::Parameter& parameter = spec.units[u].parameters[span.parameter];
      const Extent part = overlap(here, {span.offset, span.offset + span.size});
      if (part.size() == 0) continue;
      ranges->push_back({buffers.prefix + parameter.name, parameter.shape, part.begin - span.offset,
                         buffers.of_unit(u).narrow(0, part.begin - buffers.held[u].begin, part.size())});
    }
  }
}

}  // namespace

ModelState::ModelState(plan::ModelSpec spec, std::vector<plan::StateSpec> states, uint64_t seed,
                       std::span<const nn::BlockKind> extra_kinds, Residence residence)
    : spec_(std::move(spec)),
      flat_(plan::flat_layout(spec_)),
      states_(std::move(states)),
      residence_(std::move(residence)) {
  if (residence_.params.empty()) residence_.params = whole_extents();
  if (residence_.states.empty()) residence_.states = whole_extents();
  for (const plan::Unit& unit : spec_.units) blocks_.push_back(nn::make_block(unit, extra_kinds));
  make_buffers(seed);
  make_views();
  start_average();
}

std::vector<Extent> ModelState::whole_extents() const {
  std::vector<Extent> whole;
  for (const plan::UnitLayout& unit : flat_.units) whole.push_back({0, unit.elements});
  return whole;
}

void ModelState::make_buffers(uint64_t seed) {
  for (size_t u = 0; u < spec_.units.size(); ++u) {
    UnitState state;
    if (const int64_t elements = residence_.params[u].size(); elements > 0) {
      state.params = residence_.make_params ? residence_.make_params(elements)
                                            : tensor::flat_buffer(elements, MemoryKind::kParameters);
    }
    for (const plan::StateSpec& each : states_) {
      const int64_t elements = slice_of_state(flat_.units[u], each.form, residence_.states[u]).size();
      state.states.push_back(tensor::flat_buffer(elements, MemoryKind::kOptimizer,
                                                 tensor::scalar_type(plan::state_dtype(each.form))));
    }
    units_.push_back(std::move(state));
    const bool whole = residence_.params[u] == Extent{0, flat_.units[u].elements};
    static float nowhere = 0;  // never read: point_at() comes first
    windows_.push_back(whole ? at::Tensor() : at::from_blob(&nowhere, {flat_.units[u].elements}, at::kFloat));
    initialise(static_cast<int>(u), seed);
  }
}

void ModelState::initialise(int unit, uint64_t seed) {
  const Extent& resident = residence_.params[unit];
  for (const plan::FlatSpan& span : flat_.units[unit].spans) {
    const Extent part = overlap(resident, {span.offset, span.offset + span.size});
    if (part.size() == 0) continue;
    nn::initialise_range(spec_.units[unit].parameters[span.parameter], seed, part.begin - span.offset,
                         {units_[unit].params.data_ptr<float>() + (part.begin - resident.begin),
                          static_cast<size_t>(part.size())});
  }
}

at::Tensor ModelState::state_part(int unit, size_t state, const Extent& elements) const {
  const plan::UnitLayout& layout = flat_.units[unit];
  const Extent held = slice_of_state(layout, states_[state].form, residence_.states[unit]);
  const Extent part = slice_of_state(layout, states_[state].form, elements);
  return units_[unit].states[state].narrow(0, part.begin - held.begin, part.size());
}

int ModelState::average() const {
  const bool last = !states_.empty() && states_.back().name == plan::kAverageState;
  return last ? static_cast<int>(states_.size()) - 1 : -1;
}

void ModelState::start_average() {
  if (average() < 0) return;
  for (size_t u = 0; u < units_.size(); ++u) {
    const Extent& elements = residence_.states[u];
    const at::Tensor target = state_part(static_cast<int>(u), static_cast<size_t>(average()), elements);
    if (target.numel() == 0) continue;
    const int64_t begin = elements.begin - residence_.params[u].begin;
    target.copy_(units_[u].params.narrow(0, begin, target.numel()));
  }
}

bool ModelState::trains(int unit) const {
  return std::ranges::find(frozen_[unit], false) != frozen_[unit].end();
}

void ModelState::make_views() {
  for (const plan::Unit& unit : spec_.units) {
    std::vector<bool>& frozen = frozen_.emplace_back();
    for (const plan::Parameter& parameter : unit.parameters) frozen.push_back(parameter.rule.frozen);
  }
  const auto homes = homes_of(spec_, flat_);
  for (size_t u = 0; u < spec_.units.size(); ++u) {
    const plan::Unit& unit = spec_.units[u];
    // Of a unit that trains in part every leaf asks for a gradient; its sink drops those of frozen ones.
    const bool trained = trains(static_cast<int>(u));
    std::vector<tensor::Param> params;
    for (const plan::Parameter& parameter : unit.parameters) {
      const Home& home = homes.at(parameter.tied() ? parameter.tied_to : parameter.name);
      const at::Tensor& flat = is_whole(home.unit) ? units_[home.unit].params : windows_[home.unit];
      at::Tensor leaf = tensor::view(flat, home.offset, parameter.shape).detach();
      params.push_back({leaf.requires_grad_(trained), static_cast<int>(params.size())});
    }
    for (const plan::Adapter& each : unit.adapters) {
      const std::string stream = unit.parameters[each.a].name + ".dropout";
      params[each.weight].adapter = std::make_shared<const tensor::Adapter>(
          tensor::Adapter{params[each.a], params[each.b], each.scale, each.dropout, stream});
    }
    params_.push_back(std::move(params));
  }
}

void ModelState::point_at(int unit, float* gathered) {
  const at::Tensor& window = windows_[unit];
  if (window.storage().data() == gathered) return;
  window.storage().set_data_ptr_noswap(c10::DataPtr(gathered, c10::Device(c10::DeviceType::CPU)));
}

at::Tensor ModelState::gathered_buffer(int64_t elements, int ordinal,
                                       const std::function<at::Tensor()>& make) {
  at::Tensor& buffer = gathered_[{elements, ordinal}];
  if (!buffer.defined()) buffer = make();
  return buffer;
}

std::vector<NamedTensor> ModelState::parameters_of(std::span<const UnitState> units) const {
  std::vector<NamedTensor> tensors;
  for (size_t u = 0; u < spec_.units.size(); ++u) {
    for (const plan::FlatSpan& span : flat_.units[u].spans) {
      const plan::Parameter& parameter = spec_.units[u].parameters[span.parameter];
      tensors.push_back({parameter.name, tensor::view(units[u].params, span.offset, parameter.shape)});
    }
  }
  return tensors;
}

std::vector<NamedRange> ModelState::parameter_ranges(std::span<const UnitState> units,
                                                     std::span<const Extent> held,
                                                     std::span<const Extent> wanted) const {
  std::vector<NamedRange> ranges;
  const auto of_unit = [&](size_t u) -> const at::Tensor& { return units[u].params; };
  add_ranges(spec_, flat_, {"", held, wanted, of_unit}, &ranges);
  return ranges;
}

std::vector<NamedRange> ModelState::state_ranges(std::span<const UnitState> units,
                                                 std::span<const Extent> held,
                                                 std::span<const Extent> wanted) const {
  std::vector<NamedRange> ranges;
  for (size_t s = 0; s < states_.size(); ++s) {
    for (size_t u = 0; u < spec_.units.size(); ++u)
      add_state_ranges(s, u, {units[u].states, held[u], overlap(held[u], wanted[u])}, &ranges);
  }
  return ranges;
}

void ModelState::add_state_ranges(size_t state, size_t unit, const HeldStates& from,
                                  std::vector<NamedRange>* ranges) const {
  const plan::UnitLayout& layout = flat_.units[unit];
  const plan::StateForm form = states_[state].form;
  const Extent held = slice_of_state(layout, form, from.held),
               wanted = slice_of_state(layout, form, from.wanted);
  for (const plan::FlatSpan& span : layout.spans) {
    const plan::Parameter& parameter = spec_.units[unit].parameters[span.parameter];
    if (parameter.rule.frozen) continue;
    const Shape shape = plan::state_shape(form, span, parameter.shape);
    const int64_t begin = plan::state_elements_before(form, layout, span.offset);
    const Extent part = overlap(wanted, {begin, begin + num_elements(shape)});
    if (part.size() == 0) continue;
    ranges->push_back({fmt::format("optimizer.{}/{}", states_[state].name, parameter.name), shape,
                       part.begin - begin,
                       from.states[state].narrow(0, part.begin - held.begin, part.size())});
  }
}

UnitState ModelState::snapshot(int unit, const Extent& part, bool alias) const {
  const UnitState& live = units_[unit];
  const MemoryScope scope(MemoryKind::kCheckpoint);
  const auto take = [&](const at::Tensor& buffer, const Extent& resident) {
    const at::Tensor view = buffer.narrow(0, part.begin - resident.begin, part.size());
    return alias ? view : view.clone();
  };
  UnitState taken;
  if (part.size() == 0) return taken;
  taken.params = take(live.params, residence_.params[unit]);
  for (size_t s = 0; s < states_.size(); ++s) {
    const at::Tensor view = state_part(unit, s, part);
    taken.states.push_back(alias ? view : view.clone());
  }
  return taken;
}

std::vector<UnitState> ModelState::snapshot_parameters() const {
  const MemoryScope scope(MemoryKind::kCheckpoint);
  std::vector<UnitState> copies;
  for (const UnitState& unit : units_) {
    copies.push_back({unit.params.defined() ? unit.params.clone() : at::Tensor(), {}});
  }
  return copies;
}

void ModelState::load_snapshot(std::span<const UnitState> parameters) {
  for (size_t u = 0; u < parameters.size(); ++u) {
    if (parameters[u].params.defined()) units_[u].params.copy_(parameters[u].params);
  }
}

}  // namespace furrow::train
