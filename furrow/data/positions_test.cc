// Shares of ranks: together they are one rank's microbatches, whatever their number.
#include "furrow/data/positions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "furrow/base/error.h"
#include "furrow/data/loader.h"
#include "furrow/data/source.h"

namespace furrow::data {
namespace {

class EmptySource : public Source {
 public:
  explicit EmptySource(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 2; }
  void read(std::span<const int64_t>, std::span<const ArrayView>) const override {}

 private:
  int64_t size_;
  std::vector<Field> fields_{{"target", DType::kI64, {}}};
};

// A step of microbatches dealt out to ranks: `rank_of[m]` owns microbatch m.
std::vector<Share> deal(const std::vector<int64_t>& sizes, const std::vector<int>& rank_of, int ranks) {
  std::vector<Share> shares(static_cast<size_t>(ranks));
  int64_t offset = 0;
  for (size_t m = 0; m < sizes.size(); ++m) {
    Share& share = shares[static_cast<size_t>(rank_of[m])];
    share.sizes.push_back(sizes[m]);
    share.offsets.push_back(offset);
    offset += sizes[m];
  }
  for (Share& share : shares) share.stride = offset;
  return shares;
}

// The ranges of `steps` steps over all ranks, in order of position.
std::vector<PositionRange> ledger(const std::vector<Share>& shares, int64_t start, int steps, int64_t end) {
  std::vector<PositionRange> all;
  for (const Share& share : shares) {
    for (int64_t k = 0; k < steps * static_cast<int64_t>(share.sizes.size()); ++k) {
      if (const PositionRange range = share.at(start, k, end); range.size > 0) all.push_back(range);
    }
  }
  std::ranges::sort(all, {}, &PositionRange::begin);
  return all;
}

// Random ways to give each rank at least one of `count` microbatches.
std::vector<int> random_owners(size_t count, int ranks, std::mt19937* rng) {
  std::vector<int> owners(count);
  for (size_t m = 0; m < count; ++m)
    owners[m] = m < static_cast<size_t>(ranks) ? static_cast<int>(m) : static_cast<int>((*rng)() % ranks);
  std::ranges::shuffle(owners, *rng);
  return owners;
}

TEST(Share, UnionOfRanksIsOneRanks) {
  std::mt19937 rng(3);
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<int64_t> sizes(static_cast<size_t>(ranks) + rng() % 9, 4);
      sizes.back() = 1 + static_cast<int64_t>(rng() % 4);  // an uneven last one
      const auto shares = deal(sizes, random_owners(sizes.size(), ranks, &rng), ranks);
      const int64_t start = static_cast<int64_t>(rng() % 100), step = shares[0].stride;
      for (const int64_t end : {int64_t{-1}, start + 2 * step + 3, start + 1, start}) {
        const auto expected = ledger({Share{.sizes = sizes}}, start, 4, end);
        EXPECT_EQ(ledger(shares, start, 4, end), expected) << ranks << " ranks";
        int64_t next = start;  // and that leaves nothing out
        for (const PositionRange& range : expected) {
          EXPECT_EQ(range.begin, next);
          next += range.size;
        }
        EXPECT_EQ(next, end < 0 ? start + 4 * step : std::min(end, start + 4 * step));
      }
    }
  }
}

TEST(Share, ASwappedMicrobatchIsSeen) {  // negative control
  auto shares = deal({4, 4, 4, 4}, {0, 0, 1, 1}, 2);
  const auto expected = ledger({Share{.sizes = {4, 4, 4, 4}}}, 0, 3, -1);
  ASSERT_EQ(ledger(shares, 0, 3, -1), expected);
  shares[0].offsets[1] = 8;
  EXPECT_NE(ledger(shares, 0, 3, -1), expected);
}

TEST(Share, GoesOnWithAnyNumberOfRanks) {
  const std::vector<int64_t> sizes = {4, 4, 4, 2};
  const auto whole = ledger({Share{.sizes = sizes}}, 0, 9, -1);
  std::vector<PositionRange> parts;
  int64_t position = 0;
  for (const auto& owners : {std::vector<int>{0, 0, 1, 1}, {0, 1, 2, 3}, {0, 0, 0, 0}}) {
    const auto part = ledger(deal(sizes, owners, 1 + *std::ranges::max_element(owners)), position, 3, -1);
    parts.insert(parts.end(), part.begin(), part.end());
    position += 3 * 14;
  }
  EXPECT_EQ(parts, whole);
}

TEST(Share, RefusesWhatOverlaps) {
  EXPECT_THROW(Share{}.check(), Error);
  EXPECT_THROW((Share{.sizes = {4, 4}, .offsets = {4, 0}, .stride = 8}.check()), Error);
  EXPECT_THROW((Share{.sizes = {4, 4}, .offsets = {0, 3}, .stride = 8}.check()), Error);
  EXPECT_THROW((Share{.sizes = {4}, .offsets = {0, 4}, .stride = 8}.check()), Error);
  EXPECT_THROW((Share{.sizes = {4}, .offsets = {5}, .stride = 8}.check()), Error);
  EXPECT_THROW((Share{.sizes = {4}, .offsets = {4}}.check()), Error);
  EXPECT_NO_THROW((Share{.sizes = {4}, .offsets = {4}, .stride = 8}.check()));
}

// A loader over a share hands out exactly those samples, by id and by index.
TEST(Share, LoadersOfRanksReadWhatOneReads) {
  const EmptySource source(53);
  const SampleOrder order(11, 53, true);
  const std::vector<int64_t> sizes = {8, 8, 3};
  std::vector<std::pair<int64_t, int64_t>> one, ranks;  // id, index
  const auto read = [&](const Share& share, auto* into) {
    for (const int prefetch : {0, 3}) {
      Loader loader(source, order,
                    {.sizes = share.sizes,
                     .offsets = share.offsets,
                     .stride = share.stride,
                     .position = 19,
                     .end = 19 * 4 - 6,
                     .prefetch = prefetch});
      while (const Batch* batch = loader.next()) {
        for (size_t row = 0; row < batch->indices.size(); ++row)
          into->emplace_back(batch->sample_ids[row], batch->indices[row]);
        loader.release();
      }
    }
    std::ranges::sort(*into);
  };
  read({.sizes = sizes}, &one);
  for (const Share& share : deal(sizes, {1, 0, 1}, 2)) read(share, &ranks);
  EXPECT_EQ(one.size(), 2u * (19 * 3 - 6));
  EXPECT_EQ(ranks, one);
}

}  // namespace
}  // namespace furrow::data
