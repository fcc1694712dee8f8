// Lines are entries of [training] mixed_precision_units, the first byte picks the network ('g' a GAN, else
// one of tied weights): they are refused with Error{invalid_argument}, or every weight is read in one type.
#include <map>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/models/precision.h"
#include "furrow/models/test_specs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  if (size == 0) return 0;
  config::Model gan;
  gan.name = "gan";
  plan::ModelSpec spec =
      data[0] == 'g' ? models::describe(gan, {{DType::kF32, {-1, 1, 8, 8}}, 10}) : models::testing::gpt();
  config::Training training;
  training.mixed_precision_param = "bfloat16";
  for (const std::string& line : split(std::string(reinterpret_cast<const char*>(data) + 1, size - 1), '\n'))
    training.mixed_precision_units.push_back(line);
  try {
    models::compute_in(models::precision_policy(training), &spec);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kInvalidArgument, "an error of another code");
    return 0;
  }
  std::map<std::string, DType> types;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      const DType type =
          types.emplace(parameter.tied() ? parameter.tied_to : parameter.name, unit.compute).first->second;
      FURROW_CHECK(type == unit.compute, "a weight of two types");
    }
  }
  return 0;
}
