#include "furrow/train/rank_context.h"

#include <string>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::train {

void join(comm::Communicator* communicator, const plan::Layout& layout, RankContext* rank) {
  if (communicator == nullptr || communicator->size() == 1) return;
  FURROW_CHECK(layout.world() == communicator->size(), "a layout of another number of ranks");
  rank->communicator = communicator;
  rank->rank = communicator->rank();
  plan::Placement placement;
  placement.layout = layout;
  placement.rank = rank->rank;
  for (const auto axis : {plan::GroupAxis::kReplicate, plan::GroupAxis::kShard, plan::GroupAxis::kData}) {
    const std::vector<int> members = plan::group_ranks(placement, axis);
    if (members.size() == 1) continue;
    const auto index = static_cast<size_t>(axis);
    rank->groups[index] = communicator->group(members, {.name = std::string(plan::kGroupAxisNames[index])});
  }
}

}  // namespace furrow::train
