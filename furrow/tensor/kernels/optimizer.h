// Optimizer steps and norms over a span of a flat buffer: one read and one write of everything, in place.
//
// Bits of an element depend on that element alone (never on offset, length or threads), so any cut of a
// buffer into spans, ranks or threads gives the same result.  Thread safe.  Formulas are torch.optim's.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// g = grad_scale * grad + weight_decay * param;  buf = momentum * buf + g;
// param -= lr * (nesterov ? g + momentum * buf : buf).    `momentum_buffer` starts as zeros; null when
// momentum = 0.
struct Sgd {
  int64_t n = 0;
  float* param = nullptr;
  const float* grad = nullptr;
  float* momentum_buffer = nullptr;
  float grad_scale = 1;  // 1 / count, times the clip coefficient
  float lr = 0, momentum = 0, weight_decay = 0;
  bool nesterov = false;
};
void sgd_step(const Sgd& args, int threads);

// Kingma and Ba, "Adam: a method for stochastic optimization", 2015, in PyTorch's form, step t = 1, 2, ...:
// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
// param -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps).   Coefficients are formed in double.
// Decoupled decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) first shrinks the
// parameter by 1 - lr * weight_decay; coupled decay adds weight_decay * param to g.
struct Adam {
  int64_t n = 0;
  float* param = nullptr;
  const float* grad = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  float grad_scale = 1;
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = true;
  int64_t step = 1;
};
void adam_step(const Adam& args, int threads);

// Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2:
// c = beta1 m + (1 - beta1) g;  param = (1 - lr * weight_decay) param - lr * sign(c), sign(0) = 0;
// m = beta2 m + (1 - beta2) g.
struct Lion {
  int64_t n = 0;
  float* param = nullptr;
  const float* grad = nullptr;
  float* exp_avg = nullptr;
  float grad_scale = 1;
  double lr = 0, beta1 = 0.9, beta2 = 0.99, weight_decay = 0;
};
void lion_step(const Lion& args, int threads);

// You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, algorithm 2,
// for one parameter: with Adam's m and v, direction r = m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) +
// eps) + weight_decay * param;  param -= rate * r, where rate = lr * norm(param) / norm(r). lamb_moments
// updates m and v and, where they are not null, gives the sums of squares of param and r on the grid;
// lamb_apply forms r again.
struct Lamb {
  int64_t n = 0;
  float* param = nullptr;
  const float* grad = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  float grad_scale = 1;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-6, weight_decay = 0;
  int64_t step = 1;
  double* param_squares = nullptr;  // grid_blocks(n) each
  double* direction_squares = nullptr;
  double rate = 0;  // lamb_apply
};
void lamb_moments(const Lamb& args, int threads);
void lamb_apply(const Lamb& args, int threads);

// average += share * (param - average).
struct Average {
  int64_t n = 0;
  const float* param = nullptr;
  float* average = nullptr;
  float share = 0;
};
void update_average(const Average& args, int threads);

// Sums of squares on the fixed grid of 1,024 elements: block_sums[b] = sum of x[i]^2 over block b, in double,
// 16 fixed lanes joined by a fixed tree.  `x` must start on the grid.  A block with a NaN or infinity gives a
// non-finite sum, and squares cannot overflow a double: so "all sums finite" is "all elements finite".
inline constexpr int64_t kGridElements = 1024;
inline int64_t grid_blocks(int64_t n) { return (n + kGridElements - 1) / kGridElements; }
void sum_of_squares(int64_t n, const float* x, double* block_sums, int threads);

}  // namespace furrow::tensor::kernels
