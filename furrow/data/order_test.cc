#include "furrow/data/order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/split.h"

namespace furrow::data {
namespace {

std::vector<int64_t> indices(const SampleOrder& order, int64_t position, int64_t count) {
  std::vector<int64_t> out(static_cast<size_t>(count));
  order.indices(position, out);
  return out;
}

std::vector<int64_t> iota(int64_t size) {
  std::vector<int64_t> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

TEST(SampleOrder, EveryEpochHasEverySampleOnce) {
  for (const int64_t size : {1, 2, 3, 17, 256, 1000, 60000}) {
    for (const uint64_t seed : {0u, 1u, 77u}) {
      const SampleOrder order(seed, size, true);
      for (const int64_t epoch : {0, 1, 9}) {
        std::vector<int64_t> seen = indices(order, epoch * size, size);
        std::ranges::sort(seen);
        EXPECT_EQ(seen, iota(size)) << "size " << size << " seed " << seed << " epoch " << epoch;
      }
    }
  }
}

TEST(SampleOrder, EpochsAndSeedsDiffer) {
  const SampleOrder order(5, 1000, true);
  EXPECT_NE(indices(order, 0, 1000), indices(order, 1000, 1000));
  EXPECT_NE(indices(order, 0, 1000), indices(SampleOrder(6, 1000, true), 0, 1000));
  EXPECT_NE(indices(order, 0, 1000), iota(1000));
  EXPECT_EQ(indices(order, 0, 1000), indices(SampleOrder(5, 1000, true), 0, 1000));
}

TEST(SampleOrder, DoesNotDependOnHowPositionsAreCut) {
  const SampleOrder order(3, 37, true);
  const std::vector<int64_t> whole = indices(order, 0, 200);
  for (const int64_t cut : {1, 5, 36, 37, 64}) {
    std::vector<int64_t> pieces;
    for (int64_t at = 0; at < 200; at += cut) {
      for (const int64_t index : indices(order, at, std::min(cut, 200 - at))) pieces.push_back(index);
    }
    EXPECT_EQ(pieces, whole) << "cut " << cut;
  }
}

// Any rank's share of any step follows from the position alone: shares of all layouts are cuts of one
// sequence.
TEST(SampleOrder, RankSharesAreComputedNotStored) {
  const SampleOrder order(9, 50, true);
  const int64_t global_batch = 12;
  for (const int64_t ranks : {1, 2, 3, 4}) {
    for (int64_t step = 0; step < 10; ++step) {
      std::vector<int64_t> joined;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const int64_t share = global_batch / ranks;
        for (const int64_t index : indices(order, step * global_batch + rank * share, share))
          joined.push_back(index);
      }
      EXPECT_EQ(joined, indices(order, step * global_batch, global_batch));
    }
  }
}

TEST(SampleOrder, WithoutShufflingIsTheOrderOfTheSource) {
  const SampleOrder order(1, 5, false);
  EXPECT_EQ(indices(order, 3, 9), (std::vector<int64_t>{3, 4, 0, 1, 2, 3, 4, 0, 1}));
}

TEST(SampleOrder, RefusesNonsense) {
  EXPECT_THROW(SampleOrder(0, 0, true), Error);
  EXPECT_THROW(indices(SampleOrder(0, 3, true), -1, 1), Error);
}

TEST(Carve, PartsAreDisjointAndComplete) {
  for (const int64_t validation : {0, 1, 10, 99}) {
    const Carved carved = carve(100, validation, 4);
    EXPECT_EQ(carved.validation.size(), static_cast<size_t>(validation));
    std::vector<uint32_t> all = carved.train;
    all.insert(all.end(), carved.validation.begin(), carved.validation.end());
    std::ranges::sort(all);
    for (uint32_t i = 0; i < 100; ++i) EXPECT_EQ(all.at(i), i);
    EXPECT_TRUE(std::ranges::is_sorted(carved.train));
  }
}

TEST(Carve, IsRandomButKeyed) {
  EXPECT_EQ(carve(1000, 100, 4).validation, carve(1000, 100, 4).validation);
  EXPECT_NE(carve(1000, 100, 4).validation, carve(1000, 100, 5).validation);
  const std::vector<uint32_t> chosen = carve(10000, 1000, 1).validation;
  const auto low = std::ranges::count_if(chosen, [](uint32_t i) { return i < 5000; });
  EXPECT_NEAR(static_cast<double>(low), 500, 80);  // 5 standard deviations
}

TEST(Fraction, IsRoundedUpAndLeavesSomethingToTrainOn) {
  EXPECT_EQ(fraction_count(0, 10, "k", "images"), 0);
  EXPECT_EQ(fraction_count(0.1, 60000, "k", "images"), 6000);
  EXPECT_EQ(fraction_count(0.1, 1115394, "k", "tokens"), 111540);  // as nanoGPT cuts tinyshakespeare
  EXPECT_EQ(fraction_count(0.07, 100, "k", "images"), 7);
  EXPECT_EQ(fraction_count(0.001, 10, "k", "images"), 1);
  for (const double bad : {-0.1, 1.0, 2.0, 0.0 / 0.0})
    EXPECT_THROW(fraction_count(bad, 10, "k", "images"), Error);
  EXPECT_THROW(fraction_count(0.99, 10, "k", "images"), Error);
}

}  // namespace
}  // namespace furrow::data
