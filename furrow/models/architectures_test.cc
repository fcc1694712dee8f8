#include "furrow/models/architectures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "furrow/base/error.h"
#include "furrow/config/model.h"
#include "furrow/models/kinds.h"
#include "furrow/models/teacher.h"
#include "furrow/plan/topology.h"

namespace furrow::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

DataShape images(int64_t channels, int64_t height, int64_t width, int64_t classes = 10) {
  return {{DType::kF32, {-1, channels, height, width}}, classes};
}

DataShape tokens(int64_t time, int64_t vocab) { return {{DType::kI64, {-1, time}}, vocab}; }

config::Model named(const std::string& name) {
  config::Model model;
  model.name = name;
  return model;
}

config::Model gpt(int64_t layers, int64_t heads, int64_t width, bool bias, bool tie) {
  config::Model model = named("gpt");
  model.layers = layers;
  model.heads = heads;
  model.width = width;
  model.bias = bias;
  model.tie_embeddings = tie;
  return model;
}

std::string error_of(const config::Model& model, const DataShape& data) {
  try {
    describe(model, data);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

std::map<std::string, plan::Parameter> parameters_of(const plan::ModelSpec& spec) {
  std::map<std::string, plan::Parameter> result;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) result[parameter.name] = parameter;
  }
  return result;
}

TEST(Convnet, HasLeNetsLayout) {
  const plan::ModelSpec spec = describe(named("convnet"), images(1, 28, 28));
  EXPECT_EQ(spec.architecture, "convnet");
  EXPECT_EQ(spec.parameter_count(), 44426);
  std::vector<std::string> names;
  for (const plan::Unit& unit : spec.units) names.push_back(unit.name);
  EXPECT_THAT(names, ElementsAre("conv1", "conv2", "fc1", "fc2", "fc3"));
  EXPECT_EQ(spec.units[0].output.shape, (Shape{-1, 6, 12, 12}));
  EXPECT_EQ(spec.units[1].output.shape, (Shape{-1, 16, 4, 4}));
  const auto parameters = parameters_of(spec);
  EXPECT_EQ(parameters.at("conv1.weight").shape, (Shape{6, 1, 5, 5}));
  EXPECT_EQ(parameters.at("fc1.weight").shape, (Shape{120, 256}));
  EXPECT_EQ(parameters.at("fc3.bias").shape, (Shape{10}));
  EXPECT_EQ(parameters.size(), 10u);
}

TEST(Convnet, CountsMultiplyAdds) {
  const plan::ModelSpec spec = describe(named("convnet"), images(1, 28, 28));
  // conv1: 6 x 24 x 24 outputs of 25 products; conv2: 16 x 8 x 8 of 150; then the matrices.
  EXPECT_EQ(spec.units[0].flops.forward, 2.0 * 6 * 24 * 24 * 25);
  EXPECT_EQ(spec.units[1].flops.forward, 2.0 * 16 * 8 * 8 * 150);
  EXPECT_EQ(spec.units[2].flops.forward, 2.0 * 256 * 120);
  EXPECT_EQ(spec.units[4].flops.backward_weight, 2.0 * 84 * 10);
}

TEST(Convnet, OtherImagesWorkAndTooSmallOnesAreNamed) {
  const plan::ModelSpec cifar = describe(named("convnet"), images(3, 32, 32, 100));
  EXPECT_EQ(parameters_of(cifar).at("fc1.weight").shape, (Shape{120, 400}));
  EXPECT_EQ(parameters_of(cifar).at("conv1.weight").shape, (Shape{6, 3, 5, 5}));
  const plan::ModelSpec wide = describe(named("convnet"), images(1, 17, 40));
  EXPECT_EQ(parameters_of(wide).at("fc1.weight").shape, (Shape{120, 16 * 1 * 7}));
  EXPECT_NO_THROW(describe(named("convnet"), images(1, 16, 16)));
  EXPECT_THAT(error_of(named("convnet"), images(1, 15, 16)),
              HasSubstr("unit conv2 (conv_relu_pool): an image of 5 x 6"));
  EXPECT_THAT(error_of(named("convnet"), images(1, 4, 4)), HasSubstr("too small for a 5 x 5 convolution"));
}

TEST(Convnet, StartsAsPyTorchDoes) {
  const auto parameters = parameters_of(describe(named("convnet"), images(1, 28, 28)));
  for (const char* name : {"conv2.weight", "conv2.bias"}) {
    EXPECT_EQ(parameters.at(name).init, (plan::Init{plan::Init::Kind::kUniform, 1 / std::sqrt(150.0)}))
        << name;
  }
  for (const char* name : {"fc2.weight", "fc2.bias"}) {
    EXPECT_EQ(parameters.at(name).init, (plan::Init{plan::Init::Kind::kUniform, 1 / std::sqrt(120.0)}))
        << name;
  }
  EXPECT_EQ(parameters.at("fc2.bias").group, plan::ParameterGroup::kNoDecay);
  EXPECT_EQ(parameters.at("fc2.weight").group, plan::ParameterGroup::kDecay);
}

TEST(Mlp, FollowsHidden) {
  config::Model model = named("mlp");
  model.hidden = {1024, 1024};
  const plan::ModelSpec spec = describe(model, images(1, 28, 28));
  EXPECT_EQ(spec.parameter_count(), 784 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10);
  EXPECT_EQ(spec.units.size(), 3u);
  EXPECT_EQ(plan::attribute<std::string>(spec.units[1], "activation"), "relu");
  EXPECT_EQ(plan::attribute<std::string>(spec.units[2], "activation"), "none");
  EXPECT_EQ(spec.units[2].output.shape, (Shape{-1, 10}));

  model.hidden = {};
  EXPECT_EQ(describe(model, {{DType::kF32, {-1, 5}}, 2}).parameter_count(), 12);
  EXPECT_THAT(error_of(model, tokens(8, 65)), HasSubstr("use a data set of images"));
}

TEST(Gpt, HasNanoGptsParameters) {
  // nanoGPT's small CPU setting without biases prints 0.80M without the 64 x 128 positions.
  const plan::ModelSpec spec = describe(gpt(4, 4, 128, false, true), tokens(64, 65));
  EXPECT_EQ(spec.parameter_count(), 804096);
  // GPT-2 124M: 12 layers, 12 heads, 768 wide, tied head.
  EXPECT_EQ(describe(gpt(12, 12, 768, true, true), tokens(1024, 50257)).parameter_count(), 124439808);
  EXPECT_EQ(describe(gpt(12, 12, 768, true, false), tokens(1024, 50257)).parameter_count(),
            124439808 + 50257 * 768);
}

TEST(Gpt, UsesGpt2sNames) {
  const auto parameters = parameters_of(describe(gpt(1, 2, 8, true, true), tokens(4, 11)));
  const std::map<std::string, Shape> expected = {{"wte.weight", {11, 8}},
                                                 {"wpe.weight", {4, 8}},
                                                 {"h.0.ln_1.weight", {8}},
                                                 {"h.0.ln_1.bias", {8}},
                                                 {"h.0.attn.c_attn.weight", {24, 8}},
                                                 {"h.0.attn.c_attn.bias", {24}},
                                                 {"h.0.attn.c_proj.weight", {8, 8}},
                                                 {"h.0.attn.c_proj.bias", {8}},
                                                 {"h.0.ln_2.weight", {8}},
                                                 {"h.0.ln_2.bias", {8}},
                                                 {"h.0.mlp.c_fc.weight", {32, 8}},
                                                 {"h.0.mlp.c_fc.bias", {32}},
                                                 {"h.0.mlp.c_proj.weight", {8, 32}},
                                                 {"h.0.mlp.c_proj.bias", {8}},
                                                 {"ln_f.weight", {8}},
                                                 {"ln_f.bias", {8}},
                                                 {"lm_head.weight", {11, 8}}};
  ASSERT_EQ(parameters.size(), expected.size());
  for (const auto& [name, shape] : expected) {
    ASSERT_TRUE(parameters.contains(name)) << name;
    EXPECT_EQ(parameters.at(name).shape, shape) << name;
  }
  EXPECT_EQ(parameters.at("lm_head.weight").tied_to, "wte.weight");
}

TEST(Gpt, StartsAsNanoGptDoes) {
  const auto parameters = parameters_of(describe(gpt(8, 2, 8, true, false), tokens(4, 11)));
  using Kind = plan::Init::Kind;
  EXPECT_EQ(parameters.at("wpe.weight").init, (plan::Init{Kind::kNormal, 0.02}));
  EXPECT_EQ(parameters.at("lm_head.weight").init, (plan::Init{Kind::kNormal, 0.02}));
  EXPECT_TRUE(parameters.at("lm_head.weight").tied_to.empty());
  EXPECT_EQ(parameters.at("h.3.attn.c_attn.weight").init, (plan::Init{Kind::kNormal, 0.02}));
  EXPECT_EQ(parameters.at("h.3.attn.c_proj.weight").init,
            (plan::Init{Kind::kNormal, 0.02 / std::sqrt(16.0)}));
  EXPECT_EQ(parameters.at("h.3.mlp.c_proj.weight").init, (plan::Init{Kind::kNormal, 0.02 / std::sqrt(16.0)}));
  EXPECT_EQ(parameters.at("h.3.mlp.c_fc.bias").init.kind, Kind::kZeros);
  EXPECT_EQ(parameters.at("ln_f.weight").init.kind, Kind::kOnes);
  EXPECT_EQ(parameters.at("ln_f.weight").group, plan::ParameterGroup::kNoDecay);
}

TEST(Gpt, WithoutBiasNoParameterIsABias) {
  for (const auto& [name, parameter] : parameters_of(describe(gpt(2, 2, 8, false, true), tokens(4, 11)))) {
    EXPECT_FALSE(name.ends_with(".bias")) << name;
  }
}

TEST(Gpt, CountsAttention) {
  const double t = 64, c = 128, vocab = 65;
  const plan::ModelSpec spec = describe(gpt(4, 4, 128, false, true), tokens(64, 65));
  const plan::Flops& block = spec.units[1].flops;
  EXPECT_EQ(block.forward, 24 * t * c * c + 4 * t * t * c);
  EXPECT_EQ(block.backward_input, 24 * t * c * c + 8 * t * t * c);
  EXPECT_EQ(block.backward_weight, 24 * t * c * c);
  EXPECT_EQ(spec.units.back().flops.forward, 2 * t * c * vocab);
}

TEST(Gpt, VocabSizePadsTheVocabulary) {
  config::Model model = gpt(2, 2, 8, true, true);
  model.vocab_size = 16;
  EXPECT_EQ(parameters_of(describe(model, tokens(4, 11))).at("wte.weight").shape, (Shape{16, 8}));
  EXPECT_THAT(error_of(model, tokens(4, 17)), HasSubstr("vocab_size = 16, but the data has 17 tokens"));
}

TEST(Gpt, BadSettingsNameTheKey) {
  EXPECT_THAT(error_of(gpt(2, 3, 8, true, true), tokens(4, 11)),
              HasSubstr("[model] name = gpt: width = 8 is no multiple of heads = 3"));
  EXPECT_THAT(error_of(gpt(2, 2, 8, true, true), images(1, 28, 28)), HasSubstr("[training] dataset = text"));
  config::Model model = gpt(2, 2, 8, true, true);
  model.context = 16;
  EXPECT_EQ(parameters_of(describe(model, tokens(8, 11))).at("wpe.weight").shape, (Shape{16, 8}));
  EXPECT_THAT(error_of(model, tokens(32, 11)), HasSubstr("context = 16 is below the 32 tokens of a sample"));
  EXPECT_THAT(error_of(model, tokens(8, 0)), HasSubstr("the data has 0 classes"));
}

TEST(Architectures, UnknownNameListsTheKnown) {
  EXPECT_THAT(
      error_of(named("convnt"), images(1, 28, 28)),
      HasSubstr(
          "[model] name: unknown architecture 'convnt': did you mean 'convnet'? known: blocks, convnet, "
          "gan, gpt, llama, lstm, mlp, resnet18, resnet20, rnn"));
}

// An architecture and a kind that a program brings along.
void describe_twice(plan::Unit& unit) { unit.output = unit.input; }

plan::ModelSpec describe_double(const config::Model&, const DataShape& data) {
  constexpr Kind kTwice = {"twice", &describe_twice};
  plan::ModelSpec spec;
  spec.units.push_back(make_unit("twice", kTwice, {}, data.input));
  return spec;
}

config::Model llama(int64_t layers, int64_t heads, int64_t kv_heads, int64_t width, int64_t ffn, bool tie) {
  config::Model model = named("llama");
  model.layers = layers;
  model.heads = heads;
  model.kv_heads = kv_heads;
  model.width = width;
  model.ffn_width = ffn;
  model.tie_embeddings = tie;
  return model;
}

// Llama 2 7B, Llama 3 8B, and the stories260K of llama2.c.
TEST(Llama, HasThePublishedParameterCounts) {
  EXPECT_EQ(describe(llama(32, 32, 0, 4096, 11008, false), tokens(64, 32000)).parameter_count(), 6738415616);
  EXPECT_EQ(describe(llama(32, 32, 8, 4096, 14336, false), tokens(64, 128256)).parameter_count(), 8030261248);
  EXPECT_EQ(describe(llama(5, 8, 4, 64, 172, true), tokens(512, 512)).parameter_count(), 260032);
}

// Qwen2 0.5B and 7B: the llama with biases.
TEST(Llama, WithBiasesHasQwen2sParameterCounts) {
  config::Model small = llama(24, 14, 2, 896, 4864, true), large = llama(28, 28, 4, 3584, 18944, false);
  small.qkv_bias = large.qkv_bias = true;
  const plan::ModelSpec spec = describe(small, tokens(64, 151936));
  EXPECT_EQ(spec.parameter_count(), 494032768);
  EXPECT_EQ(describe(large, tokens(64, 152064)).parameter_count(), 7615616512);
  const auto parameters = parameters_of(spec);
  for (const auto& [name, out] : {std::pair("q", 896), std::pair("k", 128), std::pair("v", 128)}) {
    const plan::Parameter& bias =
        parameters.at(std::string("model.layers.23.self_attn.") + name + "_proj.bias");
    EXPECT_EQ(bias.shape, Shape{out});
    EXPECT_EQ(bias.init.kind, plan::Init::Kind::kZeros);
    EXPECT_EQ(bias.tensor_axis, 0);
  }
  EXPECT_FALSE(parameters.contains("model.layers.0.self_attn.o_proj.bias"));
}

TEST(Llama, HasHuggingFacesNames) {
  const auto parameters = parameters_of(describe(llama(1, 4, 2, 32, 0, true), tokens(4, 11)));
  std::vector<std::string> names;
  for (const auto& [name, parameter] : parameters) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{
                       "lm_head.weight", "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                       "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.gate_proj.weight",
                       "model.layers.0.mlp.up_proj.weight", "model.layers.0.post_attention_layernorm.weight",
                       "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.o_proj.weight",
                       "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight",
                       "model.norm.weight"}));
  EXPECT_EQ(parameters.at("lm_head.weight").tied_to, "model.embed_tokens.weight");
  EXPECT_EQ(parameters.at("model.layers.0.self_attn.k_proj.weight").shape, (Shape{16, 32}));
  EXPECT_EQ(parameters.at("model.layers.0.mlp.up_proj.weight").shape, (Shape{96, 32})) << "85.3 up to 96";
  EXPECT_DOUBLE_EQ(parameters.at("model.layers.0.mlp.down_proj.weight").init.scale, 0.02 / std::sqrt(2.0));
}

TEST(Llama, RefusesSizesThatDoNotFit) {
  EXPECT_THAT(error_of(llama(1, 3, 0, 32, 0, true), tokens(4, 11)), HasSubstr("no multiple of heads = 3"));
  EXPECT_THAT(error_of(llama(1, 4, 3, 32, 0, true), tokens(4, 11)), HasSubstr("no multiple of kv_heads = 3"));
  EXPECT_THAT(error_of(llama(1, 4, 2, 12, 0, true), tokens(4, 11)), HasSubstr("is odd: rotary positions"));
  EXPECT_THAT(error_of(llama(1, 4, 2, 32, 0, true), images(1, 28, 28)),
              HasSubstr("[training] dataset = text"));
}

TEST(Recurrent, RnnAndLstmReadTheConcatenation) {
  config::Model model = named("rnn");
  model.layers = 2;
  model.width = 24;
  const auto rnn = parameters_of(describe(model, tokens(10, 27)));
  EXPECT_EQ(rnn.at("embed.weight").shape, (Shape{27, 24}));
  EXPECT_EQ(rnn.at("rnn.0.i2h.weight").shape, (Shape{24, 48}));
  EXPECT_EQ(rnn.at("rnn.0.i2o.weight").shape, (Shape{24, 48}));
  EXPECT_EQ(rnn.at("rnn.1.i2o.weight").shape, (Shape{27, 48}));
  EXPECT_DOUBLE_EQ(rnn.at("rnn.1.i2o.bias").init.scale, 1 / std::sqrt(48.0));
  model.name = "lstm";
  const plan::ModelSpec spec = describe(model, tokens(10, 27));
  const auto lstm = parameters_of(spec);
  EXPECT_EQ(lstm.at("lstm.1.i2h.weight").shape, (Shape{96, 48}));
  EXPECT_EQ(lstm.at("lstm.1.i2h.bias").shape, (Shape{96}));
  EXPECT_EQ(lstm.at("h2o.weight").shape, (Shape{27, 24}));
  EXPECT_EQ(spec.units.back().output.shape, (Shape{-1, 10, 27}));
  EXPECT_EQ(spec.units[1].flops.forward, 2.0 * 10 * 48 * 96);
}

TEST(Architectures, AProgramAddsItsOwn) {
  const Architecture extra[] = {{"double", &describe_double}};
  const plan::ModelSpec spec = describe(named("double"), images(1, 2, 2), extra);
  EXPECT_EQ(spec.architecture, "double");
  EXPECT_EQ(spec.units[0].kind, "twice");
  EXPECT_THAT(error_of(named("double"), images(1, 2, 2)), HasSubstr("unknown architecture 'double'"));
}

TEST(Gan, HasTwoChainsAndItsDiscriminatorThreeTimes) {
  const plan::ModelSpec spec = describe(named("gan"), images(1, 28, 28));
  EXPECT_EQ(spec.parameter_count(), 100 * 256 + 256 + 256 * 784 + 784 + 784 * 256 + 256 + 256 + 1);
  EXPECT_THAT(spec.phases, ElementsAre("discriminator", "generator"));
  std::vector<std::string> names;
  for (const plan::Unit& unit : spec.units) names.push_back(unit.name);
  EXPECT_THAT(names,
              ElementsAre("generator.latent", "generator.fc1", "generator.fc2", "discriminator.fc1",
                          "discriminator.fc2", "generated.fc1", "generated.fc2", "fooled.fc1", "fooled.fc2"));
  ASSERT_EQ(spec.heads.size(), 3U);
  EXPECT_EQ(plan::generator_of(spec), 2);
  EXPECT_THAT(plan::chain_to(spec, spec.heads[0].unit), ElementsAre(3, 4));
  EXPECT_THAT(plan::chain_to(spec, spec.heads[2].unit), ElementsAre(0, 1, 2, 7, 8));
  EXPECT_FALSE(plan::is_one_chain(spec));
  EXPECT_THAT(error_of(named("gan"), tokens(8, 65)), HasSubstr("it reads float32 samples, not int64"));
}

TEST(Teacher, IsAFrozenChainBesideTheStudent) {
  plan::ModelSpec student = describe(named("mlp"), images(1, 28, 28));
  const int64_t own = student.parameter_count();
  add_teacher(describe_teacher("name = \"convnet\"\n", images(1, 28, 28), {}, DType::kF32), &student);
  EXPECT_EQ(student.parameter_count(), own + 44426);
  for (const plan::Unit& unit : student.units) {
    for (const plan::Parameter& parameter : unit.parameters)
      EXPECT_EQ(parameter.rule.frozen, is_teachers(parameter.name)) << parameter.name;
    EXPECT_EQ(unit.inference, is_teachers(unit.name));
  }
  EXPECT_THAT(plan::chain_to(student, student.heads[0].unit), ElementsAre(0, 1, 2));
  EXPECT_EQ(plan::chain_to(student, student.heads[0].teacher).front(), 3);

  plan::ModelSpec other = describe(named("mlp"), images(1, 28, 28, 7));
  EXPECT_THROW(add_teacher(describe(named("mlp"), images(1, 28, 28)), &other), Error) << "other classes";
  plan::ModelSpec gan = describe(named("gan"), images(1, 28, 28));
  EXPECT_THROW(add_teacher(describe(named("mlp"), images(1, 28, 28)), &gan), Error) << "several chains";
}

TEST(Architectures, EveryRowDescribesAModelThatIsValid) {
  for (const Architecture& row : architectures()) {
    const bool text =
        row.name != "mlp" && row.name != "convnet" && row.name != "gan" && !row.name.starts_with("resnet");
    config::Model model = named(std::string(row.name));
    model.units = {"embed: embedding width=8", "out: linear flatten=false out=classes"};
    const plan::ModelSpec spec = describe(model, text ? tokens(64, 65) : images(1, 28, 28));
    EXPECT_GT(spec.parameter_count(), 0) << row.name;
    for (const plan::Unit& unit : spec.units) EXPECT_NO_THROW(find_kind(unit.kind));
  }
}

// PyTorch's nn.LSTM(num_layers, dropout): behind every layer but the last.
TEST(Recurrent, DropsBehindAllLayersButTheLast) {
  for (const std::string name : {"lstm", "rnn"}) {
    config::Model model;
    model.name = name;
    model.layers = 3;
    model.dropout = 0.25;
    const plan::ModelSpec spec = describe(model, {{DType::kI64, {-1, 16}}, 27});
    EXPECT_EQ(plan::attribute<double>(spec.units[1], "dropout"), 0.25) << name;
    EXPECT_EQ(plan::attribute<double>(spec.units[2], "dropout"), 0.25) << name;
    EXPECT_EQ(plan::attribute<double>(spec.units[3], "dropout"), 0) << name;
  }
}

}  // namespace
}  // namespace furrow::models
