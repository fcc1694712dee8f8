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
  sums.weight.add(static_cast<double>(sums.values));
  sums.correct = correct;
  sums.loss.add_all(std::span(v.losses.const_data_ptr<float>(), static_cast<size_t>(sums.values)));
  return sums;
}

// What the rows of these targets weigh.
ExactSum weight_of(const at::Tensor& targets, int64_t rows, std::span<const float> weights) {
  ExactSum sum;
  if (weights.empty()) {
    sum.add(static_cast<double>(rows));
    return sum;
  }
  std::vector<float> each;
  for (const int64_t target :
       std::span(targets.const_data_ptr<int64_t>(), static_cast<size_t>(targets.numel()))) {
    if (target >= 0) each.push_back(weights[static_cast<size_t>(target)]);
  }
  sum.add_all(each);
  return sum;
}

ExactSum weight_of(const Values& v, const BinaryTerms& terms) {
  ExactSum sum;
  if (terms.first == 1 && terms.second == 1) {
    sum.add(static_cast<double>(v.output.numel()));
    return sum;
  }
  for (const float target :
       std::span(v.targets.const_data_ptr<float>(), static_cast<size_t>(v.targets.numel()))) {
    const double t = target;
    sum.add(terms.second * t + terms.first * (1 - t));
  }
  return sum;
}

// Weights from `begin` on, [1, columns] on the device of `like`; behind the last one zeros.
at::Tensor weights_beside(std::span<const float> weights, int64_t begin, int64_t columns,
                          const at::Tensor& like) {
  at::Tensor here = at::zeros({1, columns}, at::kFloat);
  const auto first = std::min(static_cast<size_t>(begin), weights.size());
  std::ranges::copy(weights.subspan(first, std::min(static_cast<size_t>(columns), weights.size() - first)),
                    here.data_ptr<float>());
  return here.to(like.device());
}

// Of a composition's losses, wherever they lie.
void add_all(const at::Tensor& losses, ExactSum* sum) {
  const at::Tensor here = on_host(losses.contiguous());
  sum->add_all(std::span(here.const_data_ptr<float>(), static_cast<size_t>(here.numel())));
}

// What the terms of rows are multiplied with, as kernels/cross_entropy.h says.
struct RowTerms {
  at::Tensor target, sum;  // [rows, 1]; the sum only with weights
  at::Tensor columns;      // weights [1, columns]; undefined: all 1

  RowTerms of_rows(int64_t begin, int64_t rows) const {
    return {target.narrow(0, begin, rows), sum.defined() ? sum.narrow(0, begin, rows) : sum, columns};
  }
  at::Tensor mean_of(const at::Tensor& each) const {
    return columns.defined() ? at::mean(each * columns, {1}, true) : at::mean(each, {1}, true);
  }
  void subtract_share(double share, at::Tensor* gradient) const {
    if (columns.defined()) {
      gradient->sub_(columns, share);
    } else {
      gradient->sub_(share);
    }
  }
};

// `wanted` [rows, 1] are classes; `like` is of the device, its columns from `begin` on.
RowTerms row_terms(const ClassTerms& terms, const at::Tensor& wanted, int64_t classes, const at::Tensor& like,
                   int64_t begin = 0) {
  const double kept = 1 - terms.smoothing;
  if (terms.weights.empty())
    return {at::full({wanted.size(0), 1}, kept, like.options().dtype(at::kFloat)), {}, {}};
  const at::Tensor all = weights_beside(terms.weights, 0, classes, like);
  RowTerms w;
  w.target = at::take(all, wanted).mul_(kept);
  w.sum = w.target + all.sum() * (terms.smoothing / static_cast<double>(classes));
  w.columns = weights_beside(terms.weights, begin, like.size(1), like);
  return w;
}

// Of how many rows at a time exponentials are taken: as fit into a cache.
int64_t rows_at_a_time(int64_t classes) {
  constexpr int64_t kElements = int64_t{8} << 20;  // 32 MiB of float32
  return std::max<int64_t>(1, kElements / std::max<int64_t>(1, classes));
}

// Of every row the loss, [rows, 1]; to `gradient`, where it is defined, [rows, classes], that of its logits,
// rounded to its type.  The wider copies of a large output are never there as a whole.
at::Tensor losses_by_rows(const at::Tensor& logits, const at::Tensor& wanted, const RowTerms& terms,
                          double smoothing, const at::Tensor& gradient) {
  const int64_t classes = logits.size(1), step = rows_at_a_time(classes);
  std::vector<at::Tensor> losses;
  for (int64_t begin = 0; begin < logits.size(0); begin += step) {
    const int64_t rows = std::min(step, logits.size(0) - begin);
    const RowTerms w = terms.of_rows(begin, rows);
    const at::Tensor log_probabilities = at::log_softmax(logits.narrow(0, begin, rows).to(at::kFloat), 1);
    const at::Tensor targets = wanted.narrow(0, begin, rows);
    losses.push_back(at::gather(log_probabilities, 1, targets).mul_(w.target).neg_());
    if (smoothing > 0) losses.back().sub_(w.mean_of(log_probabilities), smoothing);
    if (!gradient.defined()) continue;
    const at::Tensor to = gradient.narrow(0, begin, rows);
    at::Tensor part = to.scalar_type() == at::kFloat ? to : log_probabilities;
    at::exp_out(part, log_probabilities);
    if (w.columns.defined()) part.mul_(w.sum);
    if (smoothing > 0) w.subtract_share(smoothing / static_cast<double>(classes), &part);
    part.scatter_add_(1, targets, w.target.neg());
    if (!part.is_same(to)) to.copy_(part);
  }
  return losses.size() == 1 ? losses[0] : at::cat(losses);
}

// Rows that are ignored have the first class for a target until their part is taken out again.
CrossEntropySums composed_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                                        at::Tensor* gradient, const ClassTerms& terms) {
  const double smoothing = terms.smoothing;
  const int64_t classes = logits.size(-1);
  const at::Tensor flat = targets.reshape({-1, 1}), uncounted = flat.lt(0);
  const int64_t rows = flat.numel() - uncounted.sum().item<int64_t>();
  const at::Tensor wanted = flat.clamp_min(0).to(logits.device(), at::kLong, /*non_blocking=*/true);
  const at::Tensor left_out = uncounted.to(logits.device(), at::kBool, /*non_blocking=*/true);
  const at::Tensor scores = logits.detach().reshape({-1, classes});
  const RowTerms w = row_terms(terms, wanted, classes, scores);
  if (gradient != nullptr) *gradient = at::empty(scores.sizes(), scores.options().dtype(terms.gradient_type));
  const at::Tensor losses =
      losses_by_rows(scores, wanted, w, smoothing, gradient != nullptr ? *gradient : at::Tensor());
  losses.masked_fill_(left_out, 0);  // whatever the logits there are
  const at::Tensor right =
      at::argmax(logits, -1).view({-1, 1}).eq(wanted).logical_and(left_out.logical_not()).sum();
  if (gradient != nullptr) {
    if (rows < flat.numel()) gradient->masked_fill_(left_out, 0);
    *gradient = gradient->view(logits.sizes());
  }
  CrossEntropySums sums{{}, weight_of(targets, rows, terms.weights), rows, 0};
  add_all(losses, &sums.loss);
  sums.correct = right.item<int64_t>();
  return sums;
}

// One call over the ranks of a tensor axis: their part of the classes, columns behind the last -inf.
struct CutScores {
  const CutClasses& cut;
  at::Tensor scores, targets;  // float32 [rows, part]; int64 [rows, 1]: columns of this part, or outside
  at::Tensor behind;           // [part]: no class; undefined where all are
  RowTerms terms;              // of all classes

  bool smoothed() const { return cut.terms.smoothing > 0; }
  at::Tensor here() const { return targets.ge(0).logical_and_(targets.lt(scores.size(1))); }
  at::Tensor columns() const { return targets.clamp(0, scores.size(1) - 1); }
};

CutScores cut_scores(const at::Tensor& logits, const at::Tensor& targets, const CutClasses& cut) {
  const int64_t part = logits.size(-1), first = cut.axis->rank() * part;
  CutScores s{cut, logits.detach().reshape({-1, part}).to(at::kFloat), {}, {}, {}};
  const at::Tensor own = targets.reshape({-1, 1});
  s.terms = row_terms(cut.terms, own.clamp_min(0).to(logits.device()), cut.classes, s.scores, first);
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
    if (s.terms.columns.defined()) each.mul_(s.terms.columns);
    if (s.behind.defined()) each.masked_fill_(s.behind, 0);
    gaps = each.sum({1}, true, at::kDouble);
  }
  const at::Tensor before = at::arange(s.scores.size(1), s.targets.options()).lt(s.targets);
  return at::cat({exponentials.sum({1}, true, at::kDouble), gap.masked_fill(s.here().logical_not(), 0), gaps,
                  s.scores.eq(maxima).logical_and_(before).sum({1}, true, at::kDouble)},
                 1);
}

void finish_gradient(const CutScores& s, const at::Tensor& sum, at::Tensor* exponentials) {
  exponentials->div_(sum.to(at::kFloat));
  if (s.terms.columns.defined()) exponentials->mul_(s.terms.sum);
  if (s.smoothed())
    s.terms.subtract_share(s.cut.terms.smoothing / static_cast<double>(s.cut.classes), exponentials);
  exponentials->scatter_add_(1, s.columns(), s.here().to(at::kFloat).mul_(s.terms.target).neg_());
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
  at::Tensor gap = column(1) * s.terms.target.to(at::kDouble);
  if (s.smoothed()) gap = gap + column(2) * (cut.terms.smoothing / static_cast<double>(cut.classes));
  at::Tensor logs = column(0).log();
  if (s.terms.columns.defined()) logs = logs * s.terms.sum.to(at::kDouble);
  const at::Tensor losses = (logs + gap).to(at::kFloat).masked_fill_(left_out, 0);
  const at::Tensor right =
      column(1).eq(0).logical_and_(column(3).eq(0)).logical_and_(left_out.logical_not()).sum();
  if (gradient != nullptr) {
    finish_gradient(s, column(0), &exponentials);
    if (rows < targets.numel()) exponentials.masked_fill_(left_out, 0);
    *gradient = exponentials.view(logits.sizes());
  }
  CrossEntropySums result{{}, weight_of(targets, rows, cut.terms.weights), rows, 0};
  add_all(losses, &result.loss);
  result.correct = right.item<int64_t>();
  return result;
}

PointwiseSums composed_sums(const at::Tensor& losses, int64_t correct) {
  PointwiseSums sums;
  sums.values = losses.numel();
  sums.weight.add(static_cast<double>(sums.values));
  sums.correct = correct;
  add_all(losses, &sums.loss);
  return sums;
}

PointwiseSums composed_squared_error(const Values& v, at::Tensor* gradient) {
  const at::Tensor error = v.output - v.targets.to(v.output.device()).view_as(v.output);
  if (gradient != nullptr) *gradient = error * 2;
  return composed_sums(error.square(), 0);
}

PointwiseSums composed_binary_cross_entropy(const Values& v, at::Tensor* gradient, const BinaryTerms& terms) {
  const at::Tensor targets = v.targets.to(v.output.device()).view_as(v.output);
  const at::Tensor up = targets * (terms.second * terms.pos_weight), all = up + (1 - targets) * terms.first;
  const at::Tensor losses =
      all * v.output.clamp_min(0) - v.output * up + all * v.output.abs().neg().exp().log1p();
  if (gradient != nullptr) *gradient = all * at::sigmoid(v.output) - up;
  return composed_sums(losses, v.output.gt(0).eq(targets.gt(0.5)).sum().item<int64_t>());
}

// By operations of libtorch, on any device.
CrossEntropySums composed_distillation(const at::Tensor& logits, const at::Tensor& targets,
                                       const Teaching& teaching, at::Tensor* gradient) {
  at::Tensor plain_gradient;
  const CrossEntropySums plain = composed_cross_entropy(
      logits, targets, gradient != nullptr ? &plain_gradient : nullptr, {teaching.smoothing});
  const double t = teaching.temperature, alpha = teaching.alpha;
  const at::Tensor counts =
      targets.ge(0).unsqueeze(-1).to(logits.device(), at::kFloat, /*non_blocking=*/true);
  const at::Tensor ours = at::log_softmax(logits.detach().to(at::kFloat) / t, -1);
  const at::Tensor theirs = at::log_softmax(teaching.teacher.detach().to(at::kFloat) / t, -1);
  const at::Tensor wanted = theirs.exp();
  const double divergence = (wanted * (theirs - ours) * counts).to(at::kDouble).sum().item<double>();
  if (gradient != nullptr)
    *gradient = plain_gradient.mul_(1 - alpha).add_((ours.exp() - wanted).mul_(counts), alpha * t);
  CrossEntropySums sums{{}, plain.weight, plain.rows, plain.correct};
  sums.loss.add(alpha * t * t * divergence + (1 - alpha) * plain.loss.value());
  return sums;
}

// One call of a kernel over whole rows.
struct Rows {
  at::Tensor scores, losses;
  kernels::CrossEntropy args;
};

// Null: all 1.
const float* weights_or_none(const ClassTerms& terms) {
  return terms.weights.empty() ? nullptr : terms.weights.data();
}

Rows rows_of(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient, int threads,
             const ClassTerms& terms) {
  Rows rows{widened(logits, threads), {}, {}};
  rows.losses = at::empty({targets.numel()}, rows.scores.options());
  if (gradient != nullptr) *gradient = at::empty_like(rows.scores);
  rows.args.rows = targets.numel();
  rows.args.columns = logits.size(-1);
  rows.args.logits = rows.scores.const_data_ptr<float>();
  rows.args.targets = targets.const_data_ptr<int64_t>();
  rows.args.losses = rows.losses.data_ptr<float>();
  rows.args.dlogits = gradient != nullptr ? gradient->data_ptr<float>() : nullptr;
  rows.args.smoothing = static_cast<float>(terms.smoothing);
  rows.args.weights = weights_or_none(terms);
  return rows;
}

CrossEntropySums sums_of(const Rows& rows, const ExactSum& weight,
                         const kernels::CrossEntropyCounts& counts) {
  CrossEntropySums sums{{}, weight, counts.counted, counts.correct};
  sums.loss.add_all(std::span(rows.args.losses, static_cast<size_t>(rows.args.rows)));
  return sums;
}

void check_weights(const ClassTerms& terms, int64_t classes) {
  FURROW_CHECK(terms.weights.empty() || static_cast<int64_t>(terms.weights.size()) == classes,
               "cross_entropy reads one weight for each class");
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
  const Rows rows = rows_of(logits, wanted, gradient, threads, {teaching.smoothing});
  const at::Tensor teacher = widened(teaching.teacher, threads);
  const kernels::CrossEntropyCounts counts =
      kernels::distillation({rows.args, teacher.const_data_ptr<float>(),
                             static_cast<float>(teaching.temperature), static_cast<float>(teaching.alpha)},
                            threads);
  return sums_of(rows, weight_of(wanted, counts.counted, {}), counts);
}

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads, const ClassTerms& terms) {
  const at::Tensor wanted = checked_targets(logits, targets);
  check_weights(terms, logits.size(-1));
  if (composed(logits)) return composed_cross_entropy(logits, wanted, gradient, terms);
  const Rows rows = rows_of(logits, wanted, gradient, threads, terms);
  const kernels::CrossEntropyCounts counts = kernels::cross_entropy(rows.args, threads);
  return sums_of(rows, weight_of(wanted, counts.counted, terms.weights), counts);
}

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               const CutClasses& cut, int threads) {
  if (cut.axis == nullptr || cut.axis->size() == 1)
    return cross_entropy(logits, targets, gradient, threads, cut.terms);
  const int64_t rows = targets.numel(), part = logits.size(-1);
  FURROW_CHECK(is_number(logits) && targets.scalar_type() == at::kLong && logits.numel() == rows * part,
               "cross_entropy reads numbers as logits and one int64 target for each row of them");
  const at::Tensor wanted = targets.contiguous();
  check_targets(wanted, cut.classes);
  check_weights(cut.terms, cut.classes);
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
  args.smoothing = static_cast<float>(cut.terms.smoothing);
  args.weights = weights_or_none(cut.terms);
  kernels::cross_entropy_maxima(args, threads);
  cut.axis->all_reduce(maxima, AxisCollective::Reduction::kMax);
  kernels::cross_entropy_sums(args, threads);
  cut.axis->all_reduce(sums);
  const kernels::CrossEntropyCounts counts = kernels::cross_entropy_finish(args, threads);
  CrossEntropySums result{
      {}, weight_of(wanted, counts.counted, cut.terms.weights), counts.counted, counts.correct};
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
                                   int threads, const BinaryTerms& terms) {
  const Values v = values_of("binary", logits, targets, gradient, threads);
  check_probabilities(v.targets);
  PointwiseSums sums;
  if (composed(logits)) {
    sums = composed_binary_cross_entropy(v, gradient, terms);
  } else {
    const int64_t correct = kernels::binary_cross_entropy(
        {v.output.numel(), v.output.const_data_ptr<float>(), v.targets.const_data_ptr<float>(),
         v.losses.data_ptr<float>(), gradient != nullptr ? gradient->data_ptr<float>() : nullptr,
         terms.second * terms.pos_weight, terms.first},
        threads);
    sums = sums_of(v, correct);
  }
  sums.weight = weight_of(v, terms);
  return sums;
}

}  // namespace furrow::tensor
