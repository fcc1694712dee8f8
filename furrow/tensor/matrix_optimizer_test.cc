// Optimizers whose states have forms of their own, against plain references in double.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/optimizer.h"
#include "furrow/tensor/test_support_torch.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::tensor {
namespace {

using testing::random_tensor;

std::span<float> span_of(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}
std::span<uint8_t> codes_of(const at::Tensor& tensor) {
  return {tensor.data_ptr<uint8_t>(), static_cast<size_t>(tensor.numel())};
}

StepParameters parameters(int64_t step, double lr = 0.01) {
  return {.lr = lr,
          .momentum = 0.95,
          .nesterov = true,
          .beta1 = 0.9,
          .beta2 = 0.99,
          .eps = 1e-8,
          .beta2_decay = -0.8,
          .weight_decay = 0.1,
          .step = step,
          .gradient_factor = 0.25F};
}

at::Tensor gradient_of(const at::Tensor& param, int64_t step) {
  return random_tensor(param.sizes().vec(), 100 + static_cast<uint64_t>(step));
}

// Ten steps of `param` by the optimizer, with these states.
struct How {
  double lr = 0.01;
  int threads = 1;
  bool composed = false;  // by the operations of devices
  int64_t steps = 10;
};
at::Tensor ten_steps(const char* name, at::Tensor param, const std::vector<at::Tensor>& states,
                     const How& how = {}) {
  param = param.clone();
  const CompositionScope scope(how.composed);
  set_thread_count(how.threads);  // of compositions
  const std::unique_ptr<FlatMath> math = flat_math_on(at::kCPU, how.threads);
  for (int64_t step = 1; step <= how.steps; ++step) {
    const at::Tensor gradient = gradient_of(param, step);
    OptimizerSpan span{span_of(param), span_of(gradient)};
    for (size_t s = 0; s < states.size(); ++s) {
      if (states[s].scalar_type() == at::kByte) {
        span.states[s] = codes_of(states[s]);
      } else {
        span.states[s] = span_of(states[s]);
      }
    }
    span.whole = true;
    span.rows = param.dim() >= 2 ? param.size(0) : 0;
    math->step(find_optimizer(name), span, parameters(step, how.lr));
  }
  return param;
}

std::vector<at::Tensor> adafactor_states(const at::Tensor& param) {
  if (param.dim() < 2) return {at::zeros({0}), at::zeros({0}), at::zeros({param.numel()})};
  return {at::zeros({param.size(0)}), at::zeros({param.numel() / param.size(0)}), at::zeros({0})};
}

// As the paper's algorithms 4 and 5 say, the step relative to the parameter's size.
at::Tensor adafactor_reference(const at::Tensor& start, double lr) {
  at::Tensor param = start.to(at::kDouble), rows, columns, variance;
  const bool matrix = start.dim() >= 2;
  for (int64_t step = 1; step <= 10; ++step) {
    const StepParameters p = parameters(step, lr);
    const at::Tensor g = gradient_of(start, step).to(at::kDouble) * p.gradient_factor;
    const double share = std::pow(static_cast<double>(step), -0.8);
    at::Tensor estimate;
    const at::Tensor squares = matrix ? g.square().flatten(1) : g.square();
    if (matrix) {
      rows = step == 1 ? squares.mean(1) : rows + share * (squares.mean(1) - rows);
      columns = step == 1 ? squares.mean(0) : columns + share * (squares.mean(0) - columns);
      estimate = at::outer(rows, columns).div(rows.mean()).view(g.sizes());
    } else {
      estimate = variance = step == 1 ? squares : variance + share * (squares - variance);
    }
    const at::Tensor u = g / estimate.sqrt();
    const double rms = u.square().mean().sqrt().item<double>(),
                 size = param.square().mean().sqrt().item<double>();
    const double rate = std::max(1e-3, size) * std::min(lr, 1 / std::sqrt(static_cast<double>(step)));
    param = param * (1 - lr * p.weight_decay) - rate / std::max(1.0, rms) * u;
  }
  return param;
}

TEST(Adafactor, TenStepsFollowTheRule) {
  for (const Shape& shape : {Shape{37, 53}, Shape{8, 3, 5, 5}, Shape{300, 1100}, Shape{211}}) {
    for (const double lr : {0.01, 0.9}) {  // below and above 1 / sqrt(t)
      const at::Tensor start = random_tensor(shape, 1);
      for (const bool composed : {false, true}) {
        const at::Tensor ours =
            ten_steps("adafactor", start, adafactor_states(start), {.lr = lr, .composed = composed});
        EXPECT_LE(testing::distance(ours, adafactor_reference(start, lr)), 4e-6) << composed;
        EXPECT_GT(testing::distance(ours, adafactor_reference(start, lr * 1.01)), 4e-6) << "control";
      }
    }
  }
}

TEST(Adafactor, ThreadsChangeNoBit) {
  const at::Tensor start = random_tensor({300, 1100}, 1);
  const std::vector<at::Tensor> one = adafactor_states(start), two = adafactor_states(start);
  EXPECT_TRUE(testing::bitwise_equal(ten_steps("adafactor", start, one),
                                     ten_steps("adafactor", start, two, {.threads = 2})));
  for (size_t s = 0; s < one.size(); ++s) EXPECT_TRUE(testing::bitwise_equal(one[s], two[s]));
}

at::Tensor muon_reference(const at::Tensor& start) {
  at::Tensor param = start.to(at::kDouble), buffer = at::zeros_like(param);
  const int64_t rows = start.size(0), columns = start.numel() / rows;
  for (int64_t step = 1; step <= 10; ++step) {
    const StepParameters p = parameters(step);
    const at::Tensor g = gradient_of(start, step).to(at::kDouble) * p.gradient_factor;
    buffer = buffer + (1 - p.momentum) * (g - buffer);
    at::Tensor x = (g + p.momentum * (buffer - g)).view({rows, columns});
    x = x / x.norm().clamp_min(1e-7);
    for (int i = 0; i < 5; ++i) {
      const at::Tensor gram = x.mm(x.t());
      x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram.mm(gram)).mm(x);
    }
    const double scale = 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns)));
    param = param * (1 - p.lr * p.weight_decay) - p.lr * scale * x.view(start.sizes());
  }
  return param;
}

// The reference takes the Gram matrix of rows for tall ones too: the two are equal but for rounding.
TEST(Muon, TenStepsFollowTheRule) {
  for (const Shape& shape : {Shape{24, 56}, Shape{56, 24}, Shape{32, 32}, Shape{16, 3, 3, 3}}) {
    const at::Tensor start = random_tensor(shape, 1);
    const auto run = [&](const How& how) {
      return ten_steps("muon", start, {at::zeros(shape), at::zeros({0})}, how);
    };
    for (const bool composed : {false, true}) {
      const at::Tensor ours = run({.composed = composed});
      EXPECT_LE(testing::distance(ours, muon_reference(start)), 2e-5) << composed;
      EXPECT_GT(testing::distance(ours, muon_reference(start * 1.001)), 2e-5) << "control";
    }
    EXPECT_TRUE(testing::bitwise_equal(run({}), run({.threads = 2})));
  }
}

TEST(Muon, StepsWhatIsNoMatrixAsAdamW) {
  for (const bool composed : {false, true}) {
    const CompositionScope scope(composed);
    const std::unique_ptr<FlatMath> math = flat_math_on(at::kCPU, 1);
    at::Tensor a = random_tensor({500}, 1), b = a.clone(), gradient = random_tensor({500}, 2);
    std::vector<at::Tensor> states(4);
    for (at::Tensor& state : states) state = at::zeros({500});
    math->step(find_optimizer("muon"),
               {span_of(a), span_of(gradient), {span_of(states[0]), span_of(states[1])}}, parameters(1));
    math->step(find_optimizer("adamw"),
               {span_of(b), span_of(gradient), {span_of(states[2]), span_of(states[3])}}, parameters(1));
    EXPECT_TRUE(testing::bitwise_equal(a, b));
  }
}

// The first step forgets nothing yet, so it is AdamW's to a rounding; after ten the codes' widths show, and
// no more than they.
std::vector<at::Tensor> quantised_states(int64_t n) {
  const auto codes = [&] { return at::zeros({n}, at::kByte); };
  const auto scales = [&] { return at::zeros({(n + 255) / 256}); };
  return {codes(), scales(), codes(), scales()};
}

TEST(AdamW8bit, StaysNearAdamW) {
  const at::Tensor start = random_tensor({5000}, 1);
  const at::Tensor exact = ten_steps("adamw", start, {at::zeros({5000}), at::zeros({5000})});
  const double moved = (exact - start).square().mean().sqrt().item<double>();
  for (const bool composed : {false, true}) {
    const at::Tensor ours = ten_steps("adamw8bit", start, quantised_states(5000), {.composed = composed});
    const double apart = (ours - exact).square().mean().sqrt().item<double>();
    EXPECT_LT(apart, 0.05 * moved);
    EXPECT_GT(apart, 0) << "control: eight bits are not thirty-two";
  }
}

// The paper's dynamic map (Dettmers et al., 2022, appendix F): decades of 1, 2, 4, ... means of equal parts
// of [0.1, 1], twice as many without a sign.
std::vector<double> dynamic_values(bool is_signed) {
  std::vector<double> values = {0, 1};
  for (int i = 0; i < 7; ++i) {
    const int parts = (is_signed ? 1 : 2) << i;
    for (int p = 0; p < parts; ++p) {
      const double value = std::pow(10, i - 6) * (0.1 + 0.9 * (p + 0.5) / parts);
      values.push_back(value);
      if (is_signed) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}

// What eight bits keep of a block: each value the nearest of the map, times the largest magnitude.
void keep_in_eight_bits(const std::vector<double>& map, std::span<double> block) {
  double largest = 0;
  for (const double x : block) largest = std::max(largest, std::abs(x));
  for (double& x : block) {
    const double wanted = x / largest;
    const auto above = std::lower_bound(map.begin(), map.end(), wanted);
    const bool down = above == map.end() || (above != map.begin() && wanted - above[-1] < *above - wanted);
    x = largest * (down ? above[-1] : *above);
  }
}

// AdamW whose m and root of v are kept so, all of it in double.
std::vector<double> eight_bit_reference(const at::Tensor& start, double lr) {
  const auto n = static_cast<size_t>(start.numel());
  const std::span<const float> from(start.const_data_ptr<float>(), n);
  std::vector<double> param(from.begin(), from.end()), first(n), root(n);
  const std::vector<double> with_sign = dynamic_values(true), without = dynamic_values(false);
  for (int64_t step = 1; step <= 10; ++step) {
    const StepParameters p = parameters(step, lr);
    const at::Tensor gradient = gradient_of(start, step);
    const double correct1 = 1 - std::pow(p.beta1, step), correct2 = 1 - std::pow(p.beta2, step);
    for (size_t i = 0; i < n; ++i) {
      const double g = double{gradient.const_data_ptr<float>()[i]} * p.gradient_factor;
      first[i] = p.beta1 * first[i] + (1 - p.beta1) * g;
      root[i] = std::sqrt(p.beta2 * root[i] * root[i] + (1 - p.beta2) * g * g);
      param[i] = param[i] * (1 - lr * p.weight_decay) -
                 lr * (first[i] / correct1) / (root[i] / std::sqrt(correct2) + p.eps);
    }
    for (size_t begin = 0; begin < n; begin += 256) {
      const size_t size = std::min<size_t>(256, n - begin);
      keep_in_eight_bits(with_sign, std::span(first).subspan(begin, size));
      keep_in_eight_bits(without, std::span(root).subspan(begin, size));
    }
  }
  return param;
}

// A value that lies between two codes to a rounding may take the other one, and its element goes another way.
TEST(AdamW8bit, TenStepsFollowTheRule) {
  EXPECT_EQ(dynamic_values(true).size(), 256u);
  EXPECT_EQ(dynamic_values(false).size(), 256u);
  const at::Tensor start = random_tensor({5000}, 1);
  for (const bool composed : {false, true}) {
    const at::Tensor ours = ten_steps("adamw8bit", start, quantised_states(5000), {.composed = composed});
    const auto apart = [&](double lr) {
      const std::vector<double> expected = eight_bit_reference(start, lr);
      int64_t count = 0;
      for (size_t i = 0; i < expected.size(); ++i)
        count += std::abs(double{ours.const_data_ptr<float>()[i]} - expected[i]) > 2e-6 ? 1 : 0;
      return count;
    };
    EXPECT_LE(apart(0.01), 25) << composed;
    EXPECT_GT(apart(0.01 * 1.0001), 2500) << "control";
  }
}

// One step leaves the same codes, but where a value lies between two of them to a rounding, and the next step
// reads them as the kernels do.
TEST(AdamW8bit, KeepsTheSameCodesOnDevices) {
  const at::Tensor start = random_tensor({5000}, 1);
  const std::vector<at::Tensor> kernels = quantised_states(5000), composed = quantised_states(5000);
  ten_steps("adamw8bit", start, kernels, {.steps = 1});
  ten_steps("adamw8bit", start, composed, {.composed = true, .steps = 1});
  for (const size_t codes : {0, 2}) {
    EXPECT_LE(kernels[codes].ne(composed[codes]).sum().item<int64_t>(), 2) << codes;
    EXPECT_TRUE(at::allclose(kernels[codes + 1], composed[codes + 1], 1e-6));
  }
  const at::Tensor two = ten_steps("adamw8bit", start, quantised_states(5000), {.steps = 2}),
                   other =
                       ten_steps("adamw8bit", start, quantised_states(5000), {.composed = true, .steps = 2});
  EXPECT_LE((two - other).abs().gt(1e-6).sum().item<int64_t>(), 4);
  EXPECT_GT((two - start).abs().gt(1e-3).sum().item<int64_t>(), 4000) << "control";
}

}  // namespace
}  // namespace furrow::tensor
