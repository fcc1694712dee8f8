#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/gemm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/gemm_kernel-inl.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kMaxDepth = 512;           // k is cut into blocks of at most this
constexpr int64_t kPackedFloats = 96 << 10;  // of A: 384 KiB, well inside a second-level cache
constexpr int64_t kPackedPanels = 1 << 20;   // floats of B kept when several blocks of rows need them

// The epilogue over rows x columns of C at (i0, j0).
void finish_tile(const Gemm& g, int64_t i0, int64_t rows, int64_t j0, int64_t columns) {
  const Epilogue& e = g.epilogue;
  for (int64_t i = i0; i < i0 + rows; ++i) {
    const int64_t row = i * g.ldc;
    sweep(j0, j0 + columns, [&](int64_t j, auto at) {
      VF c = at.load(g.c + row + j);
      if (e.bias) c = hn::Add(c, at.load(e.bias + j));
      if (e.activation == Activation::kRelu) c = relu(c);
      if (e.activation >= Activation::kGelu) {
        const ValueAndSlope r = e.activation == Activation::kGelu ? gelu(c) : gelu_tanh(c);
        if (e.slope) at.store(r.slope, e.slope + row + j);
        c = r.value;
      }
      if (e.multiply) c = hn::Mul(c, at.load(e.multiply + row + j));
      if (e.positive) c = hn::IfThenElse(hn::Le(at.load(e.positive + row + j), zero()), zero(), c);
      at.store(c, g.c + row + j);
    });
  }
}

bool has_epilogue(const Epilogue& e) {
  return e.bias || e.multiply || e.positive || e.activation != Activation::kNone;
}

// One thread's share, columns [j0, j1) of it.
struct Share {
  const Gemm& g;
  int64_t j0, j1;
  bool keep_b;  // all panels of B stay packed for the next block of rows
  float* a;     // packed block of A
  float* b;     // packed panels of B, or one
  float* tile;  // kMR x kNR, for the columns that do not fill a panel
};

// A block of k.
struct Depth {
  int64_t begin, size;
};

void compute_tile(const Share& s, const float* a, const float* b, int64_t i, int64_t rows, int64_t j,
                  Depth k) {
  const int64_t columns = std::min<int64_t>(kNR, s.j1 - j);
  const size_t bytes = static_cast<size_t>(columns) * sizeof(float);
  float* c = s.g.c + i * s.g.ldc + j;
  const MicroKernel kernel = micro_kernel_of(rows, k.begin > 0);
  if (columns == kNR) {
    kernel(a, b, k.size, c, s.g.ldc);
  } else {
    for (int64_t r = 0; r < rows && k.begin > 0; ++r) std::memcpy(s.tile + r * kNR, c + r * s.g.ldc, bytes);
    kernel(a, b, k.size, s.tile, kNR);
    for (int64_t r = 0; r < rows; ++r) std::memcpy(c + r * s.g.ldc, s.tile + r * kNR, bytes);
  }
  if (k.begin + k.size == s.g.k && has_epilogue(s.g.epilogue)) finish_tile(s.g, i, rows, j, columns);
}

// Rows [i, i + rows) of the share, one block of k: A is packed once, B panel by panel unless it has been.
void compute_block(const Share& s, int64_t i, int64_t rows, Depth k, bool b_packed) {
  const RowPanels panels(rows);
  pack_a(s.g.a, i, panels, k.begin, k.size, s.a);
  for (int64_t j = s.j0; j < s.j1; j += kNR) {
    float* b = s.keep_b ? s.b + (j - s.j0) * k.size : s.b;
    if (!b_packed) pack_b(s.g.b, k.begin, k.size, j, std::min<int64_t>(kNR, s.j1 - j), b);
    for (int64_t p = 0; p < panels.parts; ++p) {
      compute_tile(s, s.a + panels.begin(p) * k.size, b, i + panels.begin(p), panels.size(p), j, k);
    }
  }
}

void compute_columns(const Share& s, int64_t i0, const Blocks& rows, const Blocks& depths) {
  for (int64_t d = 0; d < depths.parts; ++d) {
    for (int64_t block = 0; block < rows.parts; ++block) {
      compute_block(s, i0 + rows.begin(block), rows.size(block), {depths.begin(d), depths.size(d)},
                    s.keep_b && block > 0);
    }
  }
}

// Rows [i0, i1) and columns [j0, j1) of C.
void compute_share(const Gemm& g, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  const Blocks depths(g.k, kMaxDepth);
  const int64_t depth = depths.size(0);
  const Blocks rows(i1 - i0, std::max<int64_t>(kMR, kPackedFloats / depth / kMR * kMR));
  const bool keep_b = rows.parts > 1;
  const int64_t width = keep_b ? std::max<int64_t>(kNR, kPackedPanels / depth / kNR * kNR) : j1 - j0;
  const int64_t panels = keep_b ? (std::min(width, j1 - j0) + kNR - 1) / kNR : 1;
  ScratchScope scratch;
  float* a = scratch.floats(rows.size(0) * depth + kPackSlack);
  float* b = scratch.floats(panels * kNR * depth);
  float* tile = scratch.floats(kMR * kNR);
  for (int64_t j = j0; j < j1; j += width) {
    compute_columns({g, j, std::min(j + width, j1), keep_b, a, b, tile}, i0, rows, depths);
  }
}

void empty_sum(const Gemm& g) {
  for (int64_t i = 0; i < g.m; ++i) std::memset(g.c + i * g.ldc, 0, static_cast<size_t>(g.n) * sizeof(float));
  finish_tile(g, 0, g.m, 0, g.n);
}

}  // namespace

// The larger side is shared out in whole panels; every thread packs what it needs of the other one.
void run_gemm(const Gemm& g, int threads) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) return empty_sum(g);
  constexpr int64_t kWorthAThread = 1 << 19;  // products; less than the cost of waking one
  const int team = g.m * g.n * g.k < 2 * kWorthAThread ? 1 : threads;
  const RowPanels rows(g.m);
  const int64_t columns = (g.n + kNR - 1) / kNR;
  if (rows.parts >= columns) {
    parallel_for(team, rows.parts, [&](int64_t begin, int64_t end) {
      compute_share(g, rows.begin(begin), rows.begin(end), 0, g.n);
    });
  } else {
    parallel_for(team, columns, [&](int64_t begin, int64_t end) {
      compute_share(g, 0, g.m, begin * kNR, std::min(end * kNR, g.n));
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_gemm);
void gemm(const Gemm& args, int threads) { HWY_DYNAMIC_DISPATCH(run_gemm)(args, threads); }

void linear_forward(const LinearForward& a, int threads) {
  const LinearShape& s = a.shape;
  gemm({.m = s.rows,
        .n = s.out,
        .k = s.in,
        .a = {a.x, s.in, 1},
        .b = {a.weight, 1, s.in},
        .c = a.y,
        .ldc = s.out,
        .epilogue = {.bias = a.bias, .activation = a.activation, .slope = a.slope}},
       threads);
}

void linear_backward_input(const LinearBackwardInput& a, int threads) {
  const LinearShape& s = a.shape;
  gemm({.m = s.rows,
        .n = s.in,
        .k = s.out,
        .a = {a.dz, s.out, 1},
        .b = {a.weight, s.in, 1},
        .c = a.dx,
        .ldc = s.in,
        .epilogue = {.multiply = a.gate_multiply, .positive = a.gate_positive}},
       threads);
}

void linear_backward_weight(const LinearBackwardWeight& a, int threads) {
  const LinearShape& s = a.shape;
  gemm({.m = s.out,
        .n = s.in,
        .k = s.rows,
        .a = {a.dz, 1, s.out},
        .b = {a.x, s.in, 1},
        .c = a.dweight,
        .ldc = s.in},
       threads);
}

}  // namespace furrow::tensor::kernels
#endif
