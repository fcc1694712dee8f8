#include "furrow/models/lora.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/models/test_specs.h"
#include "furrow/models/unit_builder.h"
#include "furrow/plan/tensor_cut.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

using testing::gpt;

plan::ModelSpec blocks(const std::vector<std::string>& units) {
  config::Model model;
  model.name = "blocks";
  model.units = units;
  const bool tokens = units.front().find("embedding") != std::string::npos;
  const plan::TensorSpec text = {DType::kI64, {-1, 8}}, images = {DType::kF32, {-1, 3, 9, 9}};
  return describe(model, {tokens ? text : images, 10});
}

std::string error_of(const config::Lora& lora, plan::ModelSpec spec = gpt()) {
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

const plan::Parameter& parameter(const plan::ModelSpec& spec, const std::string& name) {
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& each : unit.parameters) {
      if (each.name == name) return each;
    }
  }
  throw Error(ErrorCode::kNotFound, name);
}

bool has(const plan::ModelSpec& spec, const std::string& layer) {
  try {
    return parameter(spec, layer + ".lora_A.weight").adapter;
  } catch (const Error&) {
    return false;
  }
}

// Shapes and initial values of Hugging Face's PEFT.
TEST(Lora, ConvolutionsAndRecurrentLayersHaveMatrices) {
  plan::ModelSpec images =
      blocks({"stem: conv_norm out_channels=4 prefix=", "body: residual_block out_channels=8 stride=2",
              "c: conv_relu_pool out_channels=6 kernel=3 padding=1 pool=true", "fc: linear out=classes"});
  const plan::ModelSpec plain = images;
  apply_lora({.rank = 2}, &images);
  EXPECT_EQ(parameter(images, "conv1.lora_A.weight").shape, (Shape{2, 3, 3, 3}));
  EXPECT_EQ(parameter(images, "conv1.lora_A.weight").init, uniform_fan_in(27));
  EXPECT_EQ(parameter(images, "conv1.lora_B.weight").shape, (Shape{4, 2, 1, 1}));
  EXPECT_EQ(parameter(images, "body.downsample.0.lora_A.weight").shape, (Shape{2, 4, 1, 1}));
  EXPECT_TRUE(has(images, "body.conv2") && has(images, "c") && has(images, "fc"));
  // 81 pixels behind the first convolution, 25 behind those of the second unit and of the third.
  const auto more = [&](size_t u) { return images.units[u].flops.forward - plain.units[u].flops.forward; };
  EXPECT_EQ(more(0), 2.0 * 81 * 2 * (27 + 4));
  EXPECT_EQ(more(1), 2.0 * 25 * 2 * (36 + 8 + 72 + 8 + 4 + 8));
  EXPECT_EQ(more(2), 2.0 * 25 * 2 * (72 + 6));

  // Of a layer by itself, with a stride; the norm behind it has none.
  plan::ModelSpec layers = blocks({"c: conv out_channels=5 kernel=3 stride=2 padding=1 activation=silu",
                                   "n: batch_norm", "fc: linear out=classes"});
  const double before = layers.units[0].flops.forward;
  apply_lora({.rank = 2}, &layers);
  EXPECT_EQ(parameter(layers, "c.lora_A.weight").shape, (Shape{2, 3, 3, 3}));
  EXPECT_EQ(parameter(layers, "c.lora_B.weight").shape, (Shape{5, 2, 1, 1}));
  EXPECT_EQ(layers.units[0].flops.forward - before, 2.0 * 25 * 2 * (27 + 5));
  EXPECT_TRUE(parameter(layers, "n.weight").rule.frozen);
  EXPECT_THAT(
      error_of({.rank = 2, .target_modules = {"n"}}, blocks({"n: batch_norm", "fc: linear out=classes"})),
      HasSubstr("'n' matches n.weight of a batch_norm, beside which no adapter"));

  // The first convolution of a bottleneck works on all 81 pixels, the others behind the stride on 25.
  plan::ModelSpec bottleneck =
      blocks({"b: bottleneck_block width=4 out_channels=8 stride=2", "fc: pool_linear out=classes"});
  const double own = bottleneck.units[0].flops.forward;
  apply_lora({.rank = 2}, &bottleneck);
  EXPECT_TRUE(has(bottleneck, "b.conv3") && has(bottleneck, "b.downsample.0"));
  EXPECT_EQ(bottleneck.units[0].flops.forward - own,
            2.0 * 2 * (81 * (3 + 4) + 25 * (36 + 4 + 4 + 8 + 3 + 8)));

  plan::ModelSpec text =
      blocks({"embed: embedding width=16", "l: lstm hidden=12", "r: rnn hidden=12 out=classes"});
  apply_lora({.rank = 2}, &text);
  EXPECT_EQ(parameter(text, "l.i2h.lora_A.weight").shape, (Shape{2, 28}));
  EXPECT_EQ(parameter(text, "l.i2h.lora_B.weight").shape, (Shape{48, 2}));
  EXPECT_TRUE(has(text, "r.i2h") && has(text, "r.i2o"));
  EXPECT_THAT(error_of({.rank = 2, .dropout = 0.1}, blocks({"embed: embedding width=16", "l: lstm hidden=12",
                                                            "r: rnn hidden=12 out=classes"})),
              HasSubstr("[lora] dropout 0.1: l.i2h reads what it said one step before"));
}

// B by outputs, A by inputs; what stays whole is summed over the ranks, and no frozen parameter travels.
TEST(Lora, AreCutWithTheirWeights) {
  plan::ModelSpec spec = gpt();
  apply_lora({.rank = 4, .target_modules = {"c_attn", "mlp.c_proj", "wte", "wpe"}}, &spec);
  const auto expect = [&](const std::string& name, int axis, std::vector<int64_t> segments, bool summed) {
    const plan::Parameter& found = parameter(spec, name);
    EXPECT_EQ(found.tensor_axis, axis) << name;
    EXPECT_EQ(found.tensor_segments, segments) << name;
    EXPECT_EQ(found.summed, summed) << name;
  };
  expect("h.0.attn.c_attn.lora_A.weight", -1, {}, true);
  expect("h.0.attn.c_attn.lora_B.weight", 0, {16, 16, 16}, false);
  expect("h.0.mlp.c_proj.lora_A.weight", 1, {}, false);
  expect("h.0.mlp.c_proj.lora_B.weight", -1, {}, true);
  expect("wte.lora_embedding_A", 1, {}, false);
  expect("wte.lora_embedding_B", -1, {}, true);
  expect("wpe.lora_embedding_A", -1, {}, true);
  expect("wpe.lora_embedding_B", -1, {}, true);
  const auto sums = [](const plan::Unit& unit) {
    std::vector<int64_t> bytes;
    for (const plan::UnitCollective& each : unit.collectives) {
      if (each.phase == plan::UnitCollective::Phase::kBackwardWeight) bytes.push_back(each.fixed_bytes);
    }
    return bytes;
  };
  const int64_t context = parameter(spec, "wpe.weight").shape[0];
  EXPECT_EQ(sums(spec.units[0]), std::vector<int64_t>{4 * 4 * (16 + context + 16)});
  EXPECT_EQ(sums(spec.units[1]), std::vector<int64_t>{4 * 4 * (16 + 16)});
  EXPECT_EQ(sums(spec.units.back()), std::vector<int64_t>()) << "nothing trains";
  // The part of a rank: A's product of c_attn and B's of mlp.c_proj are done by both.
  const plan::Unit &whole = spec.units[1], part = plan::tensor_cut(spec, 2).units[1];
  EXPECT_EQ(whole.tensor.whole_flops.forward, 2.0 * 8 * 4 * (16 + 16));
  EXPECT_EQ(2 * part.flops.forward, whole.flops.forward + whole.tensor.whole_flops.forward);
  EXPECT_EQ(part.saved_bytes * 2, whole.saved_bytes + whole.tensor.whole_saved_bytes);
  plan::ModelSpec images = blocks({"c: conv_relu_pool out_channels=6 kernel=3", "fc: linear out=classes"});
  apply_lora({.rank = 2}, &images);
  EXPECT_THAT(plan::refuses_tensor_cut(images, 2), HasSubstr("unit c (conv_relu_pool) cannot be cut inside"));
}

TEST(Lora, TablesAndTiedHeadsAreNamed) {
  plan::ModelSpec all = gpt();
  apply_lora({.rank = 2}, &all);
  EXPECT_FALSE(has(all, "lm_head")) << "* alone does not name it";
  EXPECT_TRUE(merged_network(all).units.back().parameters.back().tied());

  for (const std::string one : {"wte", "lm_head"}) {
    plan::ModelSpec spec = gpt();
    apply_lora({.rank = 2, .target_modules = {"c_attn", one}}, &spec);
    EXPECT_EQ(has(spec, "lm_head"), one == "lm_head");
    const plan::ModelSpec merged = merged_network(spec);
    EXPECT_EQ(merged.units.front().parameters.size(), gpt().units.front().parameters.size());
    EXPECT_FALSE(parameter(merged, "lm_head.weight").tied());
    EXPECT_FALSE(merged_model({}, spec).tie_embeddings);
    EXPECT_TRUE(merged_model({}, all).tie_embeddings) << "control";
  }
  plan::ModelSpec spec = gpt();
  apply_lora({.rank = 2, .target_modules = {"w?e"}}, &spec);
  EXPECT_EQ(parameter(spec, "wte.lora_embedding_A").shape, (Shape{2, 13}));
  EXPECT_EQ(parameter(spec, "wte.lora_embedding_A").init, zeros());
  EXPECT_EQ(parameter(spec, "wpe.lora_embedding_B").shape, (Shape{16, 2}));
  EXPECT_EQ(parameter(spec, "wpe.lora_embedding_B").init, normal(1));
  const plan::ModelSpec tied =
      blocks({"embed: token_embedding width=16 prefix=", "lm_head: lm_head tied_to=wte.weight prefix="});
  EXPECT_THAT(error_of({.rank = 2, .target_modules = {"lm_head"}}, tied),
              HasSubstr("the weight of lm_head is tied to another"));
}

plan::ModelSpec gan() {
  config::Model model;
  model.name = "gan";
  model.latent = 10;
  model.generator_hidden = {24};
  model.discriminator_hidden = {32};
  return describe(model, {{DType::kF32, {-1, 1, 8, 8}}, 10});
}

const plan::Unit& unit(const plan::ModelSpec& spec, const std::string& name) {
  return *std::ranges::find(spec.units, name, &plan::Unit::name);
}

// A layer that runs once more has the one adapter, tied where it trains and borrowed where it is only read.
TEST(Lora, ALayerThatRunsTwiceHasOneAdapter) {
  plan::ModelSpec spec = gan();
  const config::Lora lora{.rank = 3};
  apply_lora(lora, &spec);
  for (const std::string layer : {"generator.fc1", "generator.fc2", "discriminator.fc1"})
    EXPECT_TRUE(has(spec, layer)) << layer;
  EXPECT_FALSE(has(spec, "discriminator.fc2")) << "it has one output";
  EXPECT_EQ(left_out_by_star(lora, spec),
            "[lora] \"*\" leaves out discriminator.fc2 (1 x 32): rank 3 is not below their sizes");
  for (const std::string again : {"generated", "fooled"}) {
    for (const std::string matrix : {".lora_A.weight", ".lora_B.weight"}) {
      const plan::Parameter& own = parameter(spec, again + ".fc1" + matrix);
      EXPECT_EQ(own.tied_to, "discriminator.fc1" + matrix);
      EXPECT_EQ(own.borrowed, again == "fooled");
    }
    EXPECT_EQ(unit(spec, again + ".fc1").adapters.size(), 1u);
  }
  // Merged, they are one layer as before.
  const plan::ModelSpec merged = merged_network(spec), plain = gan();
  for (size_t u = 0; u < plain.units.size(); ++u) {
    ASSERT_EQ(merged.units[u].parameters.size(), plain.units[u].parameters.size());
    for (size_t i = 0; i < plain.units[u].parameters.size(); ++i)
      EXPECT_EQ(merged.units[u].parameters[i].tied_to, plain.units[u].parameters[i].tied_to);
  }
  EXPECT_THAT(
      error_of({.rank = 3, .target_modules = {"generated.*"}}, gan()),
      HasSubstr("'generated.*' matches generated.fc1, which is discriminator.fc1 once more: name that"));
  EXPECT_THAT(error_of({.rank = 3, .target_modules = {"*", "discriminator.fc2"}}, gan()),
              HasSubstr("rank 3 is not below the sizes 1 x 32 of discriminator.fc2: lower it"));
}

// "*" takes what it can; a name is meant.
TEST(Lora, AStarLeavesOutWhatIsTooThin) {
  const auto few = [] {
    return blocks(
        {"c: conv_relu_pool out_channels=12 kernel=3", "a: linear out=16", "fc: linear out=classes"});
  };
  plan::ModelSpec spec = few();
  config::Lora lora{.rank = 10};
  apply_lora(lora, &spec);
  EXPECT_TRUE(has(spec, "c") && has(spec, "a"));
  EXPECT_FALSE(has(spec, "fc"));
  EXPECT_EQ(left_out_by_star(lora, spec),
            "[lora] \"*\" leaves out fc (10 x 16): rank 10 is not below their sizes");
  lora.rank = 9;
  spec = few();
  apply_lora(lora, &spec);
  EXPECT_TRUE(has(spec, "fc")) << "control";
  EXPECT_EQ(left_out_by_star(lora, spec), "");
  for (const std::string name : {"fc", "f*", "?c"}) {
    EXPECT_THAT(error_of({.rank = 10, .target_modules = {"*", name}}, few()),
                HasSubstr("rank 10 is not below the sizes 10 x 16 of fc: lower it, or leave the layer out"));
  }
  EXPECT_THAT(
      error_of({.rank = 27}, few()),
      HasSubstr("rank 27 is not below the sizes 10 x 16 of fc, nor of any layer that '*' picks: lower it"));
  plan::ModelSpec tied = gpt();
  lora = {.rank = 12};
  apply_lora(lora, &tied);
  EXPECT_EQ(left_out_by_star(lora, tied), "") << "tables and tied heads are left out by name";
}

TEST(Lora, NoRankChangesNothing) {
  plan::ModelSpec spec = gpt();
  apply_lora({}, &spec);
  EXPECT_EQ(spec.units[1].parameters.size(), gpt().units[1].parameters.size());
  EXPECT_FALSE(spec.units[1].parameters[0].rule.frozen);
}

TEST(Lora, ErrorsNameLayersAndSizes) {
  EXPECT_THAT(error_of({.rank = 2, .target_modules = {"h.7.*"}}),
              HasSubstr("'h.7.*' matches no layer that takes an adapter; layers that take one are wte, wpe, "
                        "h.0.attn.c_attn, h.0.attn.c_proj"));
  EXPECT_THAT(error_of({.rank = 2, .target_modules = {"ln_?"}}),
              HasSubstr("'ln_?' matches h.0.ln_1.weight of a transformer_block, beside which no adapter"));
  EXPECT_THAT(error_of({.rank = 16, .target_modules = {"*.c_attn"}}),
              HasSubstr("rank 16 is not below the sizes 48 x 16"));
  EXPECT_THAT(error_of({.rank = 2, .target_modules = {}}), HasSubstr("target_modules is empty"));
}

}  // namespace
}  // namespace furrow::models
