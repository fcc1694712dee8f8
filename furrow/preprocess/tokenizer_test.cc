#include "furrow/preprocess/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "furrow/base/error.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

using ::testing::HasSubstr;

std::vector<uint32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "no error");
}

TEST(Utf8, EveryCodePointRoundTrips) {
  for (char32_t code = 0; code <= kMaxCodePoint; ++code) {
    if (!is_scalar_value(code)) continue;
    std::string text;
    append_utf8(code, text);
    size_t offset = 0;
    ASSERT_EQ(decode_utf8(text, offset), code);
    ASSERT_EQ(offset, text.size());
    ASSERT_EQ(text.size(), code < 0x80 ? 1u : code < 0x800 ? 2u : code < 0x10000 ? 3u : 4u);
  }
}

TEST(Utf8, RefusesWhatRfc3629Forbids) {
  const std::string_view bad[] = {"\x80",
                                  "\xC0\x80",
                                  "\xC1\xBF",
                                  "\xE0\x80\x80",
                                  "\xED\xA0\x80",
                                  "\xED\xBF\xBF",
                                  "\xF0\x80\x80\x80",
                                  "\xF4\x90\x80\x80",
                                  "\xF8\x88\x80\x80\x80",
                                  "\xFF",
                                  "\xC3",
                                  "\xE2\x82",
                                  "\xF0\x9F\x8C",
                                  "\xC3\x28",
                                  "\xE2\x28\xA1"};
  for (const std::string_view text : bad) {
    EXPECT_EQ(error_of([&] {
                size_t offset = 0;
                decode_utf8(text, offset);
              }).code(),
              ErrorCode::kDataLoss);
  }
}

TEST(CharTokenizer, SortsTheAlphabetByCodePoint) {
  const CharTokenizer tokenizer = CharTokenizer::fit("hello €!");
  EXPECT_EQ(tokenizer.vocabulary_size(), 7);
  EXPECT_EQ(tokenizer.state().at("alphabet"), "32 33 101 104 108 111 8364");
  EXPECT_EQ(encode(tokenizer, "he€"), (std::vector<uint32_t>{3, 2, 6}));
  EXPECT_EQ(tokenizer.decode(std::vector<uint32_t>{3, 2, 6}), "he€");
}

TEST(CharTokenizer, IsASavedValue) {
  const CharTokenizer fitted = CharTokenizer::fit("naïve Zürich 東京 🌾\n");
  const auto loaded = load_as<Tokenizer>(fitted.state());
  EXPECT_EQ(loaded->state(), fitted.state());
  EXPECT_EQ(encode(*loaded, "京🌾ü"), encode(fitted, "京🌾ü"));
  const auto other =
      load_as<Tokenizer>(CharTokenizer::fit("naïve Zürich 東京 🌾").state());  // negative control
  EXPECT_NE(encode(*other, "京🌾ü"), encode(fitted, "京🌾ü"));
}

TEST(CharTokenizer, AppendsToWhatIsThere) {
  const CharTokenizer tokenizer = CharTokenizer::fit("ab");
  std::vector<uint32_t> ids;
  tokenizer.encode("ab", ids);
  tokenizer.encode("a", ids);
  EXPECT_EQ(ids, (std::vector<uint32_t>{0, 1, 0}));
}

TEST(CharTokenizer, NamesUnknownCharactersAndIds) {
  const CharTokenizer tokenizer = CharTokenizer::fit("abc");
  for (const std::string_view text : {"abé", "ab\x01", "ab🌾"}) {
    const Error error = error_of([&] { encode(tokenizer, text); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("at byte 2"));
  }
  EXPECT_THAT(error_of([&] { encode(tokenizer, "abé"); }).what(), HasSubstr("U+00E9"));
  EXPECT_EQ(error_of([&] { tokenizer.decode(std::vector<uint32_t>{3}); }).code(),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of([] { CharTokenizer::fit(""); }).code(), ErrorCode::kInvalidArgument);
}

TEST(CharTokenizer, DamagedStatesAreRefused) {
  for (const char* alphabet : {"", " ", "a", "97 ", " 97", "98 97", "97 97", "97  98", "55296", "1114112",
                               "-1", "97,98", "99999999999"}) {
    const Error error = error_of([&] { load({{"kind", "char"}, {"alphabet", alphabet}}); });
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << alphabet;
  }
  EXPECT_THAT(error_of([] { load({{"kind", "char"}}); }).what(), HasSubstr("no 'alphabet'"));
}

TEST(ByteTokenizer, IsTheIdentityOnBytes) {
  const ByteTokenizer tokenizer;
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const std::vector<uint32_t> ids = encode(tokenizer, all);
  for (uint32_t i = 0; i < 256; ++i) EXPECT_EQ(ids[i], i);
  EXPECT_EQ(tokenizer.decode(ids), all);
  EXPECT_EQ(tokenizer.vocabulary_size(), 256);
  EXPECT_EQ(error_of([&] { tokenizer.decode(std::vector<uint32_t>{256}); }).code(),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(load(tokenizer.state())->state(), tokenizer.state());
}

TEST(Load, NamesWhatItDoesNotKnow) {
  EXPECT_THAT(error_of([] { load({{"kind", "chars"}}); }).what(), HasSubstr("did you mean 'char'"));
  EXPECT_EQ(error_of([] { load({}); }).code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error_of([] { load_as<Tokenizer>({{"kind", "image"}, {"mean", "0"}, {"std", "1"}}); }).what(),
              HasSubstr("'image' is not for this kind of data"));
}

// Each row of the table is a value: what it saves loads to the same.
TEST(Load, EveryKindIsSortedAndSummarised) {
  for (size_t i = 0; i < kinds().size(); ++i) {
    EXPECT_FALSE(kinds()[i].summary.empty());
    EXPECT_TRUE(i == 0 || kinds()[i - 1].name < kinds()[i].name);
  }
}

}  // namespace
}  // namespace furrow::preprocess
