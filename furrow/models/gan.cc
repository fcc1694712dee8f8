// gan: a generator that makes samples out of noise, and a discriminator that tells them from those of the
// data (Goodfellow et al., "Generative adversarial nets", 2014).
//
//   generator.latent -> generator.fc1 ... fcN         noise -> a sample of the data's shape, flat, in (0, 1)
//   batch            -> discriminator.fc1 ... fcM     one logit: the sample is one of the data
//   generator        -> generated.fc1 ... fcM         the same parameters; no gradient goes to the generator
//   generator        -> fooled.fc1 ... fcM            the same, as they are stepped; only the generator
//   learns
//
// Two phases a step.  First the discriminator learns to say 1 of the data and 0 of what is generated, then
// the generator to have it say 1 of the same samples: the form of the loss that does not saturate, section 3
// there.
#include <fmt/format.h>

#include <utility>

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

struct Layers {
  std::string prefix;  // "generator."
  std::vector<int64_t> hidden;
  int64_t out = 1;
  std::string last;   // activation
  int32_t source;     // of the first one
  std::string owner;  // prefix of the parameters that it ties; "": its own
};

void add_layers(const Layers& layers, plan::TensorSpec input, plan::ModelSpec* spec) {
  for (size_t i = 0; i <= layers.hidden.size(); ++i) {
    const bool last = i == layers.hidden.size();
    const int64_t out = last ? layers.out : layers.hidden[i];
    const plan::Attributes attributes = {{"in", features_of(input)},
                                         {"out", out},
                                         {"bias", true},
                                         {"activation", last ? layers.last : std::string("leaky_relu")},
                                         {"flatten", true}};
    const std::string layer = fmt::format("fc{}", i + 1);
    plan::Unit unit = make_unit(layers.prefix + layer, "linear", attributes, input);
    if (i == 0) unit.source = layers.source;
    for (plan::Parameter& parameter : unit.parameters) {
      if (!layers.owner.empty())
        parameter.tied_to = layers.owner + parameter.name.substr(layers.prefix.size());
    }
    input = unit.output;
    spec->units.push_back(std::move(unit));
  }
}

int32_t last_of(const plan::ModelSpec& spec) { return static_cast<int32_t>(spec.units.size()) - 1; }

// The discriminator once more, over what `source` makes; returns its first unit.
plan::Unit* judge(const std::string& prefix, const config::Model& model, int32_t source,
                  plan::ModelSpec* spec) {
  const size_t first = spec->units.size();
  add_layers({prefix, model.discriminator_hidden, 1, "none", source, "discriminator."},
             spec->units[source].output, spec);
  return &spec->units[first];
}

}  // namespace

plan::ModelSpec describe_gan(const config::Model& model, const DataShape& data) {
  if (data.input.dtype != DType::kF32 || data.input.shape.size() < 2) {
    model_error(model, fmt::format("it reads float32 samples, not {} {}: use a data set of images",
                                   to_string(data.input.dtype), to_string(data.input.shape)));
  }
  plan::ModelSpec spec;
  spec.phases = {"discriminator", "generator"};
  spec.units.push_back(make_unit("generator.latent", "latent", {{"width", model.latent}}, data.input));
  add_layers({"generator.", model.generator_hidden, features_of(data.input), "sigmoid", 0, ""},
             spec.units.back().output, &spec);
  const int32_t generator = last_of(spec);
  add_layers({"discriminator.", model.discriminator_hidden, 1, "none", plan::kFromBatch, ""}, data.input,
             &spec);
  spec.heads.push_back({last_of(spec), 0, -1, 1.0});
  judge("generated.", model, generator, &spec)->detached = true;
  spec.heads.push_back({last_of(spec), 0, -1, 0.0});
  const auto fooled = static_cast<size_t>(judge("fooled.", model, generator, &spec) - spec.units.data());
  for (size_t u = fooled; u < spec.units.size(); ++u) {
    for (plan::Parameter& parameter : spec.units[u].parameters) parameter.borrowed = true;
  }
  spec.heads.push_back({last_of(spec), 1, -1, 1.0});
  return spec;
}

}  // namespace furrow::models
