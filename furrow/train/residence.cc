// What of a model's flat buffers lives on a rank.
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <memory>

#include "furrow/plan/slices.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/residence_torch.h"

namespace furrow::train {
namespace {

// Of the units that `has` says yes to; nothing of the others.
template <class Has>
std::vector<plan::Slice> slices_of(const plan::FlatLayout& flat, const plan::Placement& placement,
                                   plan::Part part, const Has& has) {
  std::vector<plan::Slice> slices;
  for (size_t u = 0; u < flat.units.size(); ++u) {
    const plan::Slice slice = plan::part_slice(flat, placement, {static_cast<int>(u), 0}, part);
    slices.push_back(has(static_cast<int>(u)) ? slice : plan::Slice{});
  }
  return slices;
}

// Parameters of its own units, and those that they tie.
bool keeps(const plan::FlatLayout& flat, const plan::Placement& placement, int unit) {
  return placement.holds(unit) || std::ranges::any_of(flat.tied, [&](const plan::TiedUse& tied) {
           return tied.owner_unit == unit && placement.holds(tied.user_unit);
         });
}

}  // namespace

Residence residence_of(const plan::FlatLayout& flat, const plan::Placement& placement,
                       const RankContext& rank) {
  Residence residence;
  const auto holds = [&](int unit) { return placement.holds(unit); };
  residence.params = slices_of(flat, placement, placement.params_part(),
                               [&](int unit) { return keeps(flat, placement, unit); });
  residence.states = slices_of(flat, placement, placement.step_part(), holds);
  for (size_t u = 0; u < flat.units.size(); ++u) residence.runs.push_back(holds(static_cast<int>(u)));
  residence.buckets = placement.buckets;
  residence.tensor_rank = placement.tensor_rank();
  residence.device = device_of(rank);
  if (!rank.alone()) {
    residence.make_params = [rank = rank](int64_t elements, at::ScalarType type) {
      return rank_buffer(rank, elements, MemoryKind::kParameters, type);
    };
  }
  return residence;
}

std::vector<plan::Slice> own_slices(const plan::FlatLayout& flat, const plan::Placement& placement) {
  return slices_of(flat, placement, placement.own_part(), [&](int unit) { return placement.holds(unit); });
}

at::Tensor rank_buffer(const RankContext& rank, int64_t elements, MemoryKind kind, at::ScalarType type) {
  const at::Device device = device_of(rank);
  if (device.is_cpu()) return rank_buffer(rank.communicator, elements, kind, type);
  return tensor::flat_buffer(elements, kind, type, device);
}

at::Tensor rank_buffer(comm::Communicator* communicator, int64_t elements, MemoryKind kind,
                       at::ScalarType type) {
  if (communicator == nullptr || elements == 0) return tensor::flat_buffer(elements, kind, type);
  auto memory = std::make_shared<comm::Memory>(
      communicator->allocate(static_cast<size_t>(elements) * c10::elementSize(type), kind));
  return at::from_blob(memory->data(), {elements}, [memory](void*) {}, type);
}

}  // namespace furrow::train
