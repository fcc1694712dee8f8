// 8-bit images of any size to one size.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace furrow::preprocess {

// Three interleaved channels, row by row.
struct RgbImage {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3]
};

// Scaled so that the shorter side is `size`, the middle `size` x `size` of it, as planes [3, size, size].
// Scaling is by a triangle filter, widened by the factor when it shrinks (as Pillow's BILINEAR), in float32
// with two fixed passes: the same bits everywhere.  REQUIRES: a non-empty image, size > 0, out of 3 size^2
// bytes.
void resize_and_crop(const RgbImage& image, int64_t size, std::span<uint8_t> out);

}  // namespace furrow::preprocess
