// How long a rank has said nothing, and when that is its end.
//
// Time counts as this process has lived it (awake.h).  A rank whose process this one can see is not silent
// while it waits for a core: on a crowded machine a thread that has been ready for seconds is nothing
// unusual, and only the system tells it from one that is stopped.  From another host both look alike.
#pragma once

#include <cstdint>
#include <optional>

#include "furrow/comm/store_messages.h"

namespace furrow::comm {

// Both sides say something at least this often.
int64_t beat_interval_ns(int64_t silence_ms);

// The process of `member` where `self` can see it: one machine, one namespace of processes, one network.
std::optional<int64_t> visible_process(const Member& self, const Member& member);

// Does a thread of this process run, or wait for a core to run on?  A process that is stopped or frozen has
// none, nor has one whose threads all wait for something else.  False where it is gone.
bool has_ready_thread(int64_t process);

// Belongs to one thread at a time.  Begins as heard just now.
class Silence {
 public:
  explicit Silence(int64_t limit_ms);

  void hear();                                // the rank has said something
  int64_t due_ns() const { return due_ns_; }  // awake_ns() of the next verdict()
  // How long it has been silent, where that is too long.
  std::optional<int64_t> verdict(int64_t awake_ns, std::optional<int64_t> process);

 private:
  int64_t limit_ns_, interval_ns_;
  int64_t heard_ns_ = 0, due_ns_ = 0;
};

}  // namespace furrow::comm
