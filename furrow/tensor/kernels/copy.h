// Copies that nobody reads soon.
#pragma once

#include <cstddef>
#include <span>

namespace furrow::tensor::kernels {

// to[i] = from[i], all bytes of `from`.  A long copy writes past the caches: it need not read first what it
// overwrites, and what the thread works on stays where it is.  Thread safe; REQUIRES: no overlap.
void copy_past_cache(std::span<const std::byte> from, std::byte* to, int threads);

}  // namespace furrow::tensor::kernels
