// Byte-level byte pairs as the tokenizer.json of Hugging Face's `tokenizers` describes them: a vocabulary
// that numbers the tokens, merges by rank, a pattern that cuts the text, and added tokens that are found in a
// text before it is cut.  (The file itself is read by data/tokenizer_json.h.)
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {

struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool normalized = false;  // looked for after those that are not
  bool special = false;     // left out of texts for readers
  friend bool operator==(const AddedToken&, const AddedToken&) = default;
};

struct HfTokenizerSpec {
  std::string pattern;  // "gpt2", "gpt2_digits", "llama3" or "qwen"
  // Printable form -> id, of all tokens but those that only `added` has.
  std::map<std::string, uint32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // printable forms, by rank
  std::vector<AddedToken> added;
  bool ignore_merges = false;  // a piece that is a token is that token
  bool nfc = false;  // what lies between added tokens that are not normalized is put into that form (nfc.h)
  std::optional<uint32_t> begin, end;
  bool adds_begin = false;  // texts for the model start with `begin`
};

// Thread safe.  encode: as `tokenizers` without special tokens of its own: what a text has of added tokens is
// those tokens.  Error{data_loss} where the text is not UTF-8, with the offset.
class HfTokenizer : public Tokenizer {
 public:
  // Error{data_loss} names the token or merge that cannot be; {unimplemented}: an unknown pattern.
  explicit HfTokenizer(HfTokenizerSpec spec);
  // State: "pattern"; "normalizer", "nfc", where there is one; "tokens", a line each by id, in printable
  // form; "merges", pairs of ids; "added".
  static std::unique_ptr<Preprocessor> load(const State& state);
  ~HfTokenizer() override;

  State state() const override;
  int64_t vocabulary_size() const override;
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  // Error{invalid_argument} on an id that is no token.
  std::string decode(std::span<const uint32_t> ids) const override;
  bool may_cut(std::string_view text, size_t at) const override;
  std::optional<uint32_t> begin_token() const override;
  std::optional<uint32_t> end_token() const override;
  const HfTokenizerSpec& spec() const;

 private:
  struct Tables;
  std::unique_ptr<const Tables> tables_;
};

}  // namespace furrow::preprocess
