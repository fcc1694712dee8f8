// Any bytes are either refused with an Error or a manifest, or a list of pieces, that survives its own text
// form.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/checkpoint_files.h"

namespace {

using namespace furrow::storage;

void as_manifest(std::string_view json) {
  const std::string text = to_json(parse_manifest(json));
  if (to_json(parse_manifest(text)) != text) std::abort();
}

void as_pieces(std::string_view json) {
  const std::string text = pieces_to_json(parse_pieces(json));
  if (pieces_to_json(parse_pieces(text)) != text) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const auto& parse : {&as_manifest, &as_pieces}) {
    try {
      parse({reinterpret_cast<const char*>(data), size});
    } catch (const furrow::Error& error) {
      if (error.code() == furrow::ErrorCode::kInternal) std::abort();
    }
  }
  return 0;
}
