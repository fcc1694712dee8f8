// Pieces that the convolutions over pixels share: what chains of products run over, the image with a border
// of zeros, packed weights, a row of outputs.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_PIXEL_CONV_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_PIXEL_CONV_INL_H_
#undef FURROW_TENSOR_KERNELS_PIXEL_CONV_INL_H_
#else
#define FURROW_TENSOR_KERNELS_PIXEL_CONV_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "furrow/tensor/kernels/pairs-inl.h"
#include "furrow/tensor/kernels/pixel_conv.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// Output channels come in blocks of this many; the last is filled up with zeros.
constexpr int64_t kChannelBlock = 2 * kLanes;
inline int64_t channel_blocks(int64_t channels) { return (channels + kChannelBlock - 1) / kChannelBlock; }

// The two ways to multiply numbers of a type T.  Chains run over lanes of 32 bits: here a number each, in
// float32.
template <class T>
struct OneByOne {
  using Number = T;
  static constexpr bool kPaired = false;
  static int64_t lanes(int64_t channels) { return channels; }  // of a pixel
  static HWY_INLINE VF add_products(VF x, VF w, VF sum) { return hn::MulAdd(x, w, sum); }
  static void load_pixels(const T* from, int64_t pixels, int64_t channels, float* to) {
    if constexpr (std::is_same_v<T, float>) {
      std::memcpy(to, from, static_cast<size_t>(pixels * channels) * sizeof(float));
    } else {
      sweep(0, pixels * channels, [&](int64_t i, auto at) HWY_ATTR { at.store(at.load(from + i), to + i); });
    }
  }
  // The channel-th number of a chain whose lanes are `step` apart.
  static void put(T number, int64_t channel, int64_t step, float* to) {
    to[channel * step] = to_float(number);
  }
};

#if FURROW_BF16_PAIRS
// Two channels each; beyond the last there is a zero.
struct InPairs {
  using Number = bf16;
  static constexpr bool kPaired = true;
  static int64_t lanes(int64_t channels) { return (channels + 1) / 2; }
  static HWY_INLINE VF add_products(VF x, VF w, VF sum) { return HWY_NAMESPACE::add_products(x, w, sum); }
  static HWY_INLINE VF first(VF pairs) { return first_of_pairs(pairs); }
  static void load_pixels(const bf16* from, int64_t pixels, int64_t channels, float* to) {
    const size_t bytes = static_cast<size_t>(channels) * sizeof(bf16);
    if (channels % 2 == 0) {
      std::memcpy(to, from, static_cast<size_t>(pixels) * bytes);
      return;
    }
    for (int64_t p = 0; p < pixels; ++p, from += channels, to += lanes(channels)) {
      to[lanes(channels) - 1] = 0;
      std::memcpy(to, from, bytes);
    }
  }
  static void put(bf16 number, int64_t channel, int64_t step, float* to) {
    std::memcpy(reinterpret_cast<char*>(to + channel / 2 * step) + channel % 2 * sizeof(bf16), &number,
                sizeof(bf16));
  }
};
#endif

// fn(Way()) for how this processor multiplies bfloat16.
template <class Fn>
void by_way_of_bf16(const Fn& fn) {
#if FURROW_BF16_PAIRS
  if (usable_pairs()) return fn(InPairs());
#endif
  fn(OneByOne<bf16>());
}

// An image [height][width][lanes] inside zeros.
struct Bordered {
  int64_t height, width, lanes;
  int64_t before, after;  // zero rows and columns on either side
  int64_t row() const { return (width + before + after) * lanes; }
  int64_t floats() const { return (height + before + after) * row(); }
};

template <class Way>
Bordered input_border(const PixelConvShape& s) {
  return {s.height, s.width, Way::lanes(s.in_channels), s.padding, s.padding};
}

template <class Way>
void load_bordered(const Bordered& b, const typename Way::Number* image, int64_t channels, float* to) {
  const int64_t line = b.width * b.lanes, left = b.before * b.lanes, right = b.after * b.lanes;
  std::memset(to, 0, static_cast<size_t>(b.before * b.row()) * sizeof(float));
  float* at = to + b.before * b.row();
  for (int64_t y = 0; y < b.height; ++y, at += b.row()) {
    std::memset(at, 0, static_cast<size_t>(left) * sizeof(float));
    Way::load_pixels(image + y * b.width * channels, b.width, channels, at + left);
    std::memset(at + left + line, 0, static_cast<size_t>(right) * sizeof(float));
  }
  std::memset(at, 0, static_cast<size_t>(b.after * b.row()) * sizeof(float));
}

// What is read next and comes from far away: its cache lines are fetched a few at a time, between other work.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* from, int64_t bytes, int64_t steps)
      : at_(static_cast<const char*>(from)),
        end_(at_ + bytes),
        bytes_((bytes / kLine + steps) / std::max<int64_t>(1, steps) * kLine) {}
  HWY_INLINE void step() {
    for (const char* to = std::min(end_, at_ + bytes_); at_ < to; at_ += kLine) hwy::Prefetch(at_);
  }

 private:
  static constexpr int64_t kLine = 64;
  const char *at_ = nullptr, *end_ = nullptr;
  int64_t bytes_ = 0;
};

// Inputs of the first output, those of the pixels of a row of the window one after the other, and the weights
// that they meet, [input][pixel][kChannelBlock].
struct Tap {
  const float* x;
  const float* weight;
};

// A row of outputs for one block of channels, each one chain: out[p * out_step + c] = sum over taps, over
// lanes i of a pixel and over a tap's `columns` pixels k of x[p * x_step + k * inputs + i] * weight[i][k][c].
template <class Number>
struct RowJob {
  const Tap* taps;
  int64_t tap_count;
  int64_t inputs;   // lanes of a pixel
  int64_t columns;  // pixels of a tap
  int64_t x_step, out_step;
  Number* out;
  int64_t channels;  // of the block that exist
  Ahead* ahead;      // a step with each tap
};

// Pixels `step` apart: four share a base, so that all addresses stay in registers.
template <int P>
struct PixelRow {
  const float* base[(P + 3) / 4];
  int64_t step, step3;
  HWY_INLINE PixelRow(const float* x, int64_t step) : step(step), step3(3 * step) {
#pragma GCC unroll 8
    for (int g = 0; g < (P + 3) / 4; ++g) base[g] = x + 4 * g * step;
  }
  HWY_INLINE float at(int p, int64_t lane = 0) const {
    return (base[p / 4] + (p % 4 == 0 ? 0 : p % 4 == 1 ? step : p % 4 == 2 ? 2 * step : step3))[lane];
  }
  HWY_INLINE void skip(int64_t lanes) {
#pragma GCC unroll 8
    for (int g = 0; g < (P + 3) / 4; ++g) base[g] += lanes;
  }
};

// Weights are fetched so many vectors before they are multiplied: a second-level cache has them.
constexpr int64_t kWeightsAhead = 8;

template <int V>
HWY_INLINE void load_weights(const float* w, VF (&into)[V]) {
  for (int v = 0; v < V * kLanes; v += 16) hwy::Prefetch(w + kWeightsAhead * kChannelBlock + v);
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) into[v] = load(w + v * kLanes);
}

// One tap.
template <class Way, int P, int V>
HWY_INLINE void add_tap(const RowJob<typename Way::Number>& job, const Tap& tap, int64_t first,
                        VF (&acc)[P][V]) {
  const float* w = tap.weight;
  PixelRow<P> lane(tap.x + first * job.x_step, job.x_step);
  for (int64_t i = 0; i < job.inputs; ++i, lane.skip(1)) {
    PixelRow<P> row = lane;
    for (int64_t k = 0; k < job.columns; ++k, w += kChannelBlock) {
      VF wv[V];
      load_weights(w, wv);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const VF xv = set(row.at(p));
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[p][v] = Way::add_products(xv, wv[v], acc[p][v]);
      }
      row.skip(job.inputs);
    }
  }
}

// Three pixels of outputs side by side, which share all but two of theirs: a pixel is loaded once for the
// three of them.  Of one lane.
template <class Way, int P, int V>
HWY_INLINE void add_three(const PixelRow<P + 2>& row, int64_t lane, const float* w, VF (&acc)[P][V]) {
  VF wv[3][V];
#pragma GCC unroll 3
  for (int k = 0; k < 3; ++k) load_weights(w + k * kChannelBlock, wv[k]);
#pragma GCC unroll 18
  for (int p = 0; p < P + 2; ++p) {
    const VF xv = set(row.at(p, lane));
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      if (p - k < 0 || p - k >= P) continue;
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[p - k][v] = Way::add_products(xv, wv[k][v], acc[p - k][v]);
    }
  }
}

// One tap of them, two lanes at a time: whatever counts and adds takes its turns from the multiplications.
template <class Way, int P, int V>
HWY_INLINE void add_tap_of_three(const RowJob<typename Way::Number>& job, const Tap& tap, int64_t first,
                                 VF (&acc)[P][V]) {
  constexpr int64_t kStep = 3 * kChannelBlock;
  const float* w = tap.weight;
  const float* end = w + job.inputs / 2 * 2 * kStep;
  PixelRow<P + 2> row(tap.x + first * job.x_step, job.x_step);
  for (; w != end; w += 2 * kStep, row.skip(2)) {
    add_three<Way, P, V>(row, 0, w, acc);
    add_three<Way, P, V>(row, 1, w + kStep, acc);
  }
  if (job.inputs % 2 != 0) add_three<Way, P, V>(row, 0, w, acc);
}

// P pixels times V vectors of channels.
template <class Way, int P, int V>
HWY_INLINE void convolve_pixels(const RowJob<typename Way::Number>& job, int64_t first) {
  VF acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[p][v] = zero();
  }
  const bool side_by_side = P > 2 && job.columns == 3 && job.x_step == job.inputs;
  if (side_by_side) {
    for (int64_t t = 0; t < job.tap_count; ++t, job.ahead->step())
      add_tap_of_three<Way, P, V>(job, job.taps[t], first, acc);
  } else {
    for (int64_t t = 0; t < job.tap_count; ++t, job.ahead->step())
      add_tap<Way, P, V>(job, job.taps[t], first, acc);
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    auto* out = job.out + (first + p) * job.out_step;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const int64_t lanes = std::min<int64_t>(kLanes, job.channels - v * kLanes);
      if (lanes == kLanes) {
        store(acc[p][v], out + v * kLanes);
      } else if (lanes > 0) {
        store_part(acc[p][v], out + v * kLanes, lanes);
      }
    }
  }
}

// Few registers hold few pixels.
constexpr int kWidePixels = kVectorRegisters == 32 ? 8 : 4;
constexpr int kNarrowPixels = kVectorRegisters == 32 ? 16 : 8;

// Tiles of a row, tails left out.
inline int64_t tiles(int64_t pixels, int64_t channels) {
  return std::max<int64_t>(1, pixels / (channels <= kLanes ? kNarrowPixels : kWidePixels));
}

template <class Way>
void convolve_row(const RowJob<typename Way::Number>& job, int64_t pixels) {
  int64_t p = 0;
  if (job.channels <= kLanes) {
    for (; p + kNarrowPixels <= pixels; p += kNarrowPixels) convolve_pixels<Way, kNarrowPixels, 1>(job, p);
    for (; p + 4 <= pixels; p += 4) convolve_pixels<Way, 4, 1>(job, p);
    for (; p < pixels; ++p) convolve_pixels<Way, 1, 1>(job, p);
    return;
  }
  for (; p + kWidePixels <= pixels; p += kWidePixels) convolve_pixels<Way, kWidePixels, 2>(job, p);
  for (; p + 4 <= pixels; p += 4) convolve_pixels<Way, 4, 2>(job, p);
  for (; p + 2 <= pixels; p += 2) convolve_pixels<Way, 2, 2>(job, p);
  for (; p < pixels; ++p) convolve_pixels<Way, 1, 2>(job, p);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
