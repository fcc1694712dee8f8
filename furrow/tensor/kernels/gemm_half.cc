#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/gemm_half.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/gemm_blocks-inl.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/gemm_pairs-inl.h"
#include "furrow/tensor/kernels/gemm_tiles-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/tiles.h"

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

// Sums stay in float32 from one block of k to the next only where C is: a sum of more terms than this is not
// one of C of 16 bits.
constexpr int64_t kMostTerms = 8192;

template <class H>
bool sums_fit(const HalfGemm<H>& g) {
  return g.k > 0 && (g.wide_c != nullptr || g.k <= kMostTerms);
}

// A block of k in a product: whether it goes on from what C holds, and whether it is the last one.
struct Links {
  bool resume, last;
  template <class Product>
  Links(const Product& p, Depth k)
      : resume(k.begin > 0 || p.g.accumulate), last(k.begin + k.size == p.depth) {}
};

// A register block of C, kernel(c, ldc), by way of `tile`; straight into C where it is `whole` and nothing is
// left to do to it.
template <class H, class Kernel>
void compute_tile(const HalfGemm<H>& g, const Tile& at, bool whole, Links links, float* tile,
                  const Kernel& kernel) {
  const bool plain = g.wide_c && !g.bias && g.activation == Activation::kNone;
  float* c = g.wide_c + at.i * g.ldc + at.j;
  if (plain && whole) return kernel(c, g.ldc);
  const size_t bytes = static_cast<size_t>(at.columns) * sizeof(float);
  for (int64_t r = 0; r < at.rows && links.resume; ++r) std::memcpy(tile + r * kNR, c + r * g.ldc, bytes);
  kernel(tile, kNR);
  if (links.last) return finish_tile(g, tile, at);
  for (int64_t r = 0; r < at.rows; ++r) std::memcpy(c + r * g.ldc, tile + r * kNR, bytes);
}

#if FURROW_BF16_PAIRS
struct PairProduct {
  using Form = PlainForm;
  const HalfGemm<bf16>& g;
  int64_t m = g.m, n = g.n, depth = (g.k + 1) / 2;
  int64_t max_depth = g.wide_c ? kMaxDepth : kMostTerms / 2;

  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    pack_pairs_a(g.a, g.k, i, panels, k, to);
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    pack_pairs_b(g.b, g.k, k, j, columns, to);
  }
  void compute(Form::Registers&, const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const Links links(*this, k);
    const MicroKernel kernel = pair_kernel_of(at.rows, links.resume);
    compute_tile(g, at, at.columns == kNR, links, tile,
                 [&](float* c, int64_t ldc) { kernel(a, b, k.size, c, ldc); });
  }
};

template <class Registers>
struct TileProduct {
  using Form = TileForm<Registers>;
  const HalfGemm<bf16>& g;
  int64_t m = g.m, n = g.n, depth = (g.k + 2 * kTilePairs - 1) / (2 * kTilePairs) * kTilePairs;
  int64_t max_depth = g.wide_c ? kMaxDepth : kMostTerms / 2;

  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    pack_tiles_a(g.a, g.k, i, panels.rows, k, to);
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    pack_pairs_b(g.b, g.k, k, j, columns, to);
  }
  void compute(Registers& tiles, const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const Links links(*this, k);
    const TilePanels panels{a, b, at.rows > kTileRows, k.size};
    compute_tile(g, at, at.columns == kNR && at.rows % kTileRows == 0, links, tile,
                 [&](float* c, int64_t ldc) { tile_kernel(tiles, panels, links.resume, c, ldc); });
  }
};
#endif

// A block of a strided matrix of 16 bits, dense float32 in the order it has.
template <class H>
MatrixView widened(const HalfView<H>& view, int64_t i0, int64_t rows, int64_t j0, int64_t columns,
                   ScratchScope* scratch) {
  const bool across = view.col_stride == 1;
  const int64_t runs = across ? rows : columns, length = across ? columns : rows;
  const int64_t stride = across ? view.row_stride : view.col_stride;
  const H* from = view.data + i0 * view.row_stride + j0 * view.col_stride;
  float* to = scratch->floats(runs * length);
  for (int64_t r = 0; r < runs; ++r) {
    sweep(0, length, [&](int64_t i, auto access) HWY_ATTR {
      access.store(access.load(from + r * stride + i), to + r * length + i);
    });
  }
  return across ? MatrixView{to, length, 1} : MatrixView{to, 1, length};
}

// The product of float32, over operands that are converted as they are packed.
template <class H>
struct WideProduct {
  using Form = PlainForm;
  const HalfGemm<H>& g;
  int64_t m = g.m, n = g.n, depth = g.k;
  int64_t max_depth = g.wide_c ? kMaxDepth : kMostTerms;

  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    const int64_t step = (k.size > kMaxDepth ? 1 : kSideBySide) * kMR;
    for (int64_t at = 0; at < panels.rows; at += step) {
      ScratchScope scratch;
      const int64_t rows = std::min(step, panels.rows - at);
      // The rows of the last whole vector too.
      const int64_t readable = std::min(panels.readable - at, rows + kPanelVectors * kLanes - kMR);
      const MatrixView a = widened(g.a, i + at, readable, k.begin, k.size, &scratch);
      kernels::HWY_NAMESPACE::pack_a(a, 0, RowPanels(rows, kMR, readable), 0, k.size, to + at * k.size);
    }
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    const int64_t step = k.size > kMaxDepth ? kNR : kSideBySide * kNR;
    for (int64_t at = 0; at < columns; at += step) {
      ScratchScope scratch;
      const int64_t width = std::min(step, columns - at);
      const MatrixView b = widened(g.b, k.begin, k.size, j + at, width, &scratch);
      kernels::HWY_NAMESPACE::pack_b(b, 0, k.size, 0, width, to + at * k.size);
    }
  }
  void compute(Form::Registers&, const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const Links links(*this, k);
    const MicroKernel kernel = micro_kernel_of(at.rows, links.resume);
    compute_tile(g, at, at.columns == kNR, links, tile,
                 [&](float* c, int64_t ldc) { kernel(a, b, k.size, c, ldc); });
  }
};

template <class H>
void finish_rows(const HalfGemm<H>& g, const float* sums, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < g.n; j += kNR)
      finish_tile(g, sums + i * g.n + j, {i, 1, j, std::min<int64_t>(kNR, g.n - j)});
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
    share_out(WideProduct<H>{sums}, threads);
  } else {
    std::fill_n(sums.wide_c, g.m * g.n, 0.0F);
  }
  parallel_for(g.m * g.n < kKeptFloats ? 1 : threads, g.m,
               [&](int64_t begin, int64_t end) { finish_rows(g, sums.wide_c, begin, end); });
}

template <class H>
void gemm_in_float32(const HalfGemm<H>& g, int threads) {
  if (sums_fit(g)) return share_out(WideProduct<H>{g}, threads);
  gemm_by_sums(g, threads);
}

}  // namespace

void run_gemm_bf16(const HalfGemm<bf16>& g, int threads) {
  if (g.m == 0 || g.n == 0) return;
#if FURROW_BF16_PAIRS
  if (sums_fit(g)) {
    const Tiles tiles = usable_tiles();
    if (tiles == Tiles::kProcessor) return share_out(TileProduct<AmxTiles>{g}, threads);
    if (tiles == Tiles::kEmulated) return share_out(TileProduct<EmulatedTiles>{g}, threads);
    if (usable_pairs()) return share_out(PairProduct{g}, threads);
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
