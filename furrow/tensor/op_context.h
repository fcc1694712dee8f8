// What an operation needs besides its tensors.  No tensors here: torch-free.
#pragma once

#include <cstdint>
#include <span>

namespace furrow::tensor {

class GradientSink;

// One per unit and microbatch; lives from forward to backward_weight.  Not thread safe.
struct OpContext {
  int threads = 1;        // for our kernels; libtorch's count is set on the rank's thread
  bool training = false;  // dropout on
  uint64_t seed = 0;
  int64_t step = 0;
  std::span<const int64_t> sample_ids;  // global sample index of each row of the microbatch
  GradientSink* sink = nullptr;         // where parameter gradients go; null: forward only
  // Flat, as plan/flat_layout.h places a unit's statistics.  Training writes what the microbatch says, where
  // there is room (a recompute has none); evaluation reads the running ones.
  std::span<float> batch_statistics;
  std::span<const float> statistics;
};

}  // namespace furrow::tensor
