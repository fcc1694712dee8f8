// The tile registers of AMX: whether products use them, and those of a test.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/choice_scope.h"

namespace furrow::tensor::kernels {

enum class Tiles : uint8_t {
  kNone,
  kEmulated,   // in software (tiles-inl.h), with AVX-512; many times slower than pairs
  kProcessor,  // AMX
};

// What products of bfloat16 that this thread starts may use: the processor's, where it multiplies tiles of
// bfloat16 and the system lets this process (the first call asks it, for all threads); else none.
Tiles usable_tiles();

// What usable_tiles() says to this thread: a machine without AMX tests what runs there, and one that has it
// the pairs.  REQUIRES: for kProcessor, that somebody carries the instructions out.
using TilesScope = ChoiceScope<Tiles, struct TilesTag>;

}  // namespace furrow::tensor::kernels
