// SentencePiece models (Kudo and Richardson, "SentencePiece: a simple and language independent subword
// tokenizer and detokenizer for neural text processing", 2018), through the library of that name.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {

// A model that has a token for the end of a line, as Llama's has by its bytes, reads a text as it is: the ids
// are those of the library for the whole text, but that a text which begins with a line end has no blank
// before it.  To any other model each line is a sentence, and the end of a line its end-of-sentence token,
// where it has one.  The model normalises text, so that decode(encode(text)) is the normalised text.  Thread
// safe.  encode: Error{data_loss} where the text is not UTF-8, with the offset.
class SentencePieceTokenizer : public Tokenizer {
 public:
  enum class LineEnds : uint8_t { kAsTheModel, kSentences };
  // `model` is the bytes of a .model file.  Error{data_loss} when it is none.  kSentences: as earlier
  // versions read every text.
  explicit SentencePieceTokenizer(std::string model, LineEnds line_ends = LineEnds::kAsTheModel);
  // State: "model", in base64; "lines" is "kept" where they are.
  static std::unique_ptr<Preprocessor> load(const State& state);
  ~SentencePieceTokenizer() override;

  State state() const override;
  const std::string& model() const;  // the bytes of the .model file
  int64_t vocabulary_size() const override;
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  std::string decode(std::span<const uint32_t> ids) const override;
  bool may_cut(std::string_view text, size_t at) const override;  // at a line's end
  std::optional<uint32_t> begin_token() const override;
  std::optional<uint32_t> end_token() const override;

 private:
  void encode_sentences(std::string_view text, std::vector<uint32_t>& ids) const;
  void encode_lines(std::string_view text, std::vector<uint32_t>& ids) const;
  struct Model;
  std::unique_ptr<const Model> model_;
};

}  // namespace furrow::preprocess
