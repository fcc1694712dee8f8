#include "furrow/plan/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "furrow/base/error.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using testing::chain;
using ::testing::HasSubstr;
using testing::parameter;

std::string error_of(const ModelSpec& spec) {
  try {
    validate(spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "valid";
}

TEST(ModelSpec, AChainIsValidAndCountsTiedParametersOnce) {
  ModelSpec spec = chain(3, 8);
  EXPECT_EQ(error_of(spec), "valid");
  EXPECT_EQ(spec.parameter_count(), 3 * (64 + 8));
  spec.units[2].parameters[0].tied_to = "u0.weight";
  EXPECT_EQ(error_of(spec), "valid");
  EXPECT_EQ(spec.parameter_count(), 2 * (64 + 8) + 8);
  EXPECT_EQ(spec.units[2].parameter_count(), 8);
}

TEST(ModelSpec, BytesPerSampleLeavesOutTheMicrobatch) {
  EXPECT_EQ((TensorSpec{DType::kF32, {-1, 3, 4}}.bytes_per_sample()), 48);
  EXPECT_EQ((TensorSpec{DType::kI64, {-1}}.bytes_per_sample()), 8);
}

TEST(ModelSpec, EveryRuleNamesWhatBreaksIt) {
  EXPECT_THAT(error_of({}), HasSubstr("has no units"));
  ModelSpec spec = chain(2);
  spec.units[1].name = "u0";
  EXPECT_THAT(error_of(spec), HasSubstr("two units are named u0"));
  spec = chain(2);
  spec.units[1].name = "a b";
  EXPECT_THAT(error_of(spec), HasSubstr("without spaces"));
  spec = chain(2);
  spec.units[1].input.shape = {-1, 9};
  EXPECT_THAT(error_of(spec),
              HasSubstr("unit u1 reads float32 [-1, 9], but unit u0 before it gives float32 [-1, 8]"));
  spec = chain(2);
  spec.units[1].input.dtype = DType::kI64;
  EXPECT_THAT(error_of(spec), HasSubstr("reads int64"));
  spec = chain(1);
  spec.units[0].output.shape = {4, 8};
  EXPECT_THAT(error_of(spec), HasSubstr("unit u0: output [4, 8] must be [-1"));
  spec = chain(1);
  spec.units[0].input.shape = {-1, int64_t{1} << 39, 4};
  EXPECT_THAT(error_of(spec), HasSubstr("elements"));
  spec = chain(1);
  spec.units[0].flops.forward = std::numeric_limits<double>::infinity();
  EXPECT_THAT(error_of(spec), HasSubstr("flops"));
  spec = chain(1);
  spec.units[0].saved_bytes = -1;
  EXPECT_THAT(error_of(spec), HasSubstr("saved_bytes"));
}

TEST(ModelSpec, EveryParameterRuleNamesWhatBreaksIt) {
  ModelSpec spec = chain(2);
  spec.units[1].parameters[0].name = "u0.weight";
  EXPECT_THAT(error_of(spec), HasSubstr("two parameters are named u0.weight (the second in unit u1)"));
  spec = chain(1);
  spec.units[0].parameters[1].shape = {0};
  EXPECT_THAT(error_of(spec), HasSubstr("parameter u0.bias of unit u0 has shape [0]"));
  spec = chain(1);
  spec.units[0].parameters[1].shape = {int64_t{1} << 41};
  EXPECT_THAT(error_of(spec), HasSubstr("has more than"));
  spec = chain(1);
  spec.units[0].parameters[1].dtype = DType::kF16;
  EXPECT_THAT(error_of(spec), HasSubstr("flat buffers hold float32"));
  spec = chain(1);
  spec.units[0].parameters[1].name = "";
  EXPECT_THAT(error_of(spec), HasSubstr("has no name"));
}

TEST(ModelSpec, TiesGoToOwnParametersOfEarlierUnits) {
  auto tied_to = [](const std::string& owner, Shape shape) {
    ModelSpec spec = chain(3);
    spec.units[1].parameters.push_back(parameter("u1.tied", {8, 8}, "u0.weight"));
    spec.units[1].parameters.push_back(parameter("x", std::move(shape), owner));
    return spec;
  };
  EXPECT_EQ(error_of(tied_to("u0.weight", {8, 8})), "valid");
  EXPECT_THAT(error_of(tied_to("u2.weight", {8, 8})), HasSubstr("no own parameter of an earlier unit"));
  EXPECT_THAT(error_of(tied_to("u1.weight", {8, 8})), HasSubstr("no own parameter of an earlier unit"));
  EXPECT_THAT(error_of(tied_to("u1.tied", {8, 8})), HasSubstr("no own parameter of an earlier unit"));
  EXPECT_THAT(error_of(tied_to("u0.weight", {8, 4})), HasSubstr("shapes and types must be equal"));
}

TEST(ModelSpec, AttributesAreTyped) {
  Unit unit = testing::unit(0, 8, true);
  unit.attributes = {{"width", int64_t{3}}, {"relu", true}};
  EXPECT_EQ(attribute<int64_t>(unit, "width"), 3);
  EXPECT_TRUE(attribute<bool>(unit, "relu"));
  EXPECT_THROW(attribute<double>(unit, "width"), Error);
  EXPECT_THROW(attribute<std::string>(unit, "absent"), Error);
}

}  // namespace
}  // namespace furrow::plan
