// tensor/recurrent.cc on sizes.
#include <algorithm>

#include "furrow/models/adapter_costs.h"
#include "furrow/models/sized_operations.h"

namespace furrow::models {

using Memory = SizedOperations::Memory;
using Tensor = SizedOperations::Tensor;

// Of 16 bits, blocks of its rows are float32 while it is formed.
Memory SizedOperations::weight_with_adapter(const SizedLayer& layer) {
  if (layer.adapter == nullptr) return nullptr;
  const int64_t columns = layer.a / layer.rank;
  const Memory a = float_copy(layer.a), scaled_b = tape_.make(0, layer.b * kFloatBytes);
  const Memory sum = tape_.make(0, layer.weight * bytes_);
  float_copy(std::min(kWidenedRows * columns, layer.weight));
  return sum;
}

// What adapters read and the gradient of the gates are the weight's too.
void SizedOperations::defer_recurrent(const SizedLayer& layer, const Memory& both, const Memory& gates) {
  put_sum(layer.bias, all_rows_);
  defer(layer.trains || layer.a_trains || layer.b_trains, both, gates);
}

// The gradient of the gates comes in their place.
Tensor SizedOperations::lstm(const Tensor& x, int64_t in, const SizedLayer& layer) {
  constexpr int64_t kGates = 4;
  const int64_t hidden = layer.out;
  const Memory weight = weight_with_adapter(layer), gates = numbers(kGates * hidden),
               both = numbers(in + hidden), h = numbers(hidden), cell = numbers(hidden);
  const bool asks = x.needs_gradient();
  return tape_.record(h, {x}, trains_, [this, in, layer, gates, both, cell, asks](const Memory&) {
    const Memory weight = weight_with_adapter(layer);
    if (trains_) defer_recurrent(layer, both, gates);
    return std::vector{asks ? numbers(in) : nullptr};
  });
}

// The gradient of the input is a sum in float32.
Tensor SizedOperations::recurrent_concatenation(const Tensor& x, int64_t in, const SizedLayer& layer) {
  const int64_t hidden = layer.out;
  const Memory weight = weight_with_adapter(layer), gates = numbers(hidden), both = numbers(in + hidden);
  const bool asks = x.needs_gradient();
  return tape_.record(both, {x}, trains_, [this, in, layer, gates, both, asks](const Memory&) {
    const Memory weight = weight_with_adapter(layer);
    if (trains_) defer_recurrent(layer, both, gates);
    if (!asks) return std::vector<Memory>{};
    const Memory sum = floats(in);
    return std::vector{narrowed(sum, in)};
  });
}

}  // namespace furrow::models
