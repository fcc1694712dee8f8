// mlp: the input flattened, a linear layer with an activation for each of `hidden`, a linear layer onto the
// classes: fc1, fc2, ...
#include "furrow/config/model.h"
#include "furrow/models/chains.h"

namespace furrow::models {

plan::ModelSpec describe_mlp(const config::Model& model, const DataShape& data) {
  require_samples(model, data);
  plan::ModelSpec spec;
  append_layers({.hidden = model.hidden, .activation = model.activation, .out = data.classes}, data.input,
                &spec);
  return spec;
}

}  // namespace furrow::models
