#include "furrow/models/lora.h"

#include <gmock/gmock.h>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/models/architectures.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

plan::ModelSpec gpt() {
  config::Model model;
  model.name = "gpt";
  model.layers = 2;
  model.heads = 2;
  model.width = 16;
  return describe(model, {{DType::kI64, {-1, 8}}, 13});
}

std::string error_of(const config::Lora& lora) {
  plan::ModelSpec spec = gpt();
  try {
    apply_lora(lora, &spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.message();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST(Lora, AdaptsWhatMatchesAndFreezesTheRest) {
  plan::ModelSpec spec = gpt();
  const plan::ModelSpec plain = spec;
  apply_lora({.rank = 4, .alpha = 8, .dropout = 0.1, .target_modules = {"h.1.attn.*", "*.c_fc"}}, &spec);
  int64_t trained = 0;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      const bool adapter = parameter.name.find(".lora_") != std::string::npos;
      EXPECT_EQ(parameter.rule.frozen, !adapter) << parameter.name;
      trained += adapter ? parameter.size() : 0;
    }
  }
  // Two c_fc (16 -> 64), and of h.1 c_attn (16 -> 48) and c_proj (16 -> 16).
  EXPECT_EQ(trained, 4 * (2 * (16 + 64) + (16 + 48) + (16 + 16)));
  ASSERT_EQ(spec.units[2].adapters.size(), 3u);
  const plan::Adapter& adapter = spec.units[2].adapters[0];
  EXPECT_EQ(spec.units[2].parameters[adapter.weight].name, "h.1.attn.c_attn.weight");
  EXPECT_EQ(spec.units[2].parameters[adapter.a].name, "h.1.attn.c_attn.lora_A.weight");
  EXPECT_EQ(spec.units[2].parameters[adapter.b].init.kind, plan::Init::Kind::kZeros);
  EXPECT_EQ(adapter.scale, 2);
  // Of 8 positions, two products of rank 4 each.
  EXPECT_EQ(spec.units[2].flops.forward - plain.units[2].flops.forward,
            2.0 * 8 * 4 * ((16 + 48) + (16 + 16) + (16 + 64)));
}

TEST(Lora, NoRankChangesNothing) {
  plan::ModelSpec spec = gpt();
  apply_lora({}, &spec);
  EXPECT_EQ(spec.units[1].parameters.size(), gpt().units[1].parameters.size());
  EXPECT_FALSE(spec.units[1].parameters[0].rule.frozen);
}

TEST(Lora, ErrorsNameLayersAndSizes) {
  EXPECT_THAT(error_of({.rank = 2, .target_modules = {"h.7.*"}}),
              HasSubstr("'h.7.*' matches no linear layer; they are h.0.attn.c_attn, h.0.attn.c_proj"));
  EXPECT_THAT(error_of({.rank = 16, .target_modules = {"*.c_attn"}}),
              HasSubstr("rank 16 is not below the sizes 48 x 16"));
  EXPECT_THAT(error_of({.rank = 2, .target_modules = {}}), HasSubstr("target_modules is empty"));
}

}  // namespace
}  // namespace furrow::models
