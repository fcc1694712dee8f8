#include "furrow/comm/spin_wait.h"

#include <gtest/gtest.h>

#include <vector>

namespace furrow::comm {
namespace {

constexpr int64_t kSpinNs = 100'000, kRoundNs = 1'000;

// A core with a clock of its own, which a wait of nothing uses up.
struct Core {
  int64_t ns = 1'000'000'000;
  int64_t others_ns = 100;  // what a turn of the others takes
  std::vector<int64_t> turns;

  // Waits for something that comes `after_ns`.  True when it was awake then.
  bool wait(Crowding& crowding, int64_t after_ns) {
    SpinWait wait(crowding, kSpinNs);
    const int64_t begin_ns = ns;
    turns.clear();
    do {
      ns += kRoundNs;
      if (ns < begin_ns + after_ns) continue;
      wait.came();
      return true;
    } while (wait.again([&] { return ns; },
                        [&] {
                          turns.push_back(ns - begin_ns);
                          ns += others_ns;
                        }));
    return false;
  }
  static constexpr int64_t kNever = INT64_MAX / 2;
};

TEST(SpinWait, SpinsAndThenGivesWay) {
  Crowding crowding(kSpinNs, 1);
  Core core;
  const int64_t begin_ns = core.ns;
  EXPECT_FALSE(core.wait(crowding, Core::kNever));
  const int64_t end_ns = kRoundNs + kSpinNs + Crowding::kGiveWayNs;
  EXPECT_GE(core.ns - begin_ns, end_ns);
  EXPECT_LE(core.ns - begin_ns, end_ns + kRoundNs + core.others_ns);
  ASSERT_FALSE(core.turns.empty());
  EXPECT_EQ(core.turns.front(), kRoundNs + kSpinNs) << "not while it spins";
  for (size_t i = 1; i < core.turns.size(); ++i)
    EXPECT_EQ(core.turns[i] - core.turns[i - 1], kRoundNs + core.others_ns) << "at each round behind that";
}

TEST(SpinWait, OnlyOnTheOnlyCoreOfARankThatSpins) {
  for (const auto& [spin_ns, cores] : {std::pair<int64_t, int>{kSpinNs, 2}, {0, 1}}) {
    Crowding crowding(spin_ns, cores);
    Core core;
    const int64_t begin_ns = core.ns;
    EXPECT_FALSE(core.wait(crowding, Core::kNever));
    EXPECT_TRUE(core.turns.empty());
    EXPECT_LE(core.ns - begin_ns, kSpinNs + 2 * kRoundNs);
  }
}

TEST(SpinWait, WhoHasNoCoresToSpareSleepsAtOnce) {
  Crowding crowding(0, 1);
  SpinWait wait(crowding, 0);
  EXPECT_FALSE(wait.again([] { return int64_t{5}; }, [] { ADD_FAILURE(); }));
}

TEST(SpinWait, IsAwakeForAPeerThatIsLate) {
  Crowding crowding(kSpinNs, 1);
  Core core;
  EXPECT_TRUE(core.wait(crowding, 1'900'000));
  EXPECT_FALSE(core.wait(crowding, 2'300'000));
}

TEST(SpinWait, SleepsSoonWhereOthersWantTheCore) {
  Crowding crowding(kSpinNs, 1);
  Core core;
  core.others_ns = Crowding::kPassedNs;
  EXPECT_FALSE(core.wait(crowding, Core::kNever));
  EXPECT_EQ(core.turns.size(), 1U) << "the first that they took was the last";
  EXPECT_FALSE(core.wait(crowding, Core::kNever));
  EXPECT_TRUE(core.turns.empty()) << "a moment later: not even one";

  core.others_ns = Crowding::kPassedNs - 1;
  core.ns += Crowding::kCrowdedNs;
  EXPECT_FALSE(core.wait(crowding, Core::kNever));
  EXPECT_GT(core.turns.size(), 1U) << "as before, when that is over";
}

// How long, from when others took the core, the waits after it give no way.
int64_t crowded_ns(Crowding& crowding, Core& core) {
  core.others_ns = Crowding::kPassedNs;
  EXPECT_FALSE(core.wait(crowding, Core::kNever));
  EXPECT_EQ(core.turns.size(), 1U);
  int64_t ns = 0;
  while (crowding.give_way_ns(core.ns + ns) == 0) ns += 1'000'000;
  core.ns += ns;
  return ns;
}

TEST(SpinWait, ACrowdedCoreIsTriedLessAndLessUntilGivingWayHelps) {
  Crowding crowding(kSpinNs, 1);
  Core core;
  for (int64_t expected = Crowding::kCrowdedNs; expected < Crowding::kMostCrowdedNs; expected *= 2)
    EXPECT_EQ(crowded_ns(crowding, core), expected);
  EXPECT_EQ(crowded_ns(crowding, core), Crowding::kMostCrowdedNs);
  EXPECT_EQ(crowded_ns(crowding, core), Crowding::kMostCrowdedNs);

  core.others_ns = 100;
  EXPECT_TRUE(core.wait(crowding, kSpinNs / 2));  // before it gave way: nothing is learned
  EXPECT_EQ(crowded_ns(crowding, core), Crowding::kMostCrowdedNs);
  core.others_ns = 100;
  EXPECT_TRUE(core.wait(crowding, 2 * kSpinNs));
  EXPECT_EQ(crowded_ns(crowding, core), Crowding::kCrowdedNs);
}

}  // namespace
}  // namespace furrow::comm
