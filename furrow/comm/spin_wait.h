// How long a thread that waits for a peer stays awake: it spins, then gives way to others on its core, then
// sleeps.  The rules alone; the clock and the system call are the caller's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace furrow::comm {

// What the waits of one rank have learned of its core.  Thread safe.
class Crowding {
 public:
  // On the only core of a rank, which has nothing else to do but for its other threads, to which it gives
  // way: who sleeps when its peer comes has that one wait for the wake-up, as each adds a part.
  static constexpr int64_t kGiveWayNs = 2'000'000;
  // Longer than a turn that nobody takes: others want the core.
  static constexpr int64_t kPassedNs = 50'000;
  // So long it sleeps at once then, as its turn comes sooner; the next time twice as long, unless it helped.
  static constexpr int64_t kCrowdedNs = 20'000'000, kMostCrowdedNs = 10'000'000'000;

  // Where ranks do not spin, or have several cores, none gives way.
  Crowding(int64_t spin_ns, int cores) : give_way_ns_(spin_ns > 0 && cores == 1 ? kGiveWayNs : 0) {}

  // How long a wait that has begun may give way behind its spinning.
  int64_t give_way_ns(int64_t now_ns) const {
    return now_ns < until_ns_.load(std::memory_order_relaxed) ? 0 : give_way_ns_;
  }
  void core_was_taken(int64_t now_ns) {
    const int64_t for_ns = for_ns_.load(std::memory_order_relaxed);
    until_ns_.store(now_ns + for_ns, std::memory_order_relaxed);
    for_ns_.store(std::min(2 * for_ns, kMostCrowdedNs), std::memory_order_relaxed);
  }
  void giving_way_helped() { for_ns_.store(kCrowdedNs, std::memory_order_relaxed); }

 private:
  const int64_t give_way_ns_;
  std::atomic<int64_t> for_ns_{kCrowdedNs}, until_ns_{0};
};

// One wait.
class SpinWait {
 public:
  SpinWait(Crowding& crowding, int64_t spin_ns) : crowding_(crowding), spin_ns_(spin_ns) {}

  // After a round of looks that found nothing: shall there be another?  The clock runs from the end of the
  // first round on.  now() is Clock::monotonic_ns; give_way() lets others of this core run.
  template <class Now, class GiveWay>
  bool again(const Now& now, const GiveWay& give_way) {
    const int64_t at_ns = now();
    if (end_ns_ == 0) {
      spun_ns_ = at_ns + spin_ns_;
      end_ns_ = spun_ns_ + crowding_.give_way_ns(at_ns);
    }
    if (at_ns >= end_ns_) return false;
    if (at_ns < spun_ns_) return true;
    gave_way_ = true;
    give_way();
    const int64_t back_ns = now();
    if (back_ns - at_ns < Crowding::kPassedNs) return true;
    crowding_.core_was_taken(back_ns);
    return false;
  }

  // What was waited for is there.
  void came() {
    if (gave_way_) crowding_.giving_way_helped();
  }

 private:
  Crowding& crowding_;
  const int64_t spin_ns_;
  int64_t spun_ns_ = 0, end_ns_ = 0;
  bool gave_way_ = false;
};

}  // namespace furrow::comm
