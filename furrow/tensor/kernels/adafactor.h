// The passes of Adafactor over one parameter: Shazeer and Stern, "Adafactor: adaptive learning rates with
// sublinear memory cost", 2018.  Sums run in fixed orders, so that threads change no bit.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// Sums of squares of g = grad_scale * grad by row and by column, in double.
struct FactorSums {
  int64_t rows = 0, columns = 0;
  const float* grad = nullptr;
  float grad_scale = 1;
  double* row_sums = nullptr;     // rows
  double* column_sums = nullptr;  // columns
};
void factor_sums(const FactorSums& args, int threads);

// The direction u = g / sqrt(max(estimate, least)); estimate[i][j] = row_factor[i] * column_factor[j], or
// element by element where that is given.  factored_squares gives the sum of u^2 of each row;
// factored_apply: param = keep * param - rate * u.  A vector is one row.
struct FactoredUpdate {
  int64_t rows = 0, columns = 0;
  float* param = nullptr;
  const float* grad = nullptr;
  float grad_scale = 1;
  const float* row_factor = nullptr;
  const float* column_factor = nullptr;
  const float* estimate = nullptr;  // in place of the two
  float least = 1e-30F;
  double* row_squares = nullptr;  // rows
  float keep = 1, rate = 0;
};
void factored_squares(const FactoredUpdate& args, int threads);
void factored_apply(const FactoredUpdate& args, int threads);

// variance += share * (g^2 - variance).
struct VarianceUpdate {
  int64_t n = 0;
  const float* grad = nullptr;
  float grad_scale = 1;
  float* variance = nullptr;
  float share = 1;
};
void update_variance(const VarianceUpdate& args, int threads);

}  // namespace furrow::tensor::kernels
