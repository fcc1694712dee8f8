// Any bytes are either refused with an Error or a header whose tensors lie inside the data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "furrow/base/error.h"
#include "furrow/storage/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  try {
    furrow::storage::SafetensorsHeader header = furrow::storage::parse_safetensors(file);
    for (const furrow::storage::TensorInfo& tensor : header.tensors) {
      if (tensor.end < tensor.begin || header.data_begin + tensor.end > size) std::abort();
    }
    const auto again = furrow::storage::safetensors_header(header.tensors, header.metadata);
    const std::string whole = again + std::string(size - header.data_begin, '\0');
    if (furrow::storage::parse_safetensors(std::as_bytes(std::span(whole))).tensors.size() !=
        header.tensors.size()) {
      std::abort();
    }
  } catch (const furrow::Error& error) {
    if (error.code() == furrow::ErrorCode::kInternal) std::abort();
  }
  return 0;
}
