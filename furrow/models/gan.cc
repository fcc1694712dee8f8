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

int32_t last_of(const plan::ModelSpec& spec) { return static_cast<int32_t>(spec.units.size()) - 1; }

constexpr const char* kHidden = "leaky_relu";  // activation of hidden layers

// The discriminator once more, over what `source` makes; returns its first unit.
plan::Unit* judge(const std::string& prefix, const config::Model& model, int32_t source,
                  plan::ModelSpec* spec) {
  const size_t first = spec->units.size();
  append_layers({.prefix = prefix,
                 .hidden = model.discriminator_hidden,
                 .activation = kHidden,
                 .source = source,
                 .owner = "discriminator."},
                spec->units[source].output, spec);
  return &spec->units[first];
}

}  // namespace

plan::ModelSpec describe_gan(const config::Model& model, const DataShape& data) {
  require_samples(model, data);
  plan::ModelSpec spec;
  spec.phases = {"discriminator", "generator"};
  spec.units.push_back(make_unit("generator.latent", "latent", {{"width", model.latent}}, data.input));
  append_layers({.prefix = "generator.",
                 .hidden = model.generator_hidden,
                 .activation = kHidden,
                 .out = features_of(data.input),
                 .last = "sigmoid",
                 .source = 0},
                spec.units.back().output, &spec);
  const int32_t generator = last_of(spec);
  append_layers({.prefix = "discriminator.",
                 .hidden = model.discriminator_hidden,
                 .activation = kHidden,
                 .source = plan::kFromBatch},
                data.input, &spec);
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
