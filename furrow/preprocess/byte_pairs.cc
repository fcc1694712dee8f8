#include "furrow/preprocess/byte_pairs.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

constexpr uint32_t kBytes = 256;

// \s is Unicode's White_Space, which PCRE2's \s is not (U+180E), so it is spelled out.
#define FURROW_SPACES R"(\t-\r \x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define FURROW_SPACE_RUNS "[" FURROW_SPACES "]+(?![^" FURROW_SPACES "])|[" FURROW_SPACES "]+"
// Llama 3's and Qwen's, which differ in their digits alone.
#define FURROW_WORDS_WITH(digits)                                                            \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" FURROW_SPACES \
  "\\p{L}\\p{N}]+[\\r\\n]*|[" FURROW_SPACES "]*[\\r\\n]+|" FURROW_SPACE_RUNS
#define FURROW_REGEX_WITH(digits)                                    \
  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits \
  R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"

constexpr PiecePattern kPatterns[] = {
    {"gpt2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" FURROW_SPACES "\\p{L}\\p{N}]+|" FURROW_SPACE_RUNS},
    // A digit is a piece, and ends what is before it: `tokenizers` cuts by Digits first, then by GPT-2's.
    {"gpt2_digits", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+)",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^" FURROW_SPACES "\\p{L}\\p{N}]+|[" FURROW_SPACES
     "]+(?=\\p{N})|" FURROW_SPACE_RUNS},
    {"llama3", FURROW_REGEX_WITH(R"(\p{N}{1,3})"), FURROW_WORDS_WITH("\\p{N}{1,3}")},
    {"qwen", FURROW_REGEX_WITH(R"(\p{N})"), FURROW_WORDS_WITH("\\p{N}")},
};
#undef FURROW_REGEX_WITH
#undef FURROW_WORDS_WITH
#undef FURROW_SPACE_RUNS
#undef FURROW_SPACES

ByteAlphabet make_alphabet() {
  ByteAlphabet alphabet;
  const auto printable = [](uint32_t b) { return (b >= 33 && b <= 126) || (b >= 161 && b != 173); };
  uint32_t next = 0;
  for (uint32_t b = 0; b < kBytes; ++b) {
    if (!printable(b)) continue;
    alphabet.character[b] = b;
    alphabet.order[b] = next++;
  }
  for (uint32_t b = 0, shifted = kBytes; b < kBytes; ++b) {
    if (printable(b)) continue;
    alphabet.character[b] = shifted++;
    alphabet.order[b] = next++;
  }
  return alphabet;
}

// Short pieces: look at all pairs for each merge.
void merge_short(const MergeTable& merges, std::vector<uint32_t>& symbols) {
  while (symbols.size() > 1) {
    MergeTable::Merge best;
    size_t place = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const MergeTable::Merge merge = merges.at(symbols[i], symbols[i + 1]);
      if (merge.rank < best.rank) {
        best = merge;
        place = i;
      }
    }
    if (best.rank == kNoToken) return;
    symbols[place] = best.token;
    symbols.erase(symbols.begin() + static_cast<long>(place) + 1);
  }
}

// Long pieces, such as a line without spaces: candidates in a heap, symbols in a list; n log n.
void merge_long(const MergeTable& merges, std::vector<uint32_t>& symbols) {
  struct Candidate {
    MergeTable::Merge merge;
    size_t left;
    uint32_t left_symbol, right_symbol;
    bool operator>(const Candidate& other) const {
      return std::pair(merge.rank, left) > std::pair(other.merge.rank, other.left);
    }
  };
  const size_t end = symbols.size();
  std::vector<size_t> next(end), previous(end);
  for (size_t i = 0; i < end; ++i) {
    next[i] = i + 1;
    previous[i] = i == 0 ? end : i - 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto offer = [&](size_t left) {
    if (left == end || next[left] == end) return;
    const MergeTable::Merge merge = merges.at(symbols[left], symbols[next[left]]);
    if (merge.rank != kNoToken) heap.push({merge, left, symbols[left], symbols[next[left]]});
  };
  for (size_t i = 0; i + 1 < end; ++i) offer(i);
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    const size_t right = symbols[best.left] == best.left_symbol ? next[best.left] : end;
    if (right == end || symbols[right] != best.right_symbol) continue;  // one of the two is gone
    symbols[best.left] = best.merge.token;
    symbols[right] = kNoToken;
    next[best.left] = next[right];
    if (next[right] != end) previous[next[right]] = best.left;
    offer(previous[best.left]);
    offer(best.left);
  }
  std::erase(symbols, kNoToken);
}

// Where a word of ASCII letters at `at`, with the space before it, ends: the commonest piece, found without
// the pattern.  0 when it is none, or goes on in letters that are not ASCII.
size_t end_of_word(std::string_view text, size_t at) {
  const auto is_letter = [](unsigned char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; };
  const size_t first = at + (text[at] == ' ');
  size_t end = first;
  while (end < text.size() && is_letter(static_cast<unsigned char>(text[end]))) ++end;
  const bool whole = end == text.size() || static_cast<unsigned char>(text[end]) < 0x80;
  return end > first && whole ? end : 0;
}

using CodePointer = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;
using MatchPointer = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

CodePointer compile(const char* pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  CodePointer code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset, nullptr),
                   &pcre2_code_free);
  FURROW_CHECK(code != nullptr, fmt::format("pattern error {} at {}", error, offset));
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without it, matching is slower but the same
  return code;
}

size_t end_of_piece(const pcre2_code* code, std::string_view text, size_t at, pcre2_match_data* match) {
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, match, nullptr);
  FURROW_CHECK(found > 0, fmt::format("no piece at byte {}: {}", at, found));
  return pcre2_get_ovector_pointer(match)[1];
}

}  // namespace

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet = make_alphabet();
  return alphabet;
}

std::string printable_bytes(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes)
    append_utf8(byte_alphabet().character[static_cast<unsigned char>(byte)], text);
  return text;
}

bool bytes_of_printable(std::string_view token, std::string* bytes) {
  bytes->clear();
  for (size_t at = 0; at < token.size();) {
    const char32_t code = decode_utf8(token, at);
    const auto& characters = byte_alphabet().character;
    const auto* const found = std::ranges::find(characters, code);
    if (found == characters.end()) return false;
    bytes->push_back(static_cast<char>(found - characters.begin()));
  }
  return true;
}

MergeTable::MergeTable(size_t merges) {
  size_t size = 16;
  while (size < merges * 2) size *= 2;
  slots_.resize(size);
}

bool MergeTable::insert(uint32_t left, uint32_t right, Merge merge) {
  const uint64_t pair = uint64_t{left} << 32 | right;
  Slot& slot = find(pair);
  if (slot.merge.rank != kNoToken) return false;
  slot = {pair, merge};
  return true;
}

const PiecePattern* find_pattern(std::string_view name) {
  const auto* const found = std::ranges::find(kPatterns, name, &PiecePattern::name);
  return found == std::end(kPatterns) ? nullptr : found;
}

const PiecePattern* find_pattern_by_regex(std::string_view regex) {
  const auto* const found = std::ranges::find(kPatterns, regex, &PiecePattern::regex);
  return found == std::end(kPatterns) ? nullptr : found;
}

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const PiecePattern& pattern : kPatterns) names.emplace_back(pattern.name);
  return names;
}

struct BytePairs::Regex {
  CodePointer code;
};

BytePairs::BytePairs(const PiecePattern& pattern, const std::array<uint32_t, 256>& byte_ids,
                     MergeTable merges, std::unordered_map<std::string, uint32_t> whole)
    : byte_ids_(byte_ids),
      merges_(std::move(merges)),
      whole_(std::move(whole)),
      regex_(new Regex{compile(pattern.pcre)}) {}

BytePairs::~BytePairs() = default;

void BytePairs::encode_piece(std::string_view piece, std::vector<uint32_t>& symbols) const {
  constexpr size_t kShort = 48;
  symbols.clear();
  if (!whole_.empty()) {
    if (const auto token = whole_.find(std::string(piece)); token != whole_.end()) {
      symbols.push_back(token->second);
      return;
    }
  }
  for (const char c : piece) {
    symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    if (symbols.back() == kNoToken) {
      throw Error(ErrorCode::kDataLoss, fmt::format("the tokenizer has no token for the byte {}",
                                                    static_cast<int>(static_cast<unsigned char>(c))));
    }
  }
  piece.size() <= kShort ? merge_short(merges_, symbols) : merge_long(merges_, symbols);
}

// Words come again and again: what a piece became is kept for the rest of the text.
void BytePairs::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  constexpr size_t kMostKept = 1 << 16, kLongestKept = 64;
  std::unordered_map<std::string_view, std::pair<uint32_t, uint32_t>> kept;  // piece -> part of `ids`
  const MatchPointer match(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  std::vector<uint32_t> symbols;
  for (size_t at = 0; at < text.size();) {
    size_t end = end_of_word(text, at);
    if (end == 0) end = end_of_piece(regex_->code.get(), text, at, match.get());
    const std::string_view piece = text.substr(at, end - at);
    at = end;
    if (const auto before = kept.find(piece); before != kept.end()) {
      const auto [first, count] = before->second;
      for (uint32_t i = 0; i < count; ++i) ids.push_back(ids[first + i]);
      continue;
    }
    encode_piece(piece, symbols);
    if (kept.size() < kMostKept && piece.size() <= kLongestKept && ids.size() < kNoToken) {
      kept.emplace(piece,
                   std::pair(static_cast<uint32_t>(ids.size()), static_cast<uint32_t>(symbols.size())));
    }
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }
}

bool may_cut_pieces(std::string_view text, size_t at) {
  const auto is_letter = [](unsigned char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; };
  const auto is_visible = [](unsigned char c) { return c > 32 && c < 127; };
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(at) == ' ') return is_letter(byte(at - 1)) && at + 1 < text.size() && is_letter(byte(at + 1));
  return byte(at - 1) == '\n' && at >= 2 && is_visible(byte(at - 2)) && is_visible(byte(at));
}

void require_utf8(std::string_view text) {
  for (size_t offset = 0; offset < text.size();) decode_utf8(text, offset);
}

}  // namespace furrow::preprocess
