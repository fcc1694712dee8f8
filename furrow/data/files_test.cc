// Files and gzip: what is read, and what each kind of damage says.
#include "furrow/data/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <functional>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/data/gzip.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using testing::bytes_of;
using testing::ByteVector;
using testing::error_of;
using testing::gzip_bytes;
using ::testing::HasSubstr;
using testing::TempFolder;

std::span<const std::byte> view(const ByteVector& bytes) { return std::as_bytes(std::span(bytes)); }

ByteVector contents(const Bytes& bytes) { return {bytes.as_uint8().begin(), bytes.as_uint8().end()}; }

ByteVector sample_text() {
  ByteVector text;
  for (int i = 0; i < 5000; ++i) text.push_back(static_cast<uint8_t>((i * i) >> 3));
  return text;
}

TEST(Gunzip, GivesBackWhatWasCompressed) {
  for (const ByteVector& original : {ByteVector(), bytes_of("a"), sample_text(), ByteVector(3000000, 7)}) {
    EXPECT_EQ(contents(gunzip(view(gzip_bytes(original)))), original);
  }
}

TEST(Gunzip, ReadsAllMembers) {
  ByteVector file =
      gzip_bytes(ByteVector(100000, 1));  // the last trailer states less than the first member holds
  const ByteVector second = gzip_bytes(bytes_of("end"));
  file.insert(file.end(), second.begin(), second.end());
  ByteVector expected(100000, 1);
  for (const char c : {'e', 'n', 'd'}) expected.push_back(static_cast<uint8_t>(c));
  EXPECT_EQ(contents(gunzip(view(file))), expected);
}

TEST(Gunzip, EveryTruncationIsAnError) {
  const ByteVector file = gzip_bytes(sample_text());
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_EQ(error_of([&] { gunzip(view(file).first(length)); }).code(), ErrorCode::kDataLoss) << length;
  }
}

// Bytes 4 to 9 of the header (time, level, system) carry no data and no checksum; everything else is covered.
TEST(Gunzip, EveryBitFlipIsAnError) {
  ByteVector file = gzip_bytes(sample_text());
  for (size_t at = 2; at < file.size(); ++at) {
    if (at >= 4 && at < 10) continue;
    const uint8_t bit = static_cast<uint8_t>(1u << (at % 8));
    if (at == 3 && bit == 1) continue;  // FTEXT, a hint
    file[at] ^= bit;
    EXPECT_EQ(error_of([&] { gunzip(view(file)); }).code(), ErrorCode::kDataLoss) << "byte " << at;
    file[at] ^= bit;
  }
}

// RFC 1952, 2.3.1: every optional field of a header, in its order, and the checksum of all of it.
TEST(Gunzip, AHeaderWithItsOwnChecksumIsChecked) {
  constexpr uint8_t kHeaderCrc = 2, kExtra = 4, kName = 8, kComment = 16;
  const ByteVector text = sample_text(), plain = gzip_bytes(text);
  for (int fields = 0; fields < 8; ++fields) {
    ByteVector file(plain.begin(), plain.begin() + 10);
    const auto append = [&](std::initializer_list<uint8_t> bytes) { file.insert(file.end(), bytes); };
    file[3] = kHeaderCrc;
    if (fields & 1) file[3] |= kExtra, append({3, 0, 'a', 0, 'b'});
    if (fields & 2) file[3] |= kName, append({'n', 0});
    if (fields & 4) file[3] |= kComment, append({'c', 'd', 0});
    const auto crc = crc32(0, file.data(), static_cast<uInt>(file.size()));
    append({static_cast<uint8_t>(crc), static_cast<uint8_t>(crc >> 8)});
    file.insert(file.end(), plain.begin() + 10, plain.end());
    EXPECT_EQ(contents(gunzip(view(file))), text) << fields;
    file[4] ^= 1;  // the time: nothing but this checksum covers it
    EXPECT_THAT(error_of([&] { gunzip(view(file)); }).what(), HasSubstr("damaged gzip header")) << fields;
  }
}

TEST(Gunzip, TrailingBytesAreAnError) {
  ByteVector file = gzip_bytes(sample_text());
  file.push_back(0);
  EXPECT_THAT(error_of([&] { gunzip(view(file)); }).what(), HasSubstr("behind the end"));
}

TEST(Gunzip, AHugeStatedSizeAllocatesWhatTheInputCanHold) {
  ByteVector file = gzip_bytes(bytes_of("small"));
  for (size_t i = 1; i <= 4; ++i) file[file.size() - i] = 0xFF;
  reset_memory_peaks();
  const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
  EXPECT_EQ(error_of([&] { gunzip(view(file)); }).code(), ErrorCode::kDataLoss);
  EXPECT_LT(memory_usage(MemoryKind::kData).peak_bytes - before, 64 * 1024);
}

TEST(GunzipPrefix, IsTheStartOfTheWhole) {
  const ByteVector text = sample_text(), file = gzip_bytes(text);
  EXPECT_EQ(gunzip_prefix(view(file), 16), ByteVector(text.begin(), text.begin() + 16));
  EXPECT_EQ(gunzip_prefix(view(file), 100000), text);
  EXPECT_LT(gunzip_prefix(view(file).first(200), 100000).size(), text.size());
  ByteVector bad = file;
  bad[2] = 99;  // no such compression method
  EXPECT_EQ(error_of([&] { gunzip_prefix(view(bad), 16); }).code(), ErrorCode::kDataLoss);
}

// By a stream that takes `piece` bytes of the file at most, in pieces of `out` bytes.
ByteVector streamed(const ByteVector& file, size_t out, size_t piece = SIZE_MAX) {
  size_t at = 0;
  GunzipStream stream([&](std::span<std::byte> to) {
    const size_t bytes = std::min({to.size(), piece, file.size() - at});
    std::ranges::copy(view(file).subspan(at, bytes), to.begin());
    at += bytes;
    return bytes;
  });
  ByteVector all, part(out);
  for (size_t got = out; got == out;) {
    got = stream.read(std::as_writable_bytes(std::span(part)));
    all.insert(all.end(), part.begin(), part.begin() + static_cast<long>(got));
  }
  return all;
}

TEST(GunzipStream, GivesWhatTheWholeGives) {
  ByteVector members = gzip_bytes(sample_text());
  for (const ByteVector& more :
       {gzip_bytes({}), gzip_bytes(ByteVector(300000, 7)), gzip_bytes(bytes_of("end"))})
    members.insert(members.end(), more.begin(), more.end());
  for (const ByteVector& file : {members, gzip_bytes({}), gzip_bytes(ByteVector(3000000, 7))}) {
    const ByteVector expected = contents(gunzip(view(file)));
    for (const size_t out : {size_t{1} << 22, size_t{4096}, size_t{1000}, size_t{7}})
      EXPECT_EQ(streamed(file, out), expected) << out;
  }
}

TEST(GunzipStream, DamageIsAnError) {
  const ByteVector file = gzip_bytes(sample_text());
  for (size_t length = 1; length < file.size(); ++length) {
    const ByteVector cut(file.begin(), file.begin() + static_cast<long>(length));
    EXPECT_EQ(error_of([&] { streamed(cut, 1000); }).code(), ErrorCode::kDataLoss) << length;
  }
  for (size_t at = 2; at < file.size(); ++at) {
    if (at == 3 || (at >= 4 && at < 10)) continue;
    ByteVector flipped = file;
    flipped[at] ^= static_cast<uint8_t>(1u << (at % 8));
    EXPECT_EQ(error_of([&] { streamed(flipped, 1000); }).code(), ErrorCode::kDataLoss) << at;
  }
  ByteVector longer = file;
  longer.push_back(0);
  EXPECT_THAT(error_of([&] { streamed(longer, 1000); }).what(), HasSubstr("behind the end"));
}

TEST(ContentStream, ReadsPlainAndPackedInLittleMemory) {
  const TempFolder folder;
  ByteVector text;
  for (int i = 0; i < 400; ++i) {
    const ByteVector more = sample_text();
    text.insert(text.end(), more.begin(), more.end());
  }
  for (const auto& path : {folder.write("plain", text), folder.write("packed.gz", gzip_bytes(text))}) {
    reset_memory_peaks();
    const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
    for (const uint64_t begin : {uint64_t{0}, uint64_t{1}, uint64_t{1234567}, uint64_t{2000000}}) {
      ContentStream stream(path);
      int told = 0;
      if (begin > 0) stream.skip(begin, [&] { ++told; });
      ByteVector all(text.size() + 1);
      all.resize(stream.read(std::as_writable_bytes(std::span(all))));
      EXPECT_EQ(all, ByteVector(text.begin() + static_cast<long>(begin), text.end())) << path << begin;
      EXPECT_EQ(stream.taken(), std::filesystem::file_size(path));
      EXPECT_EQ(told > 0, begin > 0 && path.extension() == ".gz");
    }
    EXPECT_LT(memory_usage(MemoryKind::kData).peak_bytes - before, 1 << 16);
    ContentStream stream(path);
    EXPECT_EQ(error_of([&] { stream.skip(2000001, [] {}); }).code(), ErrorCode::kDataLoss);
  }
}

TEST(Files, FindsEitherSpelling) {
  const TempFolder folder;
  folder.write("a", "plain");
  folder.write("b.gz", gzip_bytes(bytes_of("packed")));
  EXPECT_EQ(find_file(folder / "a"), folder / "a");
  EXPECT_EQ(find_file(folder / "a.gz"), folder / "a");
  EXPECT_EQ(find_file(folder / "b"), folder / "b.gz");
  EXPECT_TRUE(find_file(folder / "c").empty());
  EXPECT_TRUE(find_file(folder.path()).empty());  // a folder is no file
  EXPECT_EQ(contents(read_contents(folder / "a")), bytes_of("plain"));
  EXPECT_EQ(contents(read_contents(folder / "b.gz")), bytes_of("packed"));
}

TEST(Files, MissingNamesFileKeyAndPage) {
  const Error error = error_of([] { require_file("/no/such/file"); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  for (const char* part :
       {"/no/such/file", "/no/such/file.gz", "[training] dataset_path", "docs/datasets.md"}) {
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(Files, DamageNamesTheFile) {
  const TempFolder folder;
  ByteVector file = gzip_bytes(sample_text());
  file.resize(file.size() / 2);
  const auto path = folder.write("half.gz", file);
  const Error error = error_of([&] { read_contents(path); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr(path.string()));
}

TEST(Files, OpenFailuresHaveTheirCode) {
  const TempFolder folder;
  EXPECT_EQ(error_of([&] { read_file(folder / "none"); }).code(), ErrorCode::kNotFound);
  EXPECT_EQ(error_of([&] { read_file(folder.path()); }).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of([&] { read_prefix(folder / "none", 4); }).code(), ErrorCode::kNotFound);
  const auto secret = folder.write("secret", "x");
  std::filesystem::permissions(secret, std::filesystem::perms::none);
  if (::geteuid() == 0) {
    std::fprintf(stderr, "NOTE: root reads every file, so permission_denied is not provoked\n");
  } else {
    EXPECT_EQ(error_of([&] { read_file(secret); }).code(), ErrorCode::kPermissionDenied);
  }
}

TEST(Files, PrefixOfPlainAndPacked) {
  const TempFolder folder;
  const auto plain = folder.write("plain", sample_text());
  const auto packed = folder.write("packed.gz", gzip_bytes(sample_text()));
  const ByteVector whole = sample_text(), expected(whole.begin(), whole.begin() + 36);
  EXPECT_EQ(read_prefix(plain, 36), expected);
  EXPECT_EQ(read_prefix(packed, 36), expected);
  EXPECT_EQ(read_prefix(folder.write("short", "abc"), 36), bytes_of("abc"));
  EXPECT_EQ(error_of([&] { read_prefix(folder.write("bad.gz", ByteVector{0x1F, 0x8B, 9, 9}), 36); }).code(),
            ErrorCode::kDataLoss);
}

}  // namespace
}  // namespace furrow::data
