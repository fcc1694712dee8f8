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
constexpr int64_t kKeptPanels = 1 << 20;     // floats of B that stay packed for several blocks of rows

// C at (i0, j0) = epilogue of a finished tile, rows x columns, rows kNR apart.
void finish_tile(const Gemm& g, const float* tile, int64_t i0, int64_t rows, int64_t j0, int64_t columns) {
  const Epilogue& e = g.epilogue;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = (i0 + i) * g.ldc + j0;
    sweep(0, columns, [&](int64_t j, auto at) HWY_ATTR {
      VF c = at.load(tile + i * kNR + j);
      if (e.bias) c = hn::Add(c, at.load(e.bias + j0 + j));
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

// A block of k.
struct Depth {
  int64_t begin, size;
};

// One thread's share of C and its working memory.
struct Share {
  const Gemm& g;
  int64_t j1;   // the share's last column
  float* a;     // packed block of rows of A
  float* b;     // packed panels of a group of columns of B
  float* tile;  // kMR x kNR
};

// One register block: straight into C, or by way of the tile where columns are missing or an epilogue
// follows.
void compute_tile(const Share& s, const float* a, const float* b, int64_t i, int64_t rows, int64_t j,
                  Depth k) {
  const int64_t columns = std::min<int64_t>(kNR, s.j1 - j);
  const bool finish = k.begin + k.size == s.g.k && has_epilogue(s.g.epilogue);
  const size_t bytes = static_cast<size_t>(columns) * sizeof(float);
  float* c = s.g.c + i * s.g.ldc + j;
  const bool resume = k.begin > 0 || s.g.accumulate;
  const MicroKernel kernel = micro_kernel_of(rows, resume);
  if (columns == kNR && !finish) return kernel(a, b, k.size, c, s.g.ldc);
  for (int64_t r = 0; r < rows && resume; ++r) std::memcpy(s.tile + r * kNR, c + r * s.g.ldc, bytes);
  kernel(a, b, k.size, s.tile, kNR);
  if (finish) return finish_tile(s.g, s.tile, i, rows, j, columns);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(c + r * s.g.ldc, s.tile + r * kNR, bytes);
}

// Rows [i, i + rows) and columns [j0, j0 + columns), one block of k.  A has been packed; B too if b_packed.
void compute_block(const Share& s, int64_t i, const RowPanels& rows, int64_t j0, int64_t columns, Depth k,
                   bool b_packed) {
  if (!b_packed) pack_b(s.g.b, k.begin, k.size, j0, columns, s.b);
  for (int64_t j = 0; j < columns; j += kNR) {
    for (int64_t p = 0; p < rows.parts; ++p) {
      compute_tile(s, s.a + rows.begin(p) * k.size, s.b + j * k.size, i + rows.begin(p), rows.size(p), j0 + j,
                   k);
    }
  }
}

// Rows [i0, i1) and columns [j0, j1) of C.  Whichever of A and B is needed again stays packed: with one block
// of rows, A over the groups of columns; else B over the blocks of rows.
void compute_share(const Gemm& g, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  const Blocks depths(g.k, kMaxDepth);
  const int64_t depth = depths.size(0);
  const Blocks rows(i1 - i0, std::max<int64_t>(kMR, kPackedFloats / depth / kMR * kMR));
  const int64_t most = rows.parts > 1 ? kKeptPanels / depth / kNR * kNR : kSideBySide * kNR;
  const int64_t group = std::min(std::max<int64_t>(most, kNR), (j1 - j0 + kNR - 1) / kNR * kNR);
  ScratchScope scratch;
  const Share s{g, j1, scratch.floats(rows.size(0) * depth + kPackSlack), scratch.floats(group * depth),
                scratch.floats(kMR * kNR)};
  for (int64_t d = 0; d < depths.parts; ++d) {
    const Depth k{depths.begin(d), depths.size(d)};
    for (int64_t j = j0; j < j1; j += group) {
      for (int64_t block = 0; block < rows.parts; ++block) {
        const RowPanels panels(rows.size(block));
        const int64_t i = i0 + rows.begin(block);
        if (rows.parts > 1 || j == j0) pack_a(g.a, i, panels, k.begin, k.size, s.a);
        compute_block(s, i, panels, j, std::min(group, j1 - j), k, block > 0);
      }
    }
  }
}

void empty_sum(const Gemm& g) {
  if (g.accumulate && !has_epilogue(g.epilogue)) return;
  const float zeros[kNR] = {};
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; j += kNR) finish_tile(g, zeros, i, 1, j, std::min<int64_t>(kNR, g.n - j));
  }
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
