#include "furrow/data/row_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace furrow::data {
namespace {

TEST(RowSets, CountAndFindTheirRows) {
  std::mt19937 random(7);
  for (const int64_t bound : {1, 63, 64, 65, 511, 512, 513, 5000}) {
    for (const unsigned share : {0u, 1u, 50u, 99u, 100u}) {
      RowSet set(bound);
      std::set<int64_t> want;
      for (int64_t row = 0; row < bound; ++row) {
        if (random() % 100 >= share) continue;
        set.add(row);
        want.insert(row);
      }
      set.seal();
      ASSERT_EQ(set.size(), static_cast<int64_t>(want.size()));
      int64_t before = 0;
      for (int64_t row = 0; row < bound; ++row) {
        ASSERT_EQ(set.before(row), before);
        ASSERT_EQ(set.contains(row), want.contains(row));
        if (!want.contains(row)) continue;
        ASSERT_EQ(set.row(before), row);
        ++before;
      }
      ASSERT_EQ(set.before(bound), before);
      for (const int64_t first : {int64_t{0}, bound / 3, bound - 1}) {
        std::vector<uint32_t> of_block;
        for (int64_t row = first; row < bound; ++row) {
          if (want.contains(row)) of_block.push_back(static_cast<uint32_t>(row - first));
        }
        ASSERT_EQ(set.of_block(first, static_cast<size_t>(bound - first)), of_block);
      }
    }
  }
  const RowSet all = RowSet::all(10);
  EXPECT_EQ(all.size(), 10);
  EXPECT_EQ(all.row(7), 7);
  EXPECT_EQ(all.before(7), 7);
  EXPECT_EQ(all.of_block(7, 2), (std::vector<uint32_t>{0, 1}));
  EXPECT_TRUE(RowSet().of_block(7, 2).empty());
}

// The rows that earlier versions have chosen, from vectors of them.
TEST(RowSets, AreCarvedAsEver) {
  for (const auto& [validation, test] : {std::pair<int64_t, int64_t>{0, 0}, {200, 0}, {0, 100}, {200, 100}}) {
    const CarvedRows got = carve_rows(1000, validation, test, 4);
    Carved kept = carve(1000, validation + test, 4);
    std::vector<uint32_t> want_validation = kept.validation, want_test;
    if (test > 0) {
      const Carved parts = carve(validation + test, validation, ~uint64_t{4});
      want_validation.clear();
      for (const uint32_t at : parts.train) want_test.push_back(kept.validation[at]);
      for (const uint32_t at : parts.validation) want_validation.push_back(kept.validation[at]);
    }
    const auto rows_of = [](const RowSet& set) {
      std::vector<uint32_t> rows;
      for (int64_t i = 0; i < set.size(); ++i) rows.push_back(static_cast<uint32_t>(set.row(i)));
      return rows;
    };
    EXPECT_EQ(rows_of(got.train), kept.train);
    EXPECT_EQ(rows_of(got.validation), want_validation);
    EXPECT_EQ(rows_of(got.test), want_test);
  }
}

}  // namespace
}  // namespace furrow::data
