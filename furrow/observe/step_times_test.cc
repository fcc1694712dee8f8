#include "furrow/observe/step_times.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace furrow::observe {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(StepTimes, EmptyIsZero) {
  EXPECT_EQ(StepTimes().median_ms(), 0);
  EXPECT_EQ(StepTimes().p99_ms(), 0);
}

TEST(StepTimes, MedianOfEvenCountIsTheMeanOfTheMiddleTwo) {
  StepTimes times;
  for (const int64_t ms : {40, 10, 20, 30}) times.add(ms * kMs);
  EXPECT_EQ(times.median_ms(), 25);
  times.add(21 * kMs);
  EXPECT_EQ(times.median_ms(), 21);
  EXPECT_EQ(times.total_ns(), 121 * kMs);
}

TEST(StepTimes, P99IsTheNearestRank) {
  StepTimes times;
  for (int64_t i = 100; i >= 1; --i) times.add(i * kMs);
  EXPECT_EQ(times.p99_ms(), 99);  // 99 of 100 are no longer
  times.add(1000 * kMs);
  EXPECT_EQ(times.p99_ms(), 100);  // 100 of 101
  for (int i = 0; i < 2; ++i) times.add(1000 * kMs);
  EXPECT_EQ(times.p99_ms(), 1000);
}

TEST(StepTimes, EqualsSortingForAnyCount) {
  std::mt19937 random(1);
  for (size_t count = 1; count < 300; ++count) {
    StepTimes times;
    std::vector<int64_t> sorted;
    for (size_t i = 0; i < count; ++i) {
      sorted.push_back(static_cast<int64_t>(random() % 1000) * kMs);
      times.add(sorted.back());
    }
    std::sort(sorted.begin(), sorted.end());
    size_t rank = 0;
    while ((rank + 1) * 100 < count * 99) ++rank;
    EXPECT_EQ(times.p99_ms(), static_cast<double>(sorted[rank]) / kMs) << count;
  }
}

}  // namespace
}  // namespace furrow::observe
