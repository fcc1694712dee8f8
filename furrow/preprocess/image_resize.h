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

// A rectangle of pixels.
struct Region {
  int64_t top = 0, left = 0, height = 0, width = 0;
  friend bool operator==(const Region&, const Region&) = default;
};

// A picture of `size` x `size` pixels: a region of an image is scaled, and the picture begins somewhere in
// what that gives.
struct Scaling {
  Region region;
  int64_t height = 0, width = 0;  // of the whole region, scaled
  int64_t row = 0, column = 0;    // of the picture's first pixel there
  friend bool operator==(const Scaling&, const Scaling&) = default;
};

// torchvision's Resize(resize_size) and CenterCrop(size): the shorter side becomes resize_size, the longer
// one floor(resize_size * longer / shorter); the middle is rounded half to even.  REQUIRES: 0 < size <=
// resize_size.
Scaling resize_then_crop(int64_t height, int64_t width, int64_t resize_size, int64_t size);
// What resize_and_crop() does: the longer side is rounded, the middle rounded down.
Scaling rounded_then_cropped(int64_t height, int64_t width, int64_t size);

// The same picture, from the image with all of its sides divided by `shrink` and rounded up.
Scaling shrunk(const Scaling& scaling, int64_t height, int64_t width, int shrink);

// As planes [3, size, size].  Scaling is by a triangle filter over the region, widened by the factor when it
// shrinks (as Pillow's BILINEAR), in float32 with two fixed passes: the same bits everywhere.  REQUIRES: a
// non-empty region of the image, size > 0, a picture inside what is scaled, out of 3 size^2 bytes.
void resize(const RgbImage& image, const Scaling& scaling, int64_t size, std::span<uint8_t> out);

// Scaled so that the shorter side is `size`, the middle of it.
void resize_and_crop(const RgbImage& image, int64_t size, std::span<uint8_t> out);

}  // namespace furrow::preprocess
