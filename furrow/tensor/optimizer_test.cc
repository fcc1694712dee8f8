#include "furrow/tensor/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/norm.h"
#include "furrow/tensor/test_support_torch.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::tensor {
namespace {

using testing::random_tensor;

std::span<float> span_of(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

// One element after the other in double, as torch.optim writes the rules.
struct Reference {
  at::Tensor param, first, second;

  void sgd(const at::Tensor& gradient, const StepParameters& p) {
    at::Tensor g = gradient.to(at::kDouble) * p.gradient_factor + p.weight_decay * param;
    if (p.momentum != 0) {
      first = p.step == 1 ? g : p.momentum * first + g;
      g = p.nesterov ? g + p.momentum * first : first;
    }
    param = param - p.lr * g;
  }

  void adam(const at::Tensor& gradient, const StepParameters& p, bool decoupled) {
    at::Tensor g = gradient.to(at::kDouble) * p.gradient_factor;
    if (!decoupled) g = g + p.weight_decay * param;
    if (decoupled) param = param * (1 - p.lr * p.weight_decay);
    first = p.beta1 * first + (1 - p.beta1) * g;
    second = p.beta2 * second + (1 - p.beta2) * g * g;
    const double bias1 = 1 - std::pow(p.beta1, p.step), bias2 = 1 - std::pow(p.beta2, p.step);
    param = param - p.lr / bias1 * first / (second.sqrt() / std::sqrt(bias2) + p.eps);
  }

  void lion(const at::Tensor& gradient, const StepParameters& p) {
    const at::Tensor g = gradient.to(at::kDouble) * p.gradient_factor;
    param = param * (1 - p.lr * p.weight_decay) - p.lr * (p.beta1 * first + (1 - p.beta1) * g).sign();
    first = p.beta2 * first + (1 - p.beta2) * g;
  }

  // Of one parameter.
  void lamb(const at::Tensor& gradient, const StepParameters& p) {
    const at::Tensor g = gradient.to(at::kDouble) * p.gradient_factor;
    first = p.beta1 * first + (1 - p.beta1) * g;
    second = p.beta2 * second + (1 - p.beta2) * g * g;
    const double bias1 = 1 - std::pow(p.beta1, p.step), bias2 = 1 - std::pow(p.beta2, p.step);
    const at::Tensor direction = first / bias1 / ((second / bias2).sqrt() + p.eps) + p.weight_decay * param;
    const double norm = param.norm().item<double>(), length = direction.norm().item<double>();
    const double trust = p.weight_decay > 0 && norm > 0 && length > 0 ? norm / length : 1;
    param = param - p.lr * trust * direction;
  }

  void step(std::string_view name, const at::Tensor& gradient, const StepParameters& p) {
    if (name == "lamb") return lamb(gradient, p);
    if (name == "sgd") return sgd(gradient, p);
    if (name == "lion") return lion(gradient, p);
    adam(gradient, p, name == "adamw");
  }
};

struct Case {
  std::string_view name;
  StepParameters parameters;
};

std::vector<Case> cases() {
  const StepParameters sgd{.lr = 0.1, .gradient_factor = 0.25f};
  StepParameters momentum = sgd, nesterov = sgd, adamw{.lr = 0.01, .gradient_factor = 0.25f};
  momentum.momentum = 0.9;
  nesterov.momentum = 0.9;
  nesterov.nesterov = true;
  nesterov.weight_decay = 0.01;
  adamw.beta1 = 0.9;
  adamw.beta2 = 0.99;
  adamw.eps = 1e-8;
  StepParameters decayed = adamw;
  decayed.weight_decay = 0.1;
  return {{"sgd", sgd},      {"sgd", momentum}, {"sgd", nesterov}, {"adamw", adamw}, {"adamw", decayed},
          {"adam", decayed}, {"lion", decayed}, {"lamb", decayed}, {"lamb", adamw}};
}

bool steps_whole_parameters(std::string_view name) { return name == "lamb"; }

// Ten steps over `count` elements cut at `cut`; returns parameters and states.
struct How {
  int threads = 1;
  bool composed = false;  // by the operations of devices
};
std::vector<at::Tensor> ten_steps(const Case& test, int64_t count, int64_t cut, const How& how) {
  const Optimizer& optimizer = find_optimizer(test.name);
  const CompositionScope scope(how.composed);
  set_thread_count(how.threads);  // of compositions
  const std::unique_ptr<FlatMath> math = flat_math_on(at::kCPU, how.threads);
  std::vector<at::Tensor> all{random_tensor({count}, 1)};
  const bool stateless = test.name == "sgd" && test.parameters.momentum == 0;
  for (size_t s = 0; s < (stateless ? 0 : optimizer.states); ++s) all.push_back(at::zeros({count}));
  StepParameters parameters = test.parameters;
  for (parameters.step = 1; parameters.step <= 10; ++parameters.step) {
    const at::Tensor gradient = random_tensor({count}, 100 + static_cast<uint64_t>(parameters.step));
    for (const auto& [begin, size] : {std::pair{int64_t{0}, cut}, std::pair{cut, count - cut}}) {
      const auto part = [&](const at::Tensor& t) {
        return span_of(t).subspan(static_cast<size_t>(begin), static_cast<size_t>(size));
      };
      OptimizerSpan span{part(all[0]), part(gradient), {}};
      for (size_t s = 1; s < all.size(); ++s) span.states[s - 1] = part(all[s]);
      span.whole = steps_whole_parameters(test.name);
      math->step(optimizer, span, parameters);
    }
  }
  return all;
}

TEST(Optimizer, TenStepsFollowTheRule) {
  for (const Case& test : cases()) {
    const int64_t count = 2011;
    Reference reference{random_tensor({count}, 1).to(at::kDouble), at::zeros({count}, at::kDouble),
                        at::zeros({count}, at::kDouble)};
    StepParameters parameters = test.parameters;
    for (parameters.step = 1; parameters.step <= 10; ++parameters.step) {
      const at::Tensor gradient = random_tensor({count}, 100 + static_cast<uint64_t>(parameters.step));
      reference.step(test.name, gradient, parameters);
    }
    Case wrong = test;
    wrong.parameters.lr *= 1.0001;
    for (const How& how : {How{}, How{.composed = true}}) {
      const std::vector<at::Tensor> ours = ten_steps(test, count, count, how);
      EXPECT_LE(testing::distance(ours[0], reference.param), 4e-6) << test.name << how.composed;
      if (ours.size() > 1) {
        EXPECT_LE(testing::distance(ours[1], reference.first), 4e-6) << test.name << how.composed;
      }
      EXPECT_GT(testing::distance(ten_steps(wrong, count, count, how)[0], reference.param), 4e-6)
          << "control";
    }
  }
}

// Those of devices: on cuts of the grid, where buffers are cut.
TEST(Optimizer, BitsDoNotDependOnTheCutOrOnThreads) {
  for (const Case& test : cases()) {
    for (const bool composed : {false, true}) {
      const int64_t count = 150'000, part = composed ? 69 * 1024 : 71'037,
                    cut = steps_whole_parameters(test.name) ? count : part;
      const std::vector<at::Tensor> whole = ten_steps(test, count, count, {1, composed});
      const std::vector<at::Tensor> parts = ten_steps(test, count, cut, {composed ? 1 : 2, composed});
      for (size_t i = 0; i < whole.size(); ++i)
        EXPECT_TRUE(testing::bitwise_equal(whole[i], parts[i])) << test.name << composed;
    }
  }
}

// A schedule may pass through a momentum of 0: the buffer follows all the same.
TEST(Optimizer, SgdKeepsItsBufferUpAtMomentumZero) {
  for (const bool composed : {false, true}) {
    const CompositionScope scope(composed);
    const std::unique_ptr<FlatMath> math = flat_math_on(at::kCPU, 1);
    at::Tensor param = random_tensor({600}, 1), buffer = at::zeros({600});
    const at::Tensor start = param.clone(), gradient = random_tensor({600}, 2);
    StepParameters p{.lr = 0.1, .weight_decay = 0.01};
    for (p.step = 1; p.step <= 2; ++p.step) {
      p.momentum = p.step == 1 ? 0 : 0.9;
      math->step(find_optimizer("sgd"), {span_of(param), span_of(gradient), {span_of(buffer)}}, p);
    }
    const at::Tensor g1 = gradient + 0.01 * start, x1 = start - 0.1 * g1, g2 = gradient + 0.01 * x1;
    EXPECT_LE(testing::distance(buffer, g2 + 0.9 * g1), 1e-6) << composed;
    EXPECT_LE(testing::distance(param, x1 - 0.1 * (g2 + 0.9 * g1)), 1e-6) << composed;
  }
}

TEST(Optimizer, ZerosStayZeros) {
  for (const Case& test : cases()) {
    at::Tensor param = at::zeros({64}), gradient = at::zeros({64}), first = at::zeros({64}),
               second = at::zeros({64});
    OptimizerSpan span{span_of(param), span_of(gradient), {span_of(first), span_of(second)}};
    span.whole = steps_whole_parameters(test.name);
    for (const bool composed : {false, true}) {
      const CompositionScope scope(composed);
      flat_math_on(at::kCPU, 1)->step(find_optimizer(test.name), span, test.parameters);
      EXPECT_TRUE(testing::bitwise_equal(param, at::zeros({64}))) << "the padding of flat buffers";
    }
  }
}

TEST(Optimizer, LambMovesAParameterAsFarAsItsNormSays) {
  at::Tensor param = random_tensor({3000}, 1), gradient = random_tensor({3000}, 2), first = at::zeros({3000}),
             second = at::zeros({3000});
  const at::Tensor before = param.clone();
  OptimizerSpan span{span_of(param), span_of(gradient), {span_of(first), span_of(second)}, true};
  find_optimizer("lamb").step(span,
                              {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6, .weight_decay = 0.1}, 1);
  const double moved = (param - before).norm().item<double>();
  EXPECT_NEAR(moved, 0.01 * before.norm().item<double>(), 1e-5 * moved);
  span.whole = false;
  for (const bool composed : {false, true}) {
    const CompositionScope scope(composed);
    EXPECT_THROW(flat_math_on(at::kCPU, 1)->step(find_optimizer("lamb"), span, {}), Error)
        << "part of a parameter has no norm";
  }
}

TEST(Optimizer, AnAverageFollowsTheWeights) {
  const at::Tensor param = random_tensor({1003}, 1), average = random_tensor({1003}, 2);
  const at::Tensor expected = average.to(at::kDouble).lerp(param.to(at::kDouble), 0.25);
  update_average(span_of(param), span_of(average), 0.75, 1);
  EXPECT_LE(testing::distance(average, expected), 2e-7);
  const at::Tensor whole = average.clone(), parts = average.clone();
  update_average(span_of(param), span_of(whole), 0.9, 1);
  update_average(span_of(param).first(77), span_of(parts).first(77), 0.9, 1);
  update_average(span_of(param).subspan(77), span_of(parts).subspan(77), 0.9, 2);
  EXPECT_TRUE(testing::bitwise_equal(whole, parts));
}

TEST(Optimizer, UnknownNameListsTheKnownOnes) {
  try {
    find_optimizer("adamv");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(error.message().find("adamw"), std::string::npos);
    EXPECT_NE(error.message().find("sgd"), std::string::npos);
  }
}

TEST(Norm, DoesNotDependOnShardsOrThreads) {
  const at::Tensor values = random_tensor({10 * 1024 + 17}, 1);
  ExactSum whole, parts;
  add_sum_of_squares(span_of(values), 1, &whole);
  add_sum_of_squares(span_of(values).subspan(3 * 1024), 2, &parts);
  add_sum_of_squares(span_of(values).first(3 * 1024), 2, &parts);
  EXPECT_EQ(whole.value(), parts.value());
  const double exact = values.to(at::kDouble).square().sum().item<double>();
  EXPECT_NEAR(whole.value(), exact, 1e-12 * exact);
  values[5000] += 0x1p-20;
  ExactSum changed;
  add_sum_of_squares(span_of(values), 1, &changed);
  EXPECT_NE(whole.value(), changed.value());
}

TEST(Norm, KeepsNonFiniteElementsVisible) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const at::Tensor values = random_tensor({3000}, 1);
    values[2999] = bad;
    ExactSum sum;
    add_sum_of_squares(span_of(values), 2, &sum);
    EXPECT_FALSE(std::isfinite(sum.value()));
  }
}

TEST(Norm, AddsInPlace) {
  const at::Tensor a = random_tensor({3001}, 1), b = random_tensor({3001}, 2), expected = a + b;
  add(span_of(a), span_of(b), span_of(a), 2);
  EXPECT_TRUE(testing::bitwise_equal(a, expected));
}

}  // namespace
}  // namespace furrow::tensor
