// Layers with adapters, in the form of Hugging Face's PEFT, against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::expect_matches_plain;
using testing::OpCase;
using testing::random_tensor;

constexpr double kScale = 2;
constexpr int64_t kRank = 3;

// Parameter `weight` with the two behind `a` beside it.
Param adapted(std::span<const Param> params, size_t weight, size_t a) {
  Param param = params[weight];
  param.adapter = std::make_shared<const Adapter>(Adapter{params[a], params[a + 1], kScale, 0, "s"});
  return param;
}

at::Tensor activated(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    default:
      return x;
  }
}

TEST(Adapter, OfALinearLayerMatchesPlainAutograd) {
  for (const auto activation :
       {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    OpCase run;
    run.x = random_tensor({5, 7, 20}, 1);
    run.params = {random_tensor({12, 20}, 2, 0.3), random_tensor({12}, 3), random_tensor({kRank, 20}, 4, 0.3),
                  random_tensor({12, kRank}, 5, 0.3)};
    expect_matches_plain(
        run,
        [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          return linear(x, adapted(params, 0, 2), params[1], activation, context);
        },
        [&](const at::Tensor& x, std::span<const at::Tensor> params) {
          const at::Tensor thin = at::linear(at::linear(x, params[2]), params[3]) * kScale;
          return activated(at::linear(x, params[0], params[1]) + thin, activation);
        });
  }
}

// Two layers over one input, of which the second alone is adapted, or both are, and the second has a bias.
TEST(Adapter, SideBySideMatchesPlainAutograd) {
  for (const bool both : {false, true}) {
    OpCase run;
    run.x = random_tensor({5, 7, 20}, 1);
    run.params = {random_tensor({12, 20}, 2, 0.3), random_tensor({8, 20}, 3, 0.3),
                  random_tensor({kRank, 20}, 4, 0.3), random_tensor({8, kRank}, 5, 0.3),
                  random_tensor({8}, 8)};
    if (both) {
      run.params.push_back(random_tensor({kRank, 20}, 6, 0.3));
      run.params.push_back(random_tensor({12, kRank}, 7, 0.3));
    }
    expect_matches_plain(
        run,
        [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          const std::array weights{both ? adapted(params, 0, 5) : params[0], adapted(params, 1, 2)},
              biases{Param(), params[4]};
          return linear_side_by_side(x, {weights, biases}, context);
        },
        [&](const at::Tensor& x, std::span<const at::Tensor> params) {
          const auto layer = [&](size_t weight, size_t a) {
            return at::linear(x, params[weight]) +
                   at::linear(at::linear(x, params[a]), params[a + 1]) * kScale;
          };
          return at::cat({both ? layer(0, 5) : at::linear(x, params[0]), layer(1, 2) + params[4]}, -1);
        });
  }
}

struct Window {
  std::string name;
  int64_t kernel, stride, padding;
};

at::Tensor plain_convolution(const at::Tensor& x, std::span<const at::Tensor> params, const Window& window) {
  const auto convolve = [&](const at::Tensor& weight) {
    return at::conv2d(x, weight, {}, window.stride, window.padding);
  };
  return convolve(params[0]) + at::conv2d(convolve(params[1]), params[2]) * kScale;
}

std::vector<at::Tensor> convolution_parameters(int64_t channels, int64_t out, const Window& window) {
  return {random_tensor({out, channels, window.kernel, window.kernel}, 2, 0.2),
          random_tensor({kRank, channels, window.kernel, window.kernel}, 3, 0.2),
          random_tensor({out, kRank, 1, 1}, 4, 0.3)};
}

TEST(Adapter, OfAStridedConvolutionMatchesPlainAutograd) {
  for (const Window& window :
       {Window{"3x3", 3, 1, 1}, {"3x3 of stride 2", 3, 2, 1}, {"1x1 of stride 2", 1, 2, 0}}) {
    SCOPED_TRACE(window.name);
    OpCase run;
    run.x = random_tensor({3, 5, 9, 9}, 1);
    run.params = convolution_parameters(5, 18, window);
    expect_matches_plain(
        run,
        [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          return strided_conv2d(x, adapted(params, 0, 1), {window.stride, window.padding}, context);
        },
        [&](const at::Tensor& x, std::span<const at::Tensor> params) {
          return plain_convolution(x, params, window);
        });
  }
}

TEST(Adapter, OfAPoolingConvolutionMatchesPlainAutograd) {
  const Window window{"5x5", 5, 1, 2};
  for (const Convolution& convolution :
       {Convolution{2, true, true}, {2, true, false}, {2, false, true}, {2, false, false}}) {
    OpCase run;
    run.x = random_tensor({3, 2, 9, 11}, 1);
    run.params = convolution_parameters(2, 6, window);
    run.params.push_back(random_tensor({6}, 5));
    expect_matches_plain(
        run,
        [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          return conv2d(x, adapted(params, 0, 1), params[3], convolution, context);
        },
        [&](const at::Tensor& x, std::span<const at::Tensor> params) {
          at::Tensor y = plain_convolution(x, params, window) + params[3].view({1, 6, 1, 1});
          if (convolution.relu) y = at::relu(y);
          return convolution.pool ? at::max_pool2d(y, {2, 2}) : y;
        });
  }
}

// Of tokens, of positions and of both, in rows that are one document or several.
TEST(Adapter, OfTablesMatchPlainAutograd) {
  const std::vector<int64_t> documents = {0, 1, 2, 0, 1, 0, 1, 2, 3, 4};
  for (const bool packed : {false, true}) {
    for (const int which : {1, 2, 3}) {
      OpCase run;
      run.x = at::tensor({3, 0, 12, 3, 3, 7, 1, 0, 12, 5}, at::kLong).view({2, 5});
      run.params = {random_tensor({13, 16}, 2), random_tensor({8, 16}, 3)};
      if ((which & 1) != 0) {
        run.params.push_back(random_tensor({kRank, 13}, 4));
        run.params.push_back(random_tensor({16, kRank}, 5));
      }
      if ((which & 2) != 0) {
        run.params.push_back(random_tensor({kRank, 8}, 6));
        run.params.push_back(random_tensor({16, kRank}, 7));
      }
      if (packed) run.context.positions = documents;
      const at::Tensor places =
          packed ? at::tensor(documents, at::kLong).view({2, 5}) : at::arange(5).expand({2, 5});
      expect_matches_plain(
          run,
          [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
            const Param tokens = (which & 1) != 0 ? adapted(params, 0, 2) : params[0];
            const Param positions = (which & 2) != 0 ? adapted(params, 1, params.size() - 2) : params[1];
            return embedding(x, tokens, positions, context);
          },
          [&](const at::Tensor& x, std::span<const at::Tensor> params) {
            const auto thin = [&](const at::Tensor& ids, size_t a) {
              return at::linear(at::embedding(params[a].t().contiguous(), ids), params[a + 1]) * kScale;
            };
            at::Tensor y = at::embedding(params[0], x) + at::embedding(params[1], places);
            if ((which & 1) != 0) y = y + thin(x, 2);
            if ((which & 2) != 0) y = y + thin(places, params.size() - 2);
            return y;
          });
    }
  }
}

at::Tensor plain_recurrent(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool lstm) {
  at::Tensor h = at::zeros({x.size(0), bias.numel() / (lstm ? 4 : 1)}, x.options()), c = h;
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < x.size(1); ++t) {
    const at::Tensor both = at::cat({x.select(1, t), h}, 1), z = at::linear(both, weight, bias);
    if (lstm) {
      const auto gates = z.chunk(4, 1);
      c = gates[1].sigmoid() * c + gates[0].sigmoid() * gates[2].tanh();
    }
    h = lstm ? z.chunk(4, 1)[3].sigmoid() * c.tanh() : z.tanh();
    outputs.push_back(lstm ? h : both);
  }
  return at::stack(outputs, 1);
}

TEST(Adapter, OfRecurrentLayersMatchPlainAutograd) {
  for (const bool is_lstm : {true, false}) {
    const int64_t in = 19, hidden = 35, outputs = hidden * (is_lstm ? 4 : 1);
    OpCase run;
    run.x = random_tensor({17, 12, in}, 1);
    run.params = {random_tensor({outputs, in + hidden}, 2, 0.2), random_tensor({outputs}, 3, 0.2),
                  random_tensor({kRank, in + hidden}, 4, 0.2), random_tensor({outputs, kRank}, 5, 0.2)};
    expect_matches_plain(
        run,
        [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
          const Param weight = adapted(params, 0, 2);
          return is_lstm ? lstm(x, weight, params[1], context)
                         : recurrent_concatenation(x, weight, params[1], context);
        },
        [&](const at::Tensor& x, std::span<const at::Tensor> params) {
          const at::Tensor weight = params[0] + kScale * at::mm(params[3], params[2]);
          return plain_recurrent(x, weight, params[1], is_lstm);
        });
  }
}

}  // namespace
}  // namespace furrow::tensor
