// SentencePiece models that the library would read as whole: each fault is named.
#include "furrow/preprocess/sentencepiece_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "furrow/base/error.h"
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
