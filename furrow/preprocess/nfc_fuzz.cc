// Any UTF-8: the form of the form is the form, and what surely has it is left alone.
#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/nfc.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!is_utf8(text)) return 0;
  const std::string form = preprocess::to_nfc(text);
  FURROW_CHECK(is_utf8(form), "no UTF-8");
  FURROW_CHECK(preprocess::to_nfc(form) == form, "another form of the form");
  FURROW_CHECK(!preprocess::surely_nfc(text) || form == text, "changed what has the form");
  return 0;
}
