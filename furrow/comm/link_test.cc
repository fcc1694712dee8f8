// The emulated link's arithmetic, by hand.
#include "furrow/comm/link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

TEST(Link, Parses) {
  EXPECT_FALSE(parse_link("").emulated());
  const LinkSpec both = parse_link("100Mbit,2ms");
  EXPECT_EQ(both.bytes_per_second, 12.5e6);
  EXPECT_EQ(both.delay_ns, 2'000'000);
  EXPECT_EQ(parse_link(" 1.5Gbit ").bytes_per_second, 187.5e6);
  EXPECT_EQ(parse_link("500us").delay_ns, 500'000);
  EXPECT_EQ(parse_link("2s, 8bit").bytes_per_second, 1);
}

TEST(Link, RefusesWhatIsNeither) {
  for (const char* text :
       {"100", "fast", "100Mbit,", "-1Mbit", "0ms", "1ms,2ms", "1Mbit,1Mbit", "nanMbit", "MB"}) {
    EXPECT_THROW(parse_link(text), Error) << text;
  }
  try {
    parse_link("100MB");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("comm.throttle = '100MB'"));
  }
}

// 1,000 bytes a second: a byte takes a millisecond.
TEST(Link, FramesFollowEachOther) {
  constexpr int64_t kMs = 1'000'000;
  EmulatedLink sender({1000, 5 * kMs}), receiver({1000, 5 * kMs});
  const int64_t start = 1000 * kMs;
  const int64_t first = sender.depart(start, 15), second = sender.depart(start, 20);
  EXPECT_EQ(first, start + 10 * kMs);  // five milliseconds were in the bucket
  EXPECT_EQ(second, start + 30 * kMs);
  EXPECT_EQ(sender.next_start_ns(), second);
  EXPECT_EQ(receiver.arrive(first, 15), start + 15 * kMs);
  EXPECT_EQ(receiver.arrive(second, 20), start + 35 * kMs);
  EXPECT_EQ(sender.depart(start + 100 * kMs, 6),
            start + 101 * kMs);  // idle in between: no more than the bucket
  EXPECT_EQ(sender.depart(start + 200 * kMs, 1), start + 200 * kMs);  // never before it was sent
}

// Two senders at once to one receiver: its link carries one after the other.
TEST(Link, ReceiversLinkIsShared) {
  constexpr int64_t kMs = 1'000'000;
  EmulatedLink receiver({1000, 0});
  EXPECT_EQ(receiver.arrive(110 * kMs, 10), 110 * kMs);
  EXPECT_EQ(receiver.arrive(110 * kMs, 10), 120 * kMs);
}

TEST(Link, DelayAlone) {
  EmulatedLink link({0, 7});
  EXPECT_EQ(link.arrive(link.depart(100, 1 << 30), 1 << 30), 107);
}

}  // namespace
}  // namespace furrow::comm
