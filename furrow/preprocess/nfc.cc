#include "furrow/preprocess/nfc.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

struct Decomposition {
  char32_t code, first, second;  // second 0: there is one alone
};
struct Composition {
  char32_t first, second, code;
};
struct Class {
  char32_t begin, end;  // both are in it
  uint8_t of;           // the canonical combining class, not 0
};
#include "furrow/preprocess/nfc_table.inc"

// Hangul's syllables follow by arithmetic (The Unicode Standard, 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

bool within(char32_t code, char32_t begin, char32_t count) { return code >= begin && code - begin < count; }

constexpr char32_t kFirstOfAny = 0x300;  // all before are composed, and marks of nothing

uint8_t class_of(char32_t code) {
  if (code < kFirstOfAny) return 0;
  const auto* const found = std::ranges::lower_bound(kClasses, code, {}, &Class::end);
  return found != std::end(kClasses) && found->begin <= code ? found->of : 0;
}

const Decomposition* decomposition_of(char32_t code) {
  const auto* const found = std::ranges::lower_bound(kDecompositions, code, {}, &Decomposition::code);
  return found != std::end(kDecompositions) && found->code == code ? found : nullptr;
}

// 0: the two are no letter together.
char32_t composed(char32_t first, char32_t second) {
  if (within(first, kLead, kLeads) && within(second, kVowel, kVowels))
    return kSyllable + ((first - kLead) * kVowels + second - kVowel) * kTails;
  if (within(first, kSyllable, kSyllables) && (first - kSyllable) % kTails == 0 &&
      within(second, kTail + 1, kTails - 1))
    return first + second - kTail;
  const auto before = [](const Composition& a, const Composition& b) {
    return a.first != b.first ? a.first < b.first : a.second < b.second;
  };
  const Composition wanted{first, second, 0};
  const auto* const found =
      std::lower_bound(std::begin(kCompositions), std::end(kCompositions), wanted, before);
  const bool there = found != std::end(kCompositions) && found->first == first && found->second == second;
  return there ? found->code : 0;
}

// Characters that the form may not hold, or not behind any other: a bit each.
std::vector<bool> find_unsure() {
  std::vector<bool> unsure(0x110000);
  for (const Class& marks : kClasses) {
    for (char32_t code = marks.begin; code <= marks.end; ++code) unsure[code] = true;
  }
  for (const Decomposition& entry : kDecompositions)
    unsure[entry.code] = unsure[entry.code] || entry.second == 0 || composed(entry.first, entry.second) == 0;
  for (const Composition& entry : kCompositions) unsure[entry.second] = true;
  for (char32_t i = 0; i < kVowels; ++i) unsure[kVowel + i] = true;
  for (char32_t i = 1; i < kTails; ++i) unsure[kTail + i] = true;
  return unsure;
}

void append_parts(char32_t code, std::vector<char32_t>& out) {
  if (within(code, kSyllable, kSyllables)) {
    const char32_t at = code - kSyllable, tail = at % kTails;
    out.push_back(kLead + at / (kVowels * kTails));
    out.push_back(kVowel + at % (kVowels * kTails) / kTails);
    if (tail != 0) out.push_back(kTail + tail);
    return;
  }
  const Decomposition* const parts = decomposition_of(code);
  if (parts == nullptr) return out.push_back(code);
  append_parts(parts->first, out);
  if (parts->second != 0) append_parts(parts->second, out);
}

// Marks behind a letter in the order of their classes.
void order_marks(std::vector<char32_t>& codes) {
  for (size_t begin = 0; begin < codes.size();) {
    size_t end = begin;
    while (end < codes.size() && class_of(codes[end]) != 0) ++end;
    std::ranges::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(begin),
                             codes.begin() + static_cast<std::ptrdiff_t>(end), {}, &class_of);
    begin = end + 1;
  }
}

// Each mark into the letter before it, unless a mark between keeps it off.
void compose(std::vector<char32_t>& codes) {
  constexpr size_t kNone = SIZE_MAX;
  size_t letter = kNone, out = 0;
  int before = 0;  // class of the last character that stays behind the letter; -1: there is none
  for (const char32_t code : codes) {
    const int own = class_of(code);
    const bool free = letter != kNone && (before == -1 || before < own);
    const char32_t together = free ? composed(codes[letter], code) : 0;
    if (together != 0) {
      codes[letter] = together;
      continue;
    }
    if (own == 0) letter = out;
    before = own == 0 ? -1 : own;
    codes[out++] = code;
  }
  codes.resize(out);
}

}  // namespace

bool surely_nfc(std::string_view text) {
  static const std::vector<bool> unsure = find_unsure();
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0xCC) {  // below kFirstOfAny
      ++at;
      continue;
    }
    if (unsure[decode_utf8(text, at)]) return false;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  if (surely_nfc(text)) return std::string(text);
  std::vector<char32_t> codes;
  codes.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_parts(decode_utf8(text, at), codes);
  order_marks(codes);
  compose(codes);
  std::string out;
  out.reserve(text.size());
  for (const char32_t code : codes) append_utf8(code, out);
  return out;
}

}  // namespace furrow::preprocess
