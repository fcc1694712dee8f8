// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/preprocess/preprocessor.h"

namespace furrow::preprocess {

class Tokenizer : public Preprocessor {
 public:
  virtual int64_t vocabulary_size() const = 0;
  // Appends the ids of `text`, each in [0, vocabulary_size()).  Error: see the implementation.
  virtual void encode(std::string_view text, std::vector<uint32_t>& ids) const = 0;
  // Error{invalid_argument} on an id outside the vocabulary.
  virtual std::string decode(std::span<const uint32_t> ids) const = 0;

  // May `text` be cut before byte `at`?  Then what encode() makes of it is what it makes of the part before,
  // followed by that of the part behind.  Says no where that would take more than the letters next to it to
  // know.  REQUIRES: 0 < at < text.size().
  virtual bool may_cut(std::string_view text, size_t at) const;
  // The tokens that begin and end a text, where the vocabulary has such.
  virtual std::optional<uint32_t> begin_token() const { return {}; }
  virtual std::optional<uint32_t> end_token() const { return {}; }
};

// Token i is byte i.  encode never fails; decode gives back the bytes, UTF-8 or not.
class ByteTokenizer : public Tokenizer {
 public:
  static std::unique_ptr<Preprocessor> load(const State& state);
  State state() const override;
  int64_t vocabulary_size() const override { return 256; }
  bool may_cut(std::string_view, size_t) const override { return true; }
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  std::string decode(std::span<const uint32_t> ids) const override;
};

// Token i is the i-th of the alphabet's Unicode code points in ascending order (as nanoGPT's character
// tokenizer). encode: Error{data_loss} where the text is not UTF-8, Error{invalid_argument} on a character
// outside the alphabet; both name the byte offset.
class CharTokenizer : public Tokenizer {
 public:
  // The alphabet of `text`.  Error{invalid_argument} when the text is empty, Error{data_loss} when it is not
  // UTF-8.
  static CharTokenizer fit(std::string_view text);
  // State: "alphabet" is the code points as ascending decimal numbers, separated by one space.
  static std::unique_ptr<Preprocessor> load(const State& state);
  // REQUIRES: strictly ascending scalar values, not empty.
  explicit CharTokenizer(std::vector<char32_t> alphabet);

  State state() const override;
  int64_t vocabulary_size() const override { return static_cast<int64_t>(alphabet_.size()); }
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  std::string decode(std::span<const uint32_t> ids) const override;
  bool may_cut(std::string_view text, size_t at) const override;
  const std::vector<char32_t>& alphabet() const { return alphabet_; }  // ascending

 private:
  std::vector<char32_t> alphabet_;
  std::vector<uint32_t> id_of_;  // by code point up to the last of the alphabet; kUnknown where there is none
};

}  // namespace furrow::preprocess
