#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Storage.h>

#include <algorithm>
#include <map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/nn/init.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/slices.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/named_range_torch.h"

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

// A tensor over memory that is still to come: never read before point_at().
at::Tensor make_window(int64_t elements, at::ScalarType type, const at::Device& device) {
  if (device.is_cpu()) {
    static float nowhere = 0;
    return at::from_blob(&nowhere, {elements}, type);
  }
  const auto bytes = static_cast<int64_t>(c10::elementSize(type)) * elements;
  const c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<size_t>(bytes),
                             c10::DataPtr(nullptr, device), /*allocator=*/nullptr, /*resizable=*/false);
  return at::empty({0}, at::TensorOptions().dtype(type).device(device)).set_(storage, 0, {elements}, {1});
}

}  // namespace

ModelState::ModelState(plan::ModelSpec spec, std::vector<plan::StateSpec> states, uint64_t seed,
                       std::span<const nn::BlockKind> extra_kinds, Residence residence)
    : spec_(std::move(spec)),
      flat_(plan::flat_layout(spec_)),
      states_(std::move(states)),
      seed_(seed),
      residence_(std::move(residence)) {
  if (residence_.params.empty()) residence_.params = whole_slices();
  if (residence_.states.empty()) residence_.states = whole_slices();
  for (size_t u = 0; u < spec_.units.size(); ++u)
    params_slices_.push_back(flat_.units[u].masters() > 0
                                 ? plan::overlap(residence_.states[u], {0, flat_.units[u].trained_elements})
                                 : residence_.params[u]);
  for (const plan::Unit& unit : spec_.units) blocks_.push_back(nn::make_block(unit, extra_kinds));
  make_buffers();
  const ReadRange initial = [&](const NamedRange& range) { initialise(range); };
  round_trained(units_, initial);
  round_frozen(units_, initial);
  make_views();
  start_average();
}

std::vector<plan::Slice> ModelState::whole_slices() const {
  std::vector<plan::Slice> whole;
  for (const plan::UnitLayout& unit : flat_.units) whole.push_back({0, unit.elements});
  return whole;
}

at::Tensor ModelState::make_params(int64_t elements, at::ScalarType type) const {
  return residence_.make_params
             ? residence_.make_params(elements, type)
             : tensor::flat_buffer(elements, MemoryKind::kParameters, type, residence_.device);
}

// Those of a bucket lie end to end, as a collective moves them.
std::vector<at::Tensor> ModelState::make_params() const {
  std::vector<at::Tensor> params(spec_.units.size());
  const std::vector<int32_t>& buckets = residence_.buckets;
  for (size_t begin = 0, end = 0; begin < params.size(); begin = end) {
    int64_t elements = residence_.params[begin].size();
    for (end = begin + 1; end < buckets.size() && buckets[end] == buckets[begin]; ++end)
      elements += residence_.params[end].size();
    if (elements == 0) continue;
    const at::Tensor all = make_params(elements, tensor::scalar_type(flat_.units[begin].compute));
    int64_t at = 0;
    for (size_t u = begin; u < end; ++u) {
      const int64_t size = residence_.params[u].size();
      if (size > 0) params[u] = all.narrow(0, at, size);
      at += size;
    }
  }
  return params;
}

void ModelState::make_buffers() {
  std::vector<at::Tensor> params = make_params();
  for (size_t u = 0; u < spec_.units.size(); ++u) {
    UnitState state;
    const bool masters = flat_.units[u].masters() > 0;
    const auto type = tensor::scalar_type(flat_.units[u].compute);
    (masters ? state.compute : state.params) = std::move(params[u]);
    const bool offload = flat_.units[u].offload;
    const at::Device device = offload ? at::Device(at::kCPU) : residence_.device;
    if (const int64_t elements = params_slices_[u].size(); masters && elements > 0)
      state.params = tensor::flat_buffer(elements, MemoryKind::kOptimizer, at::kFloat, device);
    for (const plan::StateSpec& each : states_) {
      const int64_t elements = plan::state_slice(each.form, flat_.units[u], residence_.states[u]).size();
      state.states.push_back(tensor::flat_buffer(elements, MemoryKind::kOptimizer,
                                                 tensor::scalar_type(plan::state_dtype(each.form)), device));
    }
    if (flat_.units[u].statistic_elements > 0 && (residence_.runs.empty() || residence_.runs[u])) {
      state.statistics = tensor::flat_buffer(flat_.units[u].kept_statistics(), MemoryKind::kOther);
      for (const plan::StatisticSpan& span : flat_.units[u].statistics) {
        const plan::Statistic& statistic = spec_.units[u].statistics[span.statistic];
        statistic_view(state.statistics, span, statistic).fill_(statistic.initial);
      }
    }
    units_.push_back(std::move(state));
    const bool whole = residence_.params[u] == plan::Slice{0, flat_.units[u].elements};
    windows_.push_back(whole ? at::Tensor() : make_window(flat_.units[u].elements, type, residence_.device));
  }
  for (const NamedRange& range : parameter_ranges(units_, params_slices_, params_slices_)) initialise(range);
}

// The bits of the whole parameter, wherever it is cut.
void ModelState::initialise(const NamedRange& range) const {
  if (!range.elements.device().is_cpu())
    return through_host(range, [this](const NamedRange& here) { initialise(here); });
  plan::Parameter whole = *range.parameter;
  whole.shape = plan::whole_shape(range.shape, range.place);
  float* const elements = range.elements.data_ptr<float>();
  const int64_t end = range.begin + range.elements.numel();
  for (const plan::TensorRun& run : plan::runs_of(range.shape, range.place, range.begin, end)) {
    nn::initialise_range(whole, seed_, run.whole,
                         {elements + (run.begin - range.begin), static_cast<size_t>(run.size)});
  }
}

void ModelState::round_elements(const UnitState& from, int unit, const plan::Slice& elements,
                                const ReadRange& read) const {
  for (const plan::FlatSpan& span : flat_.units[unit].spans) {
    const plan::Parameter& parameter = spec_.units[unit].parameters[span.parameter];
    const plan::Slice part = plan::overlap(elements, {span.offset, span.offset + span.size});
    if (part.size() == 0) continue;
    const NamedRange range{parameter.name,
                           parameter.shape,
                           part.begin - span.offset,
                           tensor::flat_buffer(part.size(), MemoryKind::kOther),
                           &parameter,
                           plan::place_of(spec_, parameter, residence_.tensor_rank)};
    read(range);
    from.compute.narrow(0, part.begin - residence_.params[unit].begin, part.size()).copy_(range.elements);
  }
}

void ModelState::round_trained(std::span<const UnitState> units, const ReadRange& read) const {
  for (size_t u = 0; u < units.size(); ++u) {
    if (!units[u].compute.defined()) continue;
    const plan::Slice& resident = residence_.params[u];
    const plan::Slice trained = plan::overlap(resident, {0, flat_.units[u].trained_elements});
    if (trained == params_slices_[u]) {
      if (trained.size() > 0)
        units[u].compute.narrow(0, trained.begin - resident.begin, trained.size()).copy_(units[u].params);
    } else {
      round_elements(units[u], static_cast<int>(u), trained, read);
    }
  }
}

void ModelState::round_frozen(std::span<const UnitState> units, const ReadRange& read) const {
  for (size_t u = 0; u < units.size(); ++u) {
    if (!units[u].compute.defined()) continue;
    const plan::UnitLayout& layout = flat_.units[u];
    round_elements(units[u], static_cast<int>(u),
                   plan::overlap(residence_.params[u], {layout.trained_elements, layout.elements}), read);
  }
}

at::Tensor ModelState::state_part(int unit, size_t state, const plan::Slice& elements) const {
  const plan::UnitLayout& layout = flat_.units[unit];
  const plan::Slice held = plan::state_slice(states_[state].form, layout, residence_.states[unit]);
  const plan::Slice part = plan::state_slice(states_[state].form, layout, elements);
  return units_[unit].states[state].narrow(0, part.begin - held.begin, part.size());
}

int ModelState::average() const {
  const bool last = !states_.empty() && states_.back().name == plan::kAverageState;
  return last ? static_cast<int>(states_.size()) - 1 : -1;
}

void ModelState::start_average() {
  for (size_t u = 0; u < units_.size(); ++u) {
    const at::Tensor& statistics = units_[u].statistics;
    if (!statistics.defined() || !flat_.units[u].averages_statistics) continue;
    const int64_t elements = flat_.units[u].statistic_elements;
    statistics.narrow(0, elements, elements).copy_(statistics.narrow(0, 0, elements));
  }
  if (average() < 0) return;
  for (size_t u = 0; u < units_.size(); ++u) {
    const plan::Slice& elements = residence_.states[u];
    const at::Tensor target = state_part(static_cast<int>(u), static_cast<size_t>(average()), elements);
    if (target.numel() == 0) continue;
    const int64_t begin = elements.begin - params_slices_[u].begin;
    target.copy_(units_[u].params.narrow(0, begin, target.numel()));
  }
}

at::Tensor ModelState::statistic_view(const at::Tensor& flat, const plan::StatisticSpan& span,
                                      const plan::Statistic& statistic, int64_t from) {
  const at::Tensor words = flat.narrow(0, from + span.offset, span.size);
  return statistic.dtype() == DType::kI64 ? words.view(at::kLong) : words;
}

bool ModelState::trains(int unit) const {
  return std::ranges::find(frozen_[unit], false) != frozen_[unit].end();
}

void ModelState::make_views() {
  for (const plan::Unit& unit : spec_.units) {
    std::vector<bool>& frozen = frozen_.emplace_back();
    for (const plan::Parameter& parameter : unit.parameters)
      frozen.push_back(parameter.rule.frozen || parameter.borrowed);
  }
  const auto homes = homes_of(spec_, flat_);
  for (size_t u = 0; u < spec_.units.size(); ++u) {
    const plan::Unit& unit = spec_.units[u];
    // Of a unit that trains in part every leaf asks for a gradient; its sink drops those of frozen ones.
    const bool trained = trains(static_cast<int>(u));
    std::vector<tensor::Param> params;
    for (const plan::Parameter& parameter : unit.parameters) {
      const Home& home = homes.at(parameter.tied() ? parameter.tied_to : parameter.name);
      const at::Tensor& flat = is_whole(home.unit) ? units_[home.unit].read() : windows_[home.unit];
      at::Tensor leaf = tensor::view(flat, home.offset, parameter.shape).detach();
      params.push_back({leaf.requires_grad_(trained), static_cast<int>(params.size())});
    }
    for (const plan::Adapter& each : unit.adapters) {
      const plan::Parameter& a = unit.parameters[each.a];
      tensor::Adapter adapter{params[each.a], params[each.b], each.scale, each.dropout, a.name + ".dropout"};
      const plan::TensorPlace place = plan::place_of(spec_, a, 0);
      if (place.cuts()) adapter.columns = plan::whole_shape(a.shape, place)[1];
      params[each.weight].adapter = std::make_shared<const tensor::Adapter>(std::move(adapter));
    }
    params_.push_back(std::move(params));
  }
}

void ModelState::point_at(int unit, void* gathered) {
  const at::Tensor& window = windows_[unit];
  if (window.storage().data() == gathered) return;
  window.storage().set_data_ptr_noswap(c10::DataPtr(gathered, window.device()));
}

at::Tensor ModelState::gathered_buffer(int64_t bytes, int ordinal, const std::function<at::Tensor()>& make) {
  at::Tensor& buffer = gathered_[{bytes, ordinal}];
  if (!buffer.defined()) buffer = make();
  return buffer;
}

}  // namespace furrow::train
