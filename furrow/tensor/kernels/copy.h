// Copies: of what nobody reads soon, and turned ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace furrow::tensor::kernels {

// to[i] = from[i], all bytes of `from`.  A long copy writes past the caches: it need not read first what it
// overwrites, and what the thread works on stays where it is.  Thread safe; REQUIRES: no overlap.
void copy_past_cache(std::span<const std::byte> from, std::byte* to, int threads);

// y [columns, rows] = x [rows, columns], turned.  Thread safe; REQUIRES: no overlap.
void transpose(int64_t rows, int64_t columns, const float* x, float* y);

}  // namespace furrow::tensor::kernels
