#include "furrow/models/llama2c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/architectures.h"
#include "furrow/models/hugging_face.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

// Layers 2, dim 8, heads 2, kv_heads 1, feed-forward 6, vocabulary 5, context 3; element i of the file is i.
std::vector<std::byte> file_of(bool tied) {
  const int32_t header[] = {8, 6, 2, 2, 1, tied ? 5 : -5, 3};
  const int64_t layer = 8 + 64 + 32 + 32 + 64 + 8 + 48 + 48 + 48;
  const int64_t floats = 40 + 2 * layer + 8 + 3 * 4 + (tied ? 0 : 40);
  std::vector<std::byte> file(sizeof(header) + static_cast<size_t>(floats) * sizeof(float));
  std::memcpy(file.data(), header, sizeof(header));
  for (int64_t i = 0; i < floats; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(file.data() + sizeof(header) + static_cast<size_t>(i) * sizeof(float), &value, sizeof(value));
  }
  return file;
}

std::string error_of(const std::vector<std::byte>& file, ErrorCode code = ErrorCode::kDataLoss) {
  try {
    parse_llama2c(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "no error";
}

TEST(Llama2c, HasTheParametersOfTheArchitecture) {
  for (const bool tied : {true, false}) {
    const std::vector<std::byte> file = file_of(tied);
    const ForeignModel model = parse_llama2c(file);
    std::map<std::string, Shape> got, want;
    for (const NamedParameter& parameter : model.parameters) {
      got[parameter.name] = parameter.shape;
      EXPECT_EQ(parameter.read().shape(), parameter.shape);
    }
    const plan::ModelSpec spec =
        describe(model.model, {{DType::kI64, {-1, model.context}}, model.vocabulary});
    for (const plan::Unit& unit : spec.units) {
      for (const plan::Parameter& parameter : unit.parameters) {
        if (!parameter.tied()) want[parameter.name] = parameter.shape;
      }
    }
    EXPECT_EQ(got, want) << tied;
    EXPECT_EQ(got.size(), model.parameters.size());
  }
}

TEST(Llama2c, PairsOfRowsBecomeHalvesOfAHead) {
  const std::vector<std::byte> file = file_of(true);
  const ForeignModel model = parse_llama2c(file);
  for (const NamedParameter& parameter : model.parameters) {
    if (parameter.name != "model.layers.1.self_attn.q_proj.weight") continue;
    const Array array = parameter.read();
    const float first = 40 + 16 + 64;  // where layer 1 begins: after the embedding, the norms and layer 0
    for (const auto& [row, from] : {std::pair{0, 0}, {1, 2}, {2, 1}, {3, 3}, {4, 4}, {5, 6}, {6, 5}, {7, 7}})
      EXPECT_EQ(array.as<float>()[static_cast<size_t>(8 * row)], first + static_cast<float>(8 * from)) << row;
    return;
  }
  FAIL() << "no q_proj";
}

TEST(Llama2c, DamagedFilesAreNamed) {
  const std::vector<std::byte> file = file_of(false);
  for (size_t size = 0; size < file.size(); size += size < 40 ? 1 : 97)
    EXPECT_NE(error_of({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)}), "no error") << size;
  std::vector<std::byte> longer = file;
  longer.resize(file.size() + 4);
  EXPECT_THAT(error_of(longer), HasSubstr("4 bytes follow the last tensor"));
  const auto with = [&](size_t word, int32_t value) {
    std::vector<std::byte> changed = file;
    std::memcpy(changed.data() + word * sizeof(value), &value, sizeof(value));
    return changed;
  };
  EXPECT_THAT(error_of(with(3, 0)), HasSubstr("a size of 0"));
  EXPECT_THAT(error_of(with(3, 3)), HasSubstr("heads 3"));
  EXPECT_THAT(error_of(with(2, 1 << 20)), HasSubstr("truncated"));
  EXPECT_THAT(error_of(with(5, INT32_MIN)), HasSubstr("a size of 2147483648"));
  EXPECT_THAT(error_of(with(0, 0x616b3432), ErrorCode::kUnimplemented), HasSubstr("--version 0"));
}

TEST(HuggingFace, NamesAndTransposesAsTransformersDoes) {
  const HuggingFaceModel& gpt2 = *find_by_model_type("gpt2");
  EXPECT_EQ(hugging_face_tensor(gpt2, "wte.weight").name, "transformer.wte.weight");
  EXPECT_FALSE(hugging_face_tensor(gpt2, "wte.weight").transposed);
  EXPECT_TRUE(hugging_face_tensor(gpt2, "h.0.mlp.c_proj.weight").transposed);
  EXPECT_FALSE(hugging_face_tensor(gpt2, "h.0.mlp.c_proj.bias").transposed);
  EXPECT_EQ(hugging_face_tensor(gpt2, "lm_head.weight").name, "lm_head.weight");
  const HuggingFaceModel& llama = *find_by_architecture("llama");
  config::Model model;
  model.name = "llama";
  EXPECT_EQ(find_by_model(model), &llama);
  model.qkv_bias = true;
  EXPECT_EQ(find_by_model(model)->model_type, "qwen2");
  model.name = "gpt";
  EXPECT_EQ(find_by_model(model), &gpt2);
  model.bias = false;
  EXPECT_EQ(find_by_model(model), nullptr);
  EXPECT_EQ(hugging_face_tensor(llama, "model.norm.weight").name, "model.norm.weight");
  EXPECT_FALSE(hugging_face_tensor(llama, "model.layers.0.mlp.up_proj.weight").transposed);
  EXPECT_TRUE(is_hugging_face_buffer("h.3.attn.bias"));
  EXPECT_FALSE(is_hugging_face_buffer("h.3.attn.c_attn.bias"));
  for (const HuggingFaceModel& row : hugging_face_models()) {
    EXPECT_EQ(row.prefix, find_by_architecture(row.architecture)->prefix) << row.model_type;
    for (const HuggingFaceKey& key : row.keys)
      EXPECT_EQ((key.integer != nullptr) + (key.real != nullptr) + (key.flag != nullptr), 1) << key.key;
  }
}

}  // namespace
}  // namespace furrow::models
