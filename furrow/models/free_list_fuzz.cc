// Lines are [model] units, the first byte picks the data ('t' tokens, else images): they are refused with
// Error{invalid_argument}, or describe a network that stands every check.
#include <string>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/config/model.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/flat_layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  if (size == 0) return 0;
  const models::DataShape images{{DType::kF32, {-1, 1, 28, 28}}, 10}, tokens{{DType::kI64, {-1, 16}}, 27};
  config::Model model;
  model.name = "blocks";
  for (const std::string& line :
       split(std::string(reinterpret_cast<const char*>(data) + 1, size - 1), '\n')) {
    if (!line.empty()) model.units.push_back(line);
  }
  try {
    const plan::ModelSpec spec = models::describe(model, data[0] == 't' ? tokens : images);
    plan::validate(spec);
    FURROW_CHECK(spec.parameter_count() >= 0, "fewer parameters than none");
    for (const plan::UnitLayout& unit : plan::flat_layout(spec).units)
      FURROW_CHECK(unit.elements >= unit.trained_elements && unit.elements % plan::kGrid == 0, "a layout");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kInvalidArgument, "an error of another code");
  }
  return 0;
}
