// How a unit is written in [model] units: the attributes of every kind with their types and what they are
// when left out.  Internal to models and its tests.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace furrow::models {

struct AttributeForm {
  enum class Type { kInteger, kReal, kFlag, kText };
  std::string_view name;
  Type type;
  // Without one it must be given.  "@...": from the unit's input (channels, time, last dim, features) or the
  // number of units of the kind.
  std::optional<std::string_view> otherwise = std::nullopt;
  bool required() const { return !otherwise.has_value(); }
};

struct KindForm {
  std::string_view kind;
  std::span<const AttributeForm> attributes;
};

// One for each row of kinds.cc but "latent": no list begins with noise.
std::span<const KindForm> kind_forms();

}  // namespace furrow::models
