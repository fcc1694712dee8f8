// A feed-forward layer at once beside its operations one after the other: the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "furrow/tensor/feed_forward_torch.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::bitwise_equal;
using testing::OpCase;
using testing::OpResult;
using testing::random_tensor;
using testing::run_ours;

struct Form {
  std::string name;
  bool gated = false, biases = false;
  Activation activation = Activation::kGelu;
  int64_t width = 32, hidden = 48;
};
void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

class FeedForwardForms : public ::testing::TestWithParam<Form> {
 protected:
  // Norm, its bias, in, its bias, out, its bias; or norm, gate, up, out.
  OpCase run_of(int64_t batch, int64_t time) const {
    const auto& [name, gated, biases, activation, width, hidden] = GetParam();
    OpCase run;
    run.x = random_tensor({batch, time, width}, 1) + 0.25;
    const auto bias = [&](int64_t size, uint64_t seed) {
      if (biases) run.params.push_back(random_tensor({size}, seed));
    };
    run.params.push_back(random_tensor({width}, 2) + 1);
    bias(width, 3);
    for (int i = 0; i < (gated ? 2 : 1); ++i)
      run.params.push_back(random_tensor({hidden, width}, 4 + i, 0.3));
    bias(hidden, 6);
    run.params.push_back(random_tensor({width, hidden}, 7, 0.3));
    bias(width, 8);
    return run;
  }

  static FeedForward layers_of(const Form& form, std::span<const Param> p) {
    FeedForward layers;
    layers.activation = form.activation;
    layers.norm.centred = !form.gated;
    layers.norm.weight = p[0];
    if (form.biases) {
      layers.norm.bias = p[1];
      layers.in = p.subspan(2, 1);
      layers.in_bias = p[3];
      layers.out = p[4];
      layers.out_bias = p[5];
    } else {
      layers.in = p.subspan(1, form.gated ? 2 : 1);
      layers.out = p.back();
    }
    return layers;
  }

  static at::Tensor one_after_the_other(const at::Tensor& x, const FeedForward& f, OpContext& context,
                                        double dropout = 0) {
    const at::Tensor n = f.norm.centred ? layer_norm(x, f.norm.weight, f.norm.bias, f.norm.eps, context)
                                        : rms_norm(x, f.norm.weight, f.norm.eps, context);
    const at::Tensor h = f.in.size() == 2 ? swiglu(linear_side_by_side(n, {f.in}, context), context)
                                          : linear(n, f.in.front(), f.in_bias, f.activation, context);
    return add_dropout(x, linear(h, f.out, f.out_bias, Activation::kNone, context), dropout, "layer",
                       context);
  }

  static void expect_equal(const OpResult& a, const OpResult& b, const std::string& what) {
    EXPECT_TRUE(bitwise_equal(a.output, b.output)) << what;
    ASSERT_EQ(a.input_gradient.defined(), b.input_gradient.defined());
    if (a.input_gradient.defined()) {
      EXPECT_TRUE(bitwise_equal(a.input_gradient, b.input_gradient)) << what;
    }
    for (size_t i = 0; i < a.gradients.size(); ++i)
      EXPECT_TRUE(bitwise_equal(a.gradients[i], b.gradients[i])) << what << ", parameter " << i;
  }
};

TEST_P(FeedForwardForms, HasTheBitsOfItsOperations) {
  const Form form = GetParam();
  for (const auto& [batch, time] : {std::pair<int64_t, int64_t>{3, 45}, {1, 1}, {5, 256}, {4, 32}}) {
    for (const int threads : {1, 2, 3}) {
      for (const bool input_gradient : {true, false}) {
        OpCase run = run_of(batch, time);
        run.context.threads = threads;
        run.input_gradient = input_gradient;
        const OpResult whole =
            run_ours(run, [&](const at::Tensor& x, std::span<const Param> p, OpContext& context) {
              const FeedForward layers = layers_of(form, p);
              EXPECT_TRUE(runs_at_once(x, layers, context));
              return feed_forward(x, layers, context);
            });
        const OpResult parts =
            run_ours(run, [&](const at::Tensor& x, std::span<const Param> p, OpContext& context) {
              return one_after_the_other(x, layers_of(form, p), context);
            });
        expect_equal(whole, parts,
                     std::to_string(batch * time) + " rows, " + std::to_string(threads) + " threads");
      }
    }
  }
}

// As they run where something is dropped, cut, adapted or of 16 bits.
TEST_P(FeedForwardForms, HasTheBitsOfItsOperationsApart) {
  const Form form = GetParam();
  const std::vector<int64_t> samples{7, 3, 12};
  OpCase run = run_of(3, 45);
  run.context.training = true;
  run.context.sample_ids = samples;
  const auto in_training = [&](double p) {
    return run_ours(run, [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
      FeedForward layers = layers_of(form, params);
      layers.dropout = p;
      layers.stream = "layer";
      EXPECT_EQ(runs_at_once(x, layers, context), p == 0);
      return feed_forward(x, layers, context);
    });
  };
  const OpResult parts =
      run_ours(run, [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
        return one_after_the_other(x, layers_of(form, params), context, 0.25);
      });
  expect_equal(in_training(0.25), parts, "dropout");
  EXPECT_FALSE(bitwise_equal(in_training(0).output, parts.output)) << "the control";
}

INSTANTIATE_TEST_SUITE_P(All, FeedForwardForms,
                         ::testing::Values(Form{"gelu", false, true}, Form{"gelu without biases"},
                                           Form{"tanh", false, true, Activation::kGeluTanh, 33, 70},
                                           Form{"gated", true},
                                           Form{"gated, odd", true, false, Activation::kNone, 20, 43},
                                           Form{"large", false, true, Activation::kGelu, 520, 640}));

}  // namespace
}  // namespace furrow::tensor
