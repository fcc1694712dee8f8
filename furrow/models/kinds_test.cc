#include "furrow/models/kinds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

const plan::TensorSpec kImage = {DType::kF32, {-1, 3, 8, 8}};
const plan::TensorSpec kText = {DType::kF32, {-1, 4, 8}};
const plan::TensorSpec kIds = {DType::kI64, {-1, 4}};

plan::Attributes conv() {
  return {{"in_channels", int64_t{3}},
          {"out_channels", int64_t{5}},
          {"kernel", int64_t{3}},
          {"padding", int64_t{1}},
          {"relu", true},
          {"pool", true}};
}

plan::Attributes linear(bool flatten) {
  const std::string gelu = "gelu";
  return {{"in", int64_t{flatten ? 192 : 8}},
          {"out", int64_t{7}},
          {"bias", true},
          {"activation", gelu},
          {"flatten", flatten}};
}

plan::Attributes block() {
  return {
      {"width", int64_t{8}}, {"heads", int64_t{2}}, {"layers", int64_t{2}}, {"dropout", 0.1}, {"bias", true}};
}

plan::Attributes embedding() {
  return {{"vocab", int64_t{11}}, {"context", int64_t{4}}, {"width", int64_t{8}}, {"dropout", 0.0}};
}

std::string error_of(std::string_view kind, plan::Attributes attributes, const plan::TensorSpec& input) {
  try {
    make_unit("x", kind, std::move(attributes), input);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

plan::Attributes with(plan::Attributes attributes, const std::string& key, plan::Attribute value) {
  attributes[key] = std::move(value);
  return attributes;
}

TEST(Kinds, ConvolutionKeepsCodesAndShapes) {
  const plan::Unit unit = make_unit("c", "conv_relu_pool", conv(), kImage);
  EXPECT_EQ(unit.output.shape, (Shape{-1, 5, 4, 4}));
  EXPECT_EQ(unit.parameters[0].name, "c.weight");
  EXPECT_EQ(unit.parameters[1].name, "c.bias");
  EXPECT_EQ(unit.saved_bytes, 5 * 4 * 4);
  EXPECT_EQ(unit.flops.forward, 2.0 * 5 * 8 * 8 * 27);
  const plan::Unit plain =
      make_unit("c", "conv_relu_pool", with(with(conv(), "relu", false), "pool", false), kImage);
  EXPECT_EQ(plain.saved_bytes, 0);
  EXPECT_EQ(plain.output.shape, (Shape{-1, 5, 8, 8}));
}

TEST(Kinds, LinearFlattensOrKeepsRows) {
  EXPECT_EQ(make_unit("l", "linear", linear(true), kImage).output.shape, (Shape{-1, 7}));
  const plan::Unit rows = make_unit("l", "linear", linear(false), kText);
  EXPECT_EQ(rows.output.shape, (Shape{-1, 4, 7}));
  EXPECT_EQ(rows.flops.forward, 2.0 * 4 * 8 * 7);
  EXPECT_EQ(rows.saved_bytes, 4 * 7 * 4);
  EXPECT_EQ(make_unit("l", "linear", with(linear(false), "bias", false), kText).parameters.size(), 1u);
}

TEST(Kinds, ADelayHasAnOutputOfAsManyBytesAsItSays) {
  const plan::Attributes times = {
      {"forward_ms", 10.0}, {"backward_input_ms", 20.0}, {"backward_weight_ms", 5.0}};
  EXPECT_EQ(make_unit("d", "delay", times, kImage).output, kImage);
  const plan::Unit sends = make_unit("d", "delay", with(times, "bytes", int64_t{4096}), kImage);
  EXPECT_EQ(sends.output.shape, (Shape{-1, 1024}));
  EXPECT_EQ(sends.output.bytes_per_sample(), 4096);
  EXPECT_THAT(error_of("delay", with(times, "bytes", int64_t{4095}), kImage),
              HasSubstr("bytes is 4095: of float32, it must be a multiple of 4"));
  EXPECT_THAT(error_of("delay", with(times, "bytes", int64_t{-4}), kImage), HasSubstr("bytes"));
  EXPECT_THAT(error_of("delay", with(times, "forward_ms", -1.0), kImage), HasSubstr("0 to 1e6"));
}

TEST(Kinds, PrefixReplacesTheName) {
  const std::string bare, other = "model";
  EXPECT_EQ(make_unit("e", "token_embedding", with(embedding(), "prefix", bare), kIds).parameters[0].name,
            "wte.weight");
  EXPECT_EQ(make_unit("e", "token_embedding", with(embedding(), "prefix", other), kIds).parameters[0].name,
            "model.wte.weight");
  EXPECT_EQ(make_unit("e", "token_embedding", embedding(), kIds).parameters[0].name, "e.wte.weight");
}

TEST(Kinds, BadAttributesAreNamed) {
  EXPECT_THAT(error_of("conv_relu_pool", with(conv(), "in_channels", int64_t{2}), kImage),
              HasSubstr("unit x (conv_relu_pool): in_channels is 2, but the input [-1, 3, 8, 8] has 3"));
  EXPECT_THAT(error_of("conv_relu_pool", with(conv(), "padding", int64_t{3}), kImage),
              HasSubstr("below the kernel's 3"));
  EXPECT_THAT(error_of("conv_relu_pool", with(conv(), "kernel", int64_t{0}), kImage),
              HasSubstr("'kernel' is 0"));
  EXPECT_THAT(error_of("conv_relu_pool", with(conv(), "kernel", 3.0), kImage),
              HasSubstr("must be an integer"));
  EXPECT_THAT(error_of("conv_relu_pool", {}, kImage), HasSubstr("attribute 'in_channels' is missing"));
  EXPECT_THAT(error_of("conv_relu_pool", conv(), kText), HasSubstr("[-1, channels, height, width]"));
  const std::string tanhh = "tanhh";
  EXPECT_THAT(error_of("linear", with(linear(true), "activation", tanhh), kImage),
              HasSubstr("known: gelu, gelu_tanh, leaky_relu, none, relu, sigmoid, silu, softplus, tanh"));
  EXPECT_THAT(error_of("linear", linear(true), kText),
              HasSubstr("in is 192, but the input [-1, 4, 8] has 32 features"));
  EXPECT_THAT(error_of("linear", linear(false), kIds), HasSubstr("it reads float32"));
  EXPECT_THAT(error_of("transformer_block", with(block(), "heads", int64_t{3}), kText),
              HasSubstr("no multiple of heads 3"));
  EXPECT_THAT(error_of("transformer_block", with(block(), "dropout", 1.0), kText), HasSubstr("below 1"));
  EXPECT_THAT(error_of("transformer_block", with(block(), "width", int64_t{16}), kText),
              HasSubstr("width is 16"));
  EXPECT_THAT(error_of("token_embedding", with(embedding(), "context", int64_t{3}), kIds),
              HasSubstr("context of 3"));
  EXPECT_THAT(error_of("linaer", linear(true), kImage), HasSubstr("did you mean 'linear'?"));
}

plan::Attributes conv_layer() {
  return {{"in_channels", int64_t{3}},
          {"out_channels", int64_t{5}},
          {"kernel", int64_t{3}},
          {"stride", int64_t{2}},
          {"padding", int64_t{1}},
          {"bias", true},
          {"activation", std::string("silu")}};
}

plan::Attributes pool(int64_t kernel, int64_t stride, int64_t padding) {
  return {{"kernel", kernel}, {"stride", stride}, {"padding", padding}};
}

TEST(Kinds, SingleLayersHaveTheirShapesAndCosts) {
  const plan::Unit unit = make_unit("c", "conv", conv_layer(), kImage);
  EXPECT_EQ(unit.output.shape, (Shape{-1, 5, 4, 4}));
  EXPECT_EQ(unit.parameters[0].shape, (Shape{5, 3, 3, 3}));
  EXPECT_EQ(unit.parameters[1].name, "c.bias");
  EXPECT_EQ(unit.flops.forward, 2.0 * 5 * 4 * 4 * 27);
  EXPECT_EQ(unit.saved_bytes, 5 * 4 * 4 * 4) << "slopes";
  EXPECT_EQ(make_unit("c", "conv", with(conv_layer(), "bias", false), kImage).parameters.size(), 1u);
  EXPECT_EQ(make_unit("p", "max_pool", pool(2, 0, 0), kImage).output.shape, (Shape{-1, 3, 4, 4}));
  EXPECT_EQ(make_unit("p", "max_pool", pool(3, 2, 1), kImage).saved_bytes, 3 * 4 * 4);
  EXPECT_EQ(make_unit("p", "avg_pool", pool(3, 1, 0), kImage).output.shape, (Shape{-1, 3, 6, 6}));
  EXPECT_EQ(make_unit("g", "global_avg_pool", {}, kImage).output.shape, (Shape{-1, 3}));
  EXPECT_EQ(make_unit("n", "layer_norm", {{"eps", 1e-5}, {"bias", true}}, kText).parameters[1].shape,
            (Shape{8}));
  EXPECT_EQ(make_unit("n", "group_norm", {{"groups", int64_t{3}}, {"eps", 1e-5}}, kImage).saved_bytes,
            3 * 2 * 4);
  EXPECT_EQ(make_unit("d", "dropout", {{"p", 0.5}}, kImage).output, kImage);
}

plan::Attributes batch_norm(double momentum, const std::string& activation) {
  return {{"momentum", momentum}, {"eps", 1e-5}, {"activation", activation}};
}

// torch.nn.BatchNorm2d's state_dict, of rows BatchNorm1d's.
TEST(Kinds, BatchNormHasPyTorchsTensors) {
  for (const plan::TensorSpec& input : {kImage, plan::TensorSpec{DType::kF32, {-1, 3}}}) {
    const plan::Unit unit = make_unit("n", "batch_norm", batch_norm(0.25, "none"), input);
    EXPECT_EQ(unit.output, input);
    ASSERT_EQ(unit.parameters.size(), 2u);
    EXPECT_EQ(unit.parameters[0].name, "n.weight");
    EXPECT_EQ(unit.parameters[1].name, "n.bias");
    EXPECT_EQ(unit.parameters[0].group, plan::ParameterGroup::kNoDecay);
    ASSERT_EQ(unit.statistics.size(), 3u);
    EXPECT_EQ(unit.statistics[0].name, "n.running_mean");
    EXPECT_EQ(unit.statistics[1].name, "n.running_var");
    EXPECT_EQ(unit.statistics[1].initial, 1);
    EXPECT_EQ(unit.statistics[1].momentum, 0.25);
    EXPECT_EQ(unit.statistics[2].name, "n.num_batches_tracked");
    EXPECT_EQ(unit.saved_bytes, 0) << "what it reads is a border";
  }
  EXPECT_EQ(make_unit("n", "batch_norm", batch_norm(0.1, "silu"), kImage).saved_bytes, 3 * 8 * 8 * 4);
  EXPECT_EQ(make_unit("n", "batch_norm", with(batch_norm(0.1, "none"), "prefix", std::string()), kImage)
                .statistics[0]
                .name,
            "running_mean");
  EXPECT_THAT(error_of("batch_norm", batch_norm(0, "none"), kImage), HasSubstr("'momentum' is 0"));
  EXPECT_THAT(error_of("batch_norm", batch_norm(1.5, "none"), kImage), HasSubstr("it must be at most 1"));
  EXPECT_THAT(error_of("batch_norm", batch_norm(0.1, "rely"), kImage), HasSubstr("did you mean 'relu'?"));
  EXPECT_THAT(error_of("batch_norm", batch_norm(0.1, "none"), kText),
              HasSubstr("[-1, channels] or [-1, channels, height, width]"));
  EXPECT_THAT(error_of("batch_norm", batch_norm(0.1, "none"), {DType::kI64, {-1, 4}}), HasSubstr("it reads"));
}

TEST(Kinds, SingleLayersNameWhatDoesNotFit) {
  EXPECT_THAT(error_of("conv", with(conv_layer(), "in_channels", int64_t{4}), kImage),
              HasSubstr("in_channels is 4"));
  EXPECT_THAT(error_of("conv", with(conv_layer(), "stride", int64_t{0}), kImage), HasSubstr("'stride' is 0"));
  EXPECT_THAT(error_of("conv", with(conv_layer(), "padding", int64_t{3}), kImage),
              HasSubstr("below the kernel's 3"));
  EXPECT_THAT(error_of("conv", conv_layer(), kText), HasSubstr("[-1, channels, height, width]"));
  EXPECT_THAT(error_of("max_pool", pool(16, 0, 0), kImage), HasSubstr("must be 1 to 15"));
  EXPECT_THAT(error_of("max_pool", pool(3, 1, 2), kImage), HasSubstr("at most half of the kernel's 3"));
  EXPECT_THAT(error_of("avg_pool", pool(9, 0, 0), kImage), HasSubstr("an image of 8 x 8 is too small"));
  EXPECT_THAT(error_of("group_norm", {{"groups", int64_t{2}}, {"eps", 1e-5}}, kImage),
              HasSubstr("groups 2 does not divide the 3 channels"));
  EXPECT_THAT(error_of("dropout", {{"p", 1.0}}, kImage), HasSubstr("below 1"));
  EXPECT_THAT(error_of("layer_norm", {{"eps", 0.0}, {"bias", true}}, kText), HasSubstr("above 0"));
  EXPECT_THAT(error_of("activation", {{"activation", std::string("none")}, {"slope", 0.01}}, kText),
              HasSubstr("leave the unit out"));
  EXPECT_THAT(error_of("activation", {{"activation", std::string("relu")}, {"slope", 0.2}}, kText),
              HasSubstr("slope 0.2 is leaky_relu's, not relu's"));
  EXPECT_THAT(error_of("activation", {{"activation", std::string("relu")}, {"slope", 0.01}}, kIds),
              HasSubstr("it reads float32"));
}

TEST(Kinds, EveryRowIsFoundByItsName) {
  for (const Kind& kind : kinds()) EXPECT_EQ(&find_kind(kind.name), &kind);
}

}  // namespace
}  // namespace furrow::models
