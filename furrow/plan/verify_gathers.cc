// Rule: gathers of a unit are numbered in order, one of them lives at a time, and it brings the version that
// its reader needs.  A gather may be read by
// nothing: a rank without a microbatch in a round still has to take part.
#include <fmt/format.h>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

// A unit reads parameters before the step, or after it where it borrows them.
void check_versions(const Facts& facts, size_t i, const std::vector<int32_t>& version) {
  const Instruction& instruction = facts.program.instructions[i];
  for (const Value& value : instruction.reads) {
    if (value.kind != ValueKind::kGathered) continue;
    for (const Value& weight : facts.model.units[instruction.unit].weights) {
      if (weight.unit != value.unit || weight.index == version[value.unit]) continue;
      facts.fail(i, fmt::format("reads {}, which brings params({},{}): it needs {}", to_string(value),
                                value.unit, version[value.unit], to_string(weight)));
    }
  }
}

}  // namespace

void check_gathers(const Facts& facts) {
  const auto& list = facts.program.instructions;
  std::vector<int32_t> last(facts.spec.units.size(), -1);  // by unit: the newest gather
  std::vector<int32_t> version(last.size(), 0);            // which parameters it brings
  for (size_t i = 0; i < list.size(); ++i) {
    for (const Value& value : list[i].reads) {
      if (value.kind != ValueKind::kGathered || value.index == last[value.unit]) continue;
      facts.fail(i, fmt::format("reads {} after gather {} of the unit", to_string(value), last[value.unit]));
    }
    check_versions(facts, i, version);
    if (list[i].op != Op::kGatherParams) continue;
    const Value& gathered = list[i].writes[0];
    if (gathered.index != last[gathered.unit] + 1) {
      facts.fail(i, fmt::format("writes {}, but gather {} of the unit is next", to_string(gathered),
                                last[gathered.unit] + 1));
    }
    last[gathered.unit] = gathered.index;
    version[gathered.unit] = list[i].reads[0].index;
  }
}

}  // namespace furrow::plan::rules
