#include "furrow/comm/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/clock.h"
#include "furrow/base/text.h"

namespace furrow::comm {

std::string describe(const Report& report) {
  if (report.text.empty()) return "none";
  const double age = static_cast<double>(system_clock().monotonic_ns() - report.at_ns) * 1e-9;
  return fmt::format("{} {} ago", report.text, format_seconds(std::max(0.0, age)));
}

}  // namespace furrow::comm
