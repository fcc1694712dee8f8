// Any bytes are either refused with an Error or a manifest that survives its own text form.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/storage/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto manifest = furrow::storage::parse_manifest({reinterpret_cast<const char*>(data), size});
    const std::string text = to_json(manifest);
    if (to_json(furrow::storage::parse_manifest(text)) != text) std::abort();
  } catch (const furrow::Error& error) {
    if (error.code() == furrow::ErrorCode::kInternal) std::abort();
  }
  return 0;
}
