// What an operation needs besides its tensors.  No tensors here: torch-free.
#pragma once

#include <cstdint>
#include <span>

namespace furrow::tensor {

class GradientSink;
class TensorAxis;

// One per unit and microbatch; lives from forward to backward_weight.  Not thread safe.
struct OpContext {
  int threads = 1;        // for our kernels; libtorch's count is set on the rank's thread
  bool training = false;  // dropout on
  uint64_t seed = 0;
  int64_t step = 0;
  std::span<const int64_t> sample_ids;  // global sample index of each row of the microbatch
  // Where several documents share a row: each token's position in its document, [batch, time], 0 at its
  // start. Empty: a row is one.
  std::span<const int64_t> positions = {};
  GradientSink* sink = nullptr;  // where parameter gradients go; null: forward only
  // Over whose ranks parameters and activations are cut (tensor_axis_torch.h); null: none.  It lives until
  // backward_weight.
  TensorAxis* axis = nullptr;
  // Flat, as plan/flat_layout.h places a unit's statistics.  Training writes what the microbatch says, where
  // there is room (a recompute has none), to its device's memory; evaluation reads the host's running ones.
  std::span<float> batch_statistics = {};
  std::span<const float> statistics = {};
};

}  // namespace furrow::tensor
