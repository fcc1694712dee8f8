// The tokenizers of llama2.c (https://github.com/karpathy/llama2.c, tokenizer.bin): byte pairs with scores,
// the pieces of a SentencePiece model of Llama's, written out.
//
//   int32 longest piece; then each piece: float32 score, int32 length, bytes (little-endian)
//
// Piece 1 begins a text, 3 to 258 are the 256 bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {

// As run.c of llama2.c encodes: the beginning of a text, a space before it, then its characters (bytes where
// there is no piece of that), of which neighbours are merged into the piece of the highest score, leftmost
// first, as long as there is one.  decode(encode(text)) == text.  Thread safe.  encode: Error{data_loss}
// where the text is not UTF-8, with the offset.
class Llama2cTokenizer : public Tokenizer {
 public:
  explicit Llama2cTokenizer(std::string_view file);  // Error{data_loss} when it is none
  // State: "pieces", the file in base64.
  static std::unique_ptr<Preprocessor> load(const State& state);
  ~Llama2cTokenizer() override;

  State state() const override;
  int64_t vocabulary_size() const override;
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  std::string decode(std::span<const uint32_t> ids) const override;

 private:
  struct Pieces;
  std::unique_ptr<const Pieces> pieces_;
};

}  // namespace furrow::preprocess
