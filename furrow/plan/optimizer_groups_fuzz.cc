// Lines are entries of [optimizer] groups: they are refused with Error{invalid_argument}, or set finite rules
// that are not below 0, and tied parameters follow their owners.
#include <cmath>
#include <string>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/testing/specs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  plan::ModelSpec spec = plan::testing::chain(3);
  spec.units[2].parameters.push_back(plan::testing::parameter("u2.tied", {8, 8}, "u0.weight"));
  config::Optimizer optimizer;
  for (const std::string& line : split(std::string(reinterpret_cast<const char*>(data), size), '\n'))
    optimizer.groups.push_back(line);
  try {
    plan::apply_optimizer(optimizer, &spec);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kInvalidArgument, "an error of another code");
    return 0;
  }
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      const plan::ParameterRule& rule = parameter.rule;
      if (!rule.optimizer.empty()) plan::find_optimizer_spec(rule.optimizer);
      FURROW_CHECK(std::isfinite(rule.lr_scale) && rule.lr_scale >= 0, "a rate");
      FURROW_CHECK(std::isfinite(rule.weight_decay.value_or(0)) && rule.weight_decay.value_or(0) >= 0,
                   "a decay");
    }
  }
  FURROW_CHECK(spec.units[2].parameters.back().rule == spec.units[0].parameters[0].rule, "a tied parameter");
  plan::validate(spec);
  return 0;
}
