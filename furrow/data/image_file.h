// PNG, JPEG and WebP files as pixels, through libpng, libjpeg-turbo and libwebp.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "furrow/preprocess/image_resize.h"

namespace furrow::data {

// What of an image is wanted.
struct Wanted {
  int shrink = 1;                  // by how much its sides may be divided: 1, 2, 4 or 8
  preprocess::Region region = {};  // of what that gives, the part that is looked at; empty: all
};
// Is told the sides of the whole image.
using ChooseWanted = std::function<Wanted(int64_t height, int64_t width)>;

struct DecodedImage {
  preprocess::RgbImage pixels;
  // Above 1 of a JPEG alone, whose blocks give smaller ones for less work: sides are divided, rounded up.
  int shrink = 1;
  // Where the pixels lie in an image of such sides: everywhere but of a JPEG, of which no more is decoded.
  preprocess::Region region = {};
};

// The kind is told by the first bytes.  Pixels are the numbers that the file stores: no colour profile, gamma
// or orientation is applied.  Grey becomes three equal channels, transparency is dropped (what is transparent
// keeps its colour), 16 bits become the nearest 8, an animated WebP its first picture.  Error{data_loss}:
// none of the three, damaged, cut short; Error{invalid_argument}: it would decode to more than 2^26 pixels
// (nothing is allocated for what a header merely claims beyond that).  Of a JPEG damage behind the wanted
// rows goes unseen.  REQUIRES: a wanted region inside of the image.  Thread safe.
DecodedImage decode_image(std::span<const uint8_t> file, const ChooseWanted& choose);
preprocess::RgbImage decode_image(std::span<const uint8_t> file);  // whole

// The largest divisor that leaves `wanted` pixels of `length`.
int shrink_to(int64_t length, int64_t wanted);

// "a.jpg", "b.JPEG", "c.png", "d.webp"?
bool is_image_name(std::string_view name);
// An image of a kind that is not read, "e.bmp"?
bool is_other_image_name(std::string_view name);

}  // namespace furrow::data
