// What of a model's flat buffers lives on a rank.
#include <ATen/ops/from_blob.h>

#include <memory>

#include "furrow/plan/slices.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/residence_torch.h"

namespace furrow::train {
namespace {

std::vector<Extent> extents_of(const plan::FlatLayout& flat, const plan::Placement& placement,
                               plan::Part part) {
  std::vector<Extent> extents;
  for (size_t u = 0; u < flat.units.size(); ++u) {
    const plan::Slice slice = plan::part_slice(flat, placement, {static_cast<int>(u), 0}, part);
    extents.push_back({slice.begin, slice.end});
  }
  return extents;
}

}  // namespace

Residence residence_of(const plan::FlatLayout& flat, const plan::Placement& placement,
                       const RankContext& rank) {
  Residence residence;
  residence.params = extents_of(flat, placement, placement.params_part());
  residence.states = extents_of(flat, placement, placement.step_part());
  if (!rank.alone()) {
    residence.make_params = [communicator = rank.communicator](int64_t elements, at::ScalarType type) {
      return rank_buffer(communicator, elements, MemoryKind::kParameters, type);
    };
  }
  return residence;
}

std::vector<Extent> own_extents(const plan::FlatLayout& flat, const plan::Placement& placement) {
  return extents_of(flat, placement, placement.own_part());
}

at::Tensor rank_buffer(comm::Communicator* communicator, int64_t elements, MemoryKind kind,
                       at::ScalarType type) {
  if (communicator == nullptr || elements == 0) return tensor::flat_buffer(elements, kind, type);
  auto memory = std::make_shared<comm::Memory>(
      communicator->allocate(static_cast<size_t>(elements) * c10::elementSize(type), kind));
  return at::from_blob(memory->data(), {elements}, [memory](void*) {}, type);
}

}  // namespace furrow::train
