#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/gemm_half.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/gemm_blocks-inl.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/gemm_pairs-inl.h"
#include "furrow/tensor/kernels/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// A finished tile, rows kNR apart, becomes C at (i, j).
template <class H>
void finish_tile(const HalfGemm<H>& g, const float* tile, const Tile& at) {
  for (int64_t i = 0; i < at.rows; ++i) {
    const int64_t row = (at.i + i) * g.ldc + at.j;
    sweep(0, at.columns, [&](int64_t j, auto access) HWY_ATTR {
      VF c = access.load(tile + i * kNR + j);
      if (g.bias) c = hn::Add(c, access.load(g.bias + at.j + j));
      if (g.activation == Activation::kRelu) c = relu(c);
      if (g.activation >= Activation::kGelu) {
        const ValueAndSlope r = g.activation == Activation::kGelu ? gelu(c) : gelu_tanh(c);
        if (g.slope) access.store(r.slope, g.slope + row + j);
        c = r.value;
      }
      if (g.c) {
        access.store(c, g.c + row + j);
      } else {
        access.store(c, g.wide_c + row + j);
      }
    });
  }
}

#if FURROW_BF16_PAIRS
// Sums stay in float32 from one block of k to the next only where C is.
constexpr int64_t kMostPairs = 4096;

struct PairProduct {
  const HalfGemm<bf16>& g;
  int64_t m = g.m, n = g.n, depth = (g.k + 1) / 2;
  int64_t max_depth = g.wide_c ? kMaxDepth : kMostPairs;

  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    pack_pairs_a(g.a, g.k, i, panels, k, to);
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    pack_pairs_b(g.b, g.k, k, j, columns, to);
  }
  void compute(const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const bool resume = k.begin > 0 || g.accumulate, last = k.begin + k.size == depth;
    const MicroKernel kernel = pair_kernel_of(at.rows, resume);
    const bool plain = g.wide_c && !g.bias && g.activation == Activation::kNone;
    float* c = g.wide_c + at.i * g.ldc + at.j;
    if (plain && at.columns == kNR) return kernel(a, b, k.size, c, g.ldc);
    const size_t bytes = static_cast<size_t>(at.columns) * sizeof(float);
    for (int64_t r = 0; r < at.rows && resume; ++r) std::memcpy(tile + r * kNR, c + r * g.ldc, bytes);
    kernel(a, b, k.size, tile, kNR);
    if (last) return finish_tile(g, tile, at);
    for (int64_t r = 0; r < at.rows; ++r) std::memcpy(c + r * g.ldc, tile + r * kNR, bytes);
  }
};

bool pairs_fit(const HalfGemm<bf16>& g) {
  return has_bf16_products() && g.k > 0 && (g.wide_c != nullptr || (g.k + 1) / 2 <= kMostPairs);
}
#endif

// Element (i, j) of a strided matrix of [rows, columns], dense float32 in the order it has.
template <class H>
MatrixView widened(const HalfView<H>& view, int64_t rows, int64_t columns, int threads,
                   ScratchScope* scratch) {
  const bool across = view.col_stride == 1;
  const int64_t runs = across ? rows : columns, length = across ? columns : rows;
  const int64_t stride = across ? view.row_stride : view.col_stride;
  float* to = scratch->floats(runs * length);
  if (stride == length) {
    convert(runs * length, view.data, to, threads);
  } else {
    for (int64_t r = 0; r < runs; ++r) convert(length, view.data + r * stride, to + r * length, threads);
  }
  return across ? MatrixView{to, length, 1} : MatrixView{to, 1, length};
}

template <class H>
void gemm_in_float32(const HalfGemm<H>& g, int threads) {
  ScratchScope scratch;
  Gemm wide;
  wide.m = g.m;
  wide.n = g.n;
  wide.k = g.k;
  wide.a = widened(g.a, g.m, g.k, threads, &scratch);
  wide.b = widened(g.b, g.k, g.n, threads, &scratch);
  wide.accumulate = g.accumulate;
  wide.c = g.accumulate ? g.wide_c : scratch.floats(g.m * g.n);
  wide.ldc = g.accumulate ? g.ldc : g.n;
  gemm(wide, threads);
  if (g.accumulate) return;  // without an epilogue
  parallel_for(g.m * g.n < kPackedFloats ? 1 : threads, g.m, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < g.n; j += kNR)
        finish_tile(g, wide.c + i * g.n + j, {i, 1, j, std::min<int64_t>(kNR, g.n - j)});
    }
  });
}

}  // namespace

void run_gemm_bf16(const HalfGemm<bf16>& g, int threads) {
  if (g.m == 0 || g.n == 0) return;
#if FURROW_BF16_PAIRS
  if (pairs_fit(g)) return share_out(PairProduct{g}, threads);
#endif
  gemm_in_float32(g, threads);
}

void run_gemm_f16(const HalfGemm<f16>& g, int threads) {
  if (g.m > 0 && g.n > 0) gemm_in_float32(g, threads);
}

bool run_has_pairs() {
#if FURROW_BF16_PAIRS
  return has_pairs();
#else
  return false;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_gemm_bf16);
HWY_EXPORT(run_gemm_f16);
HWY_EXPORT(run_has_pairs);
bool has_bf16_products() { return HWY_DYNAMIC_DISPATCH(run_has_pairs)(); }
void gemm(const HalfGemm<bf16>& args, int threads) { HWY_DYNAMIC_DISPATCH(run_gemm_bf16)(args, threads); }
void gemm(const HalfGemm<f16>& args, int threads) { HWY_DYNAMIC_DISPATCH(run_gemm_f16)(args, threads); }

}  // namespace furrow::tensor::kernels
#endif
