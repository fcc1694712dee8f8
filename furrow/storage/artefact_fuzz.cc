// Any bytes are either refused with an Error or a description that survives its own text form.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/storage/artefact.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto artefact = furrow::storage::parse_artefact({reinterpret_cast<const char*>(data), size});
    if (!(furrow::storage::parse_artefact(to_toml(artefact)) == artefact)) std::abort();
  } catch (const furrow::Error& error) {
    if (error.code() == furrow::ErrorCode::kInternal) std::abort();
  }
  return 0;
}
