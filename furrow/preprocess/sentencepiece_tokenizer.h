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

// Each line of a text is a sentence; the end of a line is the model's end-of-sentence token, where it has
// one. The model normalises text, so that decode(encode(text)) is the normalised text.  Thread safe.  encode:
// Error{data_loss} where the text is not UTF-8, with the offset.
class SentencePieceTokenizer : public Tokenizer {
 public:
  // `model` is the bytes of a .model file.  Error{data_loss} when it is none.
  explicit SentencePieceTokenizer(std::string model);
  // State: "model", in base64.
  static std::unique_ptr<Preprocessor> load(const State& state);
  ~SentencePieceTokenizer() override;

  State state() const override;
  const std::string& model() const;  // the bytes of the .model file
  int64_t vocabulary_size() const override;
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  std::string decode(std::span<const uint32_t> ids) const override;
  bool may_cut(std::string_view text, size_t at) const override;  // at the end of a line
  std::optional<uint32_t> begin_token() const override;
  std::optional<uint32_t> end_token() const override;

 private:
  struct Model;
  std::unique_ptr<const Model> model_;
};

}  // namespace furrow::preprocess
