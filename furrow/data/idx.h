// The IDX format of the MNIST family: magic {0, 0, type, dims}, each dim as 32-bit big-endian, then the
// values. Format: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
#pragma once

#include <cstdint>
#include <span>

#include "furrow/base/array.h"

namespace furrow::data {

struct Idx {
  DType dtype = DType::kU8;
  Shape shape;
  std::span<const uint8_t> values;  // a part of the file: big-endian where a value has several bytes
};

// Shape and values of a whole file.  Error{data_loss}: not IDX, an unknown type, no dims or more than 8, more
// or fewer bytes than the dims say.  Allocates nothing, whatever the dims say.
Idx parse_idx(std::span<const uint8_t> file);

// The same from the first bytes of a file (up to 36 are needed); `values` is empty and the length is not
// checked.
Idx parse_idx_header(std::span<const uint8_t> file);

}  // namespace furrow::data
