// Locks and fences between threads, against what goes wrong without them.
#include "furrow/comm/fence.h"

#include <gtest/gtest.h>

#include <barrier>
#include <mutex>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/comm/brief_lock.h"

namespace furrow::comm {
namespace {

// A rank that sends and one that falls asleep: one of the two sees the other.
struct Encounter {
  std::atomic<uint64_t> message{0}, sleeping{0};
  uint64_t seen_sleeping = 0, seen_message = 0;

  void send() {
    store_lightly<uint64_t>(message, 1);
    seen_sleeping = sleeping.load(std::memory_order_relaxed);
  }
  void sleep() {
    sleeping.store(1);
    fence_others();
    seen_message = message.load();
  }
  bool missed() const { return seen_message == 0 && seen_sleeping == 0; }
};

// As many times as fit into a moment: on a busy machine every meeting of two threads is a matter of
// milliseconds.
TEST(Fence, AStoreAndALoadAfterItKeepTheirOrder) {
  if (!can_be_fenced()) GTEST_SKIP() << "the kernel has no membarrier";
  constexpr int64_t kMomentNs = 100'000'000;
  Encounter encounter;
  bool over = false;  // written before a meeting, read after it
  std::barrier both(2);
  std::jthread frequent([&] {
    while (true) {
      both.arrive_and_wait();
      if (over) return;
      encounter.send();
      both.arrive_and_wait();
    }
  });
  const int64_t end_ns = system_clock().monotonic_ns() + kMomentNs;
  int missed = 0;
  do {
    both.arrive_and_wait();
    encounter.sleep();
    both.arrive_and_wait();
    missed += encounter.missed() ? 1 : 0;
    encounter.message.store(0);
    encounter.sleeping.store(0);
  } while (system_clock().monotonic_ns() < end_ns);
  over = true;
  both.arrive_and_wait();
  EXPECT_EQ(missed, 0);
}

TEST(BriefLock, HasOneOwnerAtATime) {
  constexpr int kThreads = 4, kEach = 20'000;
  BriefLock lock;
  int64_t count = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kEach; ++i) {
          const std::lock_guard guard(lock);
          ++count;
        }
      });
    }
  }
  EXPECT_EQ(count, kThreads * kEach);
}

// One thread takes it by turns, all the time, and is inside for most of that; another comes.
TEST(BiasedLock, HasOneOwnerAtATimeOnceItIsShared) {
  if (!can_be_fenced()) GTEST_SKIP() << "the kernel has no membarrier";
  constexpr int64_t kMomentNs = 200'000'000;
  constexpr int kEach = 3;
  constexpr int kLong = 1000;  // pauses: longer than a fence of the others takes
  const int64_t end_ns = system_clock().monotonic_ns() + kMomentNs;
  int met = 0;
  do {
    BiasedLock lock;
    lock.take_turns();
    std::atomic<int> inside{0}, turns{0};
    int64_t count = 0;
    {
      const auto enter = [&](int pauses) {
        const std::lock_guard guard(lock);
        const int others = inside.fetch_add(1);
        ++count;
        for (int i = 0; i < pauses; ++i) spin_pause();
        inside.fetch_sub(1);
        return others;
      };
      const std::jthread first([&](const std::stop_token& stop) {
        for (; !stop.stop_requested(); turns.fetch_add(1)) enter(kLong);
      });
      while (turns.load() == 0) std::this_thread::yield();
      lock.share();
      for (int i = 0; i < kEach; ++i) met += enter(1);
    }
    EXPECT_EQ(count, turns.load() + kEach);
  } while (system_clock().monotonic_ns() < end_ns);
  EXPECT_EQ(met, 0);
}

}  // namespace
}  // namespace furrow::comm
