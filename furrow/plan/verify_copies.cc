// Rule: units pass through the host one after the other, kUnitsOnHost of them at a time at most: what comes
// down for one more would take memory that the quote does not have, or a slot that is still on its way up.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {

void check_copies(const Facts& facts) {
  const auto& list = facts.program.instructions;
  std::vector<int32_t> there;  // units that have come down and not gone up
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].op == Op::kCopyDown) there.push_back(list[i].unit);
    if (list[i].op == Op::kCopyUp) std::erase(there, list[i].unit);
    if (there.size() <= kUnitsOnHost) continue;
    facts.fail(i, fmt::format("units {} are on the host already: {} have room there",
                              fmt::join(there.begin(), there.end() - 1, " and "), kUnitsOnHost));
  }
}

}  // namespace furrow::plan::rules
