// The arithmetic of the library of fakes, by nccl.h's numbers of types and operations.
#pragma once

#include <cstddef>
#include <span>

namespace fake {

size_t size_of(int type);

// `count` elements from `begin` on, over all of `in`; float32 in between for 16 bits.  Signed types: minima
// and maxima compare signs, sums and products wrap.  From the last rank to the first: not the canonical order
// from three ranks on.
void reduce_into(std::span<const void* const> in, size_t begin, size_t count, int type, int op, void* out);

}  // namespace fake
