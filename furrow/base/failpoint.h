// Named places where a test can make the program fail, in every build.
//
//   FURROW_FAILPOINT("checkpoint.before_rename");
//
// Armed by the environment: FURROW_FAILPOINTS="checkpoint.before_rename=kill,checkpoint.write=enospc@3".
// Actions: `kill` (SIGKILL to self), `error` (Error{internal}), `enospc` (Error{resource_exhausted}, as a
// full disk), `delay:MS`.  `@N` fires at the N-th pass (from 1) and at every later one.  Unarmed cost: one
// relaxed atomic load.
#pragma once

#include <atomic>
#include <string_view>
#include <vector>

namespace furrow {

namespace detail {
extern std::atomic<bool> failpoints_armed;
void failpoint_hit(std::string_view name);
}  // namespace detail

// Replaces what the environment armed; "" disarms.  For tests.  Error{invalid_argument} on a malformed list.
void arm_failpoints(std::string_view list);

}  // namespace furrow

#define FURROW_FAILPOINT(name)                                              \
  do {                                                                      \
    if (::furrow::detail::failpoints_armed.load(std::memory_order_relaxed)) \
      ::furrow::detail::failpoint_hit(name);                                \
  } while (false)
