#include <fmt/format.h>

#include <utility>

#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {

int64_t features_of(const plan::TensorSpec& input) {
  int64_t features = 1;
  for (size_t i = 1; i < input.shape.size(); ++i) features *= input.shape[i];
  return features;
}

void append_layers(const LinearLayers& layers, plan::TensorSpec input, plan::ModelSpec* spec) {
  for (size_t i = 0; i <= layers.hidden.size(); ++i) {
    const bool last = i == layers.hidden.size();
    const plan::Attributes attributes = {{"in", features_of(input)},
                                         {"out", last ? layers.out : layers.hidden[i]},
                                         {"bias", true},
                                         {"activation", last ? layers.last : layers.activation},
                                         {"flatten", true}};
    plan::Unit unit = make_unit(fmt::format("{}fc{}", layers.prefix, i + 1), "linear", attributes, input);
    if (i == 0) unit.source = layers.source;
    for (plan::Parameter& parameter : unit.parameters) {
      if (!layers.owner.empty())
        parameter.tied_to = layers.owner + parameter.name.substr(layers.prefix.size());
    }
    input = unit.output;
    spec->units.push_back(std::move(unit));
  }
}

}  // namespace furrow::models
