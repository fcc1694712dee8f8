// PNG, JPEG and WebP files as pixels, through libpng, libjpeg-turbo and libwebp.
#pragma once

#include <span>
#include <string_view>

#include "furrow/preprocess/image_resize.h"

namespace furrow::data {

// The kind is told by the first bytes.  Grey becomes three equal channels, transparency is dropped (what is
// transparent keeps its colour), 16 bits become 8.  Error{data_loss}: none of the three, damaged, cut short,
// or more than 2^26 pixels (nothing is allocated for what a header merely claims beyond that).  Thread safe.
preprocess::RgbImage decode_image(std::span<const uint8_t> file);

// "a.jpg", "b.JPEG", "c.png", "d.webp"?
bool is_image_name(std::string_view name);

}  // namespace furrow::data
