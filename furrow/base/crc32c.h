// CRC-32C (Castagnoli, RFC 3720 appendix B.4), as TensorBoard's record files use it.  SSE4.2 where the
// machine has it. Pure and thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace furrow {

uint32_t crc32c(std::span<const std::byte> bytes);
uint32_t crc32c(std::string_view text);
uint32_t crc32c_portable(std::span<const std::byte> bytes);  // the table-driven oracle of the fast one

// TFRecord's mask: rotate right by 15 and add a constant, so that a CRC stored beside its data is not a fixed
// point.
constexpr uint32_t masked_crc(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; }

}  // namespace furrow
