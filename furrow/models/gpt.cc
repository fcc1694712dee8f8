// gpt: GPT-2's decoder with nanoGPT's options: learned positions, pre-norm blocks, gelu, dropout, the output
// matrix tied to the token embedding or its own.  Units embed, h.0, h.1, ..., lm_head.
#include <fmt/format.h>

#include "furrow/config/model.h"
#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

// Positions with an embedding: [model] context, or as many as a sample has.
int64_t context_of(const config::Model& model, const DataShape& data) {
  const int64_t time = data.input.shape[1];
  if (model.context == 0) return time;
  if (model.context < time) {
    model_error(model, fmt::format("context = {} is below the {} tokens of a sample ([training] seq_len)",
                                   model.context, time));
  }
  return model.context;
}

void check(const config::Model& model, const DataShape& data) {
  require_tokens(model, data);
  if (model.heads < 1 || model.width % model.heads != 0) {
    model_error(model, fmt::format("width = {} is no multiple of heads = {}", model.width, model.heads));
  }
}

}  // namespace

plan::ModelSpec describe_gpt(const config::Model& model, const DataShape& data) {
  check(model, data);
  const std::string no_prefix;
  plan::ModelSpec spec;
  spec.units.push_back(make_unit("embed", "token_embedding",
                                 {{"vocab", data.classes},
                                  {"context", context_of(model, data)},
                                  {"width", model.width},
                                  {"dropout", model.dropout},
                                  {"prefix", no_prefix}},
                                 data.input));
  for (int64_t i = 0; i < model.layers; ++i) {
    append(&spec, fmt::format("h.{}", i), "transformer_block",
           {{"width", model.width},
            {"heads", model.heads},
            {"layers", model.layers},
            {"dropout", model.dropout},
            {"bias", model.bias},
            {"activation", std::string(model.gelu == "tanh" ? "gelu_tanh" : "gelu")}});
  }
  const std::string tied_to = model.tie_embeddings ? "wte.weight" : "";
  append(&spec, "lm_head", "lm_head",
         {{"vocab", data.classes},
          {"width", model.width},
          {"bias", model.bias},
          {"tied_to", tied_to},
          {"prefix", no_prefix}});
  return spec;
}

}  // namespace furrow::models
