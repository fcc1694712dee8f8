// What the slots of a program hold while it runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "furrow/data/batch.h"
#include "furrow/nn/declared_axis_torch.h"
#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/op_context.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/sums.h"

namespace furrow::train {

// The small autograd graph of one unit and one microbatch, from forward (or recompute) to backward_weight.
// Operations keep a pointer to `context` and `sink`: never moved.
struct UnitGraph {
  // `frozen`: by parameter.  `axis`: of the rank; null where it has none.  `device`: of gradients.
  UnitGraph(const std::vector<bool>& frozen, const plan::Unit& unit, tensor::TensorAxis* axis,
            const at::Device& device)
      : sink(frozen, device) {
    if (axis == nullptr) return;
    declared.emplace(*axis, unit);
    context.axis = &*declared;
  }
  UnitGraph(const UnitGraph&) = delete;
  UnitGraph& operator=(const UnitGraph&) = delete;

  at::Tensor input;   // detached; requires grad where there is a unit in front
  at::Tensor output;  // reset once backward_input has run
  tensor::GradientSink sink;
  tensor::OpContext context;
  std::optional<nn::DeclaredAxis> declared;
};

// An at::Tensor for act and grad; flat buffers of gradients and gathered parameters belong to their slots,
// params and state live in ModelState: those need no cell.
using Cell = std::variant<std::monostate, const data::Batch*, at::Tensor, std::unique_ptr<UnitGraph>,
                          LossSums, Sums, Scale, LossScale>;

}  // namespace furrow::train
