// Blocks of a table on their way into memory: as many wait there as a bound allows, wherever they lie they
// are the same.
#include "furrow/data/table_store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "furrow/base/failpoint.h"
#include "furrow/base/log.h"
#include "furrow/base/memory.h"
#include "furrow/data/dataset.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using ::testing::HasSubstr;
using testing::TempFolder;

int64_t counted_bytes() { return memory_usage(MemoryKind::kData).current_bytes; }

// Some rows of numbers of their own.
std::vector<std::byte> block_of(int number, int64_t rows) {
  TableContents contents{.rows = rows, .columns = {}};
  TableColumn column{.name = "x", .numbers = {}, .text = {}, .ends = {}, .valid = {}};
  for (int64_t i = 0; i < rows; ++i) column.numbers.push_back(number + 1.0 / static_cast<double>(i + 3));
  contents.columns.push_back(std::move(column));
  int64_t bad_row = -1;
  return make_block(contents, std::vector{ColumnUse::kNumber}, {}, &bad_row);
}

struct Filled {
  explicit Filled(uint64_t memory_bytes) : store(memory_bytes) {
    for (int i = 0; i < 30; ++i) {
      blocks.push_back(block_of(i, 50 + i));
      places.push_back({0, static_cast<uint64_t>(29 - i), static_cast<uint64_t>(30 - i), 50 + i});
      store.add(places.back(), blocks.back());
    }
  }
  void expect_whole() {
    for (size_t i = 0; i < blocks.size(); ++i) {
      const auto held = store.load(places[i]);
      ASSERT_EQ(held->block().rows(), static_cast<size_t>(places[i].rows));
      const Block want(blocks[i]);
      for (size_t row = 0; row < want.rows(); ++row)
        ASSERT_EQ(held->block().columns()[0].number(row), want.columns()[0].number(row));
    }
  }
  TableStore store;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<BlockPlace> places;
};

TEST(TableStore, KeepsNoMoreInMemoryThanItMay) {
  const int64_t before = counted_bytes();
  const auto held_by = [&](uint64_t memory_bytes) {
    Filled filled(memory_bytes);
    const int64_t held = counted_bytes() - before;
    filled.expect_whole();
    EXPECT_EQ(counted_bytes() - before, held) << "what was loaded is gone again";
    filled.store.seal();
    EXPECT_EQ(filled.store.blocks(), 30u);
    filled.expect_whole();
    for (size_t i = 0; i < filled.store.blocks(); ++i) {
      const Block want(filled.blocks[29 - i]);
      EXPECT_EQ(filled.store.load(i)->block().columns()[0].number(7), want.columns()[0].number(7));
      filled.store.drop(i);
    }
    EXPECT_EQ(counted_bytes(), before);
    return held;
  };
  const int64_t all = held_by(1 << 20);
  EXPECT_GT(all, 30 * 50 * 8);
  EXPECT_EQ(held_by(0), 0);
  EXPECT_LE(held_by(4000), 4000);
  EXPECT_GT(held_by(4000), 2000);
}

// Where there is no room for a file, from the first or a later block on.
TEST(TableStore, KeepsAllInMemoryWhereThereIsNoRoomElsewhere) {
  std::string log;
  set_log_writer([&log](std::string_view line) { log += line; });
  for (const char* place : {"table.before_nameless=enospc", "table.before_nameless=enospc@9"}) {
    log.clear();
    arm_failpoints(place);
    Filled filled(1000);
    arm_failpoints("");
    filled.expect_whole();
    EXPECT_THAT(log, HasSubstr("name a folder with more room in TMPDIR"));
    EXPECT_EQ(std::ranges::count(log, '\n'), 1) << log;
  }
  log.clear();
  const char* const own = std::getenv("TMPDIR");
  const std::string kept = own == nullptr ? "" : own;
  ::setenv("TMPDIR", "/none", 1);
  Filled filled(1000);
  own == nullptr ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", kept.c_str(), 1);
  filled.expect_whole();
  EXPECT_THAT(log, HasSubstr("TMPDIR"));
  set_log_writer({});
}

// A table in memory takes that of its encoded rows, and what the bound allows.
TEST(TableStore, BoundsWhatATableTakesBesideItsRows) {
  const TempFolder folder;
  std::string text = "a,b,y\n";
  for (int i = 0; i < 30'000; ++i)
    text += fmt::format("{},{}.123456789,{}\n", i * 7919 % 30011 / 7.0, i, "pq"[i % 2]);
  DatasetOptions options{.kind = "table", .path = folder.write("t.csv", text)};
  options.table_rules.target = "y";
  const auto above = [&](size_t part_bytes) {
    options.opening = {.threads = 1, .table_part_bytes = part_bytes};
    reset_memory_peaks();
    const int64_t before = counted_bytes();
    const Dataset dataset = open_dataset(options);
    const int64_t rows = counted_bytes() - before;
    EXPECT_EQ(rows, 30'000 * 3 * 4);
    return memory_usage(MemoryKind::kData).peak_bytes - before - rows;
  };
  EXPECT_LE(above(1000), 32 * 1000 + 4000);
  EXPECT_GT(above(1 << 20), 100'000) << "control: all blocks wait in memory";
}

}  // namespace
}  // namespace furrow::data
