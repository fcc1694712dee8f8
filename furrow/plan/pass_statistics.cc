// What microbatches say of statistics (batch norm's means and variances) travels to every data rank, so that
// each folds the same values in the same order.  Few bytes, sent as soon as the last forward has run: the
// backward beside it hides them.
#include <algorithm>
#include <utility>
#include <vector>

#include "furrow/plan/draft.h"
#include "furrow/plan/share.h"

namespace furrow::plan {

void gather_statistics(Draft* draft) {
  std::vector<int32_t> units;  // of the rank
  for (int32_t u = 0; u < draft->units(); ++u) {
    if (draft->facts.units[u].folds && draft->placement().holds(u)) units.push_back(u);
  }
  if (units.empty() || draft->placement().data_ranks() == 1) return;
  DraftInstruction gather;
  gather.instruction.op = Op::kGatherStats;
  gather.instruction.stream = Stream::kComm;
  gather.instruction.axis = GroupAxis::kData;
  for (int32_t m = 0; m < draft->microbatches(); ++m) {
    const bool own = takes(draft->placement(), draft->microbatches(), m);
    std::vector<Value>& side = own ? gather.instruction.reads : gather.instruction.writes;
    for (const int32_t u : units) side.push_back(bn_stats_value(u, m));
  }
  // A ghost counts: the place is the same on all ranks of a shard group.
  const auto last = std::find_if(draft->list.rbegin(), draft->list.rend(), [](const DraftInstruction& each) {
    return each.instruction.op == Op::kForward;
  });
  draft->list.insert(last.base(), std::move(gather));
}

}  // namespace furrow::plan
