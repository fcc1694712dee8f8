// A lock for moments: free again by a plain store, where std::mutex takes a second locked instruction, which
// would also keep the core from what comes next until everything written before is with its cache.
#pragma once

#include <unistd.h>

#include <atomic>

#include "furrow/base/spin_pause.h"
#include "furrow/comm/fence.h"

namespace furrow::comm {

// Meets std::lock_guard.  Whoever finds it taken spins, then lets others run, then sleeps for moments.
class BriefLock {
 public:
  void lock() {
    for (int round = 0; taken_.exchange(true, std::memory_order_acquire); ++round) {
      while (taken_.load(std::memory_order_relaxed)) step_back(round++);
    }
  }
  void unlock() { taken_.store(false, std::memory_order_release); }

  static void step_back(int round) {
    if (round < 64) return spin_pause();
    usleep(round < 128 ? 0 : 20);
  }

 private:
  std::atomic<bool> taken_{false};
};

// A BriefLock that takes no locked instruction while its users take turns: each comes when the one before it
// has told so.
class BiasedLock {
 public:
  // REQUIRES: can_be_fenced(); nobody holds it or waits for it.
  void take_turns() { in_turns_.store(true); }

  // On return nobody holds it by turns, and any thread may come at any time.  From any thread.
  void share() {
    in_turns_.store(false);
    if (can_be_fenced()) fence_others();  // whoever does not see it by now, is seen inside
    for (int round = 0; inside_.load(std::memory_order_acquire); ++round) BriefLock::step_back(round);
  }

  void lock() {
    store_lightly(inside_, true);
    if (in_turns_.load(std::memory_order_acquire)) return;
    inside_.store(false, std::memory_order_release);
    lock_.lock();
  }

  // Of both: by turns, the lock is not taken before who shares has seen that nobody is inside.
  void unlock() {
    lock_.unlock();
    inside_.store(false, std::memory_order_release);
  }

 private:
  std::atomic<bool> in_turns_{false}, inside_{false};
  BriefLock lock_;
};

}  // namespace furrow::comm
