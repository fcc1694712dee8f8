#include "furrow/models/image_borders.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

constexpr std::array<std::string_view, 5> kFirst = {"conv", "conv_norm", "batch_norm", "max_pool",
                                                    "avg_pool"};
constexpr std::array<std::string_view, 7> kGivePixels = {
    "conv", "conv_norm", "residual_block", "bottleneck_block", "max_pool", "avg_pool", "batch_norm"};

bool is_one_of(std::span<const std::string_view> kinds, const plan::Unit& unit) {
  return std::ranges::find(kinds, unit.kind) != kinds.end();
}

// The two forms differ.
bool has_forms(const plan::TensorSpec& image) {
  return image.shape.size() == 4 && image.shape[1] > 1 && image.shape[2] * image.shape[3] > 1;
}

bool gives_pixels(const plan::ModelSpec& spec, const plan::ModelFacts& facts, int32_t unit) {
  while (unit >= 0 && spec.units[static_cast<size_t>(unit)].kind == "activation")  // as they come
    unit = facts.units[static_cast<size_t>(unit)].source;
  return unit >= 0 && is_one_of(kGivePixels, spec.units[static_cast<size_t>(unit)]);
}

bool flattens_pixels(const plan::ModelSpec& spec, const plan::ModelFacts& facts, size_t unit) {
  const plan::Unit& reader = spec.units[unit];
  return reader.kind == "linear" && flag(reader, "flatten") && has_forms(reader.input) &&
         gives_pixels(spec, facts, facts.units[unit].source);
}

bool trains(const plan::Unit& unit) {
  return std::ranges::any_of(unit.parameters, [](const plan::Parameter& parameter) {
    return !parameter.rule.frozen && !parameter.borrowed;
  });
}

}  // namespace

BorderCopies border_copies(const plan::ModelSpec& spec, const plan::ModelFacts& facts, size_t unit) {
  BorderCopies copies;
  const bool first = facts.units[unit].source < 0;
  copies.input = flattens_pixels(spec, facts, unit) ||
                 (first && has_forms(spec.units[unit].input) && is_one_of(kFirst, spec.units[unit]));
  for (size_t reader = 0; reader < spec.units.size() && !copies.gradient; ++reader) {
    copies.gradient = facts.units[reader].source == static_cast<int32_t>(unit) &&
                      facts.units[reader].passes && flattens_pixels(spec, facts, reader);
  }
  return copies;
}

// It stays for the weight's gradient, in the place of a converted input; a norm lets go of it in backward.
void copy_input(plan::Unit* unit) {
  const int64_t bytes = border_bytes(*unit, unit->input);
  if (!trains(*unit)) {
    unit->forward_scratch.sample_bytes = std::max(unit->forward_scratch.sample_bytes, bytes);
    return;
  }
  unit->saved_bytes += bytes;
  if (unit->input.dtype != unit->compute || unit->deferred_bytes == 0) return;
  unit->deferred_bytes += bytes;
  unit->kept_saved_bytes += bytes;
}

// A weight's gradient reads the copy; else it goes with the first operation of backward, which makes as much.
void copy_gradient(bool asks, plan::Unit* unit) {
  const int64_t out = border_bytes(*unit, unit->output);
  const int64_t in = asks ? unit->input.bytes_per_sample() : 0;
  int64_t& scratch = unit->backward_scratch.sample_bytes;
  if (unit->kept_grad_bytes > 0) {
    unit->kept_grad_bytes = 0;
  } else if (unit->deferred_bytes > 0) {
    scratch = std::max(scratch, out - in);
  } else {
    scratch += out;
  }
}

}  // namespace furrow::models
