// GPT-2's byte pairs and SentencePiece: known ids as oracles, a plain reference, damage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "furrow/base/error.h"
#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::preprocess {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<uint32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// A file of FURROW_DATA; empty when it is not there.
std::string real_file(const std::string& name) {
  const char* root = std::getenv("FURROW_DATA");
  return root == nullptr ? std::string() : slurp(std::filesystem::path(root) / name);
}

#define FURROW_NEED_FILE(text, name)                                                                        \
  if ((text).empty()) {                                                                                     \
    std::fprintf(stderr, "SKIPPED for want of data: %s; see docs/datasets.md and set FURROW_DATA\n", name); \
    GTEST_SKIP() << "no file " << name;                                                                     \
  }

// "l o" makes 256, "lo w" 257, "e r" 258, "Ġ lo" 259, "a a" 260, "aa aa" 261.
constexpr const char* kMerges = "#version: 0.2\nl o\nlo w\ne r\n\u0120 lo\na a\naa aa\n";

TEST(Bpe, MergesTheEarliestPairFirst) {
  const BpeTokenizer tokenizer(kMerges);
  EXPECT_EQ(tokenizer.vocabulary_size(), 256 + 6 + 1);
  const auto byte = [](char c) { return static_cast<uint32_t>(c - 33); };  // printable ASCII comes first
  EXPECT_THAT(encode(tokenizer, "low"), ElementsAre(257));
  EXPECT_THAT(encode(tokenizer, "lower"), ElementsAre(257, 258));
  // "lo w" comes before "Ġ lo", so that the space stays alone: byte 32 is the 33rd that is not printable.
  EXPECT_THAT(encode(tokenizer, " low"), ElementsAre(220, 257));
  EXPECT_THAT(encode(tokenizer, " lo"), ElementsAre(259));
  EXPECT_THAT(encode(tokenizer, "aaaaaaa"), ElementsAre(261, 260, byte('a')));  // the leftmost first
  EXPECT_THAT(encode(tokenizer, "x"), ElementsAre(byte('x')));
  EXPECT_TRUE(encode(tokenizer, "").empty());
  EXPECT_EQ(tokenizer.decode(std::vector<uint32_t>{257, 258, 262}), "lower<|endoftext|>");
  EXPECT_THROW(tokenizer.decode(std::vector<uint32_t>{263}), Error);
}

// The definition, one merge at a time over the whole piece; `ranks` maps pairs to their line.
std::vector<std::string> reference(const std::map<std::pair<std::string, std::string>, int>& ranks,
                                   const std::string& piece) {
  std::vector<std::string> parts;
  for (const char c : piece) parts.emplace_back(1, c);
  while (true) {
    auto best = ranks.end();
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i], parts[i + 1]});
      if (found != ranks.end() && (best == ranks.end() || found->second < best->second)) best = found;
    }
    if (best == ranks.end()) return parts;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      if (parts[i] != best->first.first || parts[i + 1] != best->first.second) continue;
      parts[i] += parts[i + 1];
      parts.erase(parts.begin() + static_cast<long>(i) + 1);
    }
  }
}

TEST(Bpe, ShortAndLongPiecesAreTheDefinition) {
  std::map<std::pair<std::string, std::string>, int> ranks;
  std::string merges;
  std::vector<std::string> tokens{"a", "b", "c"};
  for (uint32_t i = 0; ranks.size() < 40 && i < 4000; ++i) {
    const std::string &left = tokens[i * 2654435761u / 7 % tokens.size()],
                      &right = tokens[i * 40503u / 3 % tokens.size()];
    if (std::ranges::find(tokens, left + right) != tokens.end() || left.size() + right.size() > 9) continue;
    ranks[{left, right}] = static_cast<int>(ranks.size());
    merges += left + " " + right + "\n";
    tokens.push_back(left + right);
  }
  ASSERT_GT(ranks.size(), 20u);
  const BpeTokenizer tokenizer(merges);
  uint32_t random = 1;
  for (const size_t length : {1, 2, 7, 30, 48, 49, 50, 200, 1000}) {
    for (int round = 0; round < 20; ++round) {
      std::string piece;
      while (piece.size() < length)
        piece += "abc"[(random = random * 1664525 + 1013904223) >> 16 & 3 ? random >> 20 & 1 : 2];
      std::vector<std::string> parts;
      for (const uint32_t id : encode(tokenizer, piece))
        parts.push_back(tokenizer.decode(std::vector<uint32_t>{id}));
      ASSERT_EQ(parts, reference(ranks, piece)) << piece;
    }
  }
}

TEST(Bpe, PiecesAreCutByThePattern) {
  // With every pair of ASCII bytes a merge nothing would cross a border of pieces; here: pieces by their
  // merges.
  std::string merges;
  const std::string letters = "abcdefgh";
  for (const char a : letters) merges += std::string("\u0120 ") + a + "\n";
  const BpeTokenizer tokenizer(merges);
  const auto pieces = [&](std::string_view text) {
    std::vector<std::string> parts;
    for (const uint32_t id : encode(tokenizer, text))
      parts.push_back(tokenizer.decode(std::vector<uint32_t>{id}));
    return parts;
  };
  EXPECT_THAT(pieces("a b"), ElementsAre("a", " b"));
  EXPECT_THAT(pieces("a  b"), ElementsAre("a", " ", " b"));  // all but the last space are a piece
  EXPECT_THAT(pieces("a \nb"), ElementsAre("a", " ", "\n", "b"));
  EXPECT_THAT(pieces("1 a"), ElementsAre("1", " a"));
}

TEST(Bpe, BadTextAndBadMergesAreRefused) {
  const BpeTokenizer tokenizer(kMerges);
  try {
    encode(tokenizer, "abc\xff");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_THAT(error.what(), HasSubstr("offset 3"));
  }
  for (const auto& [merges, part] : {std::pair("a b\nx\n", "line 2"),
                                     {"ab c\n", "line 1"},
                                     {"a b\na b\n", "line 2"},
                                     {"a b c\n", "line 1"},
                                     {"#version: 0.2\n", "empty"},
                                     {"", "empty"},
                                     {"a b\n\xff z\n", "not UTF-8"}}) {
    try {
      BpeTokenizer bad{std::string_view(merges)};
      ADD_FAILURE() << merges;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }
}

// Wherever it says that a text may be cut, both parts alone give what the whole gives; and it says so often.
TEST(Bpe, TextsMayBeCutBetweenWords) {
  const BpeTokenizer tokenizer(
      "l o\nlo w\n\u0120 l\n\u0120 lo\n\u0120 \u0120\n\u010a \u010a\n' l\n'l l\n\u0120 '\n\u010a a\na "
      "\u0120\n");
  const std::vector<std::string> pieces{"low",          " lo",     "'ll", " ", "  ", "\n", "\n\n",
                                        "\t",           "a",       "!",   "7", " a", "'",  "\xc3\xa9",
                                        "\xe2\x80\x83", "\xcc\x81"};
  uint32_t random = 3;
  int cuts = 0;
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += pieces[(random = random * 1664525 + 1013904223) >> 16 & 15];
    const std::vector<uint32_t> whole = encode(tokenizer, text);
    for (size_t at = 1; at < text.size(); ++at) {
      if (!tokenizer.may_cut(text, at)) continue;
      std::vector<uint32_t> parts = encode(tokenizer, std::string_view(text).substr(0, at));
      tokenizer.encode(std::string_view(text).substr(at), parts);
      ASSERT_EQ(parts, whole) << ::testing::PrintToString(text) << " at " << at;
      ++cuts;
    }
  }
  EXPECT_GT(cuts, 200);
  EXPECT_FALSE(tokenizer.may_cut("a\n\nb", 2));  // control: two line ends at the end of a text are one piece
  EXPECT_NE(encode(tokenizer, "a\n\n").size() + 1, encode(tokenizer, "a\n\nb").size());
}

TEST(Bpe, IsASavedValue) {
  const BpeTokenizer tokenizer(kMerges);
  const auto loaded = load_as<Tokenizer>(tokenizer.state());
  EXPECT_EQ(loaded->state(), tokenizer.state());
  EXPECT_EQ(encode(*loaded, " lower low"), encode(tokenizer, " lower low"));
  EXPECT_THROW(load({{"kind", "gpt2"}}), Error);
}

// Published: 50,257 tokens; "Hello world" is 15496 995.
TEST(RealTokenizers, Gpt2) {
  const std::string merges = real_file("gpt2-tokenizer/vocab.bpe");
  FURROW_NEED_FILE(merges, "gpt2-tokenizer");
  const BpeTokenizer tokenizer(merges);
  EXPECT_EQ(tokenizer.vocabulary_size(), 50257);
  EXPECT_THAT(encode(tokenizer, "Hello world"), ElementsAre(15496, 995));
  // tiktoken 0.14, encoding "gpt2", of the same text.
  EXPECT_THAT(
      encode(tokenizer, "I'll don't \xe4\xbd\xa0\xe5\xa5\xbd  1234 \n\n caf\xc3\xa9!!"),
      ElementsAre(40, 1183, 836, 470, 220, 19526, 254, 25001, 121, 220, 1105, 2682, 220, 628, 40304, 3228));
  const std::string everything =
      "\xf0\x9f\x98\x80 \xe2\x80\x83\xc2\xa0 \t\r\n \xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 "
      "a\xcc\x81 \xe1\xa0\x8e <|endoftext|>";
  EXPECT_EQ(tokenizer.decode(encode(tokenizer, everything)), everything);
  // encoder.json has the same ids: {"!": 0, "\"": 1, ...}.
  const std::string table = real_file("gpt2-tokenizer/encoder.json");
  for (const auto& [token, id] : {std::pair("\\u0120the", 262), {"\\u0120world", 995}, {"Hello", 15496}}) {
    EXPECT_NE(table.find("\"" + std::string(token) + "\": " + std::to_string(id)), std::string::npos)
        << token;
  }
  EXPECT_EQ(tokenizer.decode(std::vector<uint32_t>{262, 995, 50256}), " the world<|endoftext|>");
}

// Debian's spm_encode 0.1.97 of the same sentence.
TEST(RealTokenizers, SentencePiece) {
  const std::string model = real_file("sentencepiece/test_model.model");
  FURROW_NEED_FILE(model, "sentencepiece");
  const SentencePieceTokenizer tokenizer(model);
  EXPECT_EQ(tokenizer.vocabulary_size(), 1000);
  const std::string sentence = "I saw a girl with a telescope.";
  const std::vector<uint32_t> ids{9, 459, 11, 939, 44, 11, 4, 142, 82, 8, 28, 21, 132, 6};
  EXPECT_EQ(encode(tokenizer, sentence), ids);
  EXPECT_EQ(tokenizer.decode(ids), sentence);
  std::vector<uint32_t> twice = ids;
  twice.push_back(2);  // </s>
  twice.insert(twice.end(), ids.begin(), ids.end());
  EXPECT_EQ(encode(tokenizer, sentence + "\n" + sentence), twice);
  EXPECT_EQ(tokenizer.decode(twice), sentence + "\n" + sentence);
  const auto loaded = load_as<Tokenizer>(tokenizer.state());
  EXPECT_EQ(loaded->state(), tokenizer.state());
  EXPECT_EQ(encode(*loaded, sentence), ids);
  EXPECT_THROW(tokenizer.decode(std::vector<uint32_t>{1000}), Error);
  EXPECT_THROW(encode(tokenizer, "\xff"), Error);
  for (const size_t length : {size_t{0}, size_t{1}, size_t{100}, model.size() / 2}) {
    try {
      SentencePieceTokenizer cut(model.substr(0, length));
      ADD_FAILURE() << length;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    }
  }
  EXPECT_THROW(SentencePieceTokenizer(""), Error);
  EXPECT_THROW(load({{"kind", "sentencepiece"}, {"model", "AAA"}}), Error);
  EXPECT_THROW(load({{"kind", "sentencepiece"}, {"model", "A*AA"}}), Error);
}

}  // namespace
}  // namespace furrow::preprocess
