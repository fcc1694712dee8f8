// What the handles of a group share.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "furrow/comm/backend.h"
#include "furrow/comm/brief_lock.h"
#include "furrow/comm/group.h"

namespace furrow::comm {

struct Group::State {
  State(GroupSpec s, std::unique_ptr<GroupBackend> b)
      : spec(std::move(s)), sent(spec.members.size()), received(spec.members.size()), backend(std::move(b)) {}

  // The number of `c` in this group, from 0.
  uint64_t next(const Collective& c);

  const GroupSpec spec;
  BriefLock mutex;  // order of start() and of the numbers: free but where threads share a group
  uint64_t collectives = 0;
  std::vector<uint64_t> sent, received;  // by peer
  std::unique_ptr<GroupBackend> backend;
};

// Error{invalid_argument} unless `c` keeps the rules of collective.h for this rank.
void check(const GroupSpec& group, const Collective& c);

}  // namespace furrow::comm
