#include "furrow/tensor/kernels/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/scratch_blocks.h"

namespace furrow::tensor::kernels {
namespace {

TEST(ParallelFor, CutsOnceAndCoversAll) {
  for (const int threads : {1, 2, 3, 16}) {
    for (const int64_t n : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
      parallel_for(threads, n, [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const auto& hit : hits) EXPECT_EQ(hit, 1);
    }
  }
}

TEST(ParallelFor, RethrowsTheFirstErrorAfterAllChunks) {
  std::atomic<int> ended{0};
  try {
    parallel_for(4, 4, [&](int64_t begin, int64_t) {
      ++ended;
      if (begin >= 1) throw std::runtime_error(std::to_string(begin));
    });
    FAIL() << "swallowed";
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "1");
  }
  EXPECT_EQ(ended, 4);
}

// Ranks are threads: several callers at once, each with its own chunks; nested calls run all their chunks
// too.
TEST(ParallelFor, SeveralCallersAndNesting) {
  std::atomic<int> sum{0};
  std::vector<std::thread> ranks;
  for (int r = 0; r < 3; ++r) {
    ranks.emplace_back([&] {
      parallel_for(2, 4, [&](int64_t begin, int64_t end) {
        parallel_for(3, 6, [&](int64_t b, int64_t e) { sum += static_cast<int>((end - begin) * (e - b)); });
      });
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(sum, 3 * 4 * 6);
}

TEST(Scratch, ScopesNestAndReuseTheirMemory) {
  std::thread([] {  // has no working memory yet
    const auto use = [](float** first, float** large) {
      ScratchScope outer;
      *first = outer.floats(1000);
      (*first)[0] = 1, (*first)[999] = 2;
      ScratchScope inner;
      *large = inner.floats(3 << 20);
      (*large)[0] = (*large)[(3 << 20) - 1] = 7;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(*large) % 64, 0u);
      EXPECT_TRUE((*first)[0] == 1 && (*first)[999] == 2);
    };
    float *first = nullptr, *large = nullptr, *again = nullptr, *large_again = nullptr;
    use(&first, &large);  // a block for each
    use(&again, &large_again);
    EXPECT_EQ(large_again - again, 1008) << "one block for both from the second time on";
    use(&first, &large);
    EXPECT_TRUE(first == again && large == large_again);
    ScratchScope last;
    EXPECT_EQ(last.floats(10), again);
  })
      .join();
}

// What is reserved is held before any kernel runs; threads take it, whichever they are, and leave it to
// others.
TEST(Scratch, ReservedBlocksServeAnyThreads) {
  const auto held = [] { return memory_usage(MemoryKind::kOther).current_bytes; };
  constexpr auto kBlock = static_cast<int64_t>(kScratchBlockBytes);
  reserve_scratch(64);
  const int64_t reserved = held();
  EXPECT_GE(reserved, 64 * kBlock);
  reserve_scratch(64);
  EXPECT_EQ(held(), reserved) << "of as many threads as before";
  for (int generation = 0; generation < 3; ++generation) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 32; ++i) {
      threads.emplace_back([] {
        ScratchScope scratch;
        scratch.floats(1000)[999] = 1;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(held(), reserved);
  }
  std::thread([&] {
    ScratchScope scratch;
    scratch.floats(kBlock / 4 + 1)[0] = 1;
    EXPECT_EQ(held(), reserved + kBlock + 64) << "one that needs more has more";
  }).join();
  EXPECT_EQ(held(), reserved);
}

}  // namespace
}  // namespace furrow::tensor::kernels
