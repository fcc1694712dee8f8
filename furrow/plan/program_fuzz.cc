// parse_program on any bytes: Error{invalid_argument}, or a program whose text parses to the same program
// again and that verify either accepts or refuses with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/plan/program.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow::plan;
  static const ModelSpec spec = [] {
    ModelSpec tied = furrow::plan::testing::chain(2);
    tied.units[1].parameters[0].tied_to = "u0.weight";
    return tied;
  }();
  Program program;
  try {
    program = parse_program(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const furrow::Error& error) {
    if (error.code() != furrow::ErrorCode::kInvalidArgument) std::abort();
    return 0;
  }
  if (parse_program(to_text(program)) != program) std::abort();
  try {
    verify(program, spec);
  } catch (const furrow::Error& error) {
    if (error.code() != furrow::ErrorCode::kFailedPrecondition) std::abort();
  }
  return 0;
}
