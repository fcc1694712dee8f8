// Heads that are not a share of the width, and scaled rotary positions, beside Hugging Face's own numbers.
#include "furrow/models/llama_sizes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTime = 10;

plan::Attributes attributes(int64_t width, int64_t heads, int64_t kv_heads, double theta) {
  return {{"width", width},       {"heads", heads},      {"kv_heads", kv_heads}, {"ffn", int64_t{96}},
          {"layers", int64_t{2}}, {"rope_theta", theta}, {"eps", 1e-5}};
}

plan::Unit block(const plan::Attributes& attributes) {
  const int64_t width = std::get<int64_t>(attributes.at("width"));
  return make_unit("b", "llama_block", attributes, {DType::kF32, {-1, kTime, width}});
}

std::string error_of(const plan::Attributes& attributes) {
  try {
    block(attributes);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

plan::Attributes llama3() {
  plan::Attributes given = attributes(2048, 32, 8, 500000);
  given["rope_scaling"] = std::string("llama3");
  given["rope_factor"] = 32.0;
  given["rope_low_freq_factor"] = 1.0;
  given["rope_high_freq_factor"] = 4.0;
  given["rope_original_context"] = int64_t{8192};
  return given;
}

void expect_as(const std::vector<double>& ours, const std::vector<float>& theirs) {
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t d = 0; d < ours.size(); ++d)  // theirs are float32, of a power and products of float32
    EXPECT_NEAR(ours[d] / theirs[d], 1, 4e-7) << d;
}

// transformers 5.24, modeling_rope_utils, of Llama 3.2 1B's configuration.
TEST(RotaryFrequencies, OfLlama3AreHuggingFaces) {
  expect_as(rotary_frequencies(block(llama3())), {1.0F,
                                                  0.663601279258728F,
                                                  0.44036662578582764F,
                                                  0.2922278344631195F,
                                                  0.193922758102417F,
                                                  0.12868738174438477F,
                                                  0.08539710193872452F,
                                                  0.05666961893439293F,
                                                  0.03760603070259094F,
                                                  0.02495540864765644F,
                                                  0.016560440883040428F,
                                                  0.010989529080688953F,
                                                  0.00729266507551074F,
                                                  0.00483942124992609F,
                                                  0.0032114461064338684F,
                                                  0.0012905480107292533F,
                                                  0.000429556705057621F,
                                                  9.708286233944818e-05F,
                                                  1.9461638657958247e-05F,
                                                  1.291476746700937e-05F,
                                                  8.570255886297673e-06F,
                                                  5.687232260243036e-06F,
                                                  3.7740544485131977e-06F,
                                                  2.504467147446121e-06F,
                                                  1.6619674170215148e-06F,
                                                  1.1028836297555245e-06F,
                                                  7.318749339901842e-07F,
                                                  4.856731266045244e-07F,
                                                  3.2229328894572973e-07F,
                                                  2.1387423032592778e-07F,
                                                  1.4192720243499934e-07F,
                                                  9.418306490260875e-08F});
}

TEST(RotaryFrequencies, LinearOnesAreHuggingFaces) {
  plan::Attributes given = attributes(64, 4, 4, 10000);
  given["rope_scaling"] = std::string("linear");
  given["rope_factor"] = 4.0;
  expect_as(rotary_frequencies(block(given)),
            {0.25F, 0.07905694097280502F, 0.02500000037252903F, 0.007905694656074047F, 0.0024999999441206455F,
             0.0007905694656074047F, 0.0002500000118743628F, 7.905694656074047e-05F});
}

// Llama 3.1's formula once more, per frequency and in extended precision; where the three parts meet, too.
TEST(RotaryFrequencies, AreTheFormulasInExtendedPrecision) {
  for (const double low : {1.0, 0.5, 2.0}) {
    plan::Attributes given = llama3();
    given["rope_low_freq_factor"] = low;
    const std::vector<double> ours = rotary_frequencies(block(given));
    int mixed = 0;
    for (size_t d = 0; d < ours.size(); ++d) {
      const long double plain = std::pow(500000.0L, -static_cast<long double>(2 * d) / 64),
                        turns = 8192 * plain / (2 * std::numbers::pi_v<long double>),
                        kept = turns < low ? 0
                               : turns > 4 ? 1
                                           : (turns - low) / (4 - low);
      mixed += kept > 0 && kept < 1;
      const auto expected = static_cast<double>((1 - kept) * plain / 32 + kept * plain);
      EXPECT_NEAR(ours[d] / expected, 1, 1e-14) << low << " " << d;
    }
    EXPECT_GT(mixed, 0);
  }
  plan::Attributes none = attributes(2048, 32, 8, 500000), named = none;
  named["rope_scaling"] = std::string("none");
  EXPECT_EQ(rotary_frequencies(block(none)), rotary_frequencies(block(named)));
  EXPECT_EQ(rotary_frequencies(block(none))[31], std::pow(500000.0, -62.0 / 64));
}

TEST(LlamaSizes, HeadsAreAsWideAsHeadDimSays) {
  plan::Attributes given = attributes(48, 4, 2, 100);
  EXPECT_EQ(llama_sizes(block(given)).head_dim, 12);
  given["head_dim"] = int64_t{0};
  EXPECT_EQ(llama_sizes(block(given)).head_dim, 12);
  const plan::Unit plain = block(given);
  given["head_dim"] = int64_t{20};
  const plan::Unit unit = block(given);
  EXPECT_EQ(rotary_frequencies(unit).size(), 10U);
  const auto shape_of = [&unit](const std::string& name) {
    for (const plan::Parameter& each : unit.parameters) {
      if (each.name == "b.self_attn." + name + ".weight") return each.shape;
    }
    return Shape{};
  };
  EXPECT_EQ(shape_of("q_proj"), (Shape{80, 48}));
  EXPECT_EQ(shape_of("k_proj"), (Shape{40, 48}));
  EXPECT_EQ(shape_of("v_proj"), (Shape{40, 48}));
  EXPECT_EQ(shape_of("o_proj"), (Shape{48, 80}));
  // q, k, v, o and both products of attention, by hand; a width of the queries that differs counts twice in
  // what is saved (queries, what attention gives).
  const double matrices = 2.0 * kTime * (48 * 80 + 2 * 48 * 40 + 80 * 48 + 3 * 48 * 96);
  EXPECT_EQ(unit.flops.forward, matrices + 4.0 * kTime * kTime * 80);
  EXPECT_EQ(unit.flops.backward_weight, matrices);
  EXPECT_EQ(unit.saved_bytes - plain.saved_bytes, kTime * 4 * (2 * (80 - 48) + 2 * (40 - 24)));
  EXPECT_EQ(unit.tensor.counts, plain.tensor.counts);
  EXPECT_EQ(unit.collectives, plain.collectives);
}

TEST(LlamaSizes, WhatDoesNotFitIsNamed) {
  plan::Attributes given = attributes(48, 4, 2, 100);
  given["head_dim"] = int64_t{15};
  EXPECT_THAT(error_of(given), HasSubstr("head_dim 15 is odd"));
  given["head_dim"] = int64_t{1} << 23;
  EXPECT_THAT(error_of(given), HasSubstr("are above 16777216 columns"));
  given = attributes(50, 4, 2, 100);
  EXPECT_THAT(error_of(given), HasSubstr("no multiple of heads 4"));
  given["head_dim"] = int64_t{16};
  EXPECT_EQ(error_of(given), "no error");
  given["rope_scaling"] = std::string("yarn");
  EXPECT_THAT(error_of(given), HasSubstr("unknown rope_scaling 'yarn': known: linear, llama3, none"));
  given["rope_scaling"] = std::string("linear");
  EXPECT_THAT(error_of(given), HasSubstr("'rope_factor' is missing"));
  given["rope_factor"] = 0.5;
  EXPECT_THAT(error_of(given), HasSubstr("rope_factor = 0.5 must be at least 1"));
  given = llama3();
  given["rope_low_freq_factor"] = 4.0;
  EXPECT_THAT(error_of(given), HasSubstr("rope_low_freq_factor = 4 must be below rope_high_freq_factor = 4"));
}

}  // namespace
}  // namespace furrow::models
