// Copies of a model's flat buffers: for checkpoints, and of its best weights.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "furrow/plan/slices.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {
namespace {

// Parameters and statistics of the units of which there are both.
void copy_units(std::span<const UnitState> from, std::span<UnitState> to) {
  for (size_t u = 0; u < std::min(from.size(), to.size()); ++u) {
    if (from[u].params.defined()) to[u].params.copy_(from[u].params);
    if (from[u].compute.defined()) to[u].compute.copy_(from[u].compute);
    if (from[u].statistics.defined()) to[u].statistics.copy_(from[u].statistics);
  }
}

}  // namespace

at::Tensor ModelState::values(int unit, const plan::Slice& elements) const {
  const UnitState& live = units_[unit];
  const plan::Slice& masters = params_slices_[unit];
  const plan::Slice trained = plan::overlap(elements, masters);
  if (trained == elements) return live.params.narrow(0, elements.begin - masters.begin, elements.size());
  const MemoryScope scope(MemoryKind::kCheckpoint);
  at::Tensor values = at::empty({elements.size()}, at::kFloat);
  const auto place = [&](const plan::Slice& part) {
    return values.narrow(0, part.begin - elements.begin, part.size());
  };
  if (trained.size() > 0)
    place(trained).copy_(live.params.narrow(0, trained.begin - masters.begin, trained.size()));
  const plan::Slice frozen = plan::overlap(elements, {flat_.units[unit].trained_elements, elements.end});
  if (frozen.size() > 0)
    place(frozen).copy_(live.compute.narrow(0, frozen.begin - residence_.params[unit].begin, frozen.size()));
  return values;
}

// In the order of UnitState, params where there are some.
std::vector<ModelState::Piece> ModelState::pieces_of(int unit, const Taking& taking) const {
  const UnitState& live = units_[unit];
  const plan::Slice& part = taking.part;
  std::vector<Piece> pieces;
  const auto add = [&](Piece::What what, const at::Tensor& view) {
    const bool copied = !taking.alias || !view.device().is_cpu();
    pieces.push_back({what, view, static_cast<int64_t>(view.nbytes()), copied});
  };
  if (taking.statistics && live.statistics.defined()) add(Piece::What::kStatistics, live.statistics);
  if (part.size() == 0) return pieces;
  const plan::Slice& masters = params_slices_[unit];
  if (plan::overlap(part, masters) == part) {
    add(Piece::What::kParams, live.params.narrow(0, part.begin - masters.begin, part.size()));
  } else {  // some have no float32: values() makes it
    pieces.push_back({Piece::What::kParams, {}, part.size() * static_cast<int64_t>(sizeof(float)), true});
  }
  for (size_t s = 0; s < states_.size(); ++s) add(Piece::What::kState, state_part(unit, s, part));
  return pieces;
}

UnitState ModelState::snapshot(int unit, const Taking& taking) const {
  const MemoryScope scope(MemoryKind::kCheckpoint);
  UnitState taken;
  for (const Piece& piece : pieces_of(unit, taking)) {
    at::Tensor held = piece.view;
    if (!held.defined()) {
      held = values(unit, taking.part);
    } else if (piece.copied) {
      held = tensor::kept_copy(held);
    }
    if (piece.what == Piece::What::kStatistics) {
      taken.statistics = std::move(held);
    } else if (piece.what == Piece::What::kParams) {
      taken.params = std::move(held);
    } else {
      taken.states.push_back(std::move(held));
    }
  }
  return taken;
}

std::vector<int64_t> ModelState::snapshot_bytes(int unit, const Taking& taking) const {
  std::vector<int64_t> bytes;
  for (const Piece& piece : pieces_of(unit, taking)) {
    if (piece.copied) bytes.push_back(piece.bytes);
  }
  return bytes;
}

std::vector<UnitState> ModelState::snapshot_parameters() const {
  const MemoryScope scope(MemoryKind::kCheckpoint);
  std::vector<UnitState> copies;
  const auto copy = [](const at::Tensor& t) { return t.defined() ? tensor::kept_copy(t) : at::Tensor(); };
  for (const UnitState& unit : units_)
    copies.push_back({copy(unit.params), {}, copy(unit.statistics), copy(unit.compute)});
  return copies;
}

void ModelState::snapshot_parameters(std::span<UnitState> copies) const { copy_units(units_, copies); }

void ModelState::load_snapshot(std::span<const UnitState> parameters) { copy_units(parameters, units_); }

}  // namespace furrow::train
