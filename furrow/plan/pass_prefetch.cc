// Gathers move up, past at most `units` of the units that use gathered parameters before theirs, so that they
// run beside those units' work.  Never above the last use of the same unit's gather before: a unit has one at
// a time.
#include <algorithm>
#include <utility>

#include "furrow/plan/draft.h"

namespace furrow::plan {
namespace {

class PrefetchPass {
 public:
  PrefetchPass(int units, Draft* draft) : units_(static_cast<size_t>(units)), draft_(*draft) {}

  void run() {
    find_uses();
    place();
    rebuild();
  }

 private:
  struct Gather {
    int32_t bucket;
    size_t at;          // where it stands
    size_t first_user;  // which of users_
    size_t earliest;    // after the last use of the unit's gather before
    size_t target = 0;  // it goes in front of what stands here
  };

  // Gathers stand right in front of the instruction that first needs them.
  void find_uses() {
    std::vector<size_t> free_from(draft_.spec.units.size(), 0);
    bool pending = false;
    for (size_t i = 0; i < draft_.list.size(); ++i) {
      const Instruction& instruction = draft_.list[i].instruction;
      if (instruction.op == Op::kGatherParams) {
        const int32_t bucket = draft_.placement().bucket_of(instruction.unit);
        gathers_.push_back({bucket, i, users_.size(), free_from[instruction.unit]});
        pending = true;
        continue;
      }
      if (std::exchange(pending, false)) users_.push_back(i);
      for (const Value& value : instruction.reads) {
        if (value.kind == ValueKind::kGathered) free_from[value.unit] = i + 1;
      }
    }
  }

  void place() {
    size_t least = 0;  // gathers keep their order
    for (size_t i = 0, end = 0; i < gathers_.size(); i = end) {
      const Gather& first = gathers_[i];
      const size_t wanted = first.first_user >= units_ ? users_[first.first_user - units_] : 0;
      least = std::max(wanted, least);
      // Those of a bucket go together.
      for (end = i; end < gathers_.size() && gathers_[end].first_user == first.first_user &&
                    gathers_[end].bucket == first.bucket;
           ++end)
        least = std::max(least, gathers_[end].earliest);
      least = std::min(least, first.at);
      for (size_t g = i; g < end; ++g) gathers_[g].target = least;
    }
  }

  void rebuild() {
    std::vector<DraftInstruction> before = std::move(draft_.list);
    draft_.list.clear();
    draft_.list.reserve(before.size());
    size_t next = 0;
    for (size_t i = 0; i < before.size(); ++i) {
      for (; next < gathers_.size() && gathers_[next].target <= i; ++next) {
        draft_.list.push_back(std::move(before[gathers_[next].at]));
      }
      if (before[i].instruction.op != Op::kGatherParams) draft_.list.push_back(std::move(before[i]));
    }
  }

  const size_t units_;
  Draft& draft_;
  std::vector<size_t> users_;
  std::vector<Gather> gathers_;
};

}  // namespace

void prefetch_gathers(int units, Draft* draft) {
  if (units > 0) PrefetchPass(units, draft).run();
}

}  // namespace furrow::plan
