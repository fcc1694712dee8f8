#include "furrow/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace furrow {
namespace {

// The known answers that the authors of Philox publish with Random123 (kat_vectors, philox4x32 with 10
// rounds).
TEST(Philox, MatchesThePublishedVectors) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, CounterLayoutIsTheContract) {
  const PhiloxBlock counter = philox_counter(0x0000A1B2C3D4E5F6, 0x00001234567890AB, 7);
  EXPECT_EQ(counter, (PhiloxBlock{7, 0x567890AB, 0x1234A1B2, 0xC3D4E5F6}));
  const Philox stream(3, RandomPurpose::kDropout, "block0");
  EXPECT_EQ(stream.block(5, 6, 7), philox4x32(philox_counter(5, 6, 7), stream.key()));
}

TEST(Philox, EverythingNamedChangesTheNumbers) {
  std::set<PhiloxBlock> seen;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (const RandomPurpose purpose : {RandomPurpose::kInit, RandomPurpose::kDropout}) {
      for (const std::string_view name : {"", "fc1", "fc2"}) {
        const Philox stream(seed, purpose, name);
        seen.insert(stream.block(0, 0, 0));
        seen.insert(stream.block(1, 0, 0));
        seen.insert(stream.block(0, 1, 0));
        seen.insert(stream.block(0, 0, 1));
        seen.insert(stream.block(uint64_t{1} << 40, 0, 0));
        seen.insert(stream.block(0, uint64_t{1} << 40, 0));
      }
    }
  }
  EXPECT_EQ(seen.size(), 3u * 2 * 3 * 6);
}

TEST(StableHash, IsFnv1a) {
  EXPECT_EQ(stable_hash(""), 0xcbf29ce484222325u);
  EXPECT_EQ(stable_hash("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(stable_hash("foobar"), 0x85944171f73967e8u);
}

using Fill = void (*)(const Philox&, float, float, uint64_t, std::span<float>);

void expect_cut_independent(Fill fill) {
  const Philox stream(11, RandomPurpose::kInit, "w");
  std::vector<float> whole(257);
  fill(stream, -1, 2, 0, whole);
  for (size_t offset = 0; offset < 20; ++offset) {
    for (size_t length = 0; length < 20; ++length) {
      std::vector<float> part(length, NAN);
      fill(stream, -1, 2, offset, part);
      for (size_t i = 0; i < length; ++i) ASSERT_EQ(part[i], whole[offset + i]) << offset << "+" << i;
    }
  }
  std::vector<float> shifted(4);
  fill(stream, -1, 2, 1, shifted);
  EXPECT_NE(shifted[0], whole[0]);
}

TEST(Fill, UniformDoesNotDependOnTheCut) { expect_cut_independent(&fill_uniform); }
TEST(Fill, NormalDoesNotDependOnTheCut) { expect_cut_independent(&fill_normal); }

TEST(Fill, UsesEveryBlockAcrossThe32BitBoundary) {
  const Philox stream(1, RandomPurpose::kNoise, "far");
  std::vector<float> far(8), near(8);
  const uint64_t boundary = uint64_t{1} << 34;  // element 4 * 2^32
  fill_uniform(stream, 0, 1, boundary - 4, far);
  fill_uniform(stream, 0, 1, 0, near);
  EXPECT_NE(std::vector<float>(far.begin() + 4, far.end()),
            std::vector<float>(near.begin(), near.begin() + 4));
}

struct Moments {
  double mean, variance;
};

Moments moments(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float v : values) {
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  const auto n = static_cast<double>(values.size());
  return {sum / n, squares / n - (sum / n) * (sum / n)};
}

TEST(Fill, UniformStaysInRangeWithTheRightMoments) {
  std::vector<float> values(200'000);
  fill_uniform(Philox(5, RandomPurpose::kInit, "u"), -2, 4, 0, values);
  for (const float v : values) ASSERT_TRUE(v >= -2 && v < 4);
  EXPECT_NEAR(moments(values).mean, 1.0, 0.02);
  EXPECT_NEAR(moments(values).variance, 3.0, 0.03);
}

TEST(Fill, NormalHasTheRightMomentsAndTails) {
  std::vector<float> values(200'000);
  fill_normal(Philox(5, RandomPurpose::kInit, "n"), 3, 2, 0, values);
  EXPECT_NEAR(moments(values).mean, 3.0, 0.02);
  EXPECT_NEAR(moments(values).variance, 4.0, 0.06);
  int beyond = 0;
  for (const float v : values) beyond += std::abs(v - 3) > 2 * 1.959964f;
  EXPECT_NEAR(beyond / 200'000.0, 0.05, 0.003);
}

TEST(KeyedPermutation, IsABijectionForEverySmallSize) {
  for (uint64_t size = 1; size <= 2000; ++size) {
    const KeyedPermutation order(17, size % 5, size);
    std::vector<bool> seen(size, false);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t image = order(i);
      ASSERT_LT(image, size);
      ASSERT_FALSE(seen[image]) << "size " << size << " image " << image;
      seen[image] = true;
    }
  }
}

TEST(KeyedPermutation, WorksAtLargeSizes) {
  for (const uint64_t size : {(uint64_t{1} << 32) + 1, uint64_t{1} << 63, ~uint64_t{0}}) {
    const KeyedPermutation order(1, 2, size);
    std::set<uint64_t> images;
    for (uint64_t i = 0; i < 1000; ++i) images.insert(order(size - 1 - i));
    EXPECT_EQ(images.size(), 1000u);
    EXPECT_LT(*images.rbegin(), size);
  }
}

TEST(KeyedPermutation, DiffersByEpochAndSeed) {
  const KeyedPermutation a(1, 0, 1000), b(1, 1, 1000), c(2, 0, 1000), again(1, 0, 1000);
  int same_epoch = 0, same_seed = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    same_epoch += a(i) == b(i);
    same_seed += a(i) == c(i);
    ASSERT_EQ(a(i), again(i));
  }
  EXPECT_LT(same_epoch, 12);  // one fixed point is expected, Poisson(1)
  EXPECT_LT(same_seed, 12);
  EXPECT_THROW(a(1000), std::exception);
}

double chi_squared(const std::vector<int>& counts, double expected) {
  double sum = 0;
  for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

// Where an index goes, and how far apart neighbours land, must be uniform over epochs.  Chi-squared of 10 and
// of 9 classes: 99.99 % stay below 33.7 and 31.8.
TEST(KeyedPermutation, SpreadsEvenlyOverEpochs) {
  constexpr int kEpochs = 20'000;
  for (const uint64_t size : {10, 60, 1000, 60'000}) {
    for (const uint64_t index : {uint64_t{0}, uint64_t{3}, size - 2}) {
      std::vector<int> places(10, 0), distances(10, 0);
      for (int epoch = 0; epoch < kEpochs; ++epoch) {
        const KeyedPermutation order(9, static_cast<uint64_t>(epoch), size);
        ++places[order(index) * 10 / size];
        ++distances[(order(index + 1) + size - order(index)) % size * 10 / size];
      }
      EXPECT_LT(chi_squared(places, kEpochs / 10.0), 33.7) << "size " << size << " index " << index;
      if (size == 10) {  // a distance of 0 does not exist
        EXPECT_EQ(distances[0], 0);
        distances.erase(distances.begin());
        EXPECT_LT(chi_squared(distances, kEpochs / 9.0), 31.8) << "index " << index;
      } else if (size >= 1000) {
        EXPECT_LT(chi_squared(distances, kEpochs / 10.0), 33.7) << "size " << size << " index " << index;
      }
    }
  }
}

}  // namespace
}  // namespace furrow
