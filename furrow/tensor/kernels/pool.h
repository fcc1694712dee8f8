// Pools of images whose channels lie side by side, [batch, height, width, channels], float32 inside whatever
// the numbers are.  A window beyond the border reads nothing (maxima) or zeros (means), as in PyTorch with
// count_include_pad.  An image depends on that image alone: no result depends on threads.  Thread safe.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

inline constexpr int64_t kLargestPool = 15;  // a window has at most 256 places

// REQUIRES: 1 <= kernel <= kLargestPool, stride >= 1, 0 <= padding <= kernel / 2.
struct PoolShape {
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  int64_t kernel = 2, stride = 2, padding = 0;
  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
};

// y and, of each, the place in its window where the maximum was, row by row: the first of equals, a NaN
// before all else.
template <class T>
struct MaxPool {
  PoolShape shape;
  const T* x = nullptr;
  T* y = nullptr;
  uint8_t* places = nullptr;
};
template <class T>
struct MaxPoolBackward {
  PoolShape shape;
  const T* dy = nullptr;
  const uint8_t* places = nullptr;
  T* dx = nullptr;
};
// The mean over kernel x kernel places; backward from dy to dx.
template <class T>
struct AveragePool {
  PoolShape shape;
  const T* from = nullptr;
  T* to = nullptr;
};

#define FURROW_DECLARE_POOLS(T)                                        \
  void max_pool(const MaxPool<T>& args, int threads);                  \
  void max_pool_backward(const MaxPoolBackward<T>& args, int threads); \
  void average_pool(const AveragePool<T>& args, int threads);          \
  void average_pool_backward(const AveragePool<T>& args, int threads);
FURROW_DECLARE_POOLS(float)
FURROW_DECLARE_POOLS(bf16)
FURROW_DECLARE_POOLS(f16)
#undef FURROW_DECLARE_POOLS

}  // namespace furrow::tensor::kernels
