// Locks and fences between threads, against what goes wrong without them.
#include "furrow/comm/fence.h"

#include <gtest/gtest.h>

#include <barrier>
#include <mutex>
#include <thread>
#include <vector>

#include "furrow/comm/brief_lock.h"

namespace furrow::comm {
namespace {

// A rank that sends and one that falls asleep: one of the two sees the other.
TEST(Fence, AStoreAndALoadAfterItKeepTheirOrder) {
  if (!can_be_fenced()) GTEST_SKIP() << "the kernel has no membarrier";
  constexpr int kRounds = 3000;
  std::atomic<uint64_t> message{0}, sleeping{0};
  uint64_t seen_sleeping = 0, seen_message = 0;
  int lost = 0;
  std::barrier both(2);
  std::jthread frequent([&] {
    for (int i = 0; i < kRounds; ++i) {
      both.arrive_and_wait();
      store_lightly<uint64_t>(message, 1);
      seen_sleeping = sleeping.load(std::memory_order_relaxed);
      both.arrive_and_wait();
      both.arrive_and_wait();
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    both.arrive_and_wait();
    sleeping.store(1);
    fence_others();
    seen_message = message.load();
    both.arrive_and_wait();
    lost += seen_message == 0 && seen_sleeping == 0 ? 1 : 0;
    message.store(0);
    sleeping.store(0);
    both.arrive_and_wait();
  }
  EXPECT_EQ(lost, 0);
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

}  // namespace
}  // namespace furrow::comm
