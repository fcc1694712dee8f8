// The operations of llama, rnn and lstm against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::distance;
using testing::expect_matches_plain;
using testing::OpCase;
using testing::Ours;
using testing::Plain;
using testing::random_tensor;
using testing::run_ours;
using testing::run_plain;

TEST(Attention, SharedKeysAndRotaryPositionsMatchPlainAutograd) {
  const int64_t heads = 4, kv_heads = 2, size = 8, time = 37, width = heads * size;
  OpCase run;
  run.x = random_tensor({3, time, width}, 1);
  run.params = {random_tensor({width, width}, 2, 0.3), random_tensor({kv_heads * size, width}, 3, 0.3),
                random_tensor({kv_heads * size, width}, 4, 0.3)};
  const at::Tensor table = rotary_table(time, std::array{1.0, 0.4, 0.06, 0.002});
  const auto split = [&](const at::Tensor& y, int64_t count) {
    return y.view({3, time, count, size}).transpose(1, 2);
  };
  const auto turned = [&](const at::Tensor& y) {
    const at::Tensor t = table.to(y.scalar_type());
    const at::Tensor cosine = t.narrow(1, 0, size / 2), sine = t.narrow(1, size / 2, size / 2);
    const at::Tensor a = y.narrow(3, 0, size / 2), b = y.narrow(3, size / 2, size / 2);
    return at::cat({a * cosine - b * sine, b * cosine + a * sine}, 3);
  };
  expect_matches_plain(
      run,
      [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
        return causal_attention(linear_side_by_side(x, {params}, context), {heads, kv_heads, table}, 0, "",
                                context);
      },
      [&](const at::Tensor& x, std::span<const at::Tensor> params) {
        const at::Tensor q = turned(split(at::linear(x, params[0]), heads)),
                         k = turned(split(at::linear(x, params[1]), kv_heads)).repeat_interleave(2, 1),
                         v = split(at::linear(x, params[2]), kv_heads).repeat_interleave(2, 1);
        return at::scaled_dot_product_attention(q, k, v, {}, 0, true)
            .transpose(1, 2)
            .reshape({3, time, width});
      });
}

TEST(RmsNorm, MatchesPlainAutograd) {
  for (const int64_t columns : {2, 16, 37, 128}) {
    OpCase run;
    run.x = random_tensor({3, 70, columns}, 1) + 0.5;
    run.params = {random_tensor({columns}, 2)};
    expect_matches_plain(
        run,
        [](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          return rms_norm(x, params[0], 1e-5, context);
        },
        [](const at::Tensor& x, std::span<const at::Tensor> params) {
          return x * (x.square().mean(-1, true) + 1e-5).rsqrt() * params[0];
        });
  }
}

TEST(Swiglu, MatchesPlainAutograd) {
  OpCase run;
  run.x = random_tensor({4, 7, 20}, 1);
  run.params = {random_tensor({33, 20}, 2, 0.3), random_tensor({33, 20}, 3, 0.3)};
  expect_matches_plain(
      run,
      [](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
        return swiglu(linear_side_by_side(x, {params}, context), context);
      },
      [](const at::Tensor& x, std::span<const at::Tensor> params) {
        return at::silu(at::linear(x, params[0])) * at::linear(x, params[1]);
      });
}

// Layers of which all, or some, have a bias.
TEST(SideBySide, BiasesMatchPlainAutograd) {
  for (const bool all : {true, false}) {
    OpCase run;
    run.x = random_tensor({4, 7, 20}, 1);
    run.params = {random_tensor({12, 20}, 2, 0.3), random_tensor({8, 20}, 3, 0.3), random_tensor({8}, 4)};
    if (all) run.params.push_back(random_tensor({12}, 5));
    expect_matches_plain(
        run,
        [all](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          const std::array biases{all ? params[3] : Param(), params[2]};
          return linear_side_by_side(x, {params.first(2), biases}, context);
        },
        [all](const at::Tensor& x, std::span<const at::Tensor> params) {
          return at::cat(
              {at::linear(x, params[0], all ? params[3] : at::Tensor()), at::linear(x, params[1], params[2])},
              -1);
        });
  }
}

// Both recurrent layers, a step at a time in plain libtorch.
at::Tensor plain_recurrent(const at::Tensor& x, std::span<const at::Tensor> params, bool lstm) {
  const int64_t hidden = params[1].numel() / (lstm ? 4 : 1);
  at::Tensor h = at::zeros({x.size(0), hidden}, x.options()), c = h;
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < x.size(1); ++t) {
    const at::Tensor both = at::cat({x.select(1, t), h}, 1), z = at::linear(both, params[0], params[1]);
    if (lstm) {
      const auto gates = z.chunk(4, 1);
      c = gates[1].sigmoid() * c + gates[0].sigmoid() * gates[2].tanh();
    }
    h = lstm ? z.chunk(4, 1)[3].sigmoid() * c.tanh() : z.tanh();
    outputs.push_back(lstm ? h : both);
  }
  return at::stack(outputs, 1);
}

TEST(Recurrent, LayersMatchPlainAutograd) {
  for (const bool is_lstm : {true, false}) {
    for (const int64_t time : {1, 12}) {
      const int64_t in = 19, hidden = 35, outputs = hidden * (is_lstm ? 4 : 1);
      OpCase run;
      run.x = random_tensor({17, time, in}, 1);
      run.params = {random_tensor({outputs, in + hidden}, 2, 0.2), random_tensor({outputs}, 3, 0.2)};
      if (time == 1 && !is_lstm) continue;  // the output does not depend on the parameters yet
      const Ours ours = [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
        return is_lstm ? lstm(x, params[0], params[1], context)
                       : recurrent_concatenation(x, params[0], params[1], context);
      };
      const Plain plain = [&](const at::Tensor& x, std::span<const at::Tensor> params) {
        return plain_recurrent(x, params, is_lstm);
      };
      expect_matches_plain(run, ours, plain);
      run.input_gradient = false;
      expect_matches_plain(run, ours, plain);
    }
  }
}

// Products of 16-bit numbers, float32 between the steps: as close to float64 as numbers of eight bits are.
TEST(Recurrent, LayersOfBFloat16StayCloseToPlainAutograd) {
  for (const bool is_lstm : {true, false}) {
    const int64_t in = 19, hidden = 35, outputs = hidden * (is_lstm ? 4 : 1);
    OpCase run;
    run.x = random_tensor({17, 12, in}, 1).to(at::kBFloat16);
    run.params = {random_tensor({outputs, in + hidden}, 2, 0.2), random_tensor({outputs}, 3, 0.2)};
    for (at::Tensor& param : run.params) param = param.to(at::kBFloat16).to(at::kFloat);
    const Ours ours = [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
      const auto half = [&](int i) {
        return Param{params[static_cast<size_t>(i)].leaf.detach().to(at::kBFloat16).requires_grad_(true), i};
      };
      return is_lstm ? lstm(x, half(0), half(1), context)
                     : recurrent_concatenation(x, half(0), half(1), context);
    };
    const Plain plain = [&](const at::Tensor& x, std::span<const at::Tensor> params) {
      return plain_recurrent(x, params, is_lstm);
    };
    const auto mine = run_ours(run, ours);
    const auto exact = run_plain(run, plain, at::kDouble);
    const auto error = [](const at::Tensor& a, const at::Tensor& b) {
      return distance(a, b) / b.abs().max().item<double>();
    };
    EXPECT_EQ(mine.output.scalar_type(), at::kBFloat16);
    EXPECT_LT(error(mine.output, exact.output), 0x1p-7);
    EXPECT_LT(error(mine.input_gradient, exact.input_gradient), 0x1p-6);
    for (const size_t i : {0U, 1U}) EXPECT_LT(error(mine.gradients[i], exact.gradients[i]), 0x1p-6) << i;
    // Control: a step that forgets the state is further away.
    OpCase other = run;
    other.params[0] = run.params[0].clone();
    other.params[0].narrow(1, in, hidden).zero_();
    EXPECT_GT(error(run_ours(other, ours).gradients[0], exact.gradients[0]), 0x1p-4);
  }
}

}  // namespace
}  // namespace furrow::tensor
