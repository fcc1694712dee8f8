// Architectures: a row each in architectures.cc, from the [model] section and the shape of the data to a
// ModelSpec.
#pragma once

#include <span>
#include <string_view>

#include "furrow/plan/model_spec.h"

namespace furrow::config {
struct Model;
}

namespace furrow::models {

// What the data offers: the shape of one input sample and the number of classes (or of tokens in the
// vocabulary).
struct DataShape {
  plan::TensorSpec input;  // images: f32 [-1, channels, height, width]; text: i64 [-1, context]
  int64_t classes = 0;
};

struct Architecture {
  std::string_view name;  // "convnet"
  plan::ModelSpec (*describe)(const config::Model& model, const DataShape& data);
};

std::span<const Architecture> architectures();

// The row of a name, of `extra` first.  Error{invalid_argument} names [model] name and the known ones.
const Architecture& find_architecture(const std::string& name, std::span<const Architecture> extra = {});

// The spec of config's model over this data, validated.  Error{invalid_argument} names the key at fault.
// `extra` rows come from a program that adds architectures of its own; they are searched first.
plan::ModelSpec describe(const config::Model& model, const DataShape& data,
                         std::span<const Architecture> extra = {});

}  // namespace furrow::models
