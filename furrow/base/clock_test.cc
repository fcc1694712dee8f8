#include "furrow/base/clock.h"

#include <gtest/gtest.h>

namespace furrow {
namespace {

TEST(Clock, SystemClockMoves) {
  const int64_t before = system_clock().monotonic_ns();
  EXPECT_GE(system_clock().monotonic_ns(), before);
  EXPECT_GT(system_clock().unix_ns(), int64_t{1'700'000'000} * 1'000'000'000);
}

TEST(Clock, ManualClockMovesByHand) {
  ManualClock clock;
  EXPECT_EQ(clock.monotonic_ns(), 0);
  clock.advance_ns(7);
  EXPECT_EQ(clock.unix_ns(), 7);
}

TEST(CancelToken, KeepsItsReason) {
  CancelToken token;
  EXPECT_FALSE(token.cancelled());
  token.cancel(15);
  EXPECT_TRUE(token.cancelled());
  EXPECT_EQ(token.reason(), 15);
}

TEST(Clock, TimeSinceExecIsShortAndGrows) {
  const int64_t first = ns_since_exec();
  EXPECT_GE(first, 0);
  EXPECT_LT(first, int64_t{600} * 1'000'000'000);
  EXPECT_GE(ns_since_exec(), first);
}

}  // namespace
}  // namespace furrow
