#include "furrow/base/thread.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <memory>
#include <numeric>
#include <vector>

namespace furrow {
namespace {

TEST(Thread, HasItsName) {
  std::string name(32, '\0');
  make_thread("furrow-prefetch-long", [&](std::stop_token) {
    pthread_getname_np(pthread_self(), name.data(), name.size());
  }).join();
  EXPECT_STREQ(name.c_str(), "furrow-prefetch");
}

TEST(BoundedQueue, KeepsOrderAndBlocksAtCapacity) {
  BoundedQueue<int> queue(2);
  auto producer = make_thread("producer", [&](std::stop_token) {
    for (int i = 0; i < 1000; ++i) queue.push(i);
    queue.close();
  });
  for (int i = 0; i < 1000; ++i) {
    EXPECT_LE(queue.size(), 2u);
    EXPECT_EQ(queue.pop(), i);
  }
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(BoundedQueue, CloseWakesBothSides) {
  BoundedQueue<std::unique_ptr<int>> full(1), empty(1);
  ASSERT_TRUE(full.push(std::make_unique<int>(1)));
  bool pushed = true, popped = true;
  {
    auto pusher =
        make_thread("pusher", [&](std::stop_token) { pushed = full.push(std::make_unique<int>(2)); });
    auto popper = make_thread("popper", [&](std::stop_token) { popped = empty.pop().has_value(); });
    full.close();
    empty.close();
  }
  EXPECT_FALSE(pushed);
  EXPECT_FALSE(popped);
  EXPECT_EQ(**full.pop(), 1);  // what was inside stays
  EXPECT_EQ(full.pop(), std::nullopt);
  EXPECT_EQ(full.try_pop(), std::nullopt);
}

TEST(BoundedQueue, ManyProducersAndConsumersLoseNothing) {
  BoundedQueue<int> queue(8);
  std::vector<int64_t> sums(3, 0);
  {
    std::vector<std::jthread> consumers;
    for (int64_t& sum : sums) {
      consumers.push_back(make_thread("consumer", [&](std::stop_token) {
        while (const auto item = queue.pop()) sum += *item;
      }));
    }
    {
      std::vector<std::jthread> producers;
      for (int p = 0; p < 3; ++p) {
        producers.push_back(make_thread("producer", [&](std::stop_token) {
          for (int i = 1; i <= 1000; ++i) queue.push(i);
        }));
      }
    }
    queue.close();
  }
  EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), int64_t{0}), 3 * 500'500);
}

}  // namespace
}  // namespace furrow
