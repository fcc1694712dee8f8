#include "furrow/preprocess/bpe_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>
#include <utility>

#include "furrow/base/text.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

constexpr uint32_t kBytes = 256;
constexpr size_t kMostMerges = size_t{1} << 24;
constexpr std::string_view kEnd = "<|endoftext|>";
constexpr uint32_t kNone = 0xFFFFFFFFu;

// GPT-2's pattern.  Its \s is Unicode's White_Space, which PCRE2's \s is not (U+180E), so it is spelled out.
#define FURROW_SPACES R"(\t-\r \x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr const char* kPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" FURROW_SPACES "\\p{L}\\p{N}]+|[" FURROW_SPACES
    "]+(?![^" FURROW_SPACES "])|[" FURROW_SPACES "]+";
#undef FURROW_SPACES

[[noreturn]] void damaged(const std::string& message) {
  throw Error(ErrorCode::kDataLoss, message + ": take vocab.bpe or merges.txt as it was published");
}

// The printable character that stands for each byte in the list of merges, and the order of the ids of bytes.
struct ByteAlphabet {
  std::array<char32_t, kBytes> character{};
  std::array<uint32_t, kBytes> id{};
};

ByteAlphabet byte_alphabet() {
  ByteAlphabet alphabet;
  const auto printable = [](uint32_t b) { return (b >= 33 && b <= 126) || (b >= 161 && b != 173); };
  uint32_t next = 0;
  for (uint32_t b = 0; b < kBytes; ++b) {
    if (!printable(b)) continue;
    alphabet.character[b] = b;
    alphabet.id[b] = next++;
  }
  for (uint32_t b = 0, shifted = kBytes; b < kBytes; ++b) {
    if (printable(b)) continue;
    alphabet.character[b] = shifted++;
    alphabet.id[b] = next++;
  }
  return alphabet;
}

using CodePointer = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;
using MatchPointer = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

CodePointer compile_pattern() {
  int error = 0;
  PCRE2_SIZE offset = 0;
  CodePointer code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset, nullptr),
                   &pcre2_code_free);
  FURROW_CHECK(code != nullptr, fmt::format("pattern error {} at {}", error, offset));
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without it, matching is slower but the same
  return code;
}

// (left, right) -> the token that they become; ids grow with the rank of the merge.  Open addressing.
class MergeTable {
 public:
  explicit MergeTable(size_t merges) {
    size_t size = 16;
    while (size < merges * 2) size *= 2;
    slots_.resize(size);
  }
  bool insert(uint64_t pair, uint32_t merged) {
    Slot& slot = find(pair);
    if (slot.merged != kNone) return false;
    slot = {pair, merged};
    return true;
  }
  uint32_t at(uint32_t left, uint32_t right) const {
    return const_cast<MergeTable*>(this)->find(uint64_t{left} << 32 | right).merged;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    uint32_t merged = kNone;
  };
  Slot& find(uint64_t pair) {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> 20) & mask;
    while (slots_[at].merged != kNone && slots_[at].pair != pair) at = (at + 1) & mask;
    return slots_[at];
  }
  std::vector<Slot> slots_;
};

// Short pieces: look at all pairs for each merge.
void merge_short(const MergeTable& merges, std::vector<uint32_t>& symbols) {
  while (symbols.size() > 1) {
    uint32_t best = kNone;
    size_t place = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const uint32_t merged = merges.at(symbols[i], symbols[i + 1]);
      if (merged < best) {
        best = merged;
        place = i;
      }
    }
    if (best == kNone) return;
    symbols[place] = best;
    symbols.erase(symbols.begin() + static_cast<long>(place) + 1);
  }
}

// Long pieces, such as a line without spaces: candidates in a heap, symbols in a list; n log n.
void merge_long(const MergeTable& merges, std::vector<uint32_t>& symbols) {
  struct Candidate {
    uint32_t merged;
    size_t left;
    uint32_t left_symbol, right_symbol;
    bool operator>(const Candidate& other) const {
      return std::pair(merged, left) > std::pair(other.merged, other.left);
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
    const uint32_t merged = merges.at(symbols[left], symbols[next[left]]);
    if (merged != kNone) heap.push({merged, left, symbols[left], symbols[next[left]]});
  };
  for (size_t i = 0; i + 1 < end; ++i) offer(i);
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    const size_t right = symbols[best.left] == best.left_symbol ? next[best.left] : end;
    if (right == end || symbols[right] != best.right_symbol) continue;  // one of the two is gone
    symbols[best.left] = best.merged;
    symbols[right] = kNone;
    next[best.left] = next[right];
    if (next[right] != end) previous[next[right]] = best.left;
    offer(previous[best.left]);
    offer(best.left);
  }
  std::erase(symbols, kNone);
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

}  // namespace

struct BpeTokenizer::Tables {
  ByteAlphabet bytes = byte_alphabet();
  std::string lines;                // of the merges, without a version
  std::vector<std::string> tokens;  // the bytes of each
  std::vector<uint32_t> numbers;    // of the lines of the merges
  MergeTable merges;
  CodePointer pattern = compile_pattern();

  Tables(std::string_view text, size_t count) : merges(count) {
    tokens.resize(kBytes);
    std::unordered_map<std::string, uint32_t> ids;  // by printable form
    for (uint32_t b = 0; b < kBytes; ++b) {
      tokens[bytes.id[b]] = std::string(1, static_cast<char>(b));
      std::string printable;
      append_utf8(bytes.character[b], printable);
      ids[printable] = bytes.id[b];
    }
    size_t number = 0;
    for (size_t at = 0; at < text.size(); ++number) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string_view line = text.substr(at, end - at);
      at = end + 1;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty() || (number == 0 && line.starts_with("#version"))) continue;
      add_merge(line, number + 1, ids);
    }
    tokens.emplace_back(kEnd);
  }

  void add_merge(std::string_view line, size_t number, std::unordered_map<std::string, uint32_t>& ids) {
    const size_t space = line.find(' ');
    const auto left = ids.find(std::string(line.substr(0, space)));
    const auto right = space == line.npos ? ids.end() : ids.find(std::string(line.substr(space + 1)));
    if (left == ids.end() || right == ids.end()) {
      damaged(fmt::format("line {} of the merges is no pair of tokens that there are by then", number));
    }
    const auto id = static_cast<uint32_t>(tokens.size());
    const bool fresh = ids.emplace(left->first + right->first, id).second &&
                       merges.insert(uint64_t{left->second} << 32 | right->second, id);
    if (!fresh) damaged(fmt::format("line {} of the merges makes a token that there is", number));
    tokens.push_back(tokens[left->second] + tokens[right->second]);
    lines.append(line).append("\n");
    numbers.push_back(static_cast<uint32_t>(number));
  }

  size_t end_of_piece(std::string_view text, size_t at, pcre2_match_data* match) const {
    const int found = pcre2_match(pattern.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                  PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, match, nullptr);
    FURROW_CHECK(found > 0, fmt::format("no piece at byte {}: {}", at, found));
    return pcre2_get_ovector_pointer(match)[1];
  }

  void encode_piece(std::string_view piece, std::vector<uint32_t>& symbols) const {
    constexpr size_t kShort = 48;
    symbols.clear();
    for (const char c : piece) symbols.push_back(bytes.id[static_cast<unsigned char>(c)]);
    piece.size() <= kShort ? merge_short(merges, symbols) : merge_long(merges, symbols);
  }
};

BpeTokenizer::BpeTokenizer(std::string_view merges) {
  const auto lines = static_cast<size_t>(std::ranges::count(merges, '\n')) + 1;
  if (lines > kMostMerges) damaged(fmt::format("{} lines are too many merges", lines));
  if (!is_utf8(merges)) damaged("the list of merges is not UTF-8");
  tables_ = std::make_unique<const Tables>(merges, lines);
  if (tables_->lines.empty()) damaged("the list of merges is empty");
}

BpeTokenizer::~BpeTokenizer() = default;

std::unique_ptr<Preprocessor> BpeTokenizer::load(const State& state) {
  return std::make_unique<BpeTokenizer>(state_value(state, "merges"));
}

State BpeTokenizer::state() const { return {{"kind", "gpt2"}, {"merges", tables_->lines}}; }

int64_t BpeTokenizer::vocabulary_size() const { return static_cast<int64_t>(tables_->tokens.size()); }

// Words come again and again: what a piece became is kept for the rest of the text.
void BpeTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  for (size_t offset = 0; offset < text.size();) decode_utf8(text, offset);  // or the error with its offset
  constexpr size_t kMostKept = 1 << 16, kLongestKept = 64;
  std::unordered_map<std::string_view, std::pair<uint32_t, uint32_t>> kept;  // piece -> part of `ids`
  const MatchPointer match(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  std::vector<uint32_t> symbols;
  for (size_t at = 0; at < text.size();) {
    size_t end = end_of_word(text, at);
    if (end == 0) end = tables_->end_of_piece(text, at, match.get());
    const std::string_view piece = text.substr(at, end - at);
    at = end;
    if (const auto before = kept.find(piece); before != kept.end()) {
      const auto [first, count] = before->second;
      for (uint32_t i = 0; i < count; ++i) ids.push_back(ids[first + i]);
      continue;
    }
    tables_->encode_piece(piece, symbols);
    if (kept.size() < kMostKept && piece.size() <= kLongestKept && ids.size() < kNone) {
      kept.emplace(piece,
                   std::pair(static_cast<uint32_t>(ids.size()), static_cast<uint32_t>(symbols.size())));
    }
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }
}

size_t BpeTokenizer::line_of(uint32_t id) const {
  const bool merged = id >= kBytes && id - kBytes < tables_->numbers.size();
  return merged ? tables_->numbers[id - kBytes] : 0;
}

bool BpeTokenizer::may_cut(std::string_view text, size_t at) const {
  const auto is_letter = [](unsigned char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; };
  const auto is_visible = [](unsigned char c) { return c > 32 && c < 127; };
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(at) == ' ') return is_letter(byte(at - 1)) && at + 1 < text.size() && is_letter(byte(at + 1));
  return byte(at - 1) == '\n' && at >= 2 && is_visible(byte(at - 2)) && is_visible(byte(at));
}

std::optional<uint32_t> BpeTokenizer::end_token() const {
  return static_cast<uint32_t>(vocabulary_size() - 1);
}

std::string BpeTokenizer::printable(uint32_t id) const {
  const std::string& token = tables_->tokens.at(id);
  if (id + 1 == tables_->tokens.size()) return token;  // <|endoftext|> is no bytes
  std::string text;
  for (const char byte : token) append_utf8(tables_->bytes.character[static_cast<unsigned char>(byte)], text);
  return text;
}

std::string BpeTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  for (const uint32_t id : ids) {
    if (id >= tables_->tokens.size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("token {} is outside the vocabulary of {}", id, tables_->tokens.size()));
    }
    text += tables_->tokens[id];
  }
  return text;
}

}  // namespace furrow::preprocess
