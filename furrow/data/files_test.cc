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

// In pieces of so many bytes of the file and of the contents.
ByteVector inflated(const ByteVector& file, size_t in, size_t out) {
  size_t at = 0;
  GzipStream stream([&](std::span<std::byte> some) {
    const size_t count = std::min({in, some.size(), file.size() - at});
    std::ranges::copy(view(file).subspan(at, count), some.begin());
    at += count;
    return count;
  });
  ByteVector all, some(out);
  while (const size_t got = stream.read(std::as_writable_bytes(std::span(some))))
    all.insert(all.end(), some.begin(), some.begin() + static_cast<long>(got));
  return all;
}

TEST(Gunzip, AStreamGivesTheSame) {
  ByteVector members = gzip_bytes(sample_text());
  const ByteVector second = gzip_bytes(bytes_of("end"));
  members.insert(members.end(), second.begin(), second.end());
  const ByteVector want = contents(gunzip(view(members)));
  for (const size_t in : {1u, 7u, 100'000u}) {
    for (const size_t out : {1u, 100u, 100'000u}) EXPECT_EQ(inflated(members, in, out), want);
  }
  EXPECT_TRUE(inflated(gzip_bytes({}), 100, 100).empty());
  const ByteVector file = gzip_bytes(sample_text());
  for (size_t length = 1; length < file.size(); ++length) {
    const ByteVector cut(file.begin(), file.begin() + static_cast<long>(length));
    EXPECT_EQ(error_of([&] { inflated(cut, 1000, 1000); }).code(), ErrorCode::kDataLoss) << length;
  }
  for (size_t bit = 8 * 10; bit < 8 * file.size(); ++bit) {
    ByteVector flipped = file;
    flipped[bit / 8] = static_cast<uint8_t>(flipped[bit / 8] ^ 1 << bit % 8);
    EXPECT_EQ(error_of([&] { inflated(flipped, 1000, 1000); }).code(), ErrorCode::kDataLoss) << bit;
  }
}

// A large one is not held in memory.
TEST(ContentStreams, OfLargeGzipFilesAreInflatedAsTheyCome) {
  const TempFolder folder;
  ByteVector random(size_t{20} << 20);
  uint64_t state = 1;
  for (uint8_t& byte : random) byte = static_cast<uint8_t>((state = state * 6364136223846793005u + 1) >> 56);
  const auto path = folder.write("big.gz", gzip_bytes(random));
  ContentStream stream(path);
  stream.skip(1'234'567);
  ByteVector got(random.size());
  const size_t count = stream.read(std::as_writable_bytes(std::span(got)));
  got.resize(count);
  EXPECT_EQ(got, ByteVector(random.begin() + 1'234'567, random.end()));
  EXPECT_EQ(stream.size(), random.size());
  EXPECT_EQ(stream.read(std::as_writable_bytes(std::span(got))), 0u);
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
