// Norms over flat buffers: squares are summed within blocks of 1,024 elements in a fixed order (double), and
// blocks exactly, so that the result does not depend on how a buffer is sharded or on the number of threads.
// Torch-free.
#pragma once

#include <span>

#include "furrow/base/exact_sum.h"

namespace furrow::tensor {

// Adds the sum of squares.  A NaN or infinity in `values` makes the sum NaN or infinite.
// REQUIRES: values starts on the grid of its flat buffer.
void add_sum_of_squares(std::span<const float> values, int threads, ExactSum* sum);

// out[i] = a[i] + b[i]; out may be a or b.
void add(std::span<const float> a, std::span<const float> b, std::span<float> out, int threads);

}  // namespace furrow::tensor
