#include "furrow/base/hash.h"

#include <gtest/gtest.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR 0  // XXH_SCALAR: the reference for what the processor's vectors give
#include <xxhash.h>

#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/crc32c.h"

namespace furrow {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// XXH3 of the empty input with seed 0, from the specification of xxHash.
TEST(Xxh3, KnownValues) {
  EXPECT_EQ(xxh3_64(""), 0x2d06800538d394c2u);
  EXPECT_EQ(to_hex(xxh3_128("")), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(xxh3_64("a"), xxh3_64("b"));
}

TEST(Xxh3, StreamEqualsOneCall) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 7);
  Xxh3Stream stream;
  for (size_t begin = 0; begin < text.size(); begin += 333)
    stream.update(std::string_view(text).substr(begin, 333));
  EXPECT_EQ(stream.digest_64(), xxh3_64(text));
  EXPECT_EQ(stream.digest_128(), xxh3_128(text));
  text[4000] ^= 1;
  EXPECT_NE(stream.digest_64(), xxh3_64(text));
}

// Lengths below and above those at which XXH3 changes its ways, and those of blocks of packs.
TEST(Xxh3, VectorsEqualTheScalarReference) {
  std::string text;
  for (int i = 0; i < 70000; ++i) text += static_cast<char>(i * 31 + i / 256);
  std::vector<size_t> lengths{788, 1024, 1025, 4096, 65536, 70000};
  for (size_t length = 0; length < 300; ++length) lengths.push_back(length);
  for (const size_t length : lengths) {
    const std::string_view part = std::string_view(text).substr(text.size() - length);
    EXPECT_EQ(xxh3_64(part), XXH3_64bits(part.data(), length)) << length;
    const XXH128_hash_t wide = XXH3_128bits(part.data(), length);
    EXPECT_EQ(xxh3_128(part), (Hash128{wide.high64, wide.low64})) << length;
  }
  EXPECT_NE(xxh3_64(text), xxh3_64(std::string_view(text).substr(1)));
}

TEST(Xxh3, HexRoundTrips) {
  uint64_t parsed = 0;
  EXPECT_TRUE(parse_hex(to_hex(uint64_t{0x0123456789abcdef}), parsed));
  EXPECT_EQ(parsed, 0x0123456789abcdefu);
  EXPECT_FALSE(parse_hex("123", parsed));
  EXPECT_FALSE(parse_hex("0123456789abcdeg", parsed));
  EXPECT_FALSE(parse_hex("-123456789abcdef", parsed));
}

// RFC 3720, appendix B.4.
TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(Crc32c, FastEqualsPortable) {
  std::string text;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(crc32c(text), crc32c_portable(bytes_of(text))) << i;
    text += static_cast<char>(i * 37);
  }
  EXPECT_NE(crc32c("ab"), crc32c_portable(bytes_of("ba")));
}

TEST(Crc32c, MaskIsTensorFlows) { EXPECT_EQ(masked_crc(0xe3069283u), 0xc78ab0e5u); }

}  // namespace
}  // namespace furrow
