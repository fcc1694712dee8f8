#include "furrow/train/peft_config.h"

#include <fmt/format.h>

#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/storage/json.h"

namespace furrow::train {
namespace {

using storage::Json;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorCode::kFailedPrecondition, message); }

double above_zero(const Json& json, const char* key) {
  const double value = json.at(key).number();
  if (std::isfinite(value) && value > 0) return value;
  throw Error(ErrorCode::kDataLoss, fmt::format("{} = {} cannot be", key, format_double(value)));
}

}  // namespace

PeftConfig parse_peft_config(const std::string& text) {
  const Json json = storage::parse_json(text);
  const std::string& type = json.at("peft_type").string();
  if (type != "LORA") refuse(fmt::format("peft_type is {}, not LORA", type));
  for (const char* key : {"use_rslora", "use_dora"}) {
    const Json* value = json.find(key);
    if (value != nullptr && *value == Json(true))
      refuse(fmt::format("{} is true: adapters are plain here", key));
  }
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    const Json* value = json.find(key);
    if (value != nullptr && *value != Json() && !value->object().empty())
      refuse(fmt::format("{} is not empty: all layers have one rank and one alpha here", key));
  }
  return {above_zero(json, "r"), above_zero(json, "lora_alpha")};
}

}  // namespace furrow::train
