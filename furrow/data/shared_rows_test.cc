// A table that one process has read is mapped by others, and is the same there; what cannot be mapped is
// read.
#include "furrow/data/shared_rows.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "furrow/base/memory.h"
#include "furrow/data/dataset.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using testing::ReadBuffers;
using testing::TempFolder;

TEST(SharedRows, AreMappedWhereTheyAreMade) {
  const auto made = RowMemory::make({3, 0, 2}, 4, true);
  ASSERT_EQ(made->split(0).size(), 48u);
  ASSERT_EQ(made->split(2).size(), 32u);
  std::ranges::fill(made->split(0), std::byte{1});
  std::ranges::fill(made->split(2), std::byte{2});
  const auto mapped = RowMemory::map(made->place(), 4);
  ASSERT_NE(mapped, nullptr);
  for (size_t split = 0; split < 3; ++split) {
    ASSERT_EQ(mapped->rows(split), made->rows(split));
    EXPECT_TRUE(std::ranges::equal(mapped->split(split), made->split(split)));
    EXPECT_TRUE(mapped->split(split).empty() || mapped->split(split).data() != made->split(split).data());
  }
  made->split(2)[0] = std::byte{9};
  EXPECT_EQ(mapped->split(2)[0], std::byte{9}) << "one memory";
  EXPECT_EQ(RowMemory::make({3, 0, 2}, 4, false)->place(), "");
}

TEST(SharedRows, WhatIsNotTheSameMemoryIsNotMapped) {
  auto made = RowMemory::make({3, 0, 2}, 4, true);
  const std::string place = made->place();
  EXPECT_NE(RowMemory::map(place, 4), nullptr) << "control";
  EXPECT_EQ(RowMemory::map(place, 5), nullptr) << "of another table";
  EXPECT_EQ(RowMemory::map(place + "1", 4), nullptr) << "another token";
  EXPECT_EQ(RowMemory::map("/proc/self/exe " + place.substr(place.find(' ') + 1), 4), nullptr);
  EXPECT_EQ(RowMemory::map("/proc/self/fd/0 1", 4), nullptr);
  EXPECT_EQ(RowMemory::map("/none 1", 4), nullptr);
  EXPECT_EQ(RowMemory::map("", 4), nullptr);
  made = nullptr;
  EXPECT_EQ(RowMemory::map(place, 4), nullptr) << "gone with its maker";
}

std::vector<uint64_t> bits_of(const Source& source) {
  std::vector<uint64_t> bits;
  ReadBuffers buffers(source, 1);
  for (int64_t i = 0; i < source.size(); ++i) {
    source.read(std::vector<int64_t>{i}, buffers.views);
    for (const float value : buffers.views[0].as<float>()) bits.push_back(std::bit_cast<uint32_t>(value));
    bits.push_back(static_cast<uint64_t>(buffers.views[1].as<int64_t>()[0]));
  }
  return bits;
}

class SharedTable : public ::testing::Test {
 protected:
  SharedTable() {
    const auto rows = [](int count) {
      std::string text = "a,b,y\n";
      for (int i = 0; i < count; ++i)
        text += fmt::format("{}.5,{},{}\n", i * 7 % 31, "uvw"[i % 3], "pq"[i % 2]);
      return text;
    };
    folder_.write("train.csv", rows(200));
    folder_.write("test.csv", rows(31));
    options_.path = folder_.path();
    options_.table_train = "train.csv";
    options_.table_test = "test.csv";
    options_.table_rules.target = "y";
    options_.validation_fraction = 0.2;
  }
  TempFolder folder_;
  DatasetOptions options_{.kind = "table", .seed = 3};
};

TEST_F(SharedTable, IsTheTableThatWasReadOnce) {
  const Dataset alone = open_dataset(options_);
  EXPECT_EQ(alone.shared, "");
  DatasetOptions sharing = options_;
  sharing.opening.share = true;
  const Dataset first = open_dataset(sharing);
  std::filesystem::remove(folder_ / "train.csv");  // nobody reads it again
  std::filesystem::remove(folder_ / "test.csv");
  DatasetOptions mapping = options_;
  mapping.opening.shared = first.shared;
  reset_memory_peaks();
  const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
  const Dataset second = open_dataset(mapping, &first.preprocessing);
  EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes, before) << "no rows of its own";
  EXPECT_EQ(second.preprocessing, alone.preprocessing);
  ASSERT_EQ(second.test->size(), 31);
  for (const auto split : {&Dataset::train, &Dataset::validation, &Dataset::test})
    EXPECT_EQ(bits_of(*(second.*split)), bits_of(*(alone.*split)));
}

TEST_F(SharedTable, IsReadWhereItCannotBeMapped) {
  const Dataset alone = open_dataset(options_);
  DatasetOptions mapping = options_;
  mapping.opening.shared = "/proc/1/fd/999 17";
  const Dataset read = open_dataset(mapping, &alone.preprocessing);
  EXPECT_EQ(bits_of(*read.train), bits_of(*alone.train));
}

TEST_F(SharedTable, AnotherProcessMapsIt) {
  DatasetOptions sharing = options_;
  sharing.opening.share = true;
  const Dataset first = open_dataset(sharing);
  const std::vector<uint64_t> want = bits_of(*first.train);
  const pid_t child = ::fork();
  if (child == 0) {
    DatasetOptions mapping = options_;
    mapping.path = "/none";
    mapping.opening.shared = first.shared;
    bool same = false;
    try {
      same = bits_of(*open_dataset(mapping, &first.preprocessing).train) == want;
    } catch (...) {
    }
    ::_exit(same ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace furrow::data
