// One step of whole networks over a tensor axis, beside the same step uncut and in float64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/precision.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/declared_axis_torch.h"
#include "furrow/nn/test_cut_network_torch.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn {
namespace {

using plan::UnitCollective;
using tensor::testing::bitwise_equal;
using tensor::testing::within_bound;
using testing::cut_step;
using testing::DecoderForm;
using testing::Network;
using testing::OurStep;
using testing::Step;
using testing::Tensors;

// How many ranks share a step, and whose operations they run.
struct Over {
  int degree = 1;
  bool composed = false;
  friend std::ostream& operator<<(std::ostream& out, const Over& over) {
    return out << over.degree << (over.composed ? "_composed" : "");
  }
};

// Loss, logits and every gradient of the cut step: their error against float64 is at most twice the uncut
// step's own (tensor/bounds.h); a gradient with one element off by 2^-12 (16 bits: a quarter) is outside.
void expect_within_twice(const Network& network, const Over& over, const Tensors& params) {
  const OurStep how{.composed = over.composed};
  const Step exact = plain_step(network, params, at::kDouble), uncut = our_step(network, params, how),
             cut = cut_step(network, params, over.degree, how);
  const bool wide = network.spec.units.back().compute == DType::kF32;
  EXPECT_NEAR(cut.loss, exact.loss, (wide ? 1e-5 : 1e-2) * exact.loss);
  EXPECT_EQ(cut.rows, uncut.rows);
  if (wide) {
    EXPECT_EQ(cut.correct, uncut.correct);
  }
  EXPECT_TRUE(within_bound(cut.output, uncut.output, exact.output));
  if (exact.input_gradient.defined()) {
    EXPECT_TRUE(within_bound(cut.input_gradient, uncut.input_gradient, exact.input_gradient));
  }
  ASSERT_EQ(cut.gradients.size(), exact.gradients.size());
  for (const auto& [name, gradient] : cut.gradients) {
    const at::Tensor &own = uncut.gradients.at(name), &reference = exact.gradients.at(name);
    EXPECT_TRUE(within_bound(gradient, own, reference)) << name << " over " << over;
    at::Tensor wrong = gradient.clone();
    wrong.view(-1)[wrong.abs().argmax().item<int64_t>()] *= 1 + (wide ? 0x1p-12 : 0.25);
    EXPECT_FALSE(within_bound(wrong, own, reference)) << "control of " << name;
  }
}

void expect_within_twice(const Network& network, const Over& over) {
  expect_within_twice(network, over, testing::initial(network.spec));
}

// Twelve positions and heads: 2, 3 and 4 divide them, and not the vocabulary of 17.
DecoderForm decoder() {
  DecoderForm form;
  form.batch = 3;
  form.time = form.heads = 12;
  form.width = 48;
  form.kv_heads = 12;
  form.ffn = 44;
  return form;
}

class TensorParallel : public ::testing::TestWithParam<Over> {};

TEST_P(TensorParallel, Gpt) {
  for (const bool tied : {false, true}) {
    DecoderForm form = decoder();
    form.tied = form.documents = tied;
    form.bias = !tied;
    expect_within_twice(gpt_network(form), GetParam());
  }
}

TEST_P(TensorParallel, Llama) {
  for (const bool tied : {false, true}) {
    DecoderForm form = decoder();
    form.tied = form.documents = tied;
    form.qkv_bias = tied;
    if (tied) {  // shared key heads
      form.heads = 24;
      form.width = 96;
    }
    expect_within_twice(llama_network(form), GetParam());
  }
  DecoderForm form = decoder();
  form.head_dim = 10;
  form.rope_scaling = "llama3";
  expect_within_twice(llama_network(form), GetParam());
}

TEST_P(TensorParallel, Mlp) {
  expect_within_twice(testing::mlp_network({33, 10}, "relu"), GetParam());      // a pair: logits whole
  expect_within_twice(testing::mlp_network({33, 24, 10}, "gelu"), GetParam());  // logits cut
  expect_within_twice(testing::mlp_network({33, 24, 26, 10}, "relu"), GetParam());
}

// Every layer with an adapter, and some alone, of rank 5 that no degree divides.
TEST_P(TensorParallel, Adapters) {
  DecoderForm form = decoder();
  const auto adapted = [](Network network, std::vector<std::string> targets) {
    return with_adapters(std::move(network), {.target_modules = std::move(targets)});
  };
  expect_within_twice(adapted(gpt_network(form), {"*", "wte", "wpe"}), GetParam());
  expect_within_twice(adapted(llama_network(form), {"*", "embed_tokens"}), GetParam());
  expect_within_twice(adapted(gpt_network(form), {"wpe", "c_proj"}), GetParam());
  form.tied = form.documents = true;
  expect_within_twice(adapted(llama_network(form), {"q_proj", "up_proj", "down_proj"}), GetParam());
  for (const std::string activation : {"relu", "gelu"})
    expect_within_twice(adapted(testing::mlp_network({33, 24, 26, 10}, activation), {"*"}), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Degrees, TensorParallel,
                         ::testing::Values(Over{2}, Over{3}, Over{4}, Over{2, true}, Over{3, true},
                                           Over{4, true}),
                         ::testing::PrintToStringParamName());

TEST(TensorParallel, SmoothedLabels) {
  Network network = gpt_network(decoder());
  network.smoothing = 0.1;
  for (const bool composed : {false, true}) expect_within_twice(network, {3, composed});
}

TEST(TensorParallel, BFloat16) {
  for (Network network : {gpt_network(decoder()), llama_network(decoder())}) {
    Tensors params = testing::initial(network.spec);  // as the exact step reads them too
    for (auto& [name, value] : params) value = value.to(at::kBFloat16).to(at::kFloat);
    models::compute_in(DType::kBF16, &network.spec);
    for (const Over& over : {Over{2}, Over{4}, Over{2, true}, Over{4, true}})
      expect_within_twice(network, over, params);
  }
}

// What lies between the two matrices of an adapter is a part of a sum, and rounded on every rank: the worst
// element of one gradient may be beyond twice, all gradients together are not.  The root of the mean over
// parameters of the squared distance from float64, relative to the largest element.
double mean_error(const Step& step, const Step& exact) {
  double sum = 0;
  for (const auto& [name, gradient] : step.gradients) {
    const at::Tensor reference = exact.gradients.at(name);
    const at::Tensor error = (gradient.to(at::kDouble) - reference) / reference.abs().max();
    sum += error.square().mean().item<double>();
  }
  return std::sqrt(sum / static_cast<double>(step.gradients.size()));
}

TEST(TensorParallel, AdaptersInBFloat16) {
  for (const Network& wide : {gpt_network(decoder()), llama_network(decoder())}) {
    Network network = wide;
    models::compute_in(DType::kBF16, &network.spec);
    network = with_adapters(network);
    Tensors params = testing::initial(network.spec);
    for (auto& [name, value] : params) value = value.to(at::kBFloat16).to(at::kFloat);
    const Step exact = plain_step(network, params, at::kDouble);
    for (const Over& over : {Over{2}, Over{4}, Over{2, true}, Over{4, true}}) {
      const Step uncut = our_step(network, params, {.composed = over.composed}),
                 cut = cut_step(network, params, over.degree, {.composed = over.composed});
      EXPECT_NEAR(cut.loss, exact.loss, 1e-2 * exact.loss);
      const double own = mean_error(uncut, exact);
      EXPECT_LT(mean_error(cut, exact), 2 * own) << over;
      Step wrong = cut;  // control: one of the matrices has another's share of its gradient
      for (auto& [name, gradient] : wrong.gradients) {
        if (name.find("c_fc.lora_A") != std::string::npos || name.find("up_proj.lora_A") != std::string::npos)
          gradient = gradient * 0.75;
      }
      EXPECT_GT(mean_error(wrong, exact), 2 * own) << over;
    }
  }
}

TEST(TensorParallel, RecomputeChangesNoBit) {
  DecoderForm form = decoder();
  form.dropout = 0.2;
  for (const Network& network :
       {gpt_network(form), llama_network(form), with_adapters(gpt_network(form), {.dropout = 0.2})}) {
    const Tensors params = testing::initial(network.spec);
    const Step once = cut_step(network, params, 2), again = cut_step(network, params, 2, {.recompute = true});
    EXPECT_EQ(once.loss, again.loss);
    for (const auto& [name, gradient] : once.gradients)
      EXPECT_TRUE(bitwise_equal(gradient, again.gradients.at(name))) << name;
  }
}

// The masks of a part are those of the whole: with another rank's mask nothing would be near.
TEST(TensorParallel, DropoutIsThatOfTheWhole) {
  DecoderForm form = decoder();
  form.dropout = 0.3;
  const Network network = gpt_network(form);
  const Tensors params = testing::initial(network.spec);
  const Step uncut = our_step(network, params, {}), undropped = our_step(gpt_network(decoder()), params, {});
  for (const Over& over : {Over{2}, Over{3}, Over{4}, Over{3, true}}) {
    const Step cut = cut_step(network, params, over.degree, {.composed = over.composed});
    for (const auto& [name, gradient] : uncut.gradients) {
      const double scale = gradient.abs().max().item<double>();
      EXPECT_LT(tensor::testing::distance(cut.gradients.at(name), gradient), 1e-5 * scale) << name;
      EXPECT_GT(tensor::testing::distance(undropped.gradients.at(name), gradient), 1e-2 * scale) << name;
    }
  }
}

// Of inputs that are cut a rank has the columns of each row's mask, of those that are whole all of it.
TEST(TensorParallel, DropoutOfAdaptersIsThatOfTheWhole) {
  const auto adapted = [](const Network& network, double dropout) {
    return with_adapters(network, {.dropout = dropout});
  };
  for (const Network& plain :
       {gpt_network(decoder()), llama_network(decoder()), testing::mlp_network({33, 24, 26, 10}, "relu")}) {
    const Network network = adapted(plain, 0.3);
    const Tensors params = testing::initial(network.spec);
    const Step uncut = our_step(network, params, {}), undropped = our_step(adapted(plain, 0), params, {});
    for (const Over& over : {Over{2}, Over{3}, Over{4}, Over{3, true}}) {
      const Step cut = cut_step(network, params, over.degree, {.composed = over.composed});
      for (const auto& [name, gradient] : uncut.gradients) {
        const double scale = gradient.abs().max().item<double>();
        EXPECT_LT(tensor::testing::distance(cut.gradients.at(name), gradient), 1e-5 * scale) << name;
        if (name.find(".lora_A") == std::string::npos) continue;
        EXPECT_GT(tensor::testing::distance(undropped.gradients.at(name), gradient), 1e-2 * scale) << name;
      }
    }
  }
}

// An axis of one rank, and none, are the same code with the same bits.
TEST(TensorParallel, OneRankHasTheBitsOfNone) {
  for (const Network& network :
       {gpt_network(decoder()), llama_network(decoder()), testing::mlp_network({33, 24, 10}, "gelu"),
        with_adapters(llama_network(decoder()), {.target_modules = {"*", "model.embed_tokens"}})}) {
    const Tensors params = testing::initial(network.spec);
    const Step none = our_step(network, params, {}), one = cut_step(network, params, 1);
    EXPECT_EQ(none.loss, one.loss);
    for (const auto& [name, gradient] : none.gradients)
      EXPECT_TRUE(bitwise_equal(gradient, one.gradients.at(name))) << name;
  }
}

std::string error_of_step(const Network& network) {
  try {
    cut_step(network, testing::initial(network.spec), 2);
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(DeclaredAxis, RefusesWhatIsNotDeclared) {
  const Network network = gpt_network(decoder());
  EXPECT_EQ(error_of_step(network), "");
  Network wrong = network;
  wrong.spec.units[1].collectives[0].bytes_per_sample += 4;
  std::string message = error_of_step(wrong);
  EXPECT_TRUE(contains(message, "unit h.0 (transformer_block)")) << message;
  EXPECT_TRUE(contains(message, "in forward: expected all_gather of 6924 bytes, found all_gather of 6912"))
      << message;

  wrong = network;
  std::swap(wrong.spec.units[2].collectives[4], wrong.spec.units[2].collectives[5]);
  message = error_of_step(wrong);
  EXPECT_TRUE(contains(message, "in backward_input: expected reduce_scatter of 6912 bytes, found all_gather"))
      << message;

  wrong = network;
  wrong.spec.units[3].collectives.erase(wrong.spec.units[3].collectives.begin());
  message = error_of_step(wrong);
  EXPECT_TRUE(contains(message, "unit lm_head")) << message;
  EXPECT_TRUE(contains(message, "expected none, found all_gather")) << message;

  wrong = network;  // one that is declared and never done
  wrong.spec.units[0].collectives.push_back({UnitCollective::Phase::kBackwardWeight, {}, 8, 0, false});
  message = error_of_step(wrong);
  EXPECT_TRUE(contains(message, "unit embed")) << message;
  EXPECT_TRUE(contains(message, "in backward_weight: expected all_reduce of 24 bytes, found none"))
      << message;
}

}  // namespace
}  // namespace furrow::nn
