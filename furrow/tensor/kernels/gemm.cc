#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/gemm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/gemm_single-inl.h"
#include "furrow/tensor/kernels/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

struct Float32Output {
  const Gemm& g;

  float* sums() const { return g.c; }
  bool finishes() const {
    const Epilogue& e = g.epilogue;
    return e.bias || e.multiply || e.positive || e.activation != Activation::kNone;
  }
  void finish(const float* tile, int64_t step, const Tile& at) const {
    const Epilogue& e = g.epilogue;
    float* c = g.c + at.i * g.ldc + at.j;
    const bool more = e.multiply || e.positive || e.activation >= Activation::kGelu;
    sweep(0, at.columns, [&](int64_t j, auto access) HWY_ATTR {
      const VF bias = e.bias ? access.load(e.bias + at.j + j) : zero();
      const bool is_relu = e.activation == Activation::kRelu;
      const auto begun = [&](int64_t i) HWY_ATTR {
        VF v = access.load(tile + i * step + j);
        if (e.bias) v = hn::Add(v, bias);
        return is_relu ? relu(v) : v;
      };
      if (!more) {  // with no choice between the rows
        for (int64_t i = 0; i < at.rows; ++i) access.store(begun(i), c + i * g.ldc + j);
        return;
      }
      for (int64_t i = 0; i < at.rows; ++i) {
        const int64_t to = (at.i + i) * g.ldc + at.j + j;
        VF v = begun(i);
        if (e.activation >= Activation::kGelu) {
          const ValueAndSlope r = e.activation == Activation::kGelu ? gelu(v) : gelu_tanh(v);
          if (e.slope) access.store(r.slope, e.slope + to);
          v = r.value;
        }
        if (e.multiply) v = hn::Mul(v, access.load(e.multiply + to));
        if (e.positive) v = hn::IfThenElse(hn::Le(access.load(e.positive + to), zero()), zero(), v);
        access.store(v, g.c + to);
      }
    });
  }
};

void empty_sum(const Gemm& g) {
  const Float32Output out{g};
  if (g.accumulate && !out.finishes()) return;
  const float zeros[kNR] = {};
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; j += kNR) out.finish(zeros, kNR, {i, 1, j, std::min<int64_t>(kNR, g.n - j)});
  }
}

}  // namespace

void run_gemm(const Gemm& g, int threads) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) return empty_sum(g);
  share_out(SingleProduct<Float32Output, float>{{g}}, threads);
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
