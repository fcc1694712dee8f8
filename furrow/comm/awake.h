// Time as this process has lived it.  What it was stopped for (Ctrl-Z, a scheduler that suspends a job, a
// container that is frozen, a machine so crowded that it got no core) counts in no deadline of an operation
// and is nobody's silence: a job that stands as a whole goes on when it is continued, however long it stood.
// Thread safe.
#pragma once

#include <cstdint>

namespace furrow::comm {

// Clock::monotonic_ns without the stops that are known of.  They are seen by nobody having asked for more
// than half a second, so only while a Wakeful lives.
int64_t awake_ns();

// What awake_ns() leaves out so far; costs no look at a clock.
int64_t stopped_ns();

// While one lives somebody, its owner, calls awake_ns() every quarter of a second.
class Wakeful {
 public:
  Wakeful();
  ~Wakeful();
  Wakeful(const Wakeful&) = delete;
  Wakeful& operator=(const Wakeful&) = delete;
};

}  // namespace furrow::comm
