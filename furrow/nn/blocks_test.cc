#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/kinds.h"
#include "furrow/nn/attributes_torch.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/init.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn {
namespace {

TEST(Blocks, EveryKindHasExactlyOneBlock) {
  std::multiset<std::string> kinds, blocks;
  for (const models::Kind& kind : models::kinds()) kinds.emplace(kind.name);
  for (const BlockKind& block : block_kinds()) blocks.emplace(block.name);
  EXPECT_EQ(kinds, blocks);
  EXPECT_EQ(std::set<std::string>(blocks.begin(), blocks.end()).size(), blocks.size());
}

class Doubling final : public Block {
 public:
  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param>,
                     tensor::OpContext&) const override {
    return input * 2;
  }
};

TEST(Blocks, AProgramsOwnKindsComeFirst) {
  plan::Unit unit;
  unit.kind = "linear";
  const BlockKind own[] = {
      {"linear", [](const plan::Unit&) -> std::unique_ptr<Block> { return std::make_unique<Doubling>(); }}};
  tensor::OpContext context;
  EXPECT_TRUE(at::equal(make_block(unit, own)->forward(at::ones({2}), {}, context), at::full({2}, 2.0f)));
}

TEST(Blocks, UnknownKindListsTheKnownOnes) {
  plan::Unit unit;
  unit.kind = "lineal";
  try {
    make_block(unit);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(error.message().find("linear"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find("lm_head"), std::string::npos) << error.message();
  }
}

plan::Unit unit_with(std::vector<std::string> names) {
  plan::Unit unit;
  unit.name = "u";
  for (std::string& name : names) unit.parameters.emplace_back().name = std::move(name);
  return unit;
}

TEST(Parameters, AreFoundByTheEndOfTheirName) {
  const plan::Unit unit = unit_with({"h.0.attn.c_proj.weight", "h.0.mlp.c_proj.weight", "bias"});
  EXPECT_EQ(ParameterSlot::find(unit, "attn.c_proj.weight").index(), 0);
  EXPECT_EQ(ParameterSlot::find(unit, "mlp.c_proj.weight").index(), 1);
  EXPECT_EQ(ParameterSlot::find(unit, "bias").index(), 2);
  EXPECT_EQ(ParameterSlot::find_optional(unit, "proj.weight").index(), -1) << "whole parts only";
  EXPECT_FALSE(ParameterSlot::find_optional(unit, "proj.weight")({}).defined());
  EXPECT_THROW(ParameterSlot::find(unit, "ln_1.weight"), Error);
  EXPECT_EQ(layer_name(unit, "mlp.c_proj.weight", "mlp.dropout"), "h.0.mlp.dropout");
}

TEST(Attributes, AreReadAsOperationsTakeThem) {
  plan::Unit unit;
  unit.attributes = {{"a", std::string("gelu")}, {"b", std::string("swish")}};
  EXPECT_EQ(activation_attribute(unit, "a"), tensor::Activation::kGelu);
  EXPECT_THROW(activation_attribute(unit, "b"), Error);
}

plan::Parameter parameter_of(std::string name, Shape shape, plan::Init init) {
  plan::Parameter parameter;
  parameter.name = std::move(name);
  parameter.shape = std::move(shape);
  parameter.init = init;
  return parameter;
}

std::vector<float> initialised(const plan::Parameter& parameter, uint64_t seed) {
  std::vector<float> out(static_cast<size_t>(parameter.size()), -7);
  initialise(parameter, seed, out);
  return out;
}

TEST(Init, FollowsTheSpec) {
  using Kind = plan::Init::Kind;
  EXPECT_EQ(initialised(parameter_of("a", {3}, {Kind::kZeros, 0}), 1), std::vector<float>(3, 0.0f));
  EXPECT_EQ(initialised(parameter_of("a", {3}, {Kind::kOnes, 0}), 1), std::vector<float>(3, 1.0f));
  const std::vector<float> uniform = initialised(parameter_of("a", {100, 100}, {Kind::kUniform, 0.5}), 1);
  const std::vector<float> normal = initialised(parameter_of("a", {100, 100}, {Kind::kNormal, 0.5}), 1);
  const at::Tensor u = at::tensor(uniform), n = at::tensor(normal);
  EXPECT_LT(u.abs().max().item<float>(), 0.5f + 1e-6f);
  EXPECT_NEAR(u.mean().item<double>(), 0, 0.015);
  EXPECT_NEAR(u.std().item<double>(), 0.5 / std::sqrt(3.0), 0.01);
  EXPECT_NEAR(n.mean().item<double>(), 0, 0.02);
  EXPECT_NEAR(n.std().item<double>(), 0.5, 0.02);
}

TEST(Init, DependsOnSeedAndFullNameAlone) {
  const plan::Init init{plan::Init::Kind::kNormal, 1};
  const std::vector<float> first = initialised(parameter_of("h.0.weight", {4, 5}, init), 1);
  EXPECT_EQ(first, initialised(parameter_of("h.0.weight", {20}, init), 1));
  EXPECT_NE(first, initialised(parameter_of("h.1.weight", {4, 5}, init), 1));
  EXPECT_NE(first, initialised(parameter_of("h.0.weight", {4, 5}, init), 2));
  std::vector<float> part(19);
  EXPECT_THROW(initialise(parameter_of("h.0.weight", {4, 5}, init), 1, part), Error);
  for (const int64_t begin : {0, 1, 3, 17, 20}) {  // a slice is the slice of the whole
    std::vector<float> slice(static_cast<size_t>(20 - begin));
    initialise_range(parameter_of("h.0.weight", {4, 5}, init), 1, begin, slice);
    EXPECT_TRUE(std::ranges::equal(slice, std::span(first).subspan(static_cast<size_t>(begin))));
  }
  EXPECT_THROW(initialise_range(parameter_of("h.0.weight", {4, 5}, init), 1, 19, part), Error);
}

// The masks of a block belong to samples, and a second microbatch may run forward before the first one's
// backward.
TEST(TransformerBlock, DropoutDoesNotDependOnHowABatchIsSplit) {
  const plan::Unit unit = models::make_unit("h.0", "transformer_block",
                                            {{"width", int64_t{16}},
                                             {"heads", int64_t{2}},
                                             {"layers", int64_t{1}},
                                             {"dropout", 0.3},
                                             {"bias", true}},
                                            {DType::kF32, {-1, 6, 16}});
  std::vector<tensor::Param> params;
  for (const plan::Parameter& parameter : unit.parameters) {
    at::Tensor value = at::empty(parameter.shape);
    initialise(parameter, 5, {value.data_ptr<float>(), static_cast<size_t>(value.numel())});
    params.push_back({value, static_cast<int>(params.size())});
  }
  const std::vector<int64_t> samples{12, 4, 99};
  const at::Tensor x = tensor::testing::random_tensor({3, 6, 16}, 1);
  const std::unique_ptr<Block> block = make_block(unit);
  const auto run = [&](size_t begin, size_t count, bool training) {
    tensor::OpContext context;
    context.training = training;
    context.seed = 9;
    context.sample_ids = std::span(samples).subspan(begin, count);
    return block->forward(x.narrow(0, static_cast<int64_t>(begin), static_cast<int64_t>(count)), params,
                          context);
  };
  const at::Tensor whole = run(0, 3, true);
  EXPECT_TRUE(tensor::testing::bitwise_equal(whole, at::cat({run(0, 2, true), run(2, 1, true)})));
  EXPECT_FALSE(tensor::testing::bitwise_equal(whole, run(0, 3, false)));
}

}  // namespace
}  // namespace furrow::nn
