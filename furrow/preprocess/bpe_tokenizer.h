// Byte-level byte pair encoding, as GPT-2: Radford et al., "Language models are unsupervised multitask
// learners", 2019; Sennrich et al., "Neural machine translation of rare words with subword units", 2016.
//
// Text is cut into pieces (words with the space before them, runs of digits, ...) by GPT-2's pattern; the
// bytes of a piece are merged pair by pair, the earliest merge of the list first, the leftmost of its places
// first. Ids as in GPT-2: 256 bytes in the order of their printable forms, then one per merge, then
// <|endoftext|>.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {

// Thread safe.  encode: Error{data_loss} where the text is not UTF-8, with the offset.  The letters of
// special tokens in a text are letters.
class BpeTokenizer : public Tokenizer {
 public:
  // `merges` is the text of vocab.bpe (or merges.txt): an optional line "#version", then "A B" in each line,
  // in order.  Error{data_loss} names the line that is no merge of tokens that there are.
  explicit BpeTokenizer(std::string_view merges);
  // State: "merges", the lines without "#version".
  static std::unique_ptr<Preprocessor> load(const State& state);
  ~BpeTokenizer() override;

  State state() const override;
  int64_t vocabulary_size() const override;
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override;
  std::string decode(std::span<const uint32_t> ids) const override;
  // Between two words of ASCII letters, before the space; and behind a line's end between two letters or
  // signs of ASCII: there the pattern cuts whatever comes before and behind.
  bool may_cut(std::string_view text, size_t at) const override;
  std::optional<uint32_t> begin_token() const override { return end_token(); }  // one for both, as in GPT-2
  std::optional<uint32_t> end_token() const override;
  // A token as vocab.json has it: bytes by their printable characters.  REQUIRES: id < vocabulary_size().
  std::string printable(uint32_t id) const;
  // The line, from 1, of the merge that makes a token; 0: none does.  REQUIRES: as above.
  size_t line_of(uint32_t id) const;

 private:
  struct Tables;
  std::unique_ptr<const Tables> tables_;
};

}  // namespace furrow::preprocess
