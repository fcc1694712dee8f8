// Adafactor over one parameter.  States: sums of rows, of columns, and of elements where it is no matrix.
#include "furrow/tensor/kernels/adafactor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/exact_sum.h"
#include "furrow/tensor/norm.h"
#include "furrow/tensor/optimizer_steps.h"

namespace furrow::tensor {
namespace {

constexpr double kLeastScale = 1e-3;  // of a parameter: epsilon 2 of the paper
constexpr double kClip = 1;           // the largest root mean square of a direction

// old += share * (sums / count - old).
void lerp_means(std::span<const double> sums, double count, double share, std::span<float> old) {
  for (size_t i = 0; i < old.size(); ++i) {
    const double mean = sums[i] / count;
    old[i] = static_cast<float>(old[i] + share * (mean - old[i]));
  }
}

// Updates the factors of a matrix; returns those of rows over their mean.
std::vector<float> update_factors(const OptimizerSpan& span, const StepParameters& p, double share,
                                  int threads) {
  const std::span<float> row_var = span.states[0].floats(), column_var = span.states[1].floats();
  std::vector<double> rows(row_var.size()), columns(column_var.size());
  kernels::factor_sums({span.rows, static_cast<int64_t>(columns.size()), span.gradient.data(),
                        p.gradient_factor, rows.data(), columns.data()},
                       threads);
  lerp_means(rows, static_cast<double>(columns.size()), share, row_var);
  lerp_means(columns, static_cast<double>(rows.size()), share, column_var);
  const double sum = std::accumulate(row_var.begin(), row_var.end(), 0.0);
  const double mean = std::max(sum / static_cast<double>(row_var.size()), 1e-30);
  std::vector<float> factors(row_var.size());
  for (size_t i = 0; i < factors.size(); ++i) factors[i] = static_cast<float>(row_var[i] / mean);
  return factors;
}

double root_mean_square(const ExactSum& squares, double count) { return std::sqrt(squares.value() / count); }

}  // namespace

void adafactor_step(const OptimizerSpan& span, const StepParameters& p, int threads) {
  if (span.params.empty()) return;
  FURROW_CHECK(span.whole, "Adafactor steps whole parameters");
  const double step = static_cast<double>(p.step), count = static_cast<double>(span.params.size());
  const double share = std::pow(step, p.beta2_decay);
  kernels::FactoredUpdate update;
  update.rows = std::max<int64_t>(span.rows, 1);
  update.columns = static_cast<int64_t>(span.params.size()) / update.rows;
  update.param = span.params.data();
  update.grad = span.gradient.data();
  update.grad_scale = p.gradient_factor;
  std::vector<float> factors;
  if (span.rows > 0) {
    factors = update_factors(span, p, share, threads);
    update.row_factor = factors.data();
    update.column_factor = span.states[1].floats().data();
  } else {
    float* variance = span.states[2].floats().data();
    kernels::update_variance(
        {update.columns, update.grad, p.gradient_factor, variance, static_cast<float>(share)}, threads);
    update.estimate = variance;
  }
  std::vector<double> row_squares(static_cast<size_t>(update.rows));
  update.row_squares = row_squares.data();
  kernels::factored_squares(update, threads);
  ExactSum direction, param;
  direction.add_all(row_squares);
  add_sum_of_squares(span.params, threads, &param);
  const double size = std::max(kLeastScale, root_mean_square(param, count));
  const double rate = size * std::min(p.lr, 1 / std::sqrt(step));
  update.keep = static_cast<float>(1 - p.lr * p.weight_decay);
  update.rate = static_cast<float>(rate / std::max(1.0, root_mean_square(direction, count) / kClip));
  kernels::factored_apply(update, threads);
}

}  // namespace furrow::tensor
