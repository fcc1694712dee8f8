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

plan::ModelSpec in_units(plan::ModelSpec spec, const std::vector<std::string>& units,
                         const std::string& objective = "supervised") {
  config::Training training;
  training.mixed_precision_param = "bfloat16";
  training.mixed_precision_units = units;
  training.objective = objective;
  compute_in(precision_policy(training), &spec);
  return spec;
}

std::string refusal(const plan::ModelSpec& spec, const std::vector<std::string>& units) {
  try {
    in_units(spec, units);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.message();
  }
  return "";
}

plan::ModelSpec gan() {
  config::Model model;
  model.name = "gan";
  return describe(model, {{DType::kF32, {-1, 1, 28, 28}}, 10});
}

plan::ModelSpec untied() {
  config::Model model;
  model.name = "gpt";
  model.layers = 2;
  model.heads = 2;
  model.width = 16;
  model.tie_embeddings = false;
  return describe(model, {{DType::kI64, {-1, 8}}, 13});
}

// By name and by kind, the last entry that matches; the others compute as the run does.
TEST(Precision, UnitsMayComputeInTypesOfTheirOwn) {
  const plan::ModelSpec spec =
      in_units(untied(), {"transformer_block param=float16", "h.1 param=float32", "lm_* param=float32"});
  ASSERT_EQ(spec.units.size(), 4U);
  const DType expected[] = {DType::kBF16, DType::kF16, DType::kF32, DType::kF32};
  for (size_t u = 0; u < 4; ++u) {
    EXPECT_EQ(spec.units[u].compute, expected[u]) << u;
    EXPECT_EQ(spec.units[u].output.dtype, expected[u]) << u;
    if (u > 0) EXPECT_EQ(spec.units[u].input.dtype, expected[u - 1]) << u;
  }
  EXPECT_EQ(spec.units[3].saved_bytes, untied().units[3].saved_bytes) << "nothing is converted";
  plan::ModelSpec alone = untied();
  compute_in(DType::kF16, &alone);
  EXPECT_EQ(spec.units[1].saved_bytes, alone.units[1].saved_bytes + 8 * 16 * 2) << "its input, converted";
  EXPECT_EQ(mixed_precision_text(spec),
            "units compute in float32, but in bfloat16: " + spec.units[0].name + "; in float16: h.0");
  EXPECT_EQ(mixed_precision_text(alone), "");
  EXPECT_EQ(lowest_precision(spec), DType::kBF16);
  EXPECT_EQ(lowest_precision(alone), DType::kF16);
  const auto flops = [](const plan::Unit& unit) {
    return unit.flops.forward + unit.flops.backward_input + unit.flops.backward_weight;
  };
  double all = 0;
  for (const plan::Unit& unit : spec.units) all += flops(unit);
  EXPECT_DOUBLE_EQ(operation_shares(spec).float32, 1 - flops(spec.units[0]) / all);
}

TEST(Precision, UnitsThatRunTheLayersOfAnotherFollowIt) {
  const plan::ModelSpec spec = in_units(gan(), {"discriminator.fc1 param=float32"});
  for (const plan::Unit& unit : spec.units) {
    const bool first = unit.name.ends_with("fc1") && !unit.name.starts_with("generator.");
    const bool wide = first || unit.kind == "latent";
    EXPECT_EQ(unit.compute, wide ? DType::kF32 : DType::kBF16) << unit.name;
  }
  EXPECT_EQ(refusal(gan(), {"fooled.fc1 param=float32"}),
            "[training] mixed_precision_units: 'fooled.fc1 param=float32': fooled.fc1 runs the layers of "
            "discriminator.fc1 once more, in what that one computes in: name discriminator.fc1");
  EXPECT_EQ(refusal(gan(), {"*.fc1 param=float32"}), "");
}

TEST(Precision, ATeachersUnitsAreNamedBehindItsName) {
  config::Training training;
  training.mixed_precision_param = "bfloat16";
  training.mixed_precision_units = {"teacher.h.1 param=float32", "h.0 param=float32"};
  training.objective = "distillation";
  plan::ModelSpec own = untied(), teacher = untied();
  compute_in(precision_policy(training), &own);
  compute_in(teachers_precision_policy(training), &teacher);
  for (size_t u = 0; u < own.units.size(); ++u) {
    EXPECT_EQ(own.units[u].compute == DType::kF32, own.units[u].name == "h.0");
    EXPECT_EQ(teacher.units[u].compute == DType::kF32, own.units[u].name == "h.1");
  }
}

TEST(Precision, WhatCannotBeIsRefusedWithTheRemedy) {
  EXPECT_EQ(refusal(gpt(), {"lm_head param=float32"}),
            "[training] mixed_precision_units: lm_head computes in float32, and its lm_head.weight is the "
            "wte.weight of " +
                gpt().units[0].name + ", which computes in bfloat16: give both one type, as \"" +
                gpt().units[0].name + " param=float32\" does, or do not tie them");
  EXPECT_EQ(refusal(gpt(), {"lm_head param=float32", gpt().units[0].name + " param=float32"}), "");
  const auto has = [](const std::string& entry, const std::string& part) {
    EXPECT_NE(refusal(gan(), {entry}).find("'" + entry + "': " + part), std::string::npos)
        << refusal(gan(), {entry});
  };
  has("discriminator.fc1", "write \"PATTERN param=TYPE\"");
  has("a b=c d=e", "write \"PATTERN param=TYPE\"");
  has("generator.fc1 reduce=float32", "unknown key 'reduce'");
  has("generator.fc1 param=bf16", "unknown precision 'bf16'");
  has("generator.fc1 param", "unknown precision ''");
  has("generator.fc7 param=float32", "it matches the name or kind of no unit; unknown unit 'generator.fc7'");
  has("latent param=float16", "generator.latent is of kind latent, which computes in float32 alone");
  has("teacher.fc1 param=float16", "there is no teacher");
}

}  // namespace
}  // namespace furrow::models
