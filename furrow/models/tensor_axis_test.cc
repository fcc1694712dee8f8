// What a tensor axis cuts of each network, and what its blocks exchange: by hand.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "furrow/config/model.h"
#include "furrow/models/architectures.h"
#include "furrow/models/precision.h"
#include "furrow/plan/tensor_cut.h"

namespace furrow::models {
namespace {

using plan::UnitCollective;
using enum plan::UnitCollective::Phase;
using enum plan::UnitCollective::Op;

constexpr int64_t kTime = 8, kWidth = 24, kVocabulary = 13;

plan::ModelSpec decoder(const std::string& name) {
  config::Model model;
  model.name = name;
  model.layers = 1;
  model.heads = 6;
  model.kv_heads = name == "llama" ? 2 : 0;
  model.width = kWidth;
  model.ffn_width = name == "llama" ? 40 : 0;
  return describe(model, {{DType::kI64, {-1, kTime}}, kVocabulary});
}

plan::ModelSpec mlp(std::vector<int64_t> hidden) {
  config::Model model;
  model.name = "mlp";
  model.hidden = std::move(hidden);
  return describe(model, {{DType::kF32, {-1, 1, 4, 5}}, 10});
}

std::map<std::string, int> axes_of(const plan::Unit& unit) {
  std::map<std::string, int> axes;
  for (const plan::Parameter& parameter : unit.parameters)
    axes[parameter.name.substr(parameter.name.find(unit.name) == 0 ? unit.name.size() + 1 : 0)] =
        parameter.tensor_axis;
  return axes;
}

TEST(TensorAxis, GptIsCutByHeadsHiddenUnitsAndVocabulary) {
  const plan::ModelSpec spec = decoder("gpt");
  EXPECT_EQ(axes_of(spec.units[0]), (std::map<std::string, int>{{"wte.weight", 0}, {"wpe.weight", -1}}));
  const std::map<std::string, int> block = {
      {"ln_1.weight", -1},     {"ln_1.bias", -1},         {"attn.c_attn.weight", 0},
      {"attn.c_attn.bias", 0}, {"attn.c_proj.weight", 1}, {"attn.c_proj.bias", -1},
      {"ln_2.weight", -1},     {"ln_2.bias", -1},         {"mlp.c_fc.weight", 0},
      {"mlp.c_fc.bias", 0},    {"mlp.c_proj.weight", 1},  {"mlp.c_proj.bias", -1}};
  EXPECT_EQ(axes_of(spec.units[1]), block);
  EXPECT_EQ(spec.units[1].parameters[2].tensor_segments, (std::vector<int64_t>{kWidth, kWidth, kWidth}));
  EXPECT_EQ(spec.units[1].tensor.counts,
            (std::vector<plan::TensorCut::Count>{{"positions", kTime}, {"heads", 6}}));
  EXPECT_EQ(axes_of(spec.units[2]).at("weight"), 0);
}

TEST(TensorAxis, LlamaIsCutByItsKeyHeads) {
  const plan::Unit block = decoder("llama").units[1];
  EXPECT_EQ(block.tensor.counts,
            (std::vector<plan::TensorCut::Count>{{"positions", kTime}, {"kv_heads", 2}}));
  const std::map<std::string, int> axes = axes_of(block);
  for (const char* name :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"})
    EXPECT_EQ(axes.at(std::string(name) + ".weight"), 0) << name;
  for (const char* name : {"self_attn.o_proj", "mlp.down_proj"})
    EXPECT_EQ(axes.at(std::string(name) + ".weight"), 1) << name;
  for (const char* name : {"input_layernorm", "post_attention_layernorm"})
    EXPECT_EQ(axes.at(std::string(name) + ".weight"), -1) << name;
}

// Between units a rank has a part of the positions; the logits are cut over the classes.
TEST(TensorAxis, BordersFollowOneAnother) {
  for (const std::string name : {"gpt", "llama"}) {
    const plan::ModelSpec spec = decoder(name);
    EXPECT_EQ(spec.units.front().input.tensor_axis, -1);
    for (size_t u = 1; u < spec.units.size(); ++u) {
      EXPECT_EQ(spec.units[u].input.tensor_axis, 1);
      EXPECT_EQ(spec.units[u - 1].output.tensor_axis, 1);
    }
    EXPECT_EQ(spec.units.back().output.tensor_axis, 2);
  }
  const plan::ModelSpec three = mlp({12, 14});
  EXPECT_EQ(three.units[0].output.tensor_axis, 1);
  EXPECT_EQ(three.units[1].input.tensor_axis, 1);
  EXPECT_EQ(three.units[1].output.tensor_axis, -1);
  EXPECT_EQ(three.units[2].input.tensor_axis, -1);
  EXPECT_EQ(three.units[2].output.tensor_axis, 1);
  EXPECT_EQ(axes_of(three.units[1]), (std::map<std::string, int>{{"weight", 1}, {"bias", -1}}));
  EXPECT_EQ(axes_of(three.units[2]), (std::map<std::string, int>{{"weight", 0}, {"bias", 0}}));
}

TEST(TensorAxis, ABlockGathersAndScattersTwice) {
  const int64_t wide = kTime * kWidth * 4;
  const UnitCollective gather{kForward, kAllGather, wide, 0, false},
      scatter{kForward, kReduceScatter, wide, 0, false};
  UnitCollective back_gather = gather, back_scatter = scatter;
  back_gather.phase = back_scatter.phase = kBackwardInput;
  for (const std::string name : {"gpt", "llama"}) {
    const plan::Unit block = decoder(name).units[1];
    // Norms (two numbers a column in the gpt, one in llama), and the biases behind the two sums.
    const int64_t replicated = (name == "gpt" ? 6 : 2) * kWidth * 4;
    const std::vector<UnitCollective> expected = {
        gather,      scatter,      gather,
        scatter,     back_gather,  back_scatter,
        back_gather, back_scatter, {kBackwardWeight, kAllReduce, 0, replicated, false}};
    EXPECT_EQ(block.collectives, expected) << name;
  }
}

TEST(TensorAxis, EmbeddingHeadAndPairsOfLayers) {
  const int64_t wide = kTime * kWidth * 4;
  const plan::ModelSpec gpt = decoder("gpt");
  EXPECT_EQ(gpt.units[0].collectives,
            (std::vector<UnitCollective>{{kForward, kReduceScatter, wide, 0, false},
                                         {kBackwardInput, kAllGather, wide, 0, false}}));
  EXPECT_EQ(gpt.units[2].collectives,
            (std::vector<UnitCollective>{{kForward, kAllGather, wide, 0, false},
                                         {kBackwardInput, kReduceScatter, wide, 0, false},
                                         {kBackwardWeight, kAllReduce, 0, 2 * kWidth * 4, false},
                                         {kLoss, kAllReduce, kTime * 4, 0, false},
                                         {kLoss, kAllReduce, kTime * 32, 0, false}}));
  const plan::ModelSpec pair = mlp({12});
  EXPECT_EQ(pair.units[0].collectives[0], (UnitCollective{kBackwardInput, kAllReduce, 20 * 4, 0, true}));
  EXPECT_EQ(pair.units[1].collectives,
            (std::vector<UnitCollective>{{kForward, kAllReduce, 10 * 4, 0, false}}));
}

// What cannot be cut is refused by its name, wherever it stands.
TEST(TensorAxis, RefusesSingleLayersByName) {
  const std::vector<std::string> layers = {"conv out_channels=4 kernel=3",
                                           "conv_relu_pool out_channels=4 kernel=3",
                                           "conv_norm out_channels=4",
                                           "residual_block out_channels=4",
                                           "bottleneck_block width=2 out_channels=4",
                                           "activation activation=tanh",
                                           "dropout p=0.1",
                                           "max_pool kernel=2",
                                           "avg_pool kernel=2",
                                           "global_avg_pool",
                                           "layer_norm",
                                           "group_norm groups=1",
                                           "batch_norm"};
  const auto list = [](const std::string& layer, int64_t side) {
    config::Model model;
    model.name = "blocks";
    model.units = {"x: " + layer, "fc: linear out=classes"};
    const Shape image = side > 0 ? Shape{-1, 2, side, side} : Shape{-1, 6};
    return describe(model, {{DType::kF32, image}, 10});
  };
  for (const std::string& layer : layers) {
    const std::string kind = layer.substr(0, layer.find(' '));
    EXPECT_EQ(plan::refuses_tensor_cut(list(layer, 8), 2), "unit x (" + kind + ") cannot be cut inside");
  }
  EXPECT_EQ(plan::refuses_tensor_cut(list("batch_norm", 0), 2), "unit x (batch_norm) cannot be cut inside");
  EXPECT_EQ(plan::refuses_tensor_cut(list("linear out=8", 8), 2), "") << "control";
}

// What is gathered is of the unit's type; what is summed, and the gradients of parameters, are float32.
TEST(TensorAxis, In16BitsGathersAreHalfAndSumsAreNot) {
  plan::ModelSpec spec = decoder("gpt");
  compute_in(DType::kBF16, &spec);
  const plan::Unit& block = spec.units[1];
  ASSERT_EQ(block.collectives.size(), 9U);
  EXPECT_EQ(block.collectives[0].bytes_per_sample, kTime * kWidth * 2);
  EXPECT_EQ(block.collectives[1].bytes_per_sample, kTime * kWidth * 4);
  EXPECT_EQ(block.collectives[8].fixed_bytes, 6 * kWidth * 4);
  EXPECT_EQ(block.tensor.whole_saved_bytes, kTime * 2 * kWidth * 2);
}

}  // namespace
}  // namespace furrow::models
