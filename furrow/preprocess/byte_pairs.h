// Byte-level byte pair encoding: what the tokenizers that use it share.  Text is cut into pieces by a
// pattern; the bytes of a piece are merged pair by pair, the merge of the lowest rank first, the leftmost of
// its places first.  Internal to preprocess.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace furrow::preprocess {

inline constexpr uint32_t kNoToken = 0xFFFFFFFFu;

// The printable characters that stand for bytes in vocabularies and lists of merges, as GPT-2's.
struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<uint32_t, 256>
      order{};  // of the bytes: the printable ones first, which is how GPT-2 numbers them
};
const ByteAlphabet& byte_alphabet();
std::string printable_bytes(std::string_view bytes);
// The bytes of a token of a vocabulary; false when a character of it stands for none.
bool bytes_of_printable(std::string_view token, std::string* bytes);

// (left, right) -> the rank of their merge and the token that they become.  Open addressing.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank = kNoToken, token = kNoToken;
  };
  explicit MergeTable(size_t merges);
  bool insert(uint32_t left, uint32_t right, Merge merge);  // false: there is one
  Merge at(uint32_t left, uint32_t right) const {
    return const_cast<MergeTable*>(this)->find(uint64_t{left} << 32 | right).merge;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    Merge merge;
  };
  Slot& find(uint64_t pair) {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> 20) & mask;
    while (slots_[at].merge.rank != kNoToken && slots_[at].pair != pair) at = (at + 1) & mask;
    return slots_[at];
  }
  std::vector<Slot> slots_;
};

// The pattern of a tokenizer, by the name that its saved state has.
struct PiecePattern {
  std::string_view name;   // "llama3"
  std::string_view regex;  // as a Split of tokenizer.json has it
  const char* pcre;        // with \s spelled out
};
const PiecePattern* find_pattern(std::string_view name);            // null: there is none
const PiecePattern* find_pattern_by_regex(std::string_view regex);  // null: there is none
std::vector<std::string> pattern_names();

// Thread safe.
class BytePairs {
 public:
  // `byte_ids`: the token of each byte, kNoToken where there is none.  `whole`: pieces that are tokens as
  // they stand, without a merge.
  BytePairs(const PiecePattern& pattern, const std::array<uint32_t, 256>& byte_ids, MergeTable merges,
            std::unordered_map<std::string, uint32_t> whole = {});
  ~BytePairs();
  // Appends the tokens of `text`, which is UTF-8.  Error{data_loss}: a byte that no token stands for.
  void encode(std::string_view text, std::vector<uint32_t>& ids) const;

 private:
  struct Regex;
  void encode_piece(std::string_view piece, std::vector<uint32_t>& symbols) const;
  std::array<uint32_t, 256> byte_ids_;
  MergeTable merges_;
  std::unordered_map<std::string, uint32_t> whole_;
  std::unique_ptr<const Regex> regex_;
};

// Between two words of ASCII letters, before the space; and behind a line's end between two letters or signs
// of ASCII: there every pattern cuts, whatever comes before and behind.
bool may_cut_pieces(std::string_view text, size_t at);

// Error{data_loss} with the offset where `text` is not UTF-8.
void require_utf8(std::string_view text);

}  // namespace furrow::preprocess
