#include <fmt/format.h>

#include <functional>
#include <map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/nn/init.h"
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

std::vector<NamedTensor> named(const plan::ModelSpec& spec, const plan::FlatLayout& flat,
                               const std::string& prefix,
                               const std::function<at::Tensor(size_t)>& flat_of_unit) {
  std::vector<NamedTensor> tensors;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (const plan::FlatSpan& span : flat.units[u].spans) {
      const plan::Parameter& parameter = spec.units[u].parameters[span.parameter];
      tensors.push_back(
          {prefix + parameter.name, tensor::view(flat_of_unit(u), span.offset, parameter.shape)});
    }
  }
  return tensors;
}

}  // namespace

ModelState::ModelState(plan::ModelSpec spec, std::vector<std::string> state_names, uint64_t seed,
                       std::span<const nn::BlockKind> extra_kinds)
    : spec_(std::move(spec)), flat_(plan::flat_layout(spec_)), state_names_(std::move(state_names)) {
  for (size_t u = 0; u < spec_.units.size(); ++u) {
    blocks_.push_back(nn::make_block(spec_.units[u], extra_kinds));
    UnitState state;
    if (const int64_t elements = flat_.units[u].elements; elements > 0) {
      state.params = tensor::flat_buffer(elements, MemoryKind::kParameters);
      for (size_t s = 0; s < state_names_.size(); ++s) {
        state.states.push_back(tensor::flat_buffer(elements, MemoryKind::kOptimizer));
      }
    }
    units_.push_back(std::move(state));
  }
  const auto homes = homes_of(spec_, flat_);
  for (const plan::Unit& unit : spec_.units) {
    std::vector<tensor::Param> params;
    for (const plan::Parameter& parameter : unit.parameters) {
      const Home& home = homes.at(parameter.tied() ? parameter.tied_to : parameter.name);
      at::Tensor leaf = tensor::view(units_[home.unit].params, home.offset, parameter.shape).detach();
      params.push_back({leaf.requires_grad_(true), static_cast<int>(params.size())});
      if (!parameter.tied()) {
        nn::initialise(parameter, seed,
                       {units_[home.unit].params.data_ptr<float>() + home.offset,
                        static_cast<size_t>(parameter.size())});
      }
    }
    params_.push_back(std::move(params));
  }
}

std::vector<NamedTensor> ModelState::parameters() const { return parameters_of(units_); }
std::vector<NamedTensor> ModelState::optimizer_states() const { return optimizer_states_of(units_); }

std::vector<NamedTensor> ModelState::parameters_of(std::span<const UnitState> units) const {
  return named(spec_, flat_, "", [&](size_t u) { return units[u].params; });
}

std::vector<NamedTensor> ModelState::optimizer_states_of(std::span<const UnitState> units) const {
  std::vector<NamedTensor> all;
  for (size_t s = 0; s < state_names_.size(); ++s) {
    auto tensors = named(spec_, flat_, fmt::format("optimizer.{}/", state_names_[s]),
                         [&](size_t u) { return units[u].states[s]; });
    all.insert(all.end(), tensors.begin(), tensors.end());
  }
  return all;
}

UnitState ModelState::snapshot(int unit, bool alias) const {
  const UnitState& live = units_[unit];
  if (alias) return live;
  const MemoryScope scope(MemoryKind::kCheckpoint);
  UnitState copy;
  if (live.params.defined()) copy.params = live.params.clone();
  for (const at::Tensor& state : live.states) copy.states.push_back(state.clone());
  return copy;
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
