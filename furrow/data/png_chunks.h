// What a PNG file says of its pixels, without what it says about them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace furrow::data {

// `png` without colour profiles, gamma, texts, dates and the like: its critical chunks and tRNS alone, so
// that pixels are the numbers that the file stores, as other readers of training images give them, and
// nothing wrong with what is left out hides a picture.  What is left out is still compared with its checksum,
// and what follows the end of the picture is dropped.  Error{data_loss}: a chunk is cut short or differs from
// its checksum, or there is no end.  REQUIRES: `png` begins with PNG's signature.
std::vector<uint8_t> without_metadata(std::span<const uint8_t> png);

}  // namespace furrow::data
