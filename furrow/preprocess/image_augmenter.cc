#include "furrow/preprocess/image_augmenter.h"

#include <algorithm>
#include <cstring>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

// A row of `width` pixels that starts `right` pixels to the right, 0 where there is none.
void shift_row(const uint8_t* from, int64_t right, int64_t width, uint8_t* to) {
  const int64_t begin = std::clamp<int64_t>(-right, 0, width), end = std::clamp(width - right, begin, width);
  std::memset(to, 0, static_cast<size_t>(begin));
  if (end > begin) std::memcpy(to + begin, from + begin + right, static_cast<size_t>(end - begin));
  std::memset(to + end, 0, static_cast<size_t>(width - end));
}

}  // namespace

ImageAugmenter::ImageAugmenter(uint64_t seed, Augmentation augmentation)
    : random_(seed, RandomPurpose::kAugment, "image"), augmentation_(augmentation) {
  FURROW_CHECK(augmentation.crop_padding >= 0 && augmentation.crop_padding < 32768, "padding out of range");
}

ImageAugmenter::Draw ImageAugmenter::draw(int64_t position) const {
  const PhiloxBlock words = random_.block(0, static_cast<uint64_t>(position), 0);
  const int64_t padding = augmentation_.crop_padding;
  const auto offset = [padding](uint32_t word) {
    return static_cast<int64_t>(uint64_t{word} * static_cast<uint64_t>(2 * padding + 1) >> 32) - padding;
  };
  return {offset(words[0]), offset(words[1]), augmentation_.flip && (words[2] >> 31) != 0};
}

void ImageAugmenter::apply(int64_t position, const Shape& shape, std::span<const uint8_t> in,
                           std::span<uint8_t> out) const {
  FURROW_CHECK(
      shape.size() == 3 && in.size() == static_cast<size_t>(num_elements(shape)) && out.size() == in.size(),
      "not an image [c, h, w]");
  const Draw drawn = draw(position);
  const int64_t height = shape[1], width = shape[2];
  for (int64_t row = 0; row < shape[0] * height; ++row) {
    const int64_t from = row % height + drawn.down;
    uint8_t* const to = out.data() + row * width;
    if (from < 0 || from >= height) {
      std::memset(to, 0, static_cast<size_t>(width));
      continue;
    }
    shift_row(in.data() + (row + drawn.down) * width, drawn.right, width, to);
    if (drawn.flip) std::reverse(to, to + width);
  }
}

}  // namespace furrow::preprocess
