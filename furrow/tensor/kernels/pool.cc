#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/pool.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <limits>
#include <type_traits>

#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/pool.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// The part of a window that lies in the image, by its places [top, bottom) x [left, right).
struct Window {
  int64_t top, bottom, left, right;
};

Window window_at(const PoolShape& s, int64_t r, int64_t q) {
  const int64_t y = r * s.stride - s.padding, x = q * s.stride - s.padding;
  return {std::max<int64_t>(0, -y), std::min(s.kernel, s.height - y), std::max<int64_t>(0, -x),
          std::min(s.kernel, s.width - x)};
}

// Where place (i, j) of the window of output (r, q) begins in its image.
int64_t pixel_at(const PoolShape& s, int64_t r, int64_t q, int64_t i, int64_t j) {
  return ((r * s.stride - s.padding + i) * s.width + q * s.stride - s.padding + j) * s.channels;
}

// fn(image, r, q, output pixel) for every output of every image, an image by one thread.
template <class Fn>
void for_outputs(const PoolShape& s, int threads, const Fn& fn) {
  const int64_t h = s.out_height(), w = s.out_width();
  const bool small = s.batch * s.height * s.width * s.channels < 65536;
  parallel_for(small ? 1 : threads, s.batch, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t r = 0; r < h; ++r) {
        for (int64_t q = 0; q < w; ++q) fn(n, r, q, ((n * h + r) * w + q) * s.channels);
      }
    }
  });
}

template <class T>
void find_maxima(const MaxPool<T>& a, int threads) {
  const PoolShape& s = a.shape;
  const int64_t size = s.height * s.width * s.channels;
  for_outputs(s, threads, [&](int64_t n, int64_t r, int64_t q, int64_t out) HWY_ATTR {
    const Window w = window_at(s, r, q);
    const T* const image = a.x + n * size;
    ScratchScope scratch;
    float* const found = scratch.floats(s.channels);
    sweep(0, s.channels, [&](int64_t c, auto at) HWY_ATTR {
      VF most = set(-std::numeric_limits<float>::infinity());
      VF place = set(static_cast<float>(w.top * s.kernel + w.left));
      for (int64_t i = w.top; i < w.bottom; ++i) {
        for (int64_t j = w.left; j < w.right; ++j) {
          const VF v = at.load(image + pixel_at(s, r, q, i, j) + c);
          const MF wins = hn::Or(hn::Gt(v, most), hn::IsNaN(v));
          most = hn::IfThenElse(wins, v, most);
          place = hn::IfThenElse(wins, set(static_cast<float>(i * s.kernel + j)), place);
        }
      }
      at.store(most, a.y + out + c);
      at.store(place, found + c);
    });
    for (int64_t c = 0; c < s.channels; ++c) a.places[out + c] = static_cast<uint8_t>(found[c]);
  });
}

// fn(image) of each, with float32 sums of its pixels that are rounded to `dx` behind it.
template <class T, class Fn>
void with_sums(const PoolShape& s, T* dx, int threads, const Fn& fn) {
  const int64_t size = s.height * s.width * s.channels;
  parallel_for(team_for(s.batch * size, 32768, threads), s.batch, [&](int64_t begin, int64_t end) HWY_ATTR {
    ScratchScope scratch;
    float* const own = scratch.floats(std::is_same_v<T, float> ? 1 : size);
    for (int64_t n = begin; n < end; ++n) {
      float* sums = own;
      if constexpr (std::is_same_v<T, float>) sums = dx + n * size;
      std::fill_n(sums, size, 0.0f);
      fn(n, sums);
      if constexpr (!std::is_same_v<T, float>) {
        sweep(0, size, [&](int64_t i, auto at) HWY_ATTR { at.store(at.load(sums + i), dx + n * size + i); });
      }
    }
  });
}

template <class T>
void send_to_maxima(const MaxPoolBackward<T>& a, int threads) {
  const PoolShape& s = a.shape;
  const int64_t h = s.out_height(), w = s.out_width();
  with_sums(s, a.dx, threads, [&](int64_t n, float* sums) HWY_ATTR {
    int64_t out = n * h * w * s.channels;
    int64_t offsets[kLargestPool * kLargestPool];  // of each place from the first one
    for (int64_t k = 0; k < s.kernel * s.kernel; ++k)
      offsets[k] = ((k / s.kernel) * s.width + k % s.kernel) * s.channels;
    for (int64_t r = 0; r < h; ++r) {
      for (int64_t q = 0; q < w; ++q, out += s.channels) {
        float* const first = sums + pixel_at(s, r, q, 0, 0);
        for (int64_t c = 0; c < s.channels; ++c)
          first[offsets[a.places[out + c]] + c] += to_float(a.dy[out + c]);
      }
    }
  });
}

template <class T>
void average(const AveragePool<T>& a, int threads) {
  const PoolShape& s = a.shape;
  const int64_t size = s.height * s.width * s.channels;
  for_outputs(s, threads, [&](int64_t n, int64_t r, int64_t q, int64_t out) HWY_ATTR {
    const Window w = window_at(s, r, q);
    const VF places = set(static_cast<float>(s.kernel * s.kernel));
    sweep(0, s.channels, [&](int64_t c, auto at) HWY_ATTR {
      VF sum = zero();
      for (int64_t i = w.top; i < w.bottom; ++i) {
        for (int64_t j = w.left; j < w.right; ++j)
          sum = hn::Add(sum, at.load(a.from + n * size + pixel_at(s, r, q, i, j) + c));
      }
      at.store(hn::Div(sum, places), a.to + out + c);
    });
  });
}

template <class T>
void spread(const AveragePool<T>& a, int threads) {
  const PoolShape& s = a.shape;
  const int64_t h = s.out_height(), w = s.out_width();
  with_sums(s, a.to, threads, [&](int64_t n, float* sums) HWY_ATTR {
    const VF places = set(static_cast<float>(s.kernel * s.kernel));
    for (int64_t r = 0; r < h; ++r) {
      for (int64_t q = 0; q < w; ++q) {
        const Window in = window_at(s, r, q);
        const T* const dy = a.from + ((n * h + r) * w + q) * s.channels;
        sweep(0, s.channels, [&](int64_t c, auto at) HWY_ATTR {
          const VF share = hn::Div(at.load(dy + c), places);
          for (int64_t i = in.top; i < in.bottom; ++i) {
            for (int64_t j = in.left; j < in.right; ++j) {
              float* const to = sums + pixel_at(s, r, q, i, j) + c;
              at.store(hn::Add(at.load(to), share), to);
            }
          }
        });
      }
    }
  });
}

}  // namespace

#define FURROW_POOLS(T, name)                                                                            \
  void run_max_pool_##name(const MaxPool<T>& a, int threads) { find_maxima(a, threads); }                \
  void run_max_backward_##name(const MaxPoolBackward<T>& a, int threads) { send_to_maxima(a, threads); } \
  void run_average_##name(const AveragePool<T>& a, int threads) { average(a, threads); }                 \
  void run_average_backward_##name(const AveragePool<T>& a, int threads) { spread(a, threads); }
FURROW_POOLS(float, f32)
FURROW_POOLS(bf16, bf16)
FURROW_POOLS(f16, f16)
#undef FURROW_POOLS

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

#define FURROW_DISPATCH(name, run, Args, T) \
  HWY_EXPORT(run);                          \
  void name(const Args<T>& args, int threads) { HWY_DYNAMIC_DISPATCH(run)(args, threads); }
#define FURROW_DISPATCH_POOLS(T, of)                                            \
  FURROW_DISPATCH(max_pool, run_max_pool_##of, MaxPool, T)                      \
  FURROW_DISPATCH(max_pool_backward, run_max_backward_##of, MaxPoolBackward, T) \
  FURROW_DISPATCH(average_pool, run_average_##of, AveragePool, T)               \
  FURROW_DISPATCH(average_pool_backward, run_average_backward_##of, AveragePool, T)
FURROW_DISPATCH_POOLS(float, f32)
FURROW_DISPATCH_POOLS(bf16, bf16)
FURROW_DISPATCH_POOLS(f16, f16)
#undef FURROW_DISPATCH_POOLS
#undef FURROW_DISPATCH

}  // namespace furrow::tensor::kernels
#endif
