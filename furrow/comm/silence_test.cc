#include "furrow/comm/silence.h"

#include <gtest/gtest.h>

#include "tests/testing/spinning_child.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(Silence, IsTooLongFromItsLimitOn) {
  Silence silence(1000);
  const int64_t due = silence.due_ns();
  EXPECT_FALSE(silence.verdict(due - 1, std::nullopt));
  EXPECT_EQ(silence.verdict(due, std::nullopt), 1000 * kMs);
  EXPECT_EQ(silence.verdict(due + 5 * kMs, std::nullopt), 1005 * kMs);
  silence.hear();
  EXPECT_GE(silence.due_ns(), due);
  EXPECT_FALSE(silence.verdict(silence.due_ns() - 1, std::nullopt));
}

// Then it is looked at again soon, and a stop is still seen for what it is.
TEST(Silence, IsNoneOfAProcessThatWaitsForACore) {
  const testing::SpinningChild child;
  Silence silence(1000);
  const int64_t due = silence.due_ns();
  EXPECT_FALSE(silence.verdict(due, child.pid()));
  EXPECT_EQ(silence.due_ns(), due + 250 * kMs);
  EXPECT_FALSE(silence.verdict(due + 250 * kMs, child.pid()));
  child.stop();
  EXPECT_FALSE(silence.verdict(due + 499 * kMs, child.pid()));
  EXPECT_EQ(silence.verdict(due + 500 * kMs, child.pid()), 1500 * kMs);
}

TEST(Silence, IsReadyWhereAThreadRunsOrWaitsForACore) {
  EXPECT_TRUE(has_ready_thread(::getpid()));
  const testing::SpinningChild spins;
  EXPECT_TRUE(has_ready_thread(spins.pid()));
  spins.stop();
  EXPECT_FALSE(has_ready_thread(spins.pid())) << "stopped";
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(gone), &info, WEXITED | WNOWAIT);
  EXPECT_FALSE(has_ready_thread(gone)) << "not waited for";
  ::waitpid(gone, nullptr, 0);
  EXPECT_FALSE(has_ready_thread(gone)) << "gone";
}

TEST(Silence, ProcessesAreVisibleWhereRanksCouldShareMemory) {
  const Member self{.rank = 0, .pid = 10, .locality = "a"};
  EXPECT_EQ(visible_process(self, {.rank = 1, .pid = 11, .locality = "a"}), 11);
  EXPECT_EQ(visible_process(self, {.rank = 1, .pid = 11, .locality = "b"}), std::nullopt);
  EXPECT_EQ(visible_process({.rank = 0, .pid = 10}, {.rank = 1, .pid = 11}), std::nullopt);
}

TEST(Silence, BeatsComeFourTimesInIt) {
  EXPECT_EQ(beat_interval_ns(400), 100 * kMs);
  EXPECT_EQ(beat_interval_ns(100'000), 250 * kMs);
  EXPECT_EQ(beat_interval_ns(1), kMs);
}

}  // namespace
}  // namespace furrow::comm
