// A tensor axis that holds a unit to what its spec declares.
#pragma once

#include <cstdint>
#include <span>

#include "furrow/plan/model_spec.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::nn {

// Stands before the axis of a rank for one unit and one microbatch, as OpContext::axis.  A collective that
// deviates from Unit::collectives (its operation, its bytes, one too many) is refused before it starts:
// Error{internal} that names unit, phase, what is expected and what was found.  Over one rank nothing is
// checked: nothing is communicated.  Not thread safe.
class DeclaredAxis final : public tensor::TensorAxis {
 public:
  using Phase = plan::UnitCollective::Phase;

  // Both outlive it.
  DeclaredAxis(tensor::TensorAxis& axis, const plan::Unit& unit) : axis_(axis), unit_(unit) {}

  // From here on the unit is in `phase`, with a microbatch of `samples`.  `input_gradient`: whether backward
  // goes on to the unit before.
  void enter(Phase phase, int64_t samples, bool input_gradient = true);
  // Error{internal}: declared, but not done.  Not called where the phase has thrown.
  void leave();

  int rank() const override { return axis_.rank(); }
  int size() const override { return axis_.size(); }
  void run(const tensor::AxisCollective& collective) override;

 private:
  const plan::UnitCollective* next() const;  // of the phase; nullptr: none is left

  tensor::TensorAxis& axis_;
  const plan::Unit& unit_;
  Phase phase_ = Phase::kForward;
  int64_t samples_ = 0;
  bool input_gradient_ = true;
  size_t next_ = 0;  // index in Unit::collectives
};

}  // namespace furrow::nn
