// Unicode's form C beside what Python's unicodedata (Unicode 14) gives: digests of all of it.
#include "furrow/preprocess/nfc.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>
#include <string>
#include <utility>

#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

std::string text_of(std::initializer_list<char32_t> codes) {
  std::string text;
  for (const char32_t code : codes) append_utf8(code, text);
  return text;
}

// FNV-1a.
class Digest {
 public:
  void add(std::string_view text) {
    for (const char c : text) value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325;
};

TEST(Nfc, LettersAreComposedWithTheirMarks) {
  EXPECT_EQ(to_nfc("plain text\n"), "plain text\n");
  EXPECT_EQ(to_nfc(text_of({'e', 0x301})), text_of({0xE9}));
  EXPECT_EQ(to_nfc(text_of({0x212B})), text_of({0xC5})) << "Angstrom";
  EXPECT_EQ(to_nfc(text_of({0x1E9B, 0x323})), text_of({0x1E9B, 0x323})) << "marks in their order";
  EXPECT_EQ(to_nfc(text_of({'q', 0x307, 0x323})), text_of({'q', 0x323, 0x307})) << "and put into it";
  EXPECT_EQ(to_nfc(text_of({'d', 0x307, 0x323})), text_of({0x1E0D, 0x307})) << "the nearer one is taken";
  EXPECT_EQ(to_nfc(text_of({0x1100, 0x1161, 0x11A8, 0x11A8})), text_of({0xAC01, 0x11A8}));
  EXPECT_EQ(to_nfc(text_of({0x9C7, 0x9BE})), text_of({0x9CB})) << "two letters that are one";
  EXPECT_EQ(to_nfc(text_of({0x915, 0x93C})), text_of({0x915, 0x93C})) << "never composed";
  EXPECT_EQ(to_nfc(text_of({0x958})), text_of({0x915, 0x93C}));
  EXPECT_EQ(to_nfc(text_of({0x301, 'e'})), text_of({0x301, 'e'}));
}

TEST(Nfc, EveryCharacterIsAsPythonHasIt) {
  Digest digest;
  for (char32_t code = 0; code <= kMaxCodePoint; ++code) {
    if (is_scalar_value(code)) digest.add(to_nfc(text_of({code})));
  }
  EXPECT_EQ(digest.value(), 0x23fc43766d7c2eb9);
}

// 20,000 texts of 12 characters, of the parts of Unicode 14 that have something to compose; 18,887 change.
TEST(Nfc, MarksInAnyOrderAreAsPythonHasThem) {
  constexpr std::pair<char32_t, char32_t> kSpans[] = {
      {0x41, 0x7a},     {0x300, 0x36f},     {0x300, 0x36f},     {0x1100, 0x11ff},  {0xac00, 0xd7a3},
      {0x900, 0xdff},   {0x1e00, 0x1fff},   {0x2100, 0x212f},   {0x3040, 0x30ff},  {0xf900, 0xfaff},
      {0xfb1d, 0xfb4f}, {0x11000, 0x11eff}, {0x1d150, 0x1d1cf}, {0x2f800, 0x2fa1f}};
  uint64_t state = 1;
  const auto random = [&state](uint64_t below) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % below;
  };
  Digest digest;
  int changed = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    for (int c = 0; c < 12; ++c) {
      const auto [first, last] = kSpans[random(std::size(kSpans))];
      append_utf8(first + static_cast<char32_t>(random(last - first + 1)), text);
    }
    const std::string form = to_nfc(text);
    EXPECT_EQ(to_nfc(form), form);
    changed += form != text;
    EXPECT_FALSE(form != text && surely_nfc(text));
    digest.add(form);
  }
  EXPECT_EQ(digest.value(), 0xff5a8d997abcb313);
  EXPECT_EQ(changed, 18'887);
}

}  // namespace
}  // namespace furrow::preprocess
