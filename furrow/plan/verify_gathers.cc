// Rule: gathers of a unit are numbered in order, and one of them lives at a time.  A gather may be read by
// nothing: a rank without a microbatch in a round still has to take part.
#include <fmt/format.h>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {

void check_gathers(const Facts& facts) {
  const auto& list = facts.program.instructions;
  std::vector<int32_t> last(facts.spec.units.size(), -1);  // by unit: the newest gather
  for (size_t i = 0; i < list.size(); ++i) {
    for (const Value& value : list[i].reads) {
      if (value.kind != ValueKind::kGathered || value.index == last[value.unit]) continue;
      facts.fail(i, fmt::format("reads {} after gather {} of the unit", to_string(value), last[value.unit]));
    }
    if (list[i].op != Op::kGatherParams) continue;
    const Value& gathered = list[i].writes[0];
    if (gathered.index != last[gathered.unit] + 1) {
      facts.fail(i, fmt::format("writes {}, but gather {} of the unit is next", to_string(gathered),
                                last[gathered.unit] + 1));
    }
    last[gathered.unit] = gathered.index;
  }
}

}  // namespace furrow::plan::rules
