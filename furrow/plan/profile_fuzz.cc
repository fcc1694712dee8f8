// Any bytes are either refused as damaged or a profile that survives its own text form and costs something.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/plan/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const plan::Profile profile = plan::parse_profile(text);
    if (!(plan::parse_profile(plan::to_text(profile)) == profile)) std::abort();
    const plan::ProfileSection* section = profile.section(2);
    if (section == nullptr) return 0;
    const auto costs = plan::profiled_costs(plan::local_cluster({2, 1 << 30, false}, 2), *section);
    if (!(costs->flat_seconds(plan::Op::kStep, 4096) >= 0)) std::abort();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDataLoss) std::abort();
  }
  return 0;
}
