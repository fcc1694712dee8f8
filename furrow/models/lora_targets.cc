#include "furrow/models/lora_targets.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::models {
namespace {

bool matches(const std::string& pattern, const std::string& layer) {
  return fnmatch(pattern.c_str(), layer.c_str(), 0) == 0 ||
         fnmatch(("*." + pattern).c_str(), layer.c_str(), 0) == 0;
}

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, "[lora] " + message);
}

}  // namespace

std::string layer_of(const plan::Parameter& parameter) {
  return parameter.name.substr(0, parameter.name.rfind('.'));
}

bool is_star(const std::string& pattern) { return pattern.find_first_not_of('*') == std::string::npos; }

bool fits(const config::Lora& config, const AdapterSizes& sizes) {
  return config.rank < std::min(sizes.in, sizes.out);
}

bool Targets::match(const TargetLayer& layer) {
  layers_ += (layers_.empty() ? "" : ", ") + layer.name;
  bool any = false;
  for (size_t t = 0; t < found_.size(); ++t) {
    const std::string& pattern = config_.target_modules[t];
    if (!matches(pattern, layer.name) || (layer.apart && is_star(pattern))) continue;
    if (is_star(pattern) && !fits(config_, layer.sizes)) {
      too_thin_[t] = fmt::format("{} x {} of {}", layer.sizes.out, layer.sizes.in, layer.name);
      continue;
    }
    any = found_[t] = true;
  }
  return any;
}

void Targets::require_all() const {
  if (found_.empty()) fail("target_modules is empty: nothing would be trained");
  for (size_t t = 0; t < found_.size(); ++t) {
    if (!found_[t]) refuse(t);
  }
}

void Targets::refuse(size_t target) const {
  const std::string& pattern = config_.target_modules[target];
  if (!too_thin_[target].empty()) {
    fail(fmt::format("rank {} is not below the sizes {}, nor of any layer that '{}' picks: lower it",
                     config_.rank, too_thin_[target], pattern));
  }
  const auto other =
      std::ranges::find_if(others_, [&](const Other& each) { return matches(pattern, each.layer); });
  fail(fmt::format("target_modules: '{}' matches {}; layers that take one are {}", pattern,
                   other == others_.end() ? "no layer that takes an adapter" : other->why,
                   layers_.empty() ? "none" : layers_));
}

}  // namespace furrow::models
