// Any bytes are either refused with an Error or a cluster file that survives its own text form.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/config/cluster.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto file = furrow::config::parse_cluster(text, "fuzz.toml");
    if (!(furrow::config::parse_cluster(furrow::config::to_toml(file), "again.toml") == file)) std::abort();
  } catch (const furrow::Error& error) {
    if (error.code() == furrow::ErrorCode::kInternal) std::abort();
  }
  return 0;
}
