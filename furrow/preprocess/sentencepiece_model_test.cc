// SentencePiece models that the library would read as whole: each fault is named.
#include "furrow/preprocess/sentencepiece_model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"

namespace furrow::preprocess {
namespace {

using ::testing::HasSubstr;

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

std::string number(int field, uint64_t value) {
  return varint(static_cast<uint64_t>(field) << 3) + varint(value);
}

std::string message(int field, const std::string& bytes) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(bytes.size()) + bytes;
}

struct Piece {
  std::string text;
  float score = -1;
  uint64_t type = 1;
};

std::string piece_bytes(const Piece& piece) {
  std::string bytes = message(1, piece.text) + varint(2 << 3 | 5);
  const auto score = std::bit_cast<uint32_t>(piece.score);
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(score >> shift));
  return message(1, bytes + number(3, piece.type));
}

// A model of a few letters.
struct Model {
  std::vector<Piece> pieces{{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"\xe2\x96\x81"},
                            {"a"},           {"b"},         {"ab"}};
  std::optional<uint64_t> vocabulary = 7;
  std::string trainer = number(3, 1);
  bool normalizer = true;

  std::string bytes() const {
    std::string all;
    for (const Piece& piece : pieces) all += piece_bytes(piece);
    if (vocabulary) all += message(2, trainer + number(4, *vocabulary));
    if (normalizer) all += message(3, message(1, "identity"));
    return all;
  }
};

std::string error_of(const std::string& bytes) {
  try {
    SentencePieceTokenizer tokenizer(bytes);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    return error.what();
  }
  return "no error";
}

TEST(SentencePieceModel, FaultsAreNamed) {
  ASSERT_EQ(error_of(Model().bytes()), "no error");
  const auto refused = [](const auto& change, const std::string& part) {
    Model model;
    change(model);
    const std::string error = error_of(model.bytes());
    EXPECT_THAT(error, HasSubstr(part));
    EXPECT_THAT(error, HasSubstr("take the .model file as it was trained"));
  };
  refused([](Model& model) { model.pieces[0].type = 1; }, "no piece stands for the unknown");
  refused([](Model& model) { model.pieces[4].type = 2; },
          "piece 4, \"a\", stands for the unknown, as piece 0 does");
  refused([](Model& model) { model.pieces[6].text = "a"; }, "piece 6, \"a\", is piece 4 again");
  refused([](Model& model) { model.pieces[5].text = ""; }, "piece 5, \"\", is empty");
  refused([](Model& model) { model.pieces[5].text = "\xff"; }, "piece 5");
  refused([](Model& model) { model.pieces[5].type = 7; }, "is of type 7, which is none");
  refused([](Model& model) { model.pieces[5].type = 0; }, "is of type 0");
  refused([](Model& model) { model.pieces[5].score = std::nanf(""); }, "has a score that is no number");
  refused([](Model& model) { model.pieces[5].score = -std::numeric_limits<float>::infinity(); }, "no number");
  refused([](Model& model) { model.pieces.push_back({"ba"}); },
          "it has 8 pieces, but its trainer_spec says vocab_size = 7");
  refused([](Model& model) { model.pieces.pop_back(); }, "it has 6 pieces");
  refused([](Model& model) { model.vocabulary.reset(); },
          "behind its 7 pieces there is no trainer_spec: it may be cut off");
  refused([](Model& model) { model.normalizer = false; }, "there is no normalizer_spec");
  refused([](Model& model) { model.trainer += number(40, 3); }, "says unk_id = 3");
  refused([](Model& model) { model.pieces.clear(); }, "it has no pieces");
  EXPECT_THAT(error_of(Model().bytes() + "\x0f"), HasSubstr("begins no field"));
  EXPECT_THAT(error_of(Model().bytes() + "\x08" + std::string(11, '\x80')), HasSubstr("does not end"));
  EXPECT_THAT(error_of("\x08\x01"), HasSubstr("a part of the model is encoded as something else"));
}

// No part of a model is a model: each length is refused, wherever the file was cut.
TEST(SentencePieceModel, EveryTruncationIsRefused) {
  const std::string bytes = Model().bytes();
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(error_of(bytes.substr(0, length)), "no error") << length;
}

// A model with a bit flipped is refused or is a tokenizer that works.
TEST(SentencePieceModel, FlippedBitsAreRefusedOrHarmless) {
  const std::string bytes = Model().bytes();
  int refused = 0, taken = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      try {
        const SentencePieceTokenizer tokenizer(damaged);
        std::vector<uint32_t> ids;
        tokenizer.encode("ab ba", ids);
        for (const uint32_t id : ids) ASSERT_LT(id, tokenizer.vocabulary_size());
        ++taken;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::kDataLoss) << error.what();
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 400);
  EXPECT_GT(taken, 0);
}

// As Llama's: byte pairs, a piece for each byte that has none, text as it is.
std::string bytes_model(bool blank_in_front, uint64_t type) {
  Model model;
  model.pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  for (int byte = 0; byte < 256; ++byte) model.pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, 6});
  float score = 0;
  for (const char* text : {"ab",
                           "\xe2\x96\x81"
                           "a",
                           "\xe2\x96\x81"
                           "ab",
                           "\xe2\x96\x81\xe2\x96\x81", "\xe2\x96\x81", "a", "b", "c"})
    model.pieces.push_back({text, score -= 1});
  model.vocabulary.reset();
  model.normalizer = false;
  return model.bytes() + message(2, number(3, type) + number(4, model.pieces.size()) + number(35, 1)) +
         message(3, message(1, "identity") + number(3, blank_in_front ? 1 : 0) + number(4, 0) + number(5, 1));
}

std::vector<uint32_t> ids_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

constexpr uint64_t kUnigram = 1, kBytePairs = 2;

// The library over the whole text is the oracle; a cut where one is allowed changes nothing.
TEST(SentencePieceLines, AModelWithATokenForThemReadsATextAsItIs) {
  for (const bool blank : {true, false}) {
    for (const uint64_t type : {kUnigram, kBytePairs}) {
      const std::string bytes = bytes_model(blank, type);
      sentencepiece::SentencePieceProcessor library;
      ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
      const SentencePieceTokenizer tokenizer(bytes);
      std::mt19937 random(7);
      for (int round = 0; round < 200; ++round) {
        std::string text = "ab";
        while (random() % 40 != 0)
          text += std::string_view(
                      "aabbc  \n\n\xc3\xa9"
                      "z")
                      .substr(random() % 9, 1 + random() % 2);
        if (!is_utf8(text)) continue;
        const std::vector<int> whole = library.EncodeAsIds(text);
        const std::vector<uint32_t> expected(whole.begin(), whole.end()), ids = ids_of(tokenizer, text);
        ASSERT_EQ(ids, expected) << text;
        EXPECT_EQ(tokenizer.decode(ids), text);
        for (size_t at = 1; at < text.size(); ++at) {
          if (!tokenizer.may_cut(text, at)) continue;
          std::vector<uint32_t> parts = ids_of(tokenizer, std::string_view(text).substr(0, at));
          tokenizer.encode(std::string_view(text).substr(at), parts);
          ASSERT_EQ(parts, expected) << text << " cut before " << at;
        }
      }
    }
  }
}

// What a model was trained on stays what it reads.
TEST(SentencePieceLines, AreKeptInTheStateAndEarlierStatesReadSentences) {
  const SentencePieceTokenizer tokenizer(bytes_model(true, kBytePairs));
  const std::string_view text = "ab\nab";
  constexpr uint32_t kEnd = 2, kNewLine = 3 + '\n', kWord = 261, kAfterNewLine = 259;
  EXPECT_EQ(ids_of(tokenizer, text), (std::vector<uint32_t>{kWord, kNewLine, kAfterNewLine}));
  State state = tokenizer.state();
  EXPECT_EQ(ids_of(*load_as<Tokenizer>(state), text), ids_of(tokenizer, text));
  state["lines"] = "lost";
  EXPECT_THROW(load(state), Error);
  ASSERT_EQ(state.erase("lines"), 1u);
  const auto earlier = load_as<Tokenizer>(state);
  EXPECT_EQ(ids_of(*earlier, text), (std::vector<uint32_t>{kWord, kEnd, kWord}));
  EXPECT_EQ(earlier->state(), state);
  EXPECT_EQ(SentencePieceTokenizer(Model().bytes()).state().count("lines"), 0u)
      << "control: no token for them";
}

TEST(SentencePieceModel, ARealOneIsWholeAndNoPartOfIt) {
  const char* const root = std::getenv("FURROW_DATA");
  std::ifstream in(std::filesystem::path(root == nullptr ? "" : root) / "sentencepiece/test_model.model",
                   std::ios::binary);
  const std::string model(std::istreambuf_iterator<char>(in), {});
  if (model.empty()) {
    std::fprintf(stderr,
                 "SKIPPED for want of data: sentencepiece; see docs/datasets.md and set FURROW_DATA\n");
    GTEST_SKIP();
  }
  check_sentencepiece_model(model);
  for (size_t length = 0; length < model.size(); length += 1 + model.size() / 500)
    EXPECT_THROW(check_sentencepiece_model(std::string_view(model).substr(0, length)), Error) << length;
}

}  // namespace
}  // namespace furrow::preprocess
