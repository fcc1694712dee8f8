#include "furrow/models/precision.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/models/test_specs.h"

namespace furrow::models {
namespace {

using testing::gpt;

TEST(Precision, BordersParametersAndWhatIsKeptAreOfTheType) {
  const plan::ModelSpec wide = gpt();
  for (const DType type : {DType::kBF16, DType::kF16}) {
    plan::ModelSpec spec = gpt();
    compute_in(type, &spec);
    EXPECT_EQ(spec.units[0].input, wide.units[0].input);  // token ids
    for (size_t u = 0; u < spec.units.size(); ++u) {
      const plan::Unit &unit = spec.units[u], &before = wide.units[u];
      EXPECT_EQ(unit.compute, type);
      EXPECT_EQ(unit.output.dtype, type);
      EXPECT_EQ(unit.output.shape, before.output.shape);
      EXPECT_EQ(unit.deferred_bytes, before.deferred_bytes / 2);
      EXPECT_EQ(unit.parameters.size(), before.parameters.size());
      EXPECT_EQ(unit.parameters[0].dtype, DType::kF32);  // masters, checkpoints
    }
    // Statistics stay float32: 8 positions x (2 heads + mean and deviation of two norms).
    EXPECT_EQ(spec.units[1].saved_bytes, (wide.units[1].saved_bytes - 8 * 6 * 4) / 2 + 8 * 6 * 4);
  }
}

TEST(Precision, Float32ChangesNothing) {
  plan::ModelSpec spec = gpt();
  compute_in(precision_of("float32"), &spec);
  for (const plan::Unit& unit : spec.units) EXPECT_EQ(unit.compute, DType::kF32);
}

// A unit that does not compute in 16 bits keeps its converted input, and its output is float32.
TEST(Precision, AUnitOfAnotherKindStaysFloat32) {
  plan::ModelSpec spec = gpt();
  spec.units[1].kind = "of a program";
  const plan::Unit before = spec.units[1];
  compute_in(DType::kBF16, &spec);
  const int64_t input = 8 * 16;
  EXPECT_EQ(spec.units[1].compute, DType::kF32);
  EXPECT_EQ(spec.units[1].input.dtype, DType::kBF16);
  EXPECT_EQ(spec.units[1].output.dtype, DType::kF32);
  EXPECT_EQ(spec.units[1].saved_bytes, before.saved_bytes + input * 4);
  EXPECT_EQ(spec.units[2].compute, DType::kBF16);
  EXPECT_EQ(spec.units[2].input.dtype, DType::kF32);
  plan::ModelSpec low = gpt();
  compute_in(DType::kBF16, &low);
  EXPECT_EQ(spec.units[2].saved_bytes, low.units[2].saved_bytes + input * 2);
}

TEST(Precision, SaysWhatPartStaysFloat32) {
  plan::ModelSpec spec = gpt();
  EXPECT_EQ(operation_shares(spec).float32, 1);
  compute_in(DType::kBF16, &spec);
  EXPECT_EQ(operation_shares(spec).float32, 0);
  EXPECT_EQ(operation_shares(spec).convolutions, 0);
  // A unit of another kind, and one whose kind converts what it multiplies.
  const auto flops = [](const plan::Unit& unit) {
    return unit.flops.forward + unit.flops.backward_input + unit.flops.backward_weight;
  };
  double all = 0;
  for (const plan::Unit& unit : spec.units) all += flops(unit);
  for (const char* kind : {"of a program", "conv_relu_pool"}) {
    spec.units[1].kind = kind;
    EXPECT_DOUBLE_EQ(operation_shares(spec).float32, flops(spec.units[1]) / all) << kind;
  }
  spec.units[1].kind = "residual_block";
  EXPECT_EQ(operation_shares(spec).float32, 0);
  EXPECT_DOUBLE_EQ(operation_shares(spec).convolutions, flops(spec.units[1]) / all);
  spec.units[1].compute = DType::kF32;
  EXPECT_DOUBLE_EQ(operation_shares(spec).float32, flops(spec.units[1]) / all);
  EXPECT_EQ(operation_shares(spec).convolutions, 0);
}

TEST(Precision, AnUnknownNameIsRefused) {
  EXPECT_EQ(precision_of("bfloat16"), DType::kBF16);
  EXPECT_THROW(precision_of("bf16"), Error);
}

}  // namespace
}  // namespace furrow::models
