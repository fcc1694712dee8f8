#include "furrow/preprocess/image_resize.h"

#include <algorithm>
#include <cmath>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

// How one output pixel is made: weights of inputs first, first + 1, ...
struct Tap {
  int64_t first = 0;
  std::vector<float> weights;
};

// Of outputs begin to begin + count of `length` inputs scaled to `scaled` outputs.
std::vector<Tap> taps_of(int64_t length, int64_t scaled, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(length) / static_cast<double>(scaled);
  const double support = std::max(scale, 1.0);
  std::vector<Tap> taps(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - support + 0.5)));
    const auto end = std::min<int64_t>(length, static_cast<int64_t>(std::floor(centre + support + 0.5)));
    Tap& tap = taps[static_cast<size_t>(i)];
    tap.first = first;
    double sum = 0;
    std::vector<double> weights;
    for (int64_t at = first; at < end; ++at) {
      const double distance = std::abs(static_cast<double>(at) + 0.5 - centre) / support;
      weights.push_back(std::max(0.0, 1.0 - distance));
      sum += weights.back();
    }
    for (const double weight : weights) tap.weights.push_back(static_cast<float>(weight / sum));
  }
  return taps;
}

}  // namespace

void resize_and_crop(const RgbImage& image, int64_t size, std::span<uint8_t> out) {
  FURROW_CHECK(image.height > 0 && image.width > 0 && size > 0, "an empty image");
  FURROW_CHECK(image.pixels.size() == static_cast<size_t>(image.height * image.width * 3), "other pixels");
  FURROW_CHECK(out.size() == static_cast<size_t>(3 * size * size), "an output of another size");
  const double shorter = static_cast<double>(std::min(image.height, image.width));
  const auto scaled = [&](int64_t length) {
    return std::max<int64_t>(size, std::llround(static_cast<double>(length * size) / shorter));
  };
  const int64_t height = scaled(image.height), width = scaled(image.width);
  const std::vector<Tap> rows = taps_of(image.height, height, (height - size) / 2, size),
                         columns = taps_of(image.width, width, (width - size) / 2, size);
  const int64_t first_row = rows.front().first;
  const int64_t last_row = rows.back().first + static_cast<int64_t>(rows.back().weights.size());
  std::vector<float> wide(static_cast<size_t>((last_row - first_row) * size * 3));
  for (int64_t y = first_row; y < last_row; ++y) {
    const uint8_t* const from = image.pixels.data() + y * image.width * 3;
    float* to = wide.data() + (y - first_row) * size * 3;
    for (const Tap& tap : columns) {
      for (int64_t c = 0; c < 3; ++c) {
        float sum = 0;
        for (size_t k = 0; k < tap.weights.size(); ++k) {
          sum += tap.weights[k] * static_cast<float>(from[(tap.first + static_cast<int64_t>(k)) * 3 + c]);
        }
        *to++ = sum;
      }
    }
  }
  for (int64_t y = 0; y < size; ++y) {
    const Tap& tap = rows[static_cast<size_t>(y)];
    for (int64_t at = 0; at < size * 3; ++at) {
      float sum = 0;
      for (size_t k = 0; k < tap.weights.size(); ++k) {
        sum += tap.weights[k] *
               wide[static_cast<size_t>((tap.first - first_row + static_cast<int64_t>(k)) * size * 3 + at)];
      }
      const auto value = static_cast<uint8_t>(std::clamp(sum + 0.5f, 0.0f, 255.0f));
      out[static_cast<size_t>((at % 3 * size + y) * size + at / 3)] = value;
    }
  }
}

}  // namespace furrow::preprocess
