#include "apps/furrow/hugging_face_files.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/models/hugging_face.h"
#include "furrow/storage/json.h"

namespace furrow::app {
namespace {

using models::ForeignModel;
using models::HuggingFaceModel;
using storage::Json;

constexpr int64_t kMostLayers = 4096;

bool same_json(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.number() == b.number();
  return a == b;
}

void check_fact(const Json& config, const models::HuggingFaceFact& fact) {
  const Json* value = config.find(fact.key);
  if (value == nullptr && !fact.required) return;
  if (value != nullptr && same_json(*value, storage::parse_json(fact.value))) return;
  throw Error(ErrorCode::kUnimplemented,
              fmt::format("{} must be {}: this library computes no other; choose a model that was trained "
                          "with it",
                          fact.key, fact.value));
}

void read_key(const Json& config, const models::HuggingFaceKey& key, config::Model* model) {
  const Json* value = config.find(key.key);
  if (value == nullptr) {
    // Sizes are always there; what is left out is transformers' default, which is ours too.
    if (key.integer != nullptr && key.key != "num_key_value_heads") (void)config.at(key.key);
    return;
  }
  if (key.integer != nullptr) model->*key.integer = value->integer();
  if (key.real != nullptr) model->*key.real = value->number();
  if (key.flag != nullptr) model->*key.flag = value->boolean();
}

[[noreturn]] void refuse_rope(const std::string& what) {
  throw Error(
      ErrorCode::kUnimplemented,
      what +
          ": this library has rotary embeddings of the types default, linear and llama3, over all of a "
          "head; choose a model that was trained with one of them");
}

const models::HuggingFaceRope& rope_of(std::string_view place, const Json& rope) {
  const Json* type = rope.find("rope_type");
  if (type == nullptr) type = rope.find("type");
  const std::string name = type == nullptr ? "default" : type->string();
  const auto ropes = models::hugging_face_ropes();
  const auto row = std::ranges::find(ropes, name, &models::HuggingFaceRope::type);
  if (row == ropes.end()) refuse_rope(fmt::format("{}.rope_type is {}", place, name));
  return *row;
}

// Rotary embeddings: transformers >= 5 has all of them in one object, before it only what scales them.
void read_rope(const Json& config, config::Model* model) {
  for (const std::string_view place : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = config.find(place);
    if (rope == nullptr || *rope == Json()) continue;
    const models::HuggingFaceRope& row = rope_of(place, *rope);
    for (const auto& [key, value] : rope->object()) {
      if (key == "rope_theta") {
        model->rope_theta = value.number();
      } else if (std::ranges::find(row.keys, key, &models::HuggingFaceKey::key) == row.keys.end() &&
                 key != "rope_type" && key != "type" &&
                 (key != "partial_rotary_factor" || value.number() != 1)) {
        refuse_rope(fmt::format("{} of type {} has {}", place, row.type, key));
      }
    }
    model->rope_scaling = std::string(row.scaling);
    for (const models::HuggingFaceKey& key : row.keys) {
      (void)rope->at(key.key);
      read_key(*rope, key, model);
    }
  }
}

// Where it is no more than hidden_size / num_attention_heads [model] leaves it out.
void read_head_dim(const Json& config, config::Model* model) {
  const Json* value = config.find("head_dim");
  if (value == nullptr || *value == Json()) return;
  const int64_t size = value->integer();
  if (size < 1 || size > int64_t{1} << 24)
    throw Error(ErrorCode::kDataLoss, fmt::format("a head_dim of {} cannot be", size));
  if (model->heads < 1 || model->width % model->heads != 0 || size != model->width / model->heads)
    model->head_dim = size;
}

// Off, or a factor of one.
bool is_neutral(const Json& value) {
  return value == Json() || value == Json(false) || (value.is_number() && value.number() == 1);
}

// Which layers see only the last so many tokens.
void check_layer_types(const Json& config) {
  const Json* types = config.find("layer_types");
  if (types == nullptr || *types == Json()) return;
  for (const Json& type : types->list()) {
    if (type.string() == "full_attention") continue;
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("layer_types names {}: here every layer has full_attention; choose a model that "
                            "was trained with it",
                            type.string()));
  }
}

// What no list names and may change what the model computes.
void check_unknown(const Json& config, const HuggingFaceModel& row) {
  for (const auto& [key, value] : config.object()) {
    const auto named = [&key](const auto& entry) { return entry.key == key; };
    if (is_neutral(value) || key == row.context_key) continue;
    if (std::ranges::any_of(row.keys, named) || std::ranges::any_of(row.facts, named)) continue;
    if (std::ranges::find(row.ignored, key) != row.ignored.end()) continue;
    const auto within = [&key](std::string_view word) { return key.find(word) != std::string::npos; };
    if (std::ranges::none_of(models::hugging_face_arithmetic_words(), within)) continue;
    throw Error(
        ErrorCode::kUnimplemented,
        fmt::format("{} is a key of config.json that this library does not know, and it may change what "
                    "the model computes: remove it if it does not",
                    key));
  }
}

// GPT-2's own activation is the tanh form.
void read_activation(const Json& config, config::Model* model) {
  const Json* value = config.find("activation_function");
  const std::string name = value == nullptr ? "gelu_new" : value->string();
  if (name != "gelu" && name != "gelu_new" && name != "gelu_pytorch_tanh")
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("activation_function is {}: known: gelu, gelu_new", name));
  model->gelu = name == "gelu" ? "exact" : "tanh";
}

// The spans of a size that a model can have; the rest is describe()'s to judge.
void check_sizes(const ForeignModel& model) {
  if (model.model.layers > kMostLayers)
    throw Error(ErrorCode::kDataLoss, fmt::format("{} layers cannot be", model.model.layers));
  for (const int64_t size :
       {model.vocabulary, model.context, model.model.width, model.model.layers, model.model.heads}) {
    if (size < 1 || size > int64_t{1} << 24)
      throw Error(ErrorCode::kDataLoss, fmt::format("a size of {} cannot be", size));
  }
}

std::string known_types() {
  std::string known;
  for (const HuggingFaceModel& row : models::hugging_face_models())
    known.append(known.empty() ? "" : ", ").append(row.model_type);
  return known;
}

}  // namespace

ForeignModel parse_hugging_face_config(const std::string& json) {
  const Json config = storage::parse_json(json);
  const std::string& type = config.at("model_type").string();
  const HuggingFaceModel* row = models::find_by_model_type(type);
  if (row == nullptr) {
    throw Error(ErrorCode::kUnimplemented, fmt::format("model_type is {}: known: {}", type, known_types()));
  }
  ForeignModel model;
  model.model.name = std::string(row->architecture);
  model.model.tie_embeddings = row->architecture == "gpt";  // transformers' defaults
  if (row->architecture == "llama") model.model.norm_eps = 1e-6;
  for (const models::HuggingFaceSetting& setting : row->settings) model.model.*setting.flag = setting.value;
  for (const models::HuggingFaceFact& fact : row->facts) check_fact(config, fact);
  for (const models::HuggingFaceKey& key : row->keys) read_key(config, key, &model.model);
  if (row->architecture == "gpt") read_activation(config, &model.model);
  if (row->architecture == "llama") {
    read_rope(config, &model.model);
    read_head_dim(config, &model.model);
    check_layer_types(config);
  }
  check_unknown(config, *row);
  model.vocabulary = config.at("vocab_size").integer();
  model.context = config.at(row->context_key).integer();
  check_sizes(model);
  return model;
}

std::set<std::string> parse_hugging_face_index(const std::string& json) {
  const Json map = storage::parse_json(json);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map.at("weight_map").object()) {
    const std::string& name = file.string();
    if (name.empty() || name.find('/') != std::string::npos)
      throw Error(ErrorCode::kDataLoss, fmt::format("'{}' is no file of this folder", name));
    names.insert(name);
  }
  if (names.empty()) throw Error(ErrorCode::kDataLoss, "weight_map is empty");
  return names;
}

}  // namespace furrow::app
