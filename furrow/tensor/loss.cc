#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/cross_entropy.h"
#include "furrow/tensor/kernels/pointwise_losses.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

void check_targets(const at::Tensor& targets, int64_t classes) {
  const std::span<const int64_t> all(targets.const_data_ptr<int64_t>(), static_cast<size_t>(targets.numel()));
  const auto bad = std::ranges::find_if(
      all, [&](int64_t target) { return (target < 0 && target != kIgnoredTarget) || target >= classes; });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("target {} of row {} is outside the {} classes of the model's output: check the labels",
                    *bad, bad - all.begin(), classes));
  }
}

// The operands of a loss of one number each, dense, and where its losses go.
struct Values {
  at::Tensor output, targets, losses;
};

Values values_of(std::string_view loss, const at::Tensor& output, const at::Tensor& targets,
                 at::Tensor* gradient, int threads) {
  FURROW_CHECK(is_number(output), "a loss reads numbers");
  if (output.numel() != targets.numel()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("loss {} compares one target with one output, but the model gives {} values for {} "
                    "targets: change [training] loss, or the data's target",
                    loss, output.numel(), targets.numel()));
  }
  Values v{widened(output, threads), targets.to(at::kFloat).contiguous(), {}};
  if (composed(output)) return v;
  v.losses = at::empty_like(v.output);
  if (gradient != nullptr) *gradient = at::empty_like(v.output);
  return v;
}

void check_probabilities(const at::Tensor& targets) {
  const std::span<const float> all(targets.const_data_ptr<float>(), static_cast<size_t>(targets.numel()));
  const auto bad = std::ranges::find_if(all, [](float t) { return !(t >= 0 && t <= 1); });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("target {} of value {} is outside [0, 1], which the binary loss needs: check the labels",
                    *bad, bad - all.begin()));
  }
}

PointwiseSums sums_of(const Values& v, int64_t correct) {
  PointwiseSums sums;
  sums.values = v.output.numel();
  sums.correct = correct;
  sums.loss.add_all(std::span(v.losses.const_data_ptr<float>(), static_cast<size_t>(sums.values)));
  return sums;
}

// Of a composition's losses, wherever they lie.
void add_all(const at::Tensor& losses, ExactSum* sum) {
  const at::Tensor here = on_host(losses.contiguous());
  sum->add_all(std::span(here.const_data_ptr<float>(), static_cast<size_t>(here.numel())));
}

// Of how many rows at a time exponentials are taken: as fit into a cache.
int64_t rows_at_a_time(int64_t classes) {
  constexpr int64_t kElements = int64_t{8} << 20;  // 32 MiB of float32
  return std::max<int64_t>(1, kElements / std::max<int64_t>(1, classes));
}

// Of every row the loss, [rows, 1]; to `gradient`, where it is defined, [rows, classes], that of its logits.
// The wider copies of a large output are never there as a whole.
at::Tensor losses_by_rows(const at::Tensor& logits, const at::Tensor& wanted, double smoothing,
                          const at::Tensor& gradient) {
  const int64_t classes = logits.size(1), step = rows_at_a_time(classes);
  std::vector<at::Tensor> losses;
  for (int64_t begin = 0; begin < logits.size(0); begin += step) {
    const int64_t rows = std::min(step, logits.size(0) - begin);
    const at::Tensor log_probabilities = at::log_softmax(logits.narrow(0, begin, rows).to(at::kFloat), 1);
    losses.push_back(at::gather(log_probabilities, 1, wanted.narrow(0, begin, rows)).mul_(smoothing - 1));
    if (smoothing > 0) losses.back().sub_(at::mean(log_probabilities, {1}, true), smoothing);
    if (!gradient.defined()) continue;
    at::Tensor part = gradient.narrow(0, begin, rows);
    at::exp_out(part, log_probabilities);
    if (smoothing > 0) part.sub_(smoothing / static_cast<double>(classes));
  }
  return losses.size() == 1 ? losses[0] : at::cat(losses);
}

// Rows that are ignored have the first class for a target until their part is taken out again.
CrossEntropySums composed_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                                        at::Tensor* gradient, double smoothing) {
  const int64_t classes = logits.size(-1);
  const at::Tensor flat = targets.reshape({-1, 1}), uncounted = flat.lt(0);
  const int64_t rows = flat.numel() - uncounted.sum().item<int64_t>();
  const at::Tensor wanted = flat.clamp_min(0).to(logits.device(), at::kLong, /*non_blocking=*/true);
  const at::Tensor left_out = uncounted.to(logits.device(), at::kBool, /*non_blocking=*/true);
  const at::Tensor scores = logits.detach().reshape({-1, classes});
  if (gradient != nullptr) *gradient = at::empty(scores.sizes(), scores.options().dtype(at::kFloat));
  const at::Tensor losses =
      losses_by_rows(scores, wanted, smoothing, gradient != nullptr ? *gradient : at::Tensor());
  losses.masked_fill_(left_out, 0);  // whatever the logits there are
  const at::Tensor right =
      at::argmax(logits, -1).view({-1, 1}).eq(wanted).logical_and(left_out.logical_not()).sum();
  if (gradient != nullptr) {
    gradient->scatter_add_(1, wanted, at::full_like(losses, smoothing - 1));
    if (rows < flat.numel()) gradient->masked_fill_(left_out, 0);
    *gradient = gradient->view(logits.sizes());
  }
  CrossEntropySums sums{{}, rows, 0};
  add_all(losses, &sums.loss);
  sums.correct = right.item<int64_t>();
  return sums;
}

// One call over the ranks of a tensor axis: their part of the classes, columns behind the last -inf.
struct CutScores {
  const CutClasses& cut;
  at::Tensor scores, targets;  // float32 [rows, part]; int64 [rows, 1]: columns of this part, or outside
  at::Tensor behind;           // [part]: no class; undefined where all are

  bool smoothed() const { return cut.smoothing > 0; }
  at::Tensor here() const { return targets.ge(0).logical_and_(targets.lt(scores.size(1))); }
  at::Tensor columns() const { return targets.clamp(0, scores.size(1) - 1); }
};

CutScores cut_scores(const at::Tensor& logits, const at::Tensor& targets, const CutClasses& cut) {
  const int64_t part = logits.size(-1), first = cut.axis->rank() * part;
  CutScores s{cut, logits.detach().reshape({-1, part}).to(at::kFloat), {}, {}};
  const at::Tensor own = targets.reshape({-1, 1});
  s.targets = (own - first).masked_fill(own.lt(0), -1).to(logits.device(), at::kLong, /*non_blocking=*/true);
  if (first + part > cut.classes) {
    s.behind = at::arange(first, first + part, s.targets.options()).ge(cut.classes);
    s.scores = s.scores.masked_fill(s.behind, -std::numeric_limits<float>::infinity());
  }
  return s;
}

// What kernels::CrossEntropyPart sums, float64 [rows, 4]; `exponentials` as float32.
at::Tensor cut_sums(const CutScores& s, const at::Tensor& maxima, const at::Tensor& exponentials) {
  const at::Tensor gap = maxima.to(at::kDouble) - s.scores.gather(1, s.columns()).to(at::kDouble);
  at::Tensor gaps = at::zeros_like(gap);
  if (s.smoothed()) {
    at::Tensor each = maxima - s.scores;
    if (s.behind.defined()) each.masked_fill_(s.behind, 0);
    gaps = each.sum({1}, true, at::kDouble);
  }
  const at::Tensor before = at::arange(s.scores.size(1), s.targets.options()).lt(s.targets);
  return at::cat({exponentials.sum({1}, true, at::kDouble), gap.masked_fill(s.here().logical_not(), 0), gaps,
                  s.scores.eq(maxima).logical_and_(before).sum({1}, true, at::kDouble)},
                 1);
}

void finish_gradient(const CutScores& s, const at::Tensor& sum, at::Tensor* exponentials) {
  const double smoothing = s.cut.smoothing;
  exponentials->div_(sum.to(at::kFloat));
  if (s.smoothed()) exponentials->sub_(smoothing / static_cast<double>(s.cut.classes));
  exponentials->scatter_add_(1, s.columns(), s.here().to(at::kFloat).mul_(smoothing - 1));
  if (s.behind.defined()) exponentials->masked_fill_(s.behind, 0);
}

CrossEntropySums composed_cut_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                                            at::Tensor* gradient, const CutClasses& cut) {
  const CutScores s = cut_scores(logits, targets, cut);
  const at::Tensor uncounted = targets.reshape({-1, 1}).lt(0);
  const int64_t rows = targets.numel() - uncounted.sum().item<int64_t>();
  const at::Tensor left_out = uncounted.to(logits.device(), at::kBool, /*non_blocking=*/true);
  const at::Tensor maxima =
      cut.axis->all_reduce(at::amax(s.scores, {1}, true), AxisCollective::Reduction::kMax);
  at::Tensor exponentials = at::exp(s.scores - maxima);
  const at::Tensor sums = cut.axis->all_reduce(cut_sums(s, maxima, exponentials));
  const auto column = [&sums](int64_t i) { return sums.narrow(1, i, 1); };
  at::Tensor gap = column(1);
  if (s.smoothed()) gap = gap + (column(2) / static_cast<double>(cut.classes) - gap) * cut.smoothing;
  const at::Tensor losses = (column(0).log() + gap).to(at::kFloat).masked_fill_(left_out, 0);
  const at::Tensor right =
      column(1).eq(0).logical_and_(column(3).eq(0)).logical_and_(left_out.logical_not()).sum();
  if (gradient != nullptr) {
    finish_gradient(s, column(0), &exponentials);
    if (rows < targets.numel()) exponentials.masked_fill_(left_out, 0);
    *gradient = exponentials.view(logits.sizes());
  }
  CrossEntropySums result{{}, rows, 0};
  add_all(losses, &result.loss);
  result.correct = right.item<int64_t>();
  return result;
}

PointwiseSums composed_sums(const at::Tensor& losses, int64_t correct) {
  PointwiseSums sums;
  sums.values = losses.numel();
  sums.correct = correct;
  add_all(losses, &sums.loss);
  return sums;
}

PointwiseSums composed_squared_error(const Values& v, at::Tensor* gradient) {
  const at::Tensor error = v.output - v.targets.to(v.output.device()).view_as(v.output);
  if (gradient != nullptr) *gradient = error * 2;
  return composed_sums(error.square(), 0);
}

PointwiseSums composed_binary_cross_entropy(const Values& v, at::Tensor* gradient) {
  const at::Tensor targets = v.targets.to(v.output.device()).view_as(v.output);
  const at::Tensor losses = v.output.clamp_min(0) - v.output * targets + v.output.abs().neg().exp().log1p();
  if (gradient != nullptr) *gradient = at::sigmoid(v.output) - targets;
  return composed_sums(losses, v.output.gt(0).eq(targets.gt(0.5)).sum().item<int64_t>());
}

// By operations of libtorch, on any device.
CrossEntropySums composed_distillation(const at::Tensor& logits, const at::Tensor& targets,
                                       const Teaching& teaching, at::Tensor* gradient) {
  at::Tensor plain_gradient;
  const CrossEntropySums plain = composed_cross_entropy(
      logits, targets, gradient != nullptr ? &plain_gradient : nullptr, teaching.smoothing);
  const double t = teaching.temperature, alpha = teaching.alpha;
  const at::Tensor counts =
      targets.ge(0).unsqueeze(-1).to(logits.device(), at::kFloat, /*non_blocking=*/true);
  const at::Tensor ours = at::log_softmax(logits.detach().to(at::kFloat) / t, -1);
  const at::Tensor theirs = at::log_softmax(teaching.teacher.detach().to(at::kFloat) / t, -1);
  const at::Tensor wanted = theirs.exp();
  const double divergence = (wanted * (theirs - ours) * counts).to(at::kDouble).sum().item<double>();
  if (gradient != nullptr)
    *gradient = plain_gradient.mul_(1 - alpha).add_((ours.exp() - wanted).mul_(counts), alpha * t);
  CrossEntropySums sums{{}, plain.rows, plain.correct};
  sums.loss.add(alpha * t * t * divergence + (1 - alpha) * plain.loss.value());
  return sums;
}

// One call of a kernel over whole rows.
struct Rows {
  at::Tensor scores, losses;
  kernels::CrossEntropy args;
};

Rows rows_of(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient, int threads,
             double smoothing) {
  Rows rows{widened(logits, threads), {}, {}};
  rows.losses = at::empty({targets.numel()}, rows.scores.options());
  if (gradient != nullptr) *gradient = at::empty_like(rows.scores);
  rows.args.rows = targets.numel();
  rows.args.columns = logits.size(-1);
  rows.args.logits = rows.scores.const_data_ptr<float>();
  rows.args.targets = targets.const_data_ptr<int64_t>();
  rows.args.losses = rows.losses.data_ptr<float>();
  rows.args.dlogits = gradient != nullptr ? gradient->data_ptr<float>() : nullptr;
  rows.args.smoothing = static_cast<float>(smoothing);
  return rows;
}

CrossEntropySums sums_of(const Rows& rows, const kernels::CrossEntropyCounts& counts) {
  CrossEntropySums sums{{}, counts.counted, counts.correct};
  sums.loss.add_all(std::span(rows.args.losses, static_cast<size_t>(rows.args.rows)));
  return sums;
}

// Dense, a target for each row.
at::Tensor checked_targets(const at::Tensor& logits, const at::Tensor& targets) {
  FURROW_CHECK(is_number(logits) && targets.scalar_type() == at::kLong && logits.dim() >= 1,
               "cross_entropy reads numbers as logits and int64 targets");
  FURROW_CHECK(logits.numel() == targets.numel() * logits.size(-1), "one target for each row of logits");
  at::Tensor wanted = targets.contiguous();
  check_targets(wanted, logits.size(-1));
  return wanted;
}

}  // namespace

CrossEntropySums distillation(const at::Tensor& logits, const at::Tensor& targets, const Teaching& teaching,
                              at::Tensor* gradient, int threads) {
  const at::Tensor wanted = checked_targets(logits, targets);
  FURROW_CHECK(is_number(teaching.teacher) && teaching.teacher.sizes() == logits.sizes(),
               "a teacher gives what the model gives");
  if (composed(logits)) return composed_distillation(logits, wanted, teaching, gradient);
  const Rows rows = rows_of(logits, wanted, gradient, threads, teaching.smoothing);
  const at::Tensor teacher = widened(teaching.teacher, threads);
  return sums_of(rows, kernels::distillation(
                           {rows.args, teacher.const_data_ptr<float>(),
                            static_cast<float>(teaching.temperature), static_cast<float>(teaching.alpha)},
                           threads));
}

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads, double smoothing) {
  const at::Tensor wanted = checked_targets(logits, targets);
  if (composed(logits)) return composed_cross_entropy(logits, wanted, gradient, smoothing);
  const Rows rows = rows_of(logits, wanted, gradient, threads, smoothing);
  return sums_of(rows, kernels::cross_entropy(rows.args, threads));
}

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               const CutClasses& cut, int threads) {
  if (cut.axis == nullptr || cut.axis->size() == 1)
    return cross_entropy(logits, targets, gradient, threads, cut.smoothing);
  const int64_t rows = targets.numel(), part = logits.size(-1);
  FURROW_CHECK(is_number(logits) && targets.scalar_type() == at::kLong && logits.numel() == rows * part,
               "cross_entropy reads numbers as logits and one int64 target for each row of them");
  const at::Tensor wanted = targets.contiguous();
  check_targets(wanted, cut.classes);
  if (composed(logits)) return composed_cut_cross_entropy(logits, wanted, gradient, cut);
  const at::Tensor scores = widened(logits, threads);
  const at::Tensor losses = at::empty({rows}, scores.options()), maxima = at::empty_like(losses);
  const at::Tensor sums = at::empty({rows, 4}, scores.options().dtype(at::kDouble));
  if (gradient != nullptr) *gradient = at::empty_like(scores);
  kernels::CrossEntropyPart args;
  args.rows = rows;
  args.stride = part;
  args.first = cut.axis->rank() * part;
  args.columns = std::clamp<int64_t>(cut.classes - args.first, 0, part);
  args.logits = scores.const_data_ptr<float>();
  args.targets = wanted.const_data_ptr<int64_t>();
  args.maxima = maxima.data_ptr<float>();
  args.sums = sums.data_ptr<double>();
  args.dlogits = gradient != nullptr ? gradient->data_ptr<float>() : nullptr;
  args.classes = cut.classes;
  args.losses = losses.data_ptr<float>();
  args.smoothing = static_cast<float>(cut.smoothing);
  kernels::cross_entropy_maxima(args, threads);
  cut.axis->all_reduce(maxima, AxisCollective::Reduction::kMax);
  kernels::cross_entropy_sums(args, threads);
  cut.axis->all_reduce(sums);
  const kernels::CrossEntropyCounts counts = kernels::cross_entropy_finish(args, threads);
  CrossEntropySums result{{}, counts.counted, counts.correct};
  result.loss.add_all(std::span(losses.const_data_ptr<float>(), static_cast<size_t>(rows)));
  return result;
}

PointwiseSums squared_error(const at::Tensor& output, const at::Tensor& targets, at::Tensor* gradient,
                            int threads) {
  const Values v = values_of("mse", output, targets, gradient, threads);
  if (composed(output)) return composed_squared_error(v, gradient);
  kernels::squared_error(v.output.numel(), v.output.const_data_ptr<float>(),
                         v.targets.const_data_ptr<float>(), v.losses.data_ptr<float>(),
                         gradient != nullptr ? gradient->data_ptr<float>() : nullptr, threads);
  return sums_of(v, 0);
}

PointwiseSums binary_cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                                   int threads) {
  const Values v = values_of("binary", logits, targets, gradient, threads);
  check_probabilities(v.targets);
  if (composed(logits)) return composed_binary_cross_entropy(v, gradient);
  const int64_t correct = kernels::binary_cross_entropy(
      v.output.numel(), v.output.const_data_ptr<float>(), v.targets.const_data_ptr<float>(),
      v.losses.data_ptr<float>(), gradient != nullptr ? gradient->data_ptr<float>() : nullptr, threads);
  return sums_of(v, correct);
}

}  // namespace furrow::tensor
