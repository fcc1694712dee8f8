// What the handles of a group share.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "furrow/comm/backend.h"
#include "furrow/comm/group.h"

namespace furrow::comm {

struct Group::State {
  State(GroupSpec s, std::unique_ptr<GroupBackend> b)
      : spec(std::move(s)), numbers(spec.members.size()), backend(std::move(b)) {}

  const GroupSpec spec;
  OperationNumbers numbers;
  std::unique_ptr<GroupBackend> backend;
};

// Error{invalid_argument} unless `c` keeps the rules of collective.h for this rank.
void check(const GroupSpec& group, const Collective& c);

}  // namespace furrow::comm
