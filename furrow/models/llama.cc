// llama: Llama's decoder, every size free.  Units model.embed_tokens, model.layers.0, ..., lm_head, so that
// parameters have Hugging Face's names.
#include <fmt/format.h>

#include "furrow/config/model.h"
#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

void check(const config::Model& model) {
  if (model.heads < 1 || (model.head_dim == 0 && model.width % model.heads != 0)) {
    model_error(model, fmt::format("width = {} is no multiple of heads = {}", model.width, model.heads));
  }
  if (model.kv_heads > 0 && model.heads % model.kv_heads != 0) {
    model_error(model,
                fmt::format("heads = {} is no multiple of kv_heads = {}", model.heads, model.kv_heads));
  }
}

// Llama's 8/3 of the width, up to a multiple of 32.
int64_t ffn_of(const config::Model& model) {
  return model.ffn_width > 0 ? model.ffn_width : (model.width * 8 / 3 + 31) / 32 * 32;
}

// Of every block; what is at its default is left to the kind.
plan::Attributes block_attributes(const config::Model& model) {
  plan::Attributes attributes = {{"width", model.width},
                                 {"heads", model.heads},
                                 {"kv_heads", model.kv_heads > 0 ? model.kv_heads : model.heads},
                                 {"ffn", ffn_of(model)},
                                 {"layers", model.layers},
                                 {"rope_theta", model.rope_theta},
                                 {"eps", model.norm_eps}};
  if (model.qkv_bias) attributes["qkv_bias"] = true;
  if (model.head_dim > 0) attributes["head_dim"] = model.head_dim;
  if (model.rope_scaling == "none") return attributes;
  attributes["rope_scaling"] = model.rope_scaling;
  attributes["rope_factor"] = model.rope_factor;
  if (model.rope_scaling == "linear") return attributes;
  attributes["rope_low_freq_factor"] = model.rope_low_freq_factor;
  attributes["rope_high_freq_factor"] = model.rope_high_freq_factor;
  attributes["rope_original_context"] = model.rope_original_context;
  return attributes;
}

}  // namespace

plan::ModelSpec describe_llama(const config::Model& model, const DataShape& data) {
  require_tokens(model, data);
  check(model);
  const plan::Attributes attributes = block_attributes(model);
  plan::ModelSpec spec;
  spec.units.push_back(make_unit("model.embed_tokens", "embedding",
                                 {{"vocab", data.classes}, {"width", model.width}, {"std", 0.02}},
                                 data.input));
  for (int64_t i = 0; i < model.layers; ++i) {
    append(&spec, fmt::format("model.layers.{}", i), "llama_block", attributes);
  }
  append(&spec, "lm_head", "llama_head",
         {{"vocab", data.classes},
          {"width", model.width},
          {"eps", model.norm_eps},
          {"tied_to", std::string(model.tie_embeddings ? "model.embed_tokens.weight" : "")},
          {"prefix", std::string()}});
  return spec;
}

}  // namespace furrow::models
