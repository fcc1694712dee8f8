#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/adafactor.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <cmath>
#include <vector>

#include "furrow/tensor/kernels/adafactor.h"
#include "furrow/tensor/kernels/moments-inl.h"
#include "furrow/tensor/kernels/optimizer.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/simd-inl.h"

#ifndef FURROW_TENSOR_KERNELS_ADAFACTOR_CHUNKS_
#define FURROW_TENSOR_KERNELS_ADAFACTOR_CHUNKS_
namespace furrow::tensor::kernels {

// Columns are added within chunks of rows, and chunks in their order: how many rows a chunk has is fixed.
constexpr int64_t kChunkRows = 64;
constexpr int64_t kSegment = 1024;  // elements of a row that are summed at once

}  // namespace furrow::tensor::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

int team_of(int64_t rows, int64_t columns, int threads) { return team_for(rows * columns, 32768, threads); }

// Adds lane by lane: lane l takes elements l, l + 16, ...  `columns` may be null.
void add_squares(const float* x, int64_t n, double* lanes, double* columns) {
  int64_t i = 0;
  hn::Vec<DD> sums[kSums];
  for (int s = 0; s < kSums; ++s) sums[s] = hn::LoadU(DD(), lanes + s * kDoubles);
  for (; i + 16 <= n; i += 16) {
    for (int s = 0; s < kSums; ++s) {
      const auto v = hn::PromoteTo(DD(), hn::LoadU(DHalf(), x + i + s * kDoubles));
      const auto square = hn::Mul(v, v);
      sums[s] = hn::Add(sums[s], square);
      if (columns == nullptr) continue;
      double* column = columns + i + s * kDoubles;
      hn::StoreU(hn::Add(hn::LoadU(DD(), column), square), DD(), column);
    }
  }
  for (int s = 0; s < kSums; ++s) hn::StoreU(sums[s], DD(), lanes + s * kDoubles);
  for (; i < n; ++i) {
    const double square = static_cast<double>(x[i]) * static_cast<double>(x[i]);
    lanes[i % 16] += square;
    if (columns != nullptr) columns[i] += square;
  }
}

void scale_segment(const float* grad, float factor, int64_t n, float* out) {
  const VF scale = set(factor);
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR { at.store(hn::Mul(scale, at.load(grad + i)), out + i); });
}

void sum_row(const FactorSums& a, int64_t row, double* columns) {
  alignas(64) float segment[kSegment];
  double lanes[16] = {};
  for (int64_t j = 0; j < a.columns; j += kSegment) {
    const int64_t n = std::min(kSegment, a.columns - j);
    scale_segment(a.grad + row * a.columns + j, a.grad_scale, n, segment);
    add_squares(segment, n, lanes, columns + j);
  }
  a.row_sums[row] = join(lanes);
}

// Elements [j, j + n) of the direction of one row.
void direction(const FactoredUpdate& a, int64_t row, int64_t j, int64_t n, float* out) {
  const VF scale = set(a.grad_scale), least = set(a.least);
  const VF row_factor = set(a.row_factor != nullptr ? a.row_factor[row] : 0);
  const float* grad = a.grad + row * a.columns + j;
  const float* other = a.estimate != nullptr ? a.estimate + row * a.columns + j : a.column_factor + j;
  const bool factored = a.estimate == nullptr;
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    VF estimate = at.load(other + i);
    if (factored) estimate = hn::Mul(row_factor, estimate);
    const VF root = hn::Sqrt(hn::Max(estimate, least));
    at.store(hn::Div(hn::Mul(scale, at.load(grad + i)), root), out + i);
  });
}

template <class Use>
void each_segment(const FactoredUpdate& a, int64_t row, const Use& use) {
  alignas(64) float segment[kSegment];
  for (int64_t j = 0; j < a.columns; j += kSegment) {
    const int64_t n = std::min(kSegment, a.columns - j);
    direction(a, row, j, n, segment);
    use(j, n, segment);
  }
}

void apply_row(const FactoredUpdate& a, int64_t row) {
  const VF keep = set(a.keep), rate = set(a.rate);
  each_segment(a, row, [&](int64_t j, int64_t n, const float* u) HWY_ATTR {
    float* param = a.param + row * a.columns + j;
    sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
      at.store(hn::NegMulAdd(rate, at.load(u + i), hn::Mul(keep, at.load(param + i))), param + i);
    });
  });
}

}  // namespace

void run_factor_sums(const FactorSums& args, int threads) {
  const int64_t chunks = (args.rows + kChunkRows - 1) / kChunkRows;
  std::vector<double> partial(static_cast<size_t>(chunks * args.columns), 0.0);
  parallel_for(team_of(args.rows, args.columns, threads), chunks, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kChunkRows; row < std::min(args.rows, end * kChunkRows); ++row)
      sum_row(args, row, partial.data() + row / kChunkRows * args.columns);
  });
  std::copy(partial.begin(), partial.begin() + args.columns, args.column_sums);
  for (int64_t c = 1; c < chunks; ++c) {
    for (int64_t j = 0; j < args.columns; ++j) args.column_sums[j] += partial[c * args.columns + j];
  }
}

void run_factored_squares(const FactoredUpdate& args, int threads) {
  parallel_for(team_of(args.rows, args.columns, threads), args.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      double lanes[16] = {};
      each_segment(args, row, [&](int64_t, int64_t n, const float* u) { add_squares(u, n, lanes, nullptr); });
      args.row_squares[row] = join(lanes);
    }
  });
}

void run_factored_apply(const FactoredUpdate& args, int threads) {
  parallel_for(team_of(args.rows, args.columns, threads), args.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) apply_row(args, row);
  });
}

void run_update_variance(const VarianceUpdate& a, int threads) {
  parallel_for(team_of(1, a.n, threads), a.n, [&](int64_t begin, int64_t end) {
    const VF scale = set(a.grad_scale), share = set(a.share);
    sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
      const VF g = hn::Mul(scale, at.load(a.grad + i)), old = at.load(a.variance + i);
      at.store(hn::MulAdd(share, hn::Sub(hn::Mul(g, g), old), old), a.variance + i);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_factor_sums);
HWY_EXPORT(run_factored_squares);
HWY_EXPORT(run_factored_apply);
HWY_EXPORT(run_update_variance);
void factor_sums(const FactorSums& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_factor_sums)(args, threads);
}
void factored_squares(const FactoredUpdate& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_factored_squares)(args, threads);
}
void factored_apply(const FactoredUpdate& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_factored_apply)(args, threads);
}
void update_variance(const VarianceUpdate& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_update_variance)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
