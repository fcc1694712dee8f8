// Which layers [lora] target_modules picks.  Internal to models.
#pragma once

#include <string>
#include <vector>

#include "furrow/config/lora.h"
#include "furrow/models/adapter_costs.h"
#include "furrow/plan/model_spec.h"

namespace furrow::models {

// "h.0.ln_1" of "h.0.ln_1.weight".
std::string layer_of(const plan::Parameter& parameter);

// Whether it is "*", which leaves out what only a name of its own picks.
bool is_star(const std::string& pattern);

// An adapter is thinner than both sides of its layer.
bool fits(const config::Lora& config, const AdapterSizes& sizes);

// A layer that takes an adapter.
struct TargetLayer {
  std::string name;
  AdapterSizes sizes;
  bool apart = false;  // "*" does not pick it
};

// Notes which targets match; those of a layer that some do.
class Targets {
 public:
  explicit Targets(const config::Lora& config)
      : config_(config), found_(config.target_modules.size()), too_thin_(config.target_modules.size()) {}

  // Whether some target picks it.  "*" passes a layer that the adapter does not fit.
  bool match(const TargetLayer& layer);

  // A layer that takes none, and why, as "fc1.bias of a linear, ...".
  void pass(std::string layer, std::string why) { others_.push_back({std::move(layer), std::move(why)}); }

  // Error{invalid_argument}: none was given, or one that picked nothing.
  void require_all() const;

 private:
  struct Other {
    std::string layer, why;
  };

  [[noreturn]] void refuse(size_t target) const;

  const config::Lora& config_;
  std::vector<bool> found_;
  std::vector<std::string> too_thin_;  // by target: a layer that it would have picked
  std::string layers_;
  std::vector<Other> others_;
};

}  // namespace furrow::models
