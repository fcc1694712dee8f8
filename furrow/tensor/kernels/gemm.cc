#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/gemm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/gemm_blocks-inl.h"
#include "furrow/tensor/kernels/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

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

struct Float32Product {
  using Form = PlainForm;
  const Gemm& g;
  int64_t m = g.m, n = g.n, depth = g.k, max_depth = kMaxDepth;

  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    kernels::HWY_NAMESPACE::pack_a(g.a, i, panels, k.begin, k.size, to);
  }
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    kernels::HWY_NAMESPACE::pack_b(g.b, k.begin, k.size, j, columns, to);
  }

  // Straight into C, or by way of the tile where columns are missing or an epilogue follows.
  void compute(Form::Registers&, const float* a, const float* b, const Tile& at, Depth k, float* tile) const {
    const bool finish = k.begin + k.size == g.k && has_epilogue(g.epilogue);
    const size_t bytes = static_cast<size_t>(at.columns) * sizeof(float);
    float* c = g.c + at.i * g.ldc + at.j;
    const bool resume = k.begin > 0 || g.accumulate;
    const MicroKernel kernel = micro_kernel_of(at.rows, resume);
    if (at.columns == kNR && !finish) return kernel(a, b, k.size, c, g.ldc);
    for (int64_t r = 0; r < at.rows && resume; ++r) std::memcpy(tile + r * kNR, c + r * g.ldc, bytes);
    kernel(a, b, k.size, tile, kNR);
    if (finish) return finish_tile(g, tile, at.i, at.rows, at.j, at.columns);
    for (int64_t r = 0; r < at.rows; ++r) std::memcpy(c + r * g.ldc, tile + r * kNR, bytes);
  }
};

void empty_sum(const Gemm& g) {
  if (g.accumulate && !has_epilogue(g.epilogue)) return;
  const float zeros[kNR] = {};
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; j += kNR) finish_tile(g, zeros, i, 1, j, std::min<int64_t>(kNR, g.n - j));
  }
}

}  // namespace

void run_gemm(const Gemm& g, int threads) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) return empty_sum(g);
  share_out(Float32Product{g}, threads);
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
