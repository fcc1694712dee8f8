#include "furrow/preprocess/image_resize.h"

#include <algorithm>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/preprocess/resample.h"

namespace furrow::preprocess {
namespace {

// Outputs begin to begin + count of `length` inputs scaled to `scaled` outputs.
Taps taps_of(int64_t length, int64_t scaled, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(length) / static_cast<double>(scaled);
  const double support = std::max(scale, 1.0);
  Taps taps;
  std::vector<double> weights;
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - support + 0.5)));
    const auto end = std::min<int64_t>(length, static_cast<int64_t>(std::floor(centre + support + 0.5)));
    taps.first.push_back(first);
    taps.begin.push_back(taps.weights.size());
    double sum = 0;
    weights.clear();
    for (int64_t at = first; at < end; ++at) {
      const double distance = std::abs(static_cast<double>(at) + 0.5 - centre) / support;
      weights.push_back(std::max(0.0, 1.0 - distance));
      sum += weights.back();
    }
    for (const double weight : weights) taps.weights.push_back(static_cast<float>(weight / sum));
  }
  taps.begin.push_back(taps.weights.size());
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
  const Taps rows = taps_of(image.height, height, (height - size) / 2, size),
             columns = taps_of(image.width, width, (width - size) / 2, size);
  const auto bytes = static_cast<size_t>(image.width * 3), line = static_cast<size_t>(size * 3);
  const auto side = static_cast<size_t>(size);
  const int64_t first_row = rows.first.front();
  const int64_t last_row = rows.first.back() + static_cast<int64_t>(rows.weights_of(side - 1).size());
  std::vector<float> wide(static_cast<size_t>(last_row - first_row) * line + 1), scratch(bytes + 1);
  for (int64_t y = first_row; y < last_row; ++y) {
    resample_row(std::span(image.pixels).subspan(static_cast<size_t>(y) * bytes, bytes), columns, scratch,
                 std::span(wide).subspan(static_cast<size_t>(y - first_row) * line, line + 1));
  }
  std::vector<uint8_t> pixels(line);
  for (size_t y = 0; y < side; ++y) {
    blend_rows(wide.data() + static_cast<size_t>(rows.first[y] - first_row) * line, line, rows.weights_of(y),
               pixels);
    split_channels(pixels, out.data() + y * side, side * side);
  }
}

}  // namespace furrow::preprocess
