#include "furrow/models/hugging_face.h"

#include <algorithm>
#include <array>

namespace furrow::models {
namespace {

using config::Model;

constexpr HuggingFaceKey kGpt2Keys[] = {
    {.key = "n_layer", .integer = &Model::layers},
    {.key = "n_head", .integer = &Model::heads},
    {.key = "n_embd", .integer = &Model::width},
    {.key = "n_positions", .integer = &Model::context},
    {.key = "tie_word_embeddings", .flag = &Model::tie_embeddings},
};
constexpr HuggingFaceFact kGpt2Facts[] = {
    {"layer_norm_epsilon", "1e-05"},
    {"scale_attn_weights", "true"},
    {"scale_attn_by_inverse_layer_idx", "false"},
};
constexpr std::string_view kGpt2Ignored[] = {
    "_attn_implementation", "add_cross_attention",  // its tensors would be refused
    "attn_implementation",  "attn_pdrop",          "output_attentions", "reorder_and_upcast_attn",
};

constexpr HuggingFaceSetting kGpt2Settings[] = {{&Model::bias, true}};

constexpr HuggingFaceKey kLlamaKeys[] = {
    {.key = "num_hidden_layers", .integer = &Model::layers},
    {.key = "num_attention_heads", .integer = &Model::heads},
    {.key = "num_key_value_heads", .integer = &Model::kv_heads},
    {.key = "hidden_size", .integer = &Model::width},
    {.key = "intermediate_size", .integer = &Model::ffn_width},
    {.key = "rope_theta", .real = &Model::rope_theta},
    {.key = "rms_norm_eps", .real = &Model::norm_eps},
    {.key = "tie_word_embeddings", .flag = &Model::tie_embeddings},
};
constexpr HuggingFaceFact kLlamaFacts[] = {
    {"hidden_act", "\"silu\"", true},
    {"attention_bias", "false"},
    {"mlp_bias", "false"},
};
constexpr std::string_view kLlamaIgnored[] = {
    "_attn_implementation", "attention_dropout", "attn_implementation", "head_dim",
    "output_attentions",    "rope_parameters",   "rope_scaling",
};

constexpr HuggingFaceSetting kLlamaSettings[] = {{&Model::qkv_bias, false}};

// Qwen2 is a Llama whose biases no key names.
constexpr HuggingFaceFact kQwen2Facts[] = {
    {"hidden_act", "\"silu\"", true},
    {"use_sliding_window", "false"},
};
constexpr std::string_view kQwen2Ignored[] = {
    "_attn_implementation", "attention_dropout", "attn_implementation", "head_dim",
    "max_window_layers",  // of the sliding window
    "output_attentions",    "rope_parameters",   "rope_scaling",        "sliding_window",
};
constexpr HuggingFaceSetting kQwen2Settings[] = {{&Model::qkv_bias, true}};

constexpr HuggingFaceKey kLinearKeys[] = {{.key = "factor", .real = &Model::rope_factor}};
constexpr HuggingFaceKey kLlama3Keys[] = {
    {.key = "factor", .real = &Model::rope_factor},
    {.key = "low_freq_factor", .real = &Model::rope_low_freq_factor},
    {.key = "high_freq_factor", .real = &Model::rope_high_freq_factor},
    {.key = "original_max_position_embeddings", .integer = &Model::rope_original_context},
};
constexpr HuggingFaceRope kRopes[] = {
    {"default", "none", {}},
    {"linear", "linear", kLinearKeys},
    {"llama3", "llama3", kLlama3Keys},
};

constexpr std::string_view kArithmeticWords[] = {
    "attention", "attn", "bias",     "clip",   "expert", "head_dim", "multiplier", "norm",
    "quant",     "rope", "residual", "rotary", "scal",   "softcap",  "window",
};

constexpr HuggingFaceModel kModels[] = {
    {"gpt", "gpt2", "GPT2LMHeadModel", "transformer.", "n_positions", kGpt2Keys, kGpt2Facts, kGpt2Ignored,
     kGpt2Settings},
    {"llama", "llama", "LlamaForCausalLM", "", "max_position_embeddings", kLlamaKeys, kLlamaFacts,
     kLlamaIgnored, kLlamaSettings},
    {"llama", "qwen2", "Qwen2ForCausalLM", "", "max_position_embeddings", kLlamaKeys, kQwen2Facts,
     kQwen2Ignored, kQwen2Settings},
};

}  // namespace

std::span<const HuggingFaceRope> hugging_face_ropes() { return kRopes; }

std::span<const std::string_view> hugging_face_arithmetic_words() { return kArithmeticWords; }

std::span<const HuggingFaceModel> hugging_face_models() { return kModels; }

const HuggingFaceModel* find_by_architecture(std::string_view architecture) {
  const auto* row = std::ranges::find(kModels, architecture, &HuggingFaceModel::architecture);
  return row == std::end(kModels) ? nullptr : row;
}

const HuggingFaceModel* find_by_model(const Model& model) {
  const auto* row = std::ranges::find_if(kModels, [&model](const HuggingFaceModel& each) {
    const auto has = [&model](const HuggingFaceSetting& setting) {
      return model.*setting.flag == setting.value;
    };
    return each.architecture == model.name && std::ranges::all_of(each.settings, has);
  });
  return row == std::end(kModels) ? nullptr : row;
}

const HuggingFaceModel* find_by_model_type(std::string_view model_type) {
  const auto* row = std::ranges::find(kModels, model_type, &HuggingFaceModel::model_type);
  return row == std::end(kModels) ? nullptr : row;
}

HuggingFaceTensor hugging_face_tensor(const HuggingFaceModel& model, std::string_view parameter) {
  HuggingFaceTensor tensor{std::string(parameter), false};
  if (!parameter.starts_with("lm_head.")) tensor.name.insert(0, model.prefix);
  if (model.architecture != "gpt") return tensor;
  for (const std::string_view matrix : {".c_attn.weight", ".c_proj.weight", ".c_fc.weight"})
    tensor.transposed = tensor.transposed || parameter.ends_with(matrix);
  return tensor;
}

bool is_hugging_face_buffer(std::string_view tensor) {
  return tensor.ends_with(".attn.bias") || tensor.ends_with(".attn.masked_bias") ||
         tensor.ends_with(".rotary_emb.inv_freq") || tensor == "lm_head.weight";
}

}  // namespace furrow::models
