// What one process has read, a table, a text or a mixture of them, is mapped by others, and is the same
// there; what cannot be mapped is read.
#include "furrow/data/shared_memory.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/data/dataset.h"
#include "furrow/data/shared_rows.h"
#include "furrow/data/test_files.h"
#include "furrow/data/text.h"

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

TEST(SharedTexts, AreMappedWhereTheyAreMade) {
  for (const int64_t vocabulary : {200, 60'000, 70'000}) {
    for (const size_t documents : {0, 1, 5}) {
      TokenBuilder builder(vocabulary, /*shared=*/true);
      std::vector<int64_t> want, ends;
      for (size_t part = 0; part < 5; ++part) {
        const std::vector<uint32_t> ids(part + 3,
                                        static_cast<uint32_t>(vocabulary - 1 - static_cast<int64_t>(part)));
        builder.append(ids);
        want.insert(want.end(), ids.begin(), ids.end());
        const bool ended = part < documents;
        if (ended) ends.push_back(builder.size());
        builder.mark({}, ended ? std::span(ends).last(1) : std::span<int64_t>());
      }
      const auto made = builder.finish();
      const auto mapped = map_text(builder.place(), vocabulary);
      ASSERT_TRUE(mapped);
      ASSERT_EQ(mapped->tokens->size(), made->size());
      std::vector<int64_t> read(want.size());
      mapped->tokens->copy(0, read);
      EXPECT_EQ(read, want);
      EXPECT_EQ(mapped->ends, ends);
      EXPECT_FALSE(map_text(builder.place(), vocabulary + 1)) << "another tokenizer's";
      EXPECT_EQ(RowMemory::map(builder.place(), 1), nullptr) << "no table";
    }
  }
  EXPECT_FALSE(map_text(RowMemory::make({1, 1, 1}, 200, true)->place(), 200)) << "no text";
  EXPECT_FALSE(map_text("", 200));
}

// What a set is, sample by sample.
std::vector<uint8_t> bits_of(const Source& source) {
  std::vector<uint8_t> bits;
  ReadBuffers buffers(source, 1);
  for (int64_t i = 0; i < source.size(); ++i) {
    source.read(std::vector<int64_t>{i}, buffers.views);
    for (const ArrayView& view : buffers.views) {
      const auto bytes = view.as<uint8_t>();
      bits.insert(bits.end(), bytes.begin(), bytes.end());
    }
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
  const std::vector<uint8_t> want = bits_of(*first.train);
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

void expect_same(const Dataset& a, const Dataset& b) {
  EXPECT_EQ(a.preprocessing, b.preprocessing);
  for (const auto split : {&Dataset::train, &Dataset::validation, &Dataset::test}) {
    ASSERT_EQ((a.*split) == nullptr, (b.*split) == nullptr);
    if ((a.*split) == nullptr) continue;
    EXPECT_EQ(bits_of(*(a.*split)), bits_of(*(b.*split)));
  }
}

// Opened by one process, with the files emptied behind its back by another: the same set, and no memory of
// its own.
void expect_mapped(const DatasetOptions& options, const std::vector<std::filesystem::path>& files) {
  const Dataset alone = open_dataset(options);
  EXPECT_EQ(alone.shared, "");
  DatasetOptions sharing = options;
  sharing.opening.share = true;
  const Dataset first = open_dataset(sharing);
  EXPECT_NE(first.shared, "");
  expect_same(first, alone);
  for (const auto& file : files) std::ofstream(file, std::ios::trunc) << "none\n";
  DatasetOptions mapping = options;
  mapping.opening.shared = first.shared;
  const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
  const Dataset second = open_dataset(mapping, &first.preprocessing);
  EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes, before);
  expect_same(second, alone);
  mapping.opening.shared = "";
  try {
    EXPECT_NE(bits_of(*open_dataset(mapping, &first.preprocessing).train), bits_of(*alone.train))
        << "control";
  } catch (const Error&) {  // nothing is left to read
  }
}

TEST(SharedTexts, AreTokenisedOnce) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 500; ++i) text += fmt::format("{} and {}{}", i * i, i % 7, i % 5 == 0 ? "\n\n" : " ");
  for (const char* separator : {"", "\n\n"}) {
    const auto file = folder.write("t.txt", text);
    DatasetOptions options{.kind = "text", .path = file, .validation_fraction = 0.2, .context = 8};
    options.test_fraction = 0.1;
    options.document_separator = separator;
    expect_mapped(options, {file});
  }
}

TEST_F(SharedTable, IsReadOnceInAMixtureToo) {
  options_.kind = "mixture";
  options_.table_train = "train.csv";
  std::filesystem::create_directories(folder_ / "a");
  std::filesystem::create_directories(folder_ / "b");
  std::vector<std::filesystem::path> files;
  for (const char* name : {"a/train.csv", "a/test.csv", "b/train.csv", "b/test.csv"}) {
    std::filesystem::copy_file(folder_ / (name + 2), folder_ / name);
    files.push_back(folder_ / name);
  }
  options_.mixture = {"one: table weight=1 path=a", "two: table weight=2 path=b"};
  expect_mapped(options_, files);
}

TEST(SharedTexts, AreTokenisedOnceInAMixtureToo) {
  const TempFolder folder;
  std::vector<std::filesystem::path> files;
  for (const char* name : {"a.txt", "b.txt"}) {
    std::string text = name;
    for (int i = 0; i < 300; ++i) text += fmt::format(" {}", i * (name[0] - 'a' + 3));
    files.push_back(folder.write(name, text));
  }
  DatasetOptions options{.kind = "mixture", .path = folder.path(), .validation_fraction = 0.1, .context = 8};
  options.mixture = {"a: text weight=1 path=a.txt", "b: text weight=3 path=b.txt"};
  expect_mapped(options, files);
}

// One of two sets can be mapped: the other is read.
TEST_F(SharedTable, WhatOfAMixtureCannotBeMappedIsRead) {
  options_.kind = "mixture";
  options_.table_test = "";
  options_.mixture = {"one: table weight=1 path=train.csv", "two: table weight=2 path=test.csv"};
  options_.table_train = "";
  const Dataset alone = open_dataset(options_);
  DatasetOptions sharing = options_;
  sharing.opening.share = true;
  const Dataset first = open_dataset(sharing);
  DatasetOptions mapping = options_;
  mapping.opening.shared = first.shared.substr(0, first.shared.find('\x1e') + 1) + "/proc/1/fd/999 17";
  expect_same(open_dataset(mapping, &first.preprocessing), alone);
  mapping.opening.shared = "/none 3";
  expect_same(open_dataset(mapping, &first.preprocessing), alone);
}

}  // namespace
}  // namespace furrow::data
