#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>

#include "furrow/base/error.h"
#include "furrow/config/model.h"
#include "furrow/models/architectures.h"
#include "furrow/models/kinds.h"
#include "furrow/models/precision.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

plan::ModelSpec network(const std::string& name, int64_t size, int64_t classes) {
  config::Model model;
  model.name = name;
  return describe(model, {{DType::kF32, {-1, 3, size, size}}, classes});
}

std::set<std::string> names_of(const plan::ModelSpec& spec) {
  std::set<std::string> names;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) names.insert(parameter.name);
    for (const plan::Statistic& statistic : unit.statistics) names.insert(statistic.name);
  }
  return names;
}

// The paper's 0.27 M for CIFAR-10, and torchvision's resnet18.
TEST(Resnet, HasThePublishedParameterCounts) {
  EXPECT_EQ(network("resnet20", 32, 10).parameter_count(), 269722);
  EXPECT_EQ(network("resnet18", 224, 1000).parameter_count(), 11689512);
}

// The paper counts multiply-adds: 1.8 G for resnet18, 41 M for resnet20.
TEST(Resnet, HasThePublishedFlops) {
  const auto multiply_adds = [](const plan::ModelSpec& spec) {
    double sum = 0;
    for (const plan::Unit& unit : spec.units) sum += unit.flops.forward / 2;
    return sum;
  };
  EXPECT_NEAR(multiply_adds(network("resnet18", 224, 1000)), 1.81e9, 0.01e9);
  EXPECT_NEAR(multiply_adds(network("resnet20", 32, 10)), 40.6e6, 0.3e6);
}

// resnet50 spelled out: torchvision's 25.6 M parameters under its 320 names, 4.1 G multiply-adds.
TEST(Resnet, BottlenecksMakeResnet50) {
  config::Model model;
  model.name = "blocks";
  model.units = {"stem: conv_norm out_channels=64 kernel=7 stride=2 padding=3 pool=true prefix="};
  constexpr int kBlocks[] = {3, 4, 6, 3};
  for (int group = 0; group < 4; ++group) {
    for (int block = 0; block < kBlocks[group]; ++block) {
      model.units.push_back(fmt::format("layer{}.{}: bottleneck_block width={} out_channels={} stride={}",
                                        group + 1, block, 64 << group, 256 << group,
                                        group > 0 && block == 0 ? 2 : 1));
    }
  }
  model.units.emplace_back("fc: pool_linear out=classes");
  const plan::ModelSpec spec = describe(model, {{DType::kF32, {-1, 3, 224, 224}}, 1000});
  EXPECT_EQ(spec.parameter_count(), 25557032);
  const auto names = names_of(spec);
  EXPECT_EQ(names.size(), 320u);  // len(torchvision.models.resnet50().state_dict())
  for (const char* name :
       {"layer1.0.downsample.0.weight", "layer3.5.bn3.running_var", "layer4.2.conv3.weight"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("layer1.1.downsample.0.weight"));
  double flops = 0;
  for (const plan::Unit& unit : spec.units) flops += unit.flops.forward;
  EXPECT_NEAR(flops / 2, 4.09e9, 0.01e9);
}

TEST(Resnet, IsNamedAsTorchvisionDoes) {
  const auto names = names_of(network("resnet18", 224, 1000));
  EXPECT_EQ(names.size(), 122u);  // len(torchvision.models.resnet18().state_dict())
  for (const char* name : {"conv1.weight", "bn1.running_mean", "layer1.0.bn2.num_batches_tracked",
                           "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var",
                           "layer4.1.conv2.weight", "fc.bias"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("layer2.1.downsample.0.weight"));
  EXPECT_FALSE(names_of(network("resnet20", 32, 10)).contains("layer2.0.downsample.0.weight"));
}

TEST(Resnet, HasThePapersShapes) {
  const plan::ModelSpec spec = network("resnet18", 224, 1000);
  EXPECT_EQ(spec.units[0].output.shape, (Shape{-1, 64, 56, 56}));
  EXPECT_EQ(spec.units[8].output.shape, (Shape{-1, 512, 7, 7}));
  const plan::ModelSpec small = network("resnet20", 32, 10);
  EXPECT_EQ(small.units[3].output.shape, (Shape{-1, 16, 32, 32}));
  EXPECT_EQ(small.units[9].output.shape, (Shape{-1, 64, 8, 8}));
  EXPECT_EQ(small.units[10].output.shape, (Shape{-1, 10}));
}

TEST(Resnet, StatisticsStartAsPyTorchDoes) {
  const plan::Unit block = network("resnet20", 32, 10).units[4];
  ASSERT_EQ(block.statistics.size(), 6u);
  EXPECT_EQ(block.statistics[0].initial, 0);
  EXPECT_EQ(block.statistics[1].initial, 1);
  EXPECT_EQ(block.statistics[1].momentum, 0.1);
  EXPECT_EQ(block.statistics[2].dtype(), DType::kI64);
  EXPECT_EQ(block.parameters[0].init, (plan::Init{plan::Init::Kind::kNormal, std::sqrt(2.0 / (9 * 32))}));
}

// Half of what is kept and travels, but for a byte that says where each maximum was.
TEST(Resnet, ComputesIn16Bits) {
  for (const char* name : {"resnet20", "resnet18"}) {
    const plan::ModelSpec wide = network(name, 64, 10);
    plan::ModelSpec spec = wide;
    compute_in(DType::kBF16, &spec);
    for (size_t u = 0; u < spec.units.size(); ++u) {
      const plan::Unit &unit = spec.units[u], &before = wide.units[u];
      EXPECT_EQ(unit.compute, DType::kBF16) << unit.name;
      EXPECT_EQ(unit.output.dtype, DType::kBF16) << unit.name;
      EXPECT_EQ(unit.statistics.size(), before.statistics.size());
      if (u == 0) continue;  // keeps its input converted
      EXPECT_EQ(unit.saved_bytes, before.saved_bytes / 2) << unit.name;
      EXPECT_EQ(unit.deferred_bytes, before.deferred_bytes / 2) << unit.name;
      EXPECT_EQ(unit.kept_saved_bytes, before.kept_saved_bytes / 2) << unit.name;
    }
    const int64_t input = 3 * 64 * 64, codes = name == std::string("resnet18") ? 64 * 16 * 16 : 0;
    EXPECT_EQ(spec.units[0].saved_bytes, (wide.units[0].saved_bytes - codes) / 2 + codes + 2 * input);
  }
}

std::string error_of(std::string_view kind, plan::Attributes attributes) {
  attributes.insert({{"momentum", 0.1}, {"eps", 1e-5}});
  try {
    make_unit("x", kind, std::move(attributes), {DType::kF32, {-1, 3, 5, 5}});
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Resnet, MistakesNameTheUnit) {
  using std::string;
  const int64_t one = 1, three = 3, four = 4;
  EXPECT_THAT(
      error_of("residual_block",
               {{"in_channels", four}, {"out_channels", four}, {"stride", one}, {"shortcut", string("pad")}}),
      HasSubstr("unit x (residual_block): in_channels is 4, but the input [-1, 3, 5, 5] has 3"));
  EXPECT_THAT(
      error_of(
          "residual_block",
          {{"in_channels", three}, {"out_channels", four}, {"stride", one}, {"shortcut", string("none")}}),
      HasSubstr("unknown shortcut 'none'"));
  EXPECT_THAT(
      error_of("residual_block",
               {{"in_channels", three}, {"out_channels", one}, {"stride", one}, {"shortcut", string("pad")}}),
      HasSubstr("use a projection"));
  EXPECT_THAT(error_of("conv_norm", {{"in_channels", three},
                                     {"out_channels", four},
                                     {"stride", one},
                                     {"kernel", int64_t{7}},
                                     {"padding", int64_t{0}},
                                     {"pool", false}}),
              HasSubstr("too small"));
  EXPECT_THAT(error_of("conv_norm", {{"in_channels", three},
                                     {"out_channels", four},
                                     {"stride", one},
                                     {"kernel", three},
                                     {"padding", three},
                                     {"pool", false}}),
              HasSubstr("padding 3 must be below"));
}

}  // namespace
}  // namespace furrow::models
