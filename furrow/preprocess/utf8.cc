#include "furrow/preprocess/utf8.h"

#include <fmt/format.h>

#include <cstdint>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

[[noreturn]] void bad_byte(std::string_view text, size_t offset) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("byte 0x{:02x} at offset {} is not UTF-8: convert the text, or read it as bytes",
                          static_cast<unsigned char>(text[offset]), offset));
}

struct Lead {
  size_t length;     // bytes of the whole sequence, 0: not a lead byte
  char32_t payload;  // bits of the lead byte
  char32_t least;    // smallest code point that needs this length
};

Lead classify(unsigned char byte) {
  if (byte < 0x80) return {1, byte, 0};
  if ((byte & 0xE0) == 0xC0) return {2, static_cast<char32_t>(byte & 0x1F), 0x80};
  if ((byte & 0xF0) == 0xE0) return {3, static_cast<char32_t>(byte & 0x0F), 0x800};
  if ((byte & 0xF8) == 0xF0) return {4, static_cast<char32_t>(byte & 0x07), 0x10000};
  return {0, 0, 0};
}

}  // namespace

char32_t decode_utf8(std::string_view text, size_t& offset) {
  const Lead lead = classify(static_cast<unsigned char>(text[offset]));
  if (lead.length == 1) {
    ++offset;
    return lead.payload;
  }
  if (lead.length == 0 || lead.length > text.size() - offset) bad_byte(text, offset);
  char32_t code = lead.payload;
  for (size_t i = 1; i < lead.length; ++i) {
    const auto byte = static_cast<unsigned char>(text[offset + i]);
    if ((byte & 0xC0) != 0x80) bad_byte(text, offset);
    code = code << 6 | (byte & 0x3Fu);
  }
  if (code < lead.least || !is_scalar_value(code)) bad_byte(text, offset);
  offset += lead.length;
  return code;
}

void append_utf8(char32_t code, std::string& out) {
  FURROW_CHECK(is_scalar_value(code), "not a code point that UTF-8 can hold");
  const auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | (code >> shift & 0x3F))); };
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace furrow::preprocess
