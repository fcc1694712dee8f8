#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/elementwise.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/fetch-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

int team(int64_t n, int threads) { return team_for(n, 32768, threads); }

template <class Fn>
void for_each(int64_t n, int threads, const Fn& fn) {
  parallel_for(team(n, threads), n, [&](int64_t begin, int64_t end) HWY_ATTR { sweep(begin, end, fn); });
}

// dz of one row from dy.
struct RowBackward {
  const ActivationBackward& a;
  HWY_INLINE void fetch_from(int64_t i) const {
    for (const float* x : {a.dy, a.slope, a.y, static_cast<const float*>(a.dz)}) {
      if (x) fetch(i, x);
    }
  }
  template <class Access>
  HWY_INLINE VF operator()(int64_t i, const Access& at) const {
    const VF dy = at.load(a.dy + i);
    if (a.activation == Activation::kNone) return dy;
    if (has_slope(a.activation)) return hn::Mul(dy, at.load(a.slope + i));
    const VF y = at.load(a.y + i);
    if (a.activation == Activation::kRelu) return hn::IfThenElse(hn::Le(y, zero()), zero(), dy);
    if (a.activation == Activation::kTanh) return hn::Mul(dy, hn::NegMulAdd(y, y, set(1.0f)));
    return hn::Mul(dy, hn::Mul(y, hn::Sub(set(1.0f), y)));
  }
};

// A function object an activation, so that the loop has no choice in it.
template <class Fn>
void with_activation(Activation activation, const Fn& fn) {
  const auto one = set(1.0f);
  switch (activation) {
    case Activation::kNone:
      return fn([=](VF v) HWY_ATTR { return ValueAndSlope{v, one}; });
    case Activation::kRelu:
      return fn([=](VF v) HWY_ATTR {
        return ValueAndSlope{relu(v), hn::IfThenElse(hn::Le(v, zero()), zero(), one)};
      });
    case Activation::kGelu:
      return fn([](VF v) HWY_ATTR { return gelu(v); });
    case Activation::kGeluTanh:
      return fn([](VF v) HWY_ATTR { return gelu_tanh(v); });
    case Activation::kSilu:
      return fn([](VF v) HWY_ATTR { return silu(v); });
    case Activation::kSoftplus:
      return fn([](VF v) HWY_ATTR { return softplus(v); });
    case Activation::kTanh:
      return fn([=](VF v) HWY_ATTR {
        const VF y = tanh(v);
        return ValueAndSlope{y, hn::NegMulAdd(y, y, one)};
      });
    case Activation::kSigmoid:
      return fn([=](VF v) HWY_ATTR {
        const VF y = sigmoid(v);
        return ValueAndSlope{y, hn::Mul(y, hn::Sub(one, y))};
      });
  }
}

template <class T>
void bias_activation_rows(const BiasActivation<T>& a, int threads) {
  with_activation(a.activation, [&](const auto& function) HWY_ATTR {
    const auto apply = [&](int64_t i, VF v, auto at) HWY_ATTR {
      const ValueAndSlope r = function(v);
      if (a.slope) at.store(r.slope, a.slope + i);
      at.store(r.value, a.y + i);
    };
    if (a.bias == nullptr) {
      for_each(a.rows * a.columns, threads,
               [&](int64_t i, auto at) HWY_ATTR { apply(i, at.load(a.x + i), at); });
      return;
    }
    parallel_for(team(a.rows * a.columns, threads), a.rows, [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t row = begin * a.columns; row < end * a.columns; row += a.columns) {
        sweep(0, a.columns, [&](int64_t c, auto at) HWY_ATTR {
          apply(row + c, hn::Add(at.load(a.x + row + c), at.load(a.bias + c)), at);
        });
      }
    });
  });
}

// dz of rows [begin, end); their sum over rows goes to `sums` when not null.
void backward_rows(const ActivationBackward& a, int64_t begin, int64_t end, float* sums) {
  const RowBackward backward{a};
  if (sums) std::memset(sums, 0, static_cast<size_t>(a.columns) * sizeof(float));
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) {
    sweep(0, a.columns, [&](int64_t j, auto at) HWY_ATTR {
      VF sum = sums ? at.load(sums + j) : zero();
      for (int64_t i = r * a.columns + j, k = 0; k < 4; ++k, i += a.columns) {
        backward.fetch_from(i + 4 * a.columns);
        const VF dz = backward(i, at);
        if (a.dz) at.store(dz, a.dz + i);
        sum = hn::Add(sum, dz);
      }
      if (sums) at.store(sum, sums + j);
    });
  }
  for (; r < end; ++r) {
    sweep(0, a.columns, [&](int64_t j, auto at) HWY_ATTR {
      const VF dz = backward(r * a.columns + j, at);
      if (a.dz) at.store(dz, a.dz + r * a.columns + j);
      if (sums) at.store(hn::Add(at.load(sums + j), dz), sums + j);
    });
  }
}

}  // namespace

void run_add(int64_t n, const float* a, const float* b, float* out, int threads) {
  for_each(n, threads, [&](int64_t i, auto at) HWY_ATTR {
    fetch(i + kElementsAhead, a, b, static_cast<const float*>(out));
    at.store(hn::Add(at.load(a + i), at.load(b + i)), out + i);
  });
}

void run_scale(int64_t n, float factor, const float* x, float* out, int threads) {
  const VF f = set(factor);
  for_each(n, threads, [&](int64_t i, auto at) HWY_ATTR { at.store(hn::Mul(f, at.load(x + i)), out + i); });
}

void run_exp(int64_t n, const float* x, float* y, int threads) {
  for_each(n, threads,
           [&](int64_t i, auto at) HWY_ATTR { at.store(exp_nonpositive(at.load(x + i)), y + i); });
}

void run_sigmoid(int64_t n, const float* x, float* y, int threads) {
  for_each(n, threads, [&](int64_t i, auto at) HWY_ATTR { at.store(sigmoid(at.load(x + i)), y + i); });
}

void run_tanh(int64_t n, const float* x, float* y, int threads) {
  for_each(n, threads, [&](int64_t i, auto at) HWY_ATTR { at.store(tanh(at.load(x + i)), y + i); });
}

void run_swiglu_forward(int64_t rows, int64_t columns, const float* gate_up, float* y, int threads) {
  parallel_for(team(rows * columns, threads), rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* gate = gate_up + row * 2 * columns;
      sweep(0, columns, [&](int64_t i, auto at) HWY_ATTR {
        for (const int64_t ahead : {2 * columns, 3 * columns}) fetch(ahead + i, gate);
        fetch((row + 1) * columns + i, y);
        const VF z = at.load(gate + i);
        at.store(hn::Mul(hn::Mul(z, sigmoid(z)), at.load(gate + columns + i)), y + row * columns + i);
      });
    }
  });
}

// d silu(z) / dz = s + z s (1 - s), s = sigmoid(z).
void run_swiglu_backward(int64_t rows, int64_t columns, const float* gate_up, const float* dy,
                         float* dgate_up, int threads) {
  parallel_for(team(rows * columns, threads), rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* gate = gate_up + row * 2 * columns;
      float* dgate = dgate_up + row * 2 * columns;
      sweep(0, columns, [&](int64_t i, auto at) HWY_ATTR {
        for (const int64_t ahead : {2 * columns, 3 * columns}) fetch(ahead + i, gate, dgate);
        fetch((row + 1) * columns + i, dy);
        const VF z = at.load(gate + i), up = at.load(gate + columns + i), d = at.load(dy + row * columns + i);
        const VF s = sigmoid(z), silu = hn::Mul(z, s);
        at.store(hn::Mul(hn::Mul(d, up), hn::MulAdd(silu, hn::Sub(set(1.0f), s), s)), dgate + i);
        at.store(hn::Mul(d, silu), dgate + columns + i);
      });
    }
  });
}

void run_bias_activation_f32(const BiasActivation<float>& a, int threads) {
  bias_activation_rows(a, threads);
}
void run_bias_activation_bf16(const BiasActivation<bf16>& a, int threads) {
  bias_activation_rows(a, threads);
}
void run_bias_activation_f16(const BiasActivation<f16>& a, int threads) { bias_activation_rows(a, threads); }

// Sums of blocks of 64 rows, then the blocks in order.
void run_activation_backward(const ActivationBackward& a, int threads) {
  ScratchScope scratch;
  const int64_t blocks = (a.rows + kChainRows - 1) / kChainRows;
  float* parts = a.db ? scratch.floats(blocks * a.columns) : nullptr;
  parallel_for(team(a.rows * a.columns, threads), blocks, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      backward_rows(a, b * kChainRows, std::min((b + 1) * kChainRows, a.rows),
                    parts ? parts + b * a.columns : nullptr);
    }
  });
  if (!a.db) return;
  sweep(0, a.columns, [&](int64_t j, auto at) HWY_ATTR {
    VF sum = zero();
    for (int64_t b = 0; b < blocks; ++b) sum = hn::Add(sum, at.load(parts + b * a.columns + j));
    at.store(sum, a.db + j);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_add);
HWY_EXPORT(run_scale);
HWY_EXPORT(run_exp);
HWY_EXPORT(run_sigmoid);
HWY_EXPORT(run_tanh);
HWY_EXPORT(run_swiglu_forward);
HWY_EXPORT(run_swiglu_backward);
HWY_EXPORT(run_bias_activation_f32);
HWY_EXPORT(run_bias_activation_bf16);
HWY_EXPORT(run_bias_activation_f16);
HWY_EXPORT(run_activation_backward);
void add(int64_t n, const float* a, const float* b, float* out, int threads) {
  HWY_DYNAMIC_DISPATCH(run_add)(n, a, b, out, threads);
}
void scale(int64_t n, float factor, const float* x, float* out, int threads) {
  HWY_DYNAMIC_DISPATCH(run_scale)(n, factor, x, out, threads);
}
void exp_nonpositive(int64_t n, const float* x, float* y, int threads) {
  HWY_DYNAMIC_DISPATCH(run_exp)(n, x, y, threads);
}
void sigmoid(int64_t n, const float* x, float* y, int threads) {
  HWY_DYNAMIC_DISPATCH(run_sigmoid)(n, x, y, threads);
}
void tanh(int64_t n, const float* x, float* y, int threads) {
  HWY_DYNAMIC_DISPATCH(run_tanh)(n, x, y, threads);
}
void swiglu_forward(int64_t rows, int64_t columns, const float* gate_up, float* y, int threads) {
  HWY_DYNAMIC_DISPATCH(run_swiglu_forward)(rows, columns, gate_up, y, threads);
}
void swiglu_backward(int64_t rows, int64_t columns, const float* gate_up, const float* dy, float* dgate_up,
                     int threads) {
  HWY_DYNAMIC_DISPATCH(run_swiglu_backward)(rows, columns, gate_up, dy, dgate_up, threads);
}
void activation_forward(Activation activation, int64_t n, const float* x, float* y, float* slope,
                        int threads) {
  bias_activation(
      BiasActivation<float>{
          .activation = activation, .rows = 1, .columns = n, .x = x, .y = y, .slope = slope},
      threads);
}
void bias_activation(const BiasActivation<float>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_bias_activation_f32)(args, threads);
}
void bias_activation(const BiasActivation<bf16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_bias_activation_bf16)(args, threads);
}
void bias_activation(const BiasActivation<f16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_bias_activation_f16)(args, threads);
}
void activation_backward(const ActivationBackward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_activation_backward)(args, threads);
}
void column_sums(int64_t rows, int64_t columns, const float* dz, float* db, int threads) {
  activation_backward({.rows = rows, .columns = columns, .dy = dz, .db = db}, threads);
}

}  // namespace furrow::tensor::kernels
#endif
