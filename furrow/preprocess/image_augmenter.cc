#include "furrow/preprocess/image_augmenter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

constexpr uint32_t kTries = 10;

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
  const auto [padding, flip, resized, least_scale, most_scale, least_ratio, most_ratio] = augmentation;
  FURROW_CHECK(least_scale > 0 && least_scale <= most_scale && most_scale <= 1, "a scale out of range");
  FURROW_CHECK(least_ratio > 0 && least_ratio <= most_ratio && std::isfinite(most_ratio),
               "a ratio out of range");
}

Region ImageAugmenter::region(int64_t position, int64_t height, int64_t width) const {
  const double area = static_cast<double>(height) * static_cast<double>(width);
  const double least_scale = augmentation_.least_scale, scales = augmentation_.most_scale - least_scale;
  const double least_log = std::log(augmentation_.least_ratio),
               logs = std::log(augmentation_.most_ratio) - least_log;
  const auto among = [](uint32_t word, int64_t count) {
    return static_cast<int64_t>(uint64_t{word} * static_cast<uint64_t>(count) >> 32);
  };
  for (uint32_t attempt = 0; attempt < kTries; ++attempt) {
    const PhiloxBlock words = random_.block(0, static_cast<uint64_t>(position), 1 + attempt);
    const double target = area * (least_scale + scales * uniform01(words[0]));
    const double ratio = std::exp(least_log + uniform01(words[1]) * logs);
    const int64_t across = std::llround(std::sqrt(target * ratio)),
                  down = std::llround(std::sqrt(target / ratio));
    if (across < 1 || across > width || down < 1 || down > height) continue;
    return {among(words[2], height - down + 1), among(words[3], width - across + 1), down, across};
  }
  return middle(height, width);
}

Region ImageAugmenter::middle(int64_t height, int64_t width) const {
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  Region region{0, 0, height, width};
  if (ratio < augmentation_.least_ratio) {
    const double down = static_cast<double>(width) / augmentation_.least_ratio;
    region.height = std::clamp<int64_t>(std::llround(down), 1, height);
  }
  if (ratio > augmentation_.most_ratio) {
    const double across = static_cast<double>(height) * augmentation_.most_ratio;
    region.width = std::clamp<int64_t>(std::llround(across), 1, width);
  }
  region.top = (height - region.height) / 2;
  region.left = (width - region.width) / 2;
  return region;
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
