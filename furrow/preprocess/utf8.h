// Strict UTF-8: RFC 3629, no surrogates, no overlong forms.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace furrow::preprocess {

inline constexpr char32_t kMaxCodePoint = 0x10FFFF;

// The code point at text[offset]; moves offset behind it.  REQUIRES: offset < text.size().
// Error{data_loss} names the offset where what follows is not UTF-8.
char32_t decode_utf8(std::string_view text, size_t& offset);

// REQUIRES: is_scalar_value(code).
void append_utf8(char32_t code, std::string& out);

// A code point that UTF-8 can hold: not a surrogate, not above kMaxCodePoint.
constexpr bool is_scalar_value(char32_t code) {
  return code <= kMaxCodePoint && (code < 0xD800 || code > 0xDFFF);
}

}  // namespace furrow::preprocess
