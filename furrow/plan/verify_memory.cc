// The report: peak memory by kind.  Flat buffers stay allocated, so they count with all their slots; other
// values are freed one by one, so they count with the largest sum of what lives at once.
#include <algorithm>

#include "furrow/plan/live_memory.h"
#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {

VerifyReport report(const Facts& facts) {
  VerifyReport report;
  const Program& program = facts.program;
  report.instructions = static_cast<int64_t>(program.instructions.size());
  if (!facts.finished()) return report;
  std::vector<int32_t> slot(facts.values.size(), 0);
  for (const SlotAssignment& assignment : program.assignments)
    slot[facts.values.find(assignment.value)] = assignment.slot;
  LiveMemory memory(program, facts.spec, [&](const Value& value) -> const Slot& {
    return program.slots[slot[facts.values.find(value)]];
  });
  MemoryByKind live = memory.persistent();
  report.peak_bytes = live;
  for (const Instruction& instruction : program.instructions) {
    const LiveMemory::Change change = memory.apply(instruction);
    for (size_t k = 0; k < kMemoryKinds; ++k) {
      live[k] += change.written[k];
      report.peak_bytes[k] = std::max(report.peak_bytes[k], live[k]);
      live[k] -= change.dropped[k];
    }
  }
  return report;
}

}  // namespace furrow::plan::rules
