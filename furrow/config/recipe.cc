// The part of a configuration that changes the mathematics.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/config/config.h"
#include "furrow/config/schema.h"

namespace furrow::config {

Recipe recipe_of(const Config& config) {
  Recipe recipe;
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      if (field.spec.effect != Effect::kRecipe) continue;
      recipe.emplace_back(field.name(), to_toml(field.get(config)));
    }
  }
  std::sort(recipe.begin(), recipe.end());
  return recipe;
}

std::vector<std::string> recipe_difference(const Recipe& saved, const Recipe& current) {
  std::vector<std::string> lines;
  auto a = saved.begin(), b = current.begin();
  while (a != saved.end() || b != current.end()) {
    if (b == current.end() || (a != saved.end() && a->first < b->first)) {
      lines.push_back(fmt::format("{}: {} in the checkpoint, unknown now", a->first, a->second));
      ++a;
    } else if (a == saved.end() || b->first < a->first) {
      lines.push_back(fmt::format("{}: not in the checkpoint, {} now", b->first, b->second));
      ++b;
    } else {
      if (a->second != b->second) {
        lines.push_back(fmt::format("{}: {} in the checkpoint, {} now", a->first, a->second, b->second));
      }
      ++a;
      ++b;
    }
  }
  return lines;
}

}  // namespace furrow::config
