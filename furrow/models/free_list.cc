// blocks: the units that [model] units lists, first to last, each "name: kind key=value ...".  What follows
// from the unit before or from the data is filled in; `classes` stands for their number.
#include "furrow/models/free_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/config/model.h"
#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

using Type = AttributeForm::Type;

constexpr AttributeForm kConv[] = {{"in_channels", Type::kInteger, "@channels"},
                                   {"out_channels", Type::kInteger},
                                   {"kernel", Type::kInteger},
                                   {"padding", Type::kInteger, "0"},
                                   {"relu", Type::kFlag, "true"},
                                   {"pool", Type::kFlag, "false"}};
constexpr AttributeForm kLinear[] = {{"flatten", Type::kFlag, "true"},
                                     {"in", Type::kInteger, "@features"},
                                     {"out", Type::kInteger},
                                     {"bias", Type::kFlag, "true"},
                                     {"activation", Type::kText, "none"}};
constexpr AttributeForm kTokenEmbedding[] = {{"vocab", Type::kInteger, "classes"},
                                             {"context", Type::kInteger, "@time"},
                                             {"width", Type::kInteger},
                                             {"dropout", Type::kReal, "0"}};
constexpr AttributeForm kTransformerBlock[] = {
    {"width", Type::kInteger, "@last"}, {"heads", Type::kInteger},     {"layers", Type::kInteger, "@count"},
    {"dropout", Type::kReal, "0"},      {"bias", Type::kFlag, "true"}, {"activation", Type::kText, "gelu"}};
constexpr AttributeForm kLmHead[] = {{"vocab", Type::kInteger, "classes"},
                                     {"width", Type::kInteger, "@last"},
                                     {"bias", Type::kFlag, "true"},
                                     {"tied_to", Type::kText, ""}};
constexpr AttributeForm kEmbedding[] = {
    {"vocab", Type::kInteger, "classes"}, {"width", Type::kInteger}, {"std", Type::kReal, "0.02"}};
constexpr AttributeForm kLlamaBlock[] = {{"width", Type::kInteger, "@last"},
                                         {"heads", Type::kInteger},
                                         {"kv_heads", Type::kInteger},
                                         {"ffn", Type::kInteger},
                                         {"layers", Type::kInteger, "@count"},
                                         {"qkv_bias", Type::kFlag, "false"},
                                         {"head_dim", Type::kInteger, "0"},
                                         {"rope_theta", Type::kReal, "10000"},
                                         {"rope_scaling", Type::kText, "none"},
                                         {"rope_factor", Type::kReal, "1"},
                                         {"rope_low_freq_factor", Type::kReal, "1"},
                                         {"rope_high_freq_factor", Type::kReal, "4"},
                                         {"rope_original_context", Type::kInteger, "8192"},
                                         {"eps", Type::kReal, "1e-5"}};
constexpr AttributeForm kLlamaHead[] = {{"vocab", Type::kInteger, "classes"},
                                        {"width", Type::kInteger, "@last"},
                                        {"eps", Type::kReal, "1e-5"},
                                        {"tied_to", Type::kText, ""}};
constexpr AttributeForm kRnn[] = {{"in", Type::kInteger, "@last"},
                                  {"hidden", Type::kInteger},
                                  {"out", Type::kInteger},
                                  {"dropout", Type::kReal, "0"}};
constexpr AttributeForm kLstm[] = {
    {"in", Type::kInteger, "@last"}, {"hidden", Type::kInteger}, {"dropout", Type::kReal, "0"}};
constexpr AttributeForm kDelay[] = {{"forward_ms", Type::kReal},
                                    {"backward_input_ms", Type::kReal, "0"},
                                    {"backward_weight_ms", Type::kReal, "0"},
                                    {"bytes", Type::kInteger, "0"}};

constexpr AttributeForm kConvNorm[] = {{"in_channels", Type::kInteger, "@channels"},
                                       {"out_channels", Type::kInteger},
                                       {"kernel", Type::kInteger, "3"},
                                       {"stride", Type::kInteger, "1"},
                                       {"padding", Type::kInteger, "1"},
                                       {"pool", Type::kFlag, "false"},
                                       {"momentum", Type::kReal, "0.1"},
                                       {"eps", Type::kReal, "1e-5"}};
constexpr AttributeForm kResidualBlock[] = {{"in_channels", Type::kInteger, "@channels"},
                                            {"out_channels", Type::kInteger},
                                            {"stride", Type::kInteger, "1"},
                                            {"shortcut", Type::kText, "projection"},
                                            {"momentum", Type::kReal, "0.1"},
                                            {"eps", Type::kReal, "1e-5"}};
constexpr AttributeForm kBottleneckBlock[] = {{"in_channels", Type::kInteger, "@channels"},
                                              {"width", Type::kInteger},
                                              {"out_channels", Type::kInteger},
                                              {"stride", Type::kInteger, "1"},
                                              {"shortcut", Type::kText, "projection"},
                                              {"momentum", Type::kReal, "0.1"},
                                              {"eps", Type::kReal, "1e-5"}};
constexpr AttributeForm kPoolLinear[] = {{"channels", Type::kInteger, "@channels"}, {"out", Type::kInteger}};

constexpr AttributeForm kConvLayer[] = {{"in_channels", Type::kInteger, "@channels"},
                                        {"out_channels", Type::kInteger},
                                        {"kernel", Type::kInteger},
                                        {"stride", Type::kInteger, "1"},
                                        {"padding", Type::kInteger, "0"},
                                        {"bias", Type::kFlag, "true"},
                                        {"activation", Type::kText, "none"}};
constexpr AttributeForm kActivation[] = {{"activation", Type::kText}, {"slope", Type::kReal, "0.01"}};
constexpr AttributeForm kDropout[] = {{"p", Type::kReal, "0.5"}};
constexpr AttributeForm kPool[] = {
    {"kernel", Type::kInteger}, {"stride", Type::kInteger, "0"}, {"padding", Type::kInteger, "0"}};
constexpr AttributeForm kLayerNorm[] = {{"eps", Type::kReal, "1e-5"}, {"bias", Type::kFlag, "true"}};
constexpr AttributeForm kGroupNorm[] = {{"groups", Type::kInteger}, {"eps", Type::kReal, "1e-5"}};
constexpr AttributeForm kBatchNorm[] = {
    {"momentum", Type::kReal, "0.1"}, {"eps", Type::kReal, "1e-5"}, {"activation", Type::kText, "none"}};

constexpr KindForm kForms[] = {
    {"conv_relu_pool", kConv},
    {"linear", kLinear},
    {"token_embedding", kTokenEmbedding},
    {"lm_head", kLmHead},
    {"transformer_block", kTransformerBlock},
    {"embedding", kEmbedding},
    {"rnn", kRnn},
    {"llama_block", kLlamaBlock},
    {"llama_head", kLlamaHead},
    {"lstm", kLstm},
    {"delay", kDelay},
    {"conv_norm", kConvNorm},
    {"residual_block", kResidualBlock},
    {"bottleneck_block", kBottleneckBlock},
    {"pool_linear", kPoolLinear},
    {"conv", kConvLayer},
    {"activation", kActivation},
    {"dropout", kDropout},
    {"max_pool", kPool},
    {"avg_pool", kPool},
    {"global_avg_pool", {}},
    {"layer_norm", kLayerNorm},
    {"group_norm", kGroupNorm},
    {"batch_norm", kBatchNorm},
};

// One entry of the list.
struct Entry {
  std::string text, name, kind;
  std::map<std::string, std::string> given;
};

Entry parse_entry(const config::Model& model, const std::string& text) {
  Entry entry{text, {}, {}, {}};
  const size_t colon = text.find(':');
  std::vector<std::string> words;
  for (const std::string& word : split(text.substr(colon == std::string::npos ? 0 : colon + 1), ' ')) {
    if (!word.empty()) words.push_back(word);
  }
  if (colon == std::string::npos || words.empty())
    model_error(model, fmt::format("unit '{}': write \"name: kind key=value ...\"", text));
  entry.name = std::string(trim(std::string_view(text).substr(0, colon)));
  entry.kind = words[0];
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (equals == std::string::npos || equals == 0)
      model_error(model, fmt::format("unit '{}': '{}' is no key=value", text, words[i]));
    if (!entry.given.emplace(words[i].substr(0, equals), words[i].substr(equals + 1)).second)
      model_error(model, fmt::format("unit '{}': {} is there twice", text, words[i].substr(0, equals)));
  }
  return entry;
}

// What a value may refer to.
struct Surroundings {
  const config::Model& model;
  const DataShape& data;
  const plan::TensorSpec& input;  // of the unit
  int64_t same_kind;              // units of its kind in the list
  bool flatten = true;            // of a linear unit
};

int64_t derived(const Surroundings& at, const Entry& entry, std::string_view name) {
  const Shape& shape = at.input.shape;
  if (name == "@count") return at.same_kind;
  if (shape.size() < 2) model_error(at.model, fmt::format("unit '{}': its input has no dims", entry.text));
  if (name == "@time" && at.model.context > 0) return at.model.context;
  if (name == "@channels" || name == "@time") return shape[1];
  if (name == "@last" || !at.flatten) return shape.back();
  int64_t features = 1;
  for (size_t i = 1; i < shape.size(); ++i) features *= shape[i];
  return features;
}

plan::Attribute value_of(const Surroundings& at, const Entry& entry, const AttributeForm& form,
                         const std::string& text) {
  const auto wrong = [&](const char* wanted) {
    model_error(at.model, fmt::format("unit '{}': {} = {} is not {}", entry.text, form.name, text, wanted));
  };
  int64_t integer = 0;
  double real = 0;
  switch (form.type) {
    case Type::kInteger:
      if (text == "classes") return at.data.classes;
      if (text.starts_with('@')) return derived(at, entry, text);
      if (!parse_int(text, integer)) wrong("an integer or `classes`");
      return integer;
    case Type::kReal:
      if (!parse_double(text, real)) wrong("a number");
      return real;
    case Type::kFlag:
      if (text != "true" && text != "false") wrong("true or false");
      return text == "true";
    case Type::kText:
      break;
  }
  return text;
}

plan::Attributes attributes_of(Surroundings at, const Entry& entry, const KindForm& kind) {
  plan::Attributes attributes;
  std::vector<std::string> known{"prefix"};
  for (const AttributeForm& form : kind.attributes) {
    known.emplace_back(form.name);
    const auto given = entry.given.find(std::string(form.name));
    if (given == entry.given.end() && form.required())
      model_error(at.model, fmt::format("unit '{}': {} is missing", entry.text, form.name));
    const std::string text = given == entry.given.end() ? std::string(*form.otherwise) : given->second;
    if (given != entry.given.end() && text.starts_with('@'))
      model_error(at.model, fmt::format("unit '{}': {} = {} is no value", entry.text, form.name, text));
    attributes[std::string(form.name)] = value_of(at, entry, form, text);
    if (form.name == "flatten") at.flatten = std::get<bool>(attributes["flatten"]);
  }
  for (const auto& [key, text] : entry.given) {
    if (std::ranges::find(known, key) == known.end())
      model_error(at.model,
                  fmt::format("unit '{}': {}", entry.text, unknown_name_message("attribute", key, known)));
    if (key == "prefix") attributes[key] = text;
  }
  return attributes;
}

// A list learns the targets of samples, of which noise has nothing.
void refuse_noise(const config::Model& model, const Entry& entry) {
  if (entry.kind != "latent") return;
  model_error(model,
              fmt::format("unit '{}': latent gives noise, whatever the sample is, so what reads it could "
                          "learn nothing of the samples: leave the unit out, or use [model] name = gan, "
                          "whose generator begins with it",
                          entry.text));
}

const KindForm& form_of(const config::Model& model, const Entry& entry) {
  refuse_noise(model, entry);
  std::vector<std::string> known;
  for (const KindForm& form : kForms) {
    if (form.kind == entry.kind) return form;
    known.emplace_back(form.kind);
  }
  model_error(model,
              fmt::format("unit '{}': {}", entry.text, unknown_name_message("unit kind", entry.kind, known)));
}

}  // namespace

std::span<const KindForm> kind_forms() { return kForms; }

plan::ModelSpec describe_blocks(const config::Model& model, const DataShape& data) {
  if (model.units.empty())
    model_error(model, "units is empty: list at least one, \"fc: linear out=classes\"");
  std::vector<Entry> entries;
  std::map<std::string, int64_t> count;
  for (const std::string& text : model.units) {
    entries.push_back(parse_entry(model, text));
    ++count[entries.back().kind];
  }
  plan::ModelSpec spec;
  plan::TensorSpec input = data.input;
  for (const Entry& entry : entries) {
    const KindForm& form = form_of(model, entry);
    const plan::Attributes attributes = attributes_of({model, data, input, count[entry.kind]}, entry, form);
    spec.units.push_back(make_unit(entry.name, entry.kind, attributes, input));
    input = spec.units.back().output;
  }
  if (input.dtype != DType::kF32 || input.shape.back() != data.classes) {
    model_error(model, fmt::format("the last unit, {}, gives {}, but the data has {} classes",
                                   entries.back().name, to_string(input.shape), data.classes));
  }
  return spec;
}

}  // namespace furrow::models
