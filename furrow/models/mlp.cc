// mlp: the input flattened, a linear layer with an activation for each of `hidden`, a linear layer onto the
// classes: fc1, fc2, ...
#include <fmt/format.h>

#include "furrow/config/model.h"
#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

int64_t features_of(const plan::TensorSpec& input) {
  int64_t features = 1;
  for (size_t i = 1; i < input.shape.size(); ++i) features *= input.shape[i];
  return features;
}

plan::Attributes layer(int64_t in, int64_t out, const std::string& activation) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", true}};
}

}  // namespace

plan::ModelSpec describe_mlp(const config::Model& model, const DataShape& data) {
  if (data.input.dtype != DType::kF32 || data.input.shape.size() < 2) {
    model_error(model, fmt::format("it reads float32 samples, not {} {}: use a data set of images",
                                   to_string(data.input.dtype), to_string(data.input.shape)));
  }
  plan::ModelSpec spec;
  int64_t in = features_of(data.input);
  plan::TensorSpec input = data.input;
  for (size_t i = 0; i <= model.hidden.size(); ++i) {
    const bool last = i == model.hidden.size();
    const int64_t out = last ? data.classes : model.hidden[i];
    const std::string name = fmt::format("fc{}", i + 1);
    spec.units.push_back(make_unit(name, "linear", layer(in, out, last ? "none" : model.activation), input));
    input = spec.units.back().output;
    in = out;
  }
  return spec;
}

}  // namespace furrow::models
