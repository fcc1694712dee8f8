// PNG, JPEG and WebP files as pixels, through libpng, libjpeg-turbo and libwebp.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "furrow/preprocess/image_resize.h"

namespace furrow::data {

// Is told the sides of the whole image, and says by how much they may be divided: 1, 2, 4 or 8.
using ChooseShrink = std::function<int(int64_t height, int64_t width)>;

struct DecodedImage {
  preprocess::RgbImage pixels;  // sides divided by `shrink`, rounded up
  int shrink = 1;               // above 1 of a JPEG alone, whose blocks give smaller ones for less work
};

// The kind is told by the first bytes.  Pixels are the numbers that the file stores: no colour profile, gamma
// or orientation is applied.  Grey becomes three equal channels, transparency is dropped (what is transparent
// keeps its colour), 16 bits become the nearest 8, an animated WebP its first picture.  Error{data_loss}:
// none of the three, damaged, cut short; Error{invalid_argument}: it would decode to more than 2^26 pixels
// (nothing is allocated for what a header merely claims beyond that).  Thread safe.
DecodedImage decode_image(std::span<const uint8_t> file, const ChooseShrink& choose);
preprocess::RgbImage decode_image(std::span<const uint8_t> file);  // whole

// The largest divisor that leaves `wanted` pixels of `length`.
int shrink_to(int64_t length, int64_t wanted);

// "a.jpg", "b.JPEG", "c.png", "d.webp"?
bool is_image_name(std::string_view name);
// An image of a kind that is not read, "e.bmp"?
bool is_other_image_name(std::string_view name);

}  // namespace furrow::data
