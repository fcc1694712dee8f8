// Muon: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/exact_sum.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/norm.h"
#include "furrow/tensor/optimizer_steps.h"

namespace furrow::tensor {
namespace {

using Floats = std::vector<float>;

// A product of dense matrices: c [m, n] = a [m, k] b, b [k, n] or, transposed, [n, k].
struct Product {
  int64_t m, n, k;
  const Floats &a, &b;
  bool transposed = false;
};

void multiply(const Product& p, Floats* c, int threads) {
  kernels::Gemm args;
  args.m = p.m;
  args.n = p.n;
  args.k = p.k;
  args.a = {p.a.data(), p.k, 1};
  args.b = p.transposed ? kernels::MatrixView{p.b.data(), 1, p.k} : kernels::MatrixView{p.b.data(), p.n, 1};
  args.c = c->data();
  args.ldc = p.n;
  kernels::gemm(args, threads);
}

// Singular values of x [m, n], m <= n, go near 1: five steps of the paper's quintic iteration.
void orthogonalise(Floats* x, int64_t m, int64_t n, int threads) {
  constexpr float kA = 3.4445F, kB = -4.7750F, kC = 2.0315F;
  ExactSum squares;
  add_sum_of_squares(*x, threads, &squares);
  const auto inverse = static_cast<float>(1 / std::max(std::sqrt(squares.value()), 1e-7));
  for (float& value : *x) value *= inverse;
  const auto square = static_cast<size_t>(m * m);
  Floats gram(square), polynomial(square), moved(x->size());
  for (int i = 0; i < 5; ++i) {
    multiply({m, m, n, *x, *x, true}, &gram, threads);
    multiply({m, m, m, gram, gram}, &polynomial, threads);
    for (size_t j = 0; j < square; ++j) polynomial[j] = kB * gram[j] + kC * polynomial[j];
    multiply({m, n, m, polynomial, *x}, &moved, threads);
    for (size_t j = 0; j < moved.size(); ++j) (*x)[j] = kA * (*x)[j] + moved[j];
  }
}

Floats transpose(const Floats& x, int64_t rows, int64_t columns) {
  Floats out(x.size());
  constexpr int64_t kTile = 16;
  for (int64_t i0 = 0; i0 < rows; i0 += kTile) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = i0; i < std::min(rows, i0 + kTile); ++i) out[j * rows + i] = x[i * columns + j];
    }
  }
  return out;
}

// The direction before it is made orthogonal; moves the buffer.
Floats momentum_of(const OptimizerSpan& span, const StepParameters& p) {
  const std::span<float> buffer = span.states[0].floats();
  const auto momentum = static_cast<float>(p.momentum), rest = static_cast<float>(1 - p.momentum);
  Floats out(span.params.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const float g = p.gradient_factor * span.gradient[i];
    buffer[i] = momentum * buffer[i] + rest * g;
    out[i] = p.nesterov ? momentum * buffer[i] + rest * g : buffer[i];
  }
  return out;
}

}  // namespace

void muon_step(const OptimizerSpan& span, const StepParameters& p, int threads) {
  if (!span.whole) return adamw_step(span, p, threads);
  const int64_t rows = span.rows,
                columns = static_cast<int64_t>(span.params.size()) / std::max<int64_t>(rows, 1);
  FURROW_CHECK(rows > 0, "Muon makes steps of matrices orthogonal");
  Floats x = momentum_of(span, p);
  const bool tall = rows > columns;
  if (tall) x = transpose(x, rows, columns);
  orthogonalise(&x, std::min(rows, columns), std::max(rows, columns), threads);
  if (tall) x = transpose(x, columns, rows);
  const auto keep = static_cast<float>(1 - p.lr * p.weight_decay);
  const auto rate = static_cast<float>(p.lr * 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns))));
  for (size_t i = 0; i < x.size(); ++i) span.params[i] = keep * span.params[i] - rate * x[i];
}

}  // namespace furrow::tensor
