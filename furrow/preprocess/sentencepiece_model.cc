#include "furrow/preprocess/sentencepiece_model.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <unordered_map>

#include "furrow/base/error.h"
#include "furrow/base/text.h"

namespace furrow::preprocess {
namespace {

[[noreturn]] void damaged(const std::string& why) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("the SentencePiece model is damaged: {}: take the .model file "
                          "as it was trained, whole",
                          why));
}

// One field of a message in the encoding of protocol buffers
// (https://protobuf.dev/programming-guides/encoding).
struct WireField {
  uint64_t number = 0;
  enum Type : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 } type = kVarint;
  uint64_t value = 0;           // of all but kBytes
  std::string_view bytes = {};  // of kBytes
};

class WireReader {
 public:
  // `begin`: where `message` begins in the file.
  WireReader(std::string_view message, size_t begin) : message_(message), begin_(begin) {}

  bool at_end() const { return at_ == message_.size(); }
  size_t offset() const { return begin_ + at_; }

  // REQUIRES: !at_end().
  WireField next() {
    const size_t start = offset();
    const uint64_t tag = varint();
    WireField field{.number = tag >> 3};
    if (field.number == 0 || field.number >= uint64_t{1} << 29) strange(start);
    switch (tag & 7) {
      case WireField::kVarint:
        field.value = varint();
        break;
      case WireField::kFixed64:
        field.value = fixed(8);
        break;
      case WireField::kBytes:
        field.bytes = take(varint());
        break;
      case WireField::kFixed32:
        field.value = fixed(4);
        break;
      default:
        strange(start);
    }
    field.type = static_cast<WireField::Type>(tag & 7);
    return field;
  }

 private:
  [[noreturn]] static void strange(size_t offset) {
    damaged(fmt::format("byte {} begins no field of a message", offset));
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    damaged(fmt::format("the number before byte {} does not end", offset()));
  }

  uint64_t fixed(size_t bytes) {
    uint64_t value = 0;
    const std::string_view from = take(bytes);
    for (size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(from[i]);
    return value;
  }

  std::string_view take(uint64_t bytes) {
    if (bytes > message_.size() - at_) {
      damaged(fmt::format("it ends within a field, {} bytes short at byte {}",
                          bytes - (message_.size() - at_), begin_ + message_.size()));
    }
    at_ += bytes;
    return message_.substr(at_ - bytes, bytes);
  }

  std::string_view message_;
  size_t begin_, at_ = 0;
};

void expect(const WireField& field, WireField::Type type, const char* name) {
  if (field.type != type) damaged(fmt::format("{} is encoded as something else", name));
}

constexpr uint64_t kUnknown = 2;  // SentencePiece.Type
constexpr uint64_t kLastType = 6;

struct Piece {
  std::string_view text;
  float score = 0;
  uint64_t type = 1;
};

Piece read_piece(WireReader message) {
  Piece piece;
  while (!message.at_end()) {
    const WireField field = message.next();
    if (field.number == 1) {
      expect(field, WireField::kBytes, "a piece's text");
      piece.text = field.bytes;
    } else if (field.number == 2) {
      expect(field, WireField::kFixed32, "a piece's score");
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    } else if (field.number == 3) {
      expect(field, WireField::kVarint, "a piece's type");
      piece.type = field.value;
    }
  }
  return piece;
}

struct TrainerSpec {
  bool present = false;
  uint64_t vocabulary = 8000;  // the defaults of the format
  uint64_t unknown = 0;
};

TrainerSpec read_trainer(WireReader message) {
  TrainerSpec trainer{.present = true};
  while (!message.at_end()) {
    const WireField field = message.next();
    if (field.number == 4) {
      expect(field, WireField::kVarint, "trainer_spec.vocab_size");
      trainer.vocabulary = field.value;
    } else if (field.number == 40) {
      expect(field, WireField::kVarint, "trainer_spec.unk_id");
      trainer.unknown = field.value;
    }
  }
  return trainer;
}

// The pieces as they come.
class Pieces {
 public:
  void add(const Piece& piece) {
    const auto refuse = [&](const std::string& why) {
      damaged(fmt::format("piece {}, {}, {}", size_, json_quote(piece.text), why));
    };
    if (piece.text.empty()) refuse("is empty");
    if (!is_utf8(piece.text)) refuse("is not UTF-8");
    if (piece.type < 1 || piece.type > kLastType)
      refuse(fmt::format("is of type {}, which is none", piece.type));
    if (!std::isfinite(piece.score)) refuse("has a score that is no number");
    const auto [before, fresh] = seen_.emplace(piece.text, size_);
    if (!fresh) refuse(fmt::format("is piece {} again", before->second));
    if (piece.type == kUnknown && unknown_ >= 0)
      refuse(fmt::format("stands for the unknown, as piece {} does", unknown_));
    if (piece.type == kUnknown) unknown_ = size_;
    ++size_;
  }

  int64_t size() const { return size_; }
  int64_t unknown() const { return unknown_; }  // -1: none

 private:
  std::unordered_map<std::string_view, int64_t> seen_;
  int64_t size_ = 0, unknown_ = -1;
};

}  // namespace

void check_sentencepiece_model(std::string_view model) {
  Pieces pieces;
  TrainerSpec trainer;
  bool normalizer = false;
  for (WireReader file(model, 0); !file.at_end();) {
    const WireField field = file.next();
    const WireReader inside(field.bytes, file.offset() - field.bytes.size());
    if (field.number >= 1 && field.number <= 3) expect(field, WireField::kBytes, "a part of the model");
    if (field.number == 1) pieces.add(read_piece(inside));
    if (field.number == 2) trainer = read_trainer(inside);
    if (field.number == 3) normalizer = true;
  }
  if (pieces.size() == 0) damaged("it has no pieces");
  if (!trainer.present || !normalizer)
    damaged(fmt::format("behind its {} pieces there is no {}: it may be cut off", pieces.size(),
                        trainer.present ? "normalizer_spec" : "trainer_spec"));
  if (static_cast<uint64_t>(pieces.size()) != trainer.vocabulary) {
    damaged(fmt::format("it has {} pieces, but its trainer_spec says vocab_size = {}", pieces.size(),
                        static_cast<int64_t>(trainer.vocabulary)));
  }
  if (pieces.unknown() < 0) damaged("no piece stands for the unknown");
  if (static_cast<uint64_t>(pieces.unknown()) != trainer.unknown) {
    damaged(fmt::format("piece {} stands for the unknown, but its trainer_spec says unk_id = {}",
                        pieces.unknown(), static_cast<int64_t>(trainer.unknown)));
  }
}

}  // namespace furrow::preprocess
