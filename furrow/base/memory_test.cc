#include "furrow/base/memory.h"

#include <gtest/gtest.h>

#include <thread>
#include <utility>
#include <vector>

#include "furrow/base/error.h"

namespace furrow {
namespace {

TEST(CountedBuffer, CountsCurrentAndPeak) {
  reset_memory_peaks();
  const MemoryUsage start = memory_usage(MemoryKind::kGradients);
  {
    const CountedBuffer a(1000, MemoryKind::kGradients);
    {
      const CountedBuffer b(500, MemoryKind::kGradients);
    }
    EXPECT_EQ(memory_usage(MemoryKind::kGradients).current_bytes, start.current_bytes + 1000);
  }
  EXPECT_EQ(memory_usage(MemoryKind::kGradients).current_bytes, start.current_bytes);
  EXPECT_EQ(memory_usage(MemoryKind::kGradients).peak_bytes, start.current_bytes + 1500);
  reset_memory_peaks();
  EXPECT_EQ(memory_usage(MemoryKind::kGradients).peak_bytes, start.current_bytes);
}

TEST(CountedBuffer, MovesWithoutCountingTwice) {
  const int64_t before = memory_usage(MemoryKind::kOther).current_bytes;
  CountedBuffer a(64, MemoryKind::kOther);
  CountedBuffer b(std::move(a));
  a = std::move(b);
  b = CountedBuffer(128, MemoryKind::kOther);
  EXPECT_EQ(memory_usage(MemoryKind::kOther).current_bytes, before + 192);
  EXPECT_EQ(a.size(), 64u);
  EXPECT_EQ(CountedBuffer(0, MemoryKind::kOther).data(), nullptr);
}

TEST(CountedBuffer, TooLargeIsResourceExhausted) {
  for (const size_t bytes : {size_t{1} << 60, ~size_t{0}}) {
    try {
      const CountedBuffer buffer(bytes, MemoryKind::kData);
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    }
  }
}

TEST(MemoryScope, NestsPerThread) {
  EXPECT_EQ(MemoryScope::current(), MemoryKind::kOther);
  const MemoryScope outer(MemoryKind::kActivations);
  {
    const MemoryScope inner(MemoryKind::kOptimizer);
    EXPECT_EQ(MemoryScope::current(), MemoryKind::kOptimizer);
    std::thread([] { EXPECT_EQ(MemoryScope::current(), MemoryKind::kOther); }).join();
  }
  EXPECT_EQ(MemoryScope::current(), MemoryKind::kActivations);
}

TEST(Counters, AreExactUnderThreads) {
  const int64_t before = memory_usage(MemoryKind::kCheckpoint).current_bytes;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 1000; ++i) {
        count_allocation(MemoryKind::kCheckpoint, 8);
        count_allocation(MemoryKind::kCheckpoint, -8);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memory_usage(MemoryKind::kCheckpoint).current_bytes, before);
}

TEST(Process, PeakRssIsPlausible) {
  EXPECT_GT(peak_rss_bytes(), 1 << 20);
  EXPECT_EQ(to_string(MemoryKind::kParameters), "parameters");
  EXPECT_EQ(to_string(MemoryKind::kOther), "other");
}

}  // namespace
}  // namespace furrow
