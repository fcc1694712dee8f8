#include "furrow/preprocess/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

constexpr uint32_t kUnknown = 0xFFFFFFFFu;

void check_id(uint32_t id, size_t vocabulary) {
  if (id < vocabulary) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("token {} is outside the vocabulary of {}", id, vocabulary));
}

[[noreturn]] void bad_alphabet(const char* why) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("fitted preprocessing: 'alphabet' {}: save the model again", why));
}

// "10 32 97" -> code points.
std::vector<char32_t> parse_alphabet(const std::string& text) {
  std::vector<char32_t> alphabet;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    uint32_t code = 0;
    const auto [next, error] = std::from_chars(at, end, code);
    if (error != std::errc()) bad_alphabet("is not a list of numbers");
    if (!is_scalar_value(code)) bad_alphabet("names no Unicode character");
    if (!alphabet.empty() && code <= alphabet.back()) bad_alphabet("is not ascending");
    alphabet.push_back(code);
    if (next == end) break;
    if (*next != ' ' || next + 1 == end) bad_alphabet("is not a list of numbers");
    at = next + 1;
  }
  if (alphabet.empty()) bad_alphabet("is empty");
  return alphabet;
}

}  // namespace

bool Tokenizer::may_cut(std::string_view, size_t) const { return false; }

std::unique_ptr<Preprocessor> ByteTokenizer::load(const State&) { return std::make_unique<ByteTokenizer>(); }

State ByteTokenizer::state() const { return {{"kind", "byte"}}; }

void ByteTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  ids.reserve(ids.size() + text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
}

std::string ByteTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  text.reserve(ids.size());
  for (const uint32_t id : ids) {
    check_id(id, 256);
    text.push_back(static_cast<char>(id));
  }
  return text;
}

CharTokenizer::CharTokenizer(std::vector<char32_t> alphabet) : alphabet_(std::move(alphabet)) {
  FURROW_CHECK(!alphabet_.empty(), "an empty alphabet");
  id_of_.assign(alphabet_.back() + size_t{1}, kUnknown);
  for (size_t id = 0; id < alphabet_.size(); ++id) {
    FURROW_CHECK(id == 0 || alphabet_[id - 1] < alphabet_[id], "the alphabet is not ascending");
    id_of_[alphabet_[id]] = static_cast<uint32_t>(id);
  }
}

CharTokenizer CharTokenizer::fit(std::string_view text) {
  if (text.empty())
    throw Error(ErrorCode::kInvalidArgument, "the text is empty: there is no alphabet to fit");
  std::vector<bool> seen(kMaxCodePoint + size_t{1}, false);
  char32_t last = 0;
  for (size_t offset = 0; offset < text.size();) {
    const char32_t code = decode_utf8(text, offset);
    seen[code] = true;
    last = std::max(last, code);
  }
  std::vector<char32_t> alphabet;
  for (char32_t code = 0; code <= last; ++code) {
    if (seen[code]) alphabet.push_back(code);
  }
  return CharTokenizer(std::move(alphabet));
}

std::unique_ptr<Preprocessor> CharTokenizer::load(const State& state) {
  return std::make_unique<CharTokenizer>(parse_alphabet(state_value(state, "alphabet")));
}

State CharTokenizer::state() const {
  std::string text;
  for (const char32_t code : alphabet_) {
    fmt::format_to(std::back_inserter(text), "{}{}", text.empty() ? "" : " ", static_cast<uint32_t>(code));
  }
  return {{"kind", "char"}, {"alphabet", std::move(text)}};
}

void CharTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  ids.reserve(ids.size() + text.size());
  for (size_t offset = 0; offset < text.size();) {
    const size_t start = offset;
    const char32_t code = decode_utf8(text, offset);
    const uint32_t id = code < id_of_.size() ? id_of_[code] : kUnknown;
    if (id == kUnknown) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format(
              "character U+{:04X} at byte {} is not in the fitted alphabet of {} characters: train on "
              "text that has it, or read the text as bytes",
              static_cast<uint32_t>(code), start, alphabet_.size()));
    }
    ids.push_back(id);
  }
}

bool CharTokenizer::may_cut(std::string_view text, size_t at) const {
  return (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;  // where a character begins
}

std::string CharTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  text.reserve(ids.size());
  for (const uint32_t id : ids) {
    check_id(id, alphabet_.size());
    append_utf8(alphabet_[id], text);
  }
  return text;
}

}  // namespace furrow::preprocess
