#include "furrow/tensor/kernels/team.h"

#include <gtest/gtest.h>
#include <time.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace furrow::tensor::kernels {
namespace {

// What each member of a loop saw.
struct Seen {
  std::array<int, 9> calls{};  // each written by its own member
  std::array<std::thread::id, 9> thread;
  std::atomic<int> members{0};
};

void look(void* context, int member, int members) {
  Seen& seen = *static_cast<Seen*>(context);
  ++seen.calls[static_cast<size_t>(member)];
  seen.thread[static_cast<size_t>(member)] = std::this_thread::get_id();
  seen.members = members;
}

void expect_once_each(const Seen& seen, int wanted) {
  EXPECT_EQ(seen.members, wanted);
  for (int member = 0; member < 9; ++member) {
    EXPECT_EQ(seen.calls[static_cast<size_t>(member)], member < wanted ? 1 : 0) << member << " of " << wanted;
  }
  EXPECT_EQ(seen.thread[0], std::this_thread::get_id());
}

TEST(Team, EveryMemberTakesPartOnceInLoopsOfAnySize) {
  Team team;
  for (int round = 0; round < 200; ++round) {
    for (const int wanted : {1, 4, 2, 9, 3}) {
      Seen seen;
      team.run(wanted, look, &seen);
      expect_once_each(seen, wanted);
    }
  }
}

TEST(Team, ItsThreadsStayThoseOfItsCaller) {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([] {
      Team team;
      Seen first;
      team.run(3, look, &first);
      for (int round = 0; round < 500; ++round) {
        Seen again;
        team.run(3, look, &again);
        expect_once_each(again, 3);
        EXPECT_EQ(again.thread, first.thread);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// What members wrote before the end of a loop is there for the caller and for the next loop's members.
TEST(Team, ALoopSeesWhatTheOneBeforeWrote) {
  Team team;
  std::array<int64_t, 4> sums{};
  for (int round = 0; round < 2000; ++round) {
    team.run(
        4,
        [](void* context, int member, int members) {
          auto& all = *static_cast<std::array<int64_t, 4>*>(context);
          if (member % 2 == 0) all[static_cast<size_t>(member)] += members;
        },
        &sums);
    team.run(
        4,
        [](void* context, int member, int) {
          auto& all = *static_cast<std::array<int64_t, 4>*>(context);
          const auto at = static_cast<size_t>(member);
          if (member % 2 == 1) all[at] = all[at - 1];
        },
        &sums);
    ASSERT_EQ(sums[1], 4 * (round + 1));
    ASSERT_EQ(sums[3], sums[1]);
  }
}

double processor_seconds() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

TEST(Team, WaitsAwakeForAWhileThenSleepsAndWakes) {
  Team team;
  Seen before;
  team.run(2, look, &before);
  const double used = processor_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(processor_seconds() - used, 0.15) << "a team that waits sleeps in the end";
  Seen after;
  team.run(2, look, &after);
  expect_once_each(after, 2);
  EXPECT_EQ(after.thread, before.thread);
}

// The caller waits for its members however long they take.
TEST(Team, WaitsForASlowMember) {
  Team team;
  std::atomic<bool> ended{false};
  team.run(
      2,
      [](void* context, int member, int) {
        if (member == 0) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        *static_cast<std::atomic<bool>*>(context) = true;
      },
      &ended);
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace furrow::tensor::kernels
