// Any UTF-8: the form of the form is the form, and what surely has it is left alone.  Few bytes are UTF-8, so
// that all of them are also taken for numbers of characters.
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/nfc.h"
#include "furrow/preprocess/utf8.h"

namespace {

using namespace furrow;

void check(std::string_view text) {
  const std::string form = preprocess::to_nfc(text);
  FURROW_CHECK(is_utf8(form), "no UTF-8");
  FURROW_CHECK(preprocess::to_nfc(form) == form, "another form of the form");
  FURROW_CHECK(!preprocess::surely_nfc(text) || form == text, "changed what has the form");
}

// Two bytes each; the surrogates, which are no characters, stand for those from 0x11000 on.
std::string characters(const uint8_t* data, size_t size) {
  std::string text;
  for (size_t i = 0; i + 1 < size; i += 2) {
    const uint32_t number = uint32_t{data[i]} << 8 | data[i + 1];
    preprocess::append_utf8(number >= 0xd800 && number < 0xe000 ? 0x11000 + (number - 0xd800) : number, text);
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (is_utf8(text)) check(text);
  check(characters(data, size));
  return 0;
}
