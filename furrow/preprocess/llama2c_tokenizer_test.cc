// Tokenizers of llama2.c: a plain form of its own loop as oracle, damage.
#include "furrow/preprocess/llama2c_tokenizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>

#include "furrow/base/error.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::preprocess {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Piece {
  std::string text;
  float score = 0;
};

std::string file_of(const std::vector<Piece>& pieces) {
  const int32_t longest = 9;
  std::string file(reinterpret_cast<const char*>(&longest), 4);
  for (const Piece& piece : pieces) {
    const auto length = static_cast<int32_t>(piece.text.size());
    file.append(reinterpret_cast<const char*>(&piece.score), 4);
    file.append(reinterpret_cast<const char*>(&length), 4);
    file += piece.text;
  }
  return file;
}

// The special pieces and the bytes, then 259 and on.
std::vector<Piece> with_bytes(const std::vector<Piece>& more) {
  std::vector<Piece> pieces = {{"<unk>"}, {"\n<s>\n"}, {"\n</s>\n"}};
  for (int byte = 0; byte < 256; ++byte) pieces.push_back({fmt::format("<0x{:02X}>", byte)});
  pieces.insert(pieces.end(), more.begin(), more.end());
  return pieces;
}

std::vector<uint32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

// The real one, of the corpus of the fuzzer.
std::string tok512() {
  std::ifstream in(furrow::testing::source_root() / "furrow/preprocess/subword_fuzz_corpus/llama2c",
                   std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return all.substr(1);
}

std::vector<Piece> pieces_of(std::string_view file) {
  std::vector<Piece> pieces;
  for (size_t at = 4; at < file.size();) {
    Piece piece;
    int32_t length = 0;
    std::memcpy(&piece.score, file.data() + at, 4);
    std::memcpy(&length, file.data() + at + 4, 4);
    piece.text = file.substr(at + 8, static_cast<size_t>(length));
    pieces.push_back(piece);
    at += 8 + static_cast<size_t>(length);
  }
  return pieces;
}

// The loop of run.c: look at all neighbours, merge the best, again.  For text of one byte a character.
std::vector<uint32_t> plain_encode(const std::vector<Piece>& pieces, const std::string& text) {
  std::map<std::string, uint32_t> ids;
  for (size_t i = 259; i < pieces.size(); ++i) ids.emplace(pieces[i].text, static_cast<uint32_t>(i));
  std::vector<uint32_t> tokens;
  for (const char c : " " + text) {
    const auto found = ids.find(std::string(1, c));
    tokens.push_back(found != ids.end() ? found->second : 3 + static_cast<unsigned char>(c));
  }
  while (true) {
    float best = -1e10f;
    size_t place = tokens.size();
    uint32_t id = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = ids.find(pieces[tokens[i]].text + pieces[tokens[i + 1]].text);
      if (found == ids.end() || pieces[found->second].score <= best) continue;
      best = pieces[found->second].score;
      place = i;
      id = found->second;
    }
    if (place == tokens.size()) break;
    tokens[place] = id;
    tokens.erase(tokens.begin() + static_cast<long>(place) + 1);
  }
  tokens.insert(tokens.begin(), 1);
  return tokens;
}

TEST(Llama2c, MergesTheHighestScoreFirst) {
  const Llama2cTokenizer tokenizer(
      file_of(with_bytes({{" ", -9}, {"a", -9}, {"b", -9}, {"ab", -3}, {"ba", -2}, {" a", -4}})));
  EXPECT_THAT(encode(tokenizer, "aba"), ElementsAre(1, 264, 263));        // " a" "ba"
  EXPECT_THAT(encode(tokenizer, "abab"), ElementsAre(1, 264, 263, 261));  // "ba", then " a"
  EXPECT_THAT(encode(tokenizer, "c"), ElementsAre(1, 259, 3 + 'c'));
  EXPECT_THAT(encode(tokenizer, ""), ElementsAre(1));
  EXPECT_EQ(tokenizer.vocabulary_size(), 265);
  const Llama2cTokenizer doubled(file_of(with_bytes({{" ", -9}, {"a", -9}, {"aa", -1}})));
  EXPECT_THAT(encode(doubled, "aaa"), ElementsAre(1, 259, 261, 260));  // the leftmost of equals
}

TEST(Llama2c, EqualsThePlainLoop) {
  const std::string file = tok512();
  const Llama2cTokenizer tokenizer(file);
  const std::vector<Piece> pieces = pieces_of(file);
  ASSERT_EQ(pieces.size(), 512u);
  const std::string text =
      "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.\n\n"
      "One day, she saw a big, red ball. \"Wow!\" said Lily; 1234 {x} aaaaaaaa eeeeeee the the the";
  EXPECT_EQ(encode(tokenizer, text), plain_encode(pieces, text));
  for (size_t begin = 0; begin + 40 < text.size(); begin += 7)
    EXPECT_EQ(encode(tokenizer, text.substr(begin, 33)), plain_encode(pieces, text.substr(begin, 33)));
}

TEST(Llama2c, GivesEveryTextBack) {
  const Llama2cTokenizer tokenizer(tok512());
  for (const std::string text :
       {"", " ", "  two spaces", "Lily ran.", "\n\n", "na\u00efve \u4e16\u754c \U0001f600 \u2122"})
    EXPECT_EQ(tokenizer.decode(encode(tokenizer, text)), text);
  const auto again = load(tokenizer.state());
  EXPECT_EQ(again->state(), tokenizer.state());
  EXPECT_THROW(tokenizer.decode(std::vector<uint32_t>{512}), Error);
  std::vector<uint32_t> ids;
  EXPECT_THROW(tokenizer.encode("\xff", ids), Error);
}

TEST(Llama2c, DamageIsNamed) {
  const auto said = [](std::string_view file) -> std::string {
    try {
      Llama2cTokenizer tokenizer(file);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      return error.what();
    }
    return "no error";
  };
  const std::string file = tok512();
  for (size_t size = 0; size < 3628; size += 13) EXPECT_NE(said(file.substr(0, size)), "no error") << size;
  EXPECT_THAT(said(file.substr(0, file.size() - 1)), HasSubstr("cannot be"));
  EXPECT_THAT(said(file_of(with_bytes({{"x", std::nanf("")}}))), HasSubstr("cannot be"));
  std::vector<Piece> swapped = with_bytes({});
  std::swap(swapped[10], swapped[11]);
  EXPECT_THAT(said(file_of(swapped)), HasSubstr("piece 10 is not byte 7"));
}

}  // namespace
}  // namespace furrow::preprocess
