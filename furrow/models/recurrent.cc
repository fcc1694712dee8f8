// rnn and lstm: recurrent language models, a token embedding and `layers` recurrent layers of `width`.
#include <fmt/format.h>

#include "furrow/config/model.h"
#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

plan::ModelSpec embedded(const config::Model& model, const DataShape& data) {
  require_tokens(model, data);
  plan::ModelSpec spec;
  // PyTorch's default for embeddings is N(0, 1).
  spec.units.push_back(make_unit(
      "embed", "embedding", {{"vocab", data.classes}, {"width", model.width}, {"std", 1.0}}, data.input));
  return spec;
}

// PyTorch's: behind all layers but the last.
double dropout_behind(const config::Model& model, int64_t layer) {
  return layer + 1 == model.layers ? 0 : model.dropout;
}

}  // namespace

// The last layer's i2o gives the logits, that of the others `width` columns.
plan::ModelSpec describe_rnn_model(const config::Model& model, const DataShape& data) {
  plan::ModelSpec spec = embedded(model, data);
  for (int64_t i = 0; i < model.layers; ++i) {
    append(&spec, fmt::format("rnn.{}", i), "rnn",
           {{"in", model.width},
            {"hidden", model.width},
            {"out", i + 1 == model.layers ? data.classes : model.width},
            {"dropout", dropout_behind(model, i)}});
  }
  return spec;
}

plan::ModelSpec describe_lstm_model(const config::Model& model, const DataShape& data) {
  plan::ModelSpec spec = embedded(model, data);
  for (int64_t i = 0; i < model.layers; ++i) {
    append(&spec, fmt::format("lstm.{}", i), "lstm",
           {{"in", model.width}, {"hidden", model.width}, {"dropout", dropout_behind(model, i)}});
  }
  append(&spec, "h2o", "linear",
         {{"in", model.width},
          {"out", data.classes},
          {"bias", true},
          {"activation", std::string("none")},
          {"flatten", false}});
  return spec;
}

}  // namespace furrow::models
