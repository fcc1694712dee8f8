// Compressed files come out as they went in, whatever the size of the pieces; damage is found.
#include "furrow/data/decompress.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/data/dataset.h"
#include "furrow/data/files.h"
#include "furrow/data/test_files.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::data {
namespace {

using testing::ByteVector;
using testing::TempFolder;

// "a,b,y\n" and 2,000 rows "I,x,p\n"; compressed by pyarrow 26.
std::string want() {
  std::string text = "a,b,y\n";
  for (int i = 0; i < 2000; ++i) text += fmt::format("{},{},{}\n", i % 100, "uvw"[i % 3], "pq"[i % 2]);
  return text;
}

std::string packed(const std::string& name) {
  const Bytes file = read_file(furrow::testing::source_root() / "furrow/data/testdata" / name);
  return std::string(file.as_text());
}

std::string expanded(const std::string& bytes, size_t piece) {
  size_t at = 0;
  const ReadNext file = [&](std::span<std::byte> out) {
    const size_t count = std::min(out.size(), bytes.size() - at);
    std::copy_n(reinterpret_cast<const std::byte*>(bytes.data()) + at, count, out.begin());
    at += count;
    return count;
  };
  const ReadNext read = decompressed(compression_of(std::as_bytes(std::span(bytes))), file);
  std::string all;
  std::vector<std::byte> out(piece);
  for (size_t got = piece; got == piece;) {
    got = read(out);
    all.append(reinterpret_cast<const char*>(out.data()), got);
  }
  return all;
}

constexpr std::array<const char*, 3> kFiles = {"rows.csv.zst", "two-frames.csv.zst", "rows.csv.bz2"};

TEST(Decompress, WhatWasCompressedComesOut) {
  const std::string first = packed(kFiles[0]), last = packed(kFiles[2]);
  EXPECT_EQ(compression_of(std::as_bytes(std::span(first))), Compression::kZstd);
  EXPECT_EQ(compression_of(std::as_bytes(std::span(last))), Compression::kBzip2);
  const std::string text = "BZh9 is how a line of text may begin";
  EXPECT_EQ(compression_of(std::as_bytes(std::span(text))), Compression::kNone);
  for (const char* file : kFiles) {
    for (const size_t piece : {size_t{1}, size_t{777}, size_t{1} << 20})
      EXPECT_EQ(expanded(packed(file), piece), want()) << file << piece;
  }
}

TEST(Decompress, DamageIsFound) {
  for (const char* file : kFiles) {
    const std::string whole = packed(file);
    const bool zstd = std::string_view(file).ends_with(".zst");
    for (const size_t size : {size_t{12}, whole.size() / 2, whole.size() - 1}) {
      try {
        expanded(whole.substr(0, size), 1000);
        ADD_FAILURE() << file << " cut to " << size;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << error.what();
      }
    }
    size_t found = 0;
    for (size_t at = 10; at < whole.size(); at += 3) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 4);
      try {
        const bool same = expanded(flipped, 1000) == want();
        EXPECT_TRUE(same || zstd) << file << " byte " << at;  // whose frames have no checksum here
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << error.what();
        ++found;
      }
    }
    EXPECT_GT(found, 0u);
    EXPECT_THROW(expanded(whole + "rest", 1000), Error) << file;
  }
}

DatasetOptions options_of(const std::filesystem::path& path) {
  DatasetOptions options{.kind = "table", .path = path, .seed = 3};
  options.table_rules.target = "y";
  return options;
}

TEST(Decompress, TablesAreTheSameHoweverTheyAreCompressed) {
  const TempFolder folder;
  const Dataset plain = open_dataset(options_of(folder.write("t.csv", want())));
  ASSERT_EQ(plain.train->size(), 2000);
  for (const char* file : {"rows.csv.zst", "rows.csv.bz2"}) {
    const std::string name = std::string("t.csv") + std::filesystem::path(file).extension().string();
    const Dataset dataset = open_dataset(options_of(folder.write(name, packed(file))));
    EXPECT_EQ(dataset.preprocessing, plain.preprocessing) << file;
    EXPECT_EQ(dataset.train->size(), 2000);
    EXPECT_EQ(guess_kind(folder / name), "table");
  }
  const Bytes gz = read_file(furrow::testing::source_root() / "furrow/data/testdata/rows.parquet");
  const std::string_view parquet = gz.as_text();
  const auto packed_parquet =
      folder.write("t.parquet.gz", testing::gzip_bytes(ByteVector(parquet.begin(), parquet.end())));
  EXPECT_EQ(open_dataset(options_of(packed_parquet)).preprocessing, plain.preprocessing);
  EXPECT_EQ(open_dataset(options_of(folder.write("t.parquet.zst", packed("rows.parquet.zst")))).preprocessing,
            plain.preprocessing);
}

// 64 MiB of zeros in 64 KiB of gzip: memory does not grow with what comes out, and no file is left.
TEST(Decompress, APackedFileIsReadAtAnyPlaceInLittleMemory) {
  const TempFolder folder;
  ByteVector zeros(size_t{64} << 20);
  zeros[size_t{50} << 20] = 7;
  const auto path = folder.write("z.gz", testing::gzip_bytes(zeros));
  reset_memory_peaks();
  const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
  int told = 0;
  const RandomFile file(path, [&] { ++told; });
  EXPECT_LT(memory_usage(MemoryKind::kData).peak_bytes - before, 1 << 20);
  EXPECT_GE(told, 64);
  EXPECT_EQ(file.size(), zeros.size());
  std::byte one[3];
  EXPECT_EQ(file.read_at((size_t{50} << 20) - 1, one), 3u);
  EXPECT_EQ(one[1], std::byte{7});
  EXPECT_EQ(file.read_at(zeros.size() - 1, one), 1u);
}

}  // namespace
}  // namespace furrow::data
