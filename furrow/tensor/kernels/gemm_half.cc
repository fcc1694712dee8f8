#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/gemm_half.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/gemm_pairs-inl.h"
#include "furrow/tensor/kernels/gemm_single-inl.h"
#include "furrow/tensor/kernels/gemm_tiles-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/tiles.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

template <class H>
struct HalfOutput {
  const HalfGemm<H>& g;

  float* sums() const { return g.wide_c; }
  bool finishes() const { return g.wide_c == nullptr || g.bias || g.activation != Activation::kNone; }
  void finish(const float* tile, int64_t step, const Tile& at) const {
    for (int64_t i = 0; i < at.rows; ++i) {
      const int64_t row = (at.i + i) * g.ldc + at.j;
      sweep(0, at.columns, [&](int64_t j, auto access) HWY_ATTR {
        VF c = access.load(tile + i * step + j);
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
};

// Sums stay in float32 from one block of k to the next only where C is: a sum of more terms than this is not
// one of C of 16 bits.
constexpr int64_t kMostTerms = 8192;

template <class H>
bool sums_fit(const HalfGemm<H>& g) {
  return g.k > 0 && (g.wide_c != nullptr || g.k <= kMostTerms);
}

#if FURROW_BF16_PAIRS
struct PairProduct {
  using Form = PlainForm;
  HalfOutput<bf16> out;
  const HalfGemm<bf16>& g = out.g;
  int64_t m = g.m, n = g.n, depth = (g.k + 1) / 2;
  int64_t max_depth = g.wide_c ? kMaxDepth : kMostTerms / 2;

  int64_t rows_at_once() const { return packed_at_once(g.a); }
  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    pack_pairs_a(g.a, g.k, i, panels, k, to);
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    pack_pairs_b(g.b, g.k, k, j, columns, to);
  }
  void compute(Form::Registers&, const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const MicroKernel kernel = micro_kernel_of<PairLanes>(rows_of(g.a), at.rows);
    compute_tile(out, at, at.columns == kNR, Links(*this, k), tile, [&](bool resume, float* c, int64_t ldc) {
      kernel(packed_rows(g.a, a, at.rows, k), {b, kNR}, k.size, resume, c, ldc);
    });
  }
};

template <class Registers>
struct TileProduct {
  using Form = TileForm<Registers>;
  HalfOutput<bf16> out;
  const HalfGemm<bf16>& g = out.g;
  int64_t m = g.m, n = g.n, depth = (g.k + 2 * kTilePairs - 1) / (2 * kTilePairs) * kTilePairs;
  int64_t max_depth = g.wide_c ? kMaxDepth : kMostTerms / 2;

  int64_t rows_at_once() const { return Form::kRows; }
  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    pack_tiles_a(g.a, g.k, i, panels.rows, k, to);
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    pack_pairs_b(g.b, g.k, k, j, columns, to);
  }
  void compute(Registers& tiles, const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const TilePanels panels{a, b, at.rows > kTileRows, k.size};
    compute_tile(out, at, at.columns == kNR && at.rows % kTileRows == 0, Links(*this, k), tile,
                 [&](bool resume, float* c, int64_t ldc) { tile_kernel(tiles, panels, resume, c, ldc); });
  }
};
#endif

template <class H>
void finish_rows(const HalfGemm<H>& g, const float* sums, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < g.n; j += kNR)
      HalfOutput<H>{g}.finish(sums + i * g.n + j, kNR, {i, 1, j, std::min<int64_t>(kNR, g.n - j)});
  }
}

// C as float32 first, where its sums do not fit or there is nothing to add.
template <class H>
void gemm_by_sums(const HalfGemm<H>& g, int threads) {
  if (g.accumulate) return;  // k is 0
  ScratchScope scratch;
  HalfGemm<H> sums{.m = g.m, .n = g.n, .k = g.k, .a = g.a, .b = g.b, .ldc = g.n};
  sums.wide_c = scratch.floats(g.m * g.n);
  if (g.k > 0) {
    share_out(SingleProduct<HalfOutput<H>, H>{{sums}}, threads);
  } else {
    std::fill_n(sums.wide_c, g.m * g.n, 0.0F);
  }
  parallel_for(g.m * g.n < kKeptFloats ? 1 : threads, g.m,
               [&](int64_t begin, int64_t end) { finish_rows(g, sums.wide_c, begin, end); });
}

template <class H>
void gemm_in_float32(const HalfGemm<H>& g, int threads) {
  if (sums_fit(g)) return share_out(SingleProduct<HalfOutput<H>, H>{{g}}, threads);
  gemm_by_sums(g, threads);
}

}  // namespace

void run_gemm_bf16(const HalfGemm<bf16>& g, int threads) {
  if (g.m == 0 || g.n == 0) return;
#if FURROW_BF16_PAIRS
  if (sums_fit(g)) {
    const Tiles tiles = usable_tiles();
    if (tiles == Tiles::kProcessor) return share_out(TileProduct<AmxTiles>{{g}}, threads);
    if (tiles == Tiles::kEmulated) return share_out(TileProduct<EmulatedTiles>{{g}}, threads);
    if (usable_pairs()) return share_out(PairProduct{{g}}, threads);
  }
#endif
  gemm_in_float32(g, threads);
}

void run_gemm_f16(const HalfGemm<f16>& g, int threads) {
  if (g.m > 0 && g.n > 0) gemm_in_float32(g, threads);
}

Bf16Products run_bf16_products() {
#if FURROW_BF16_PAIRS
  if (usable_tiles() != Tiles::kNone) return Bf16Products::kTiles;
  if (usable_pairs()) return Bf16Products::kPairs;
#endif
  return Bf16Products::kConverted;
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_gemm_bf16);
HWY_EXPORT(run_gemm_f16);
HWY_EXPORT(run_bf16_products);
Bf16Products bf16_products() { return HWY_DYNAMIC_DISPATCH(run_bf16_products)(); }
void gemm(const HalfGemm<bf16>& args, int threads) { HWY_DYNAMIC_DISPATCH(run_gemm_bf16)(args, threads); }
void gemm(const HalfGemm<f16>& args, int threads) { HWY_DYNAMIC_DISPATCH(run_gemm_f16)(args, threads); }

}  // namespace furrow::tensor::kernels
#endif
