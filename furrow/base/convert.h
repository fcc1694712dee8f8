// Stored numbers as those that a network reads, in vectors.  Each element on its own, so that the bits do not
// depend on the instruction set.  Pure; thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace furrow {

// out[i] = bytes[i] * scale + shift, rounded twice.  REQUIRES: out.size() == bytes.size().
void scale_bytes(std::span<const uint8_t> bytes, float scale, float shift, std::span<float> out);

// out[i] = the i-th number of `width` (1, 2 or 4) bytes, unsigned, little-endian.  REQUIRES: at least
// out.size() of them in `numbers`.
void widen(std::span<const std::byte> numbers, size_t width, std::span<int64_t> out);

}  // namespace furrow
