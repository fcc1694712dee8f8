// Who runs operations, and that they run one at a time.
#include "furrow/comm/engine.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/spin_pause.h"

namespace furrow::comm {
namespace {

// How many jobs found another one running.
struct Overlaps {
  std::atomic<int> inside{0}, met{0};
  int64_t count = 0;  // of jobs, right only where they take turns

  void job(int pauses) {
    if (inside.fetch_add(1) != 0) met.fetch_add(1);
    ++count;
    for (int i = 0; i < pauses; ++i) spin_pause();
    inside.fetch_sub(1);
  }
};

TEST(Engine, RunsHereWhenNothingIsQueued) {
  Engine engine("engine");
  std::thread::id ran;
  for (int i = 0; i < 3; ++i) {
    engine.run([&] { ran = std::this_thread::get_id(); });
    EXPECT_EQ(ran, std::this_thread::get_id());
  }
  engine.submit([&] { ran = std::this_thread::get_id(); }, /*may_inline=*/true).wait();
  EXPECT_EQ(ran, std::this_thread::get_id());
  engine.submit([&] { ran = std::this_thread::get_id(); }, /*may_inline=*/false).wait();
  EXPECT_NE(ran, std::this_thread::get_id());
  // Its thread may still be on its way back to sleep.
  const int64_t end_ns = system_clock().monotonic_ns() + 10'000'000'000;
  do {
    engine.run([&] { ran = std::this_thread::get_id(); });
  } while (ran != std::this_thread::get_id() && system_clock().monotonic_ns() < end_ns);
  EXPECT_EQ(ran, std::this_thread::get_id());
}

// What is queued runs in its order, and an operation that comes after it waits for it.
TEST(Engine, KeepsTheOrderOfItsCaller) {
  Engine engine("engine");
  std::vector<int> order;
  for (int round = 0; round < 200; ++round) {
    order.clear();
    engine.run([&] { order.push_back(0); });
    Work first = engine.submit([&] { order.push_back(1); }, false);
    Work second = engine.submit([&] { order.push_back(2); }, true);
    engine.run([&] { order.push_back(3); });
    ASSERT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
  }
}

// Queued from inside of one, a job begins after it.
TEST(Engine, AJobThatQueuesAnotherEndsFirst) {
  Engine engine("engine");
  for (int i = 0; i < 100; ++i) {
    std::atomic<bool> ended{false}, before{false};
    Work second;
    engine.run([&] {
      second = engine.submit([&] { before = !ended.load(); }, false);
      for (int pause = 0; pause < 1000; ++pause) spin_pause();
      ended = true;
    });
    second.wait();
    ASSERT_FALSE(before.load());
  }
}

TEST(Engine, AnExceptionLeavesItIdle) {
  Engine engine("engine");
  for (int i = 0; i < 3; ++i) {
    EXPECT_THROW(engine.run([] { throw std::runtime_error("as it should"); }), std::runtime_error);
    Work failing = engine.submit([] { throw std::runtime_error("as it should"); }, i == 1);
    EXPECT_THROW(failing.wait(), std::runtime_error);
  }
  bool ran = false;
  engine.run([&] { ran = true; });
  EXPECT_TRUE(ran);
}

// One thread runs operations all the time; another comes, each time in another way first.
TEST(Engine, RunsOneAtATimeWhoeverComes) {
  constexpr int64_t kMomentNs = 300'000'000;
  constexpr int kLong = 1000;  // pauses: longer than the other takes to come in
  const int64_t end_ns = system_clock().monotonic_ns() + kMomentNs;
  int met = 0;
  size_t first = 0;  // of the ways
  do {
    Engine engine("engine");
    Overlaps overlaps;
    std::atomic<int> turns{0};
    {
      const std::jthread often([&](const std::stop_token& stop) {
        for (; !stop.stop_requested(); turns.fetch_add(1)) engine.run([&] { overlaps.job(kLong); });
      });
      while (turns.load() == 0) std::this_thread::yield();
      const auto job = [&] { overlaps.job(1); };
      const std::array<std::function<void()>, 3> ways = {[&] { engine.run(job); },
                                                         [&] { engine.submit(job, false).wait(); },
                                                         [&] { engine.submit(job, true).wait(); }};
      for (size_t i = 0; i < ways.size(); ++i) ways[(i + first) % ways.size()]();
    }
    ++first;
    EXPECT_EQ(overlaps.count, turns.load() + 3);
    met += overlaps.met.load();
  } while (system_clock().monotonic_ns() < end_ns);
  EXPECT_EQ(met, 0);
}

}  // namespace
}  // namespace furrow::comm
